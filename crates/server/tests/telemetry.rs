//! Tests the logs, metrics and traces of a process under the options that its operator sets.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use meshwright_testkit::TestDb;

/// A server that lives as long as this.
struct Server {
    process: Child,
    address: String,
    metrics: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process
            .kill()
            .and_then(|()| self.process.wait())
            .expect("it ran until now");
    }
}

impl Server {
    fn start(database: &str, secret: &Path, collector: &str) -> Self {
        let mut run = Command::new(env!("CARGO_BIN_EXE_meshwright-server"));
        run.args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--metrics-listen",
            "127.0.0.1:0",
            "--database-url",
            database,
        ]);
        run.arg("--server-secret-file")
            .arg(secret)
            .args(["--otlp-endpoint", collector]);
        run.env("NO_COLOR", "1")
            .env("OTEL_BSP_SCHEDULE_DELAY", "100")
            .env_remove("MESHWRIGHT_LOG");
        let mut process = run
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server's own program");
        let mut log = BufReader::new(process.stderr.take().expect("its log")).lines();
        let mut said = |what: &str| -> String {
            let line = log
                .find_map(|line| line.ok().filter(|line| line.contains(what)))
                .expect("it says so");
            line.rsplit('=')
                .next()
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        let (metrics, address) = (said("showing metrics"), said("serving"));
        // A full pipe would hold it up.
        std::thread::spawn(move || log.for_each(drop));
        Self {
            process,
            address,
            metrics,
        }
    }
}

fn ask(address: &str, line: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    write!(
        stream,
        "{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// Who is sent traces: what each request had in it.
fn collector() -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}/", listener.local_addr().expect("an address"));
    let (sender, traces) = mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let (mut request, mut part) = (Vec::new(), [0; 4096]);
            stream
                .set_read_timeout(Some(Duration::from_millis(200)))
                .expect("a time");
            while let Ok(count @ 1..) = stream.read(&mut part) {
                request.extend(&part[..count]);
            }
            // Whether it is heard does not matter.
            drop(
                stream.write_all(
                    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                ),
            );
            if sender
                .send(String::from_utf8_lossy(&request).into_owned())
                .is_err()
            {
                return;
            }
        }
    });
    (address, traces)
}

#[tokio::test]
async fn metrics_and_traces_name_routes_and_nothing_that_a_client_chose() {
    let dir = tempfile::tempdir().expect("a folder");
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "07".repeat(32)).expect("a file");
    let db = TestDb::new().await;
    let (collector, traces) = collector();
    let server = Server::start(&db.url("mw_api"), &secret, &collector);

    for line in [
        "GET /v1/meshes/mesh_chosen",
        "GET /chosen?by=chosen",
        "CHOSEN /v1/meshes",
    ] {
        ask(&server.address, line);
    }
    let metrics = ask(&server.metrics, "GET /metrics");
    for line in [
        r#"meshwright_http_requests_total{method="GET",route="/v1/meshes/{mesh_id}",status="401"} 1"#,
        r#"meshwright_http_requests_total{method="GET",route="none",status="404"} 1"#,
        r#"meshwright_http_requests_total{method="other",route="/v1/meshes",status="405"} 1"#,
        r#"meshwright_http_request_duration_seconds_bucket{method="GET",route="none",le="90"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    assert!(!metrics.to_lowercase().contains("chosen"), "{metrics}");
    assert!(ask(&server.metrics, "GET /readyz").starts_with("HTTP/1.1 200"));
    assert!(
        ask(&server.metrics, "GET /v1/meshes").starts_with("HTTP/1.1 404"),
        "it serves nothing else"
    );
    assert!(
        ask(&server.address, "GET /metrics").starts_with("HTTP/1.1 404"),
        "not on the service's own port"
    );

    let mut sent = String::new();
    while !(sent.contains("GET /v1/meshes/{mesh_id}") && sent.contains("other /v1/meshes")) {
        sent += &traces
            .recv_timeout(Duration::from_secs(30))
            .expect("traces");
    }
    assert!(
        sent.starts_with("POST /v1/traces HTTP/1.1") && sent.contains("meshwright-server"),
        "{sent}"
    );
    assert!(!sent.to_lowercase().contains("chosen"), "{sent}");
}
