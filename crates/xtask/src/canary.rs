//! Sends a marker word in every field that holds a secret, and checks that the word is nowhere
//! afterwards: in no dump, no file of a table or of the write-ahead log, no log at the level
//! `trace`, no trace, no metric, and no answer that says why a request was wrong.
//!
//! Another word is sent in fields that are not secret and must be found, because a search that
//! finds nothing at all proves nothing.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::Args;
use futures::StreamExt;
use meshwright_model::Clock;
use meshwright_model::access::Role;
use meshwright_model::clock::SystemClock;
use meshwright_model::ids::HostingClusterId;
use meshwright_store::{HostingCluster, Sealer, Store};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::process::{ChildProcess, free_address};
use crate::service::{self, ApiProcess, ApiProcessConfig, SERVER_BINARY};
use crate::{Result, fresh, run_command};

mod outside;

use outside::Peers;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Number of requests that are sent.
    #[arg(long, default_value_t = 10_000)]
    requests: usize,
}

/// Marker word that every secret field holds; it must not be found anywhere.
const SECRET_MARKER: &str = "CANARYzq7secretzq7CANARY";
/// Marker word of fields that are not secret; it must be found.
const PLAIN_MARKER: &str = "canaryzq7plainzq7canary";
/// Requests that are under way at once.
const MAX_IN_FLIGHT: usize = 16;

pub(crate) fn run(options: &Options) -> Result<()> {
    let scratch = tempfile::tempdir().map_err(|error| error.to_string())?;
    let postgres = fresh::start_migrated_postgres(scratch.path())?;
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    let [api_log, worker_log] = ["api.log", "worker.log"].map(|name| scratch.path().join(name));
    let url = |role: &str| postgres.url(role, fresh::DATABASE_NAME);
    let secret = scratch.path().join("secret");
    std::fs::write(&secret, "07".repeat(32)).map_err(|error| error.to_string())?;
    let owner = runtime
        .block_on(prepare_database(&url("mw_worker")))
        .map_err(|error| error.to_string())?;
    let outside = runtime.block_on(Peers::start())?;
    let authority = scratch.path().join("authority.pem");
    std::fs::write(&authority, &outside.ca_pem).map_err(|error| error.to_string())?;
    let [api_metrics, worker_metrics] = [free_address()?, free_address()?];
    let telemetry = |metrics: &str| {
        vec![
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                format!("http://{}", outside.collector),
            ),
            ("OTEL_BSP_SCHEDULE_DELAY", "500".to_owned()),
            ("MESHWRIGHT_METRICS_LISTEN", metrics.to_owned()),
        ]
    };
    let mut environment = telemetry(&api_metrics);
    // The fake cluster is on this machine, and the API refuses literal addresses that no worker is
    // allowed to call.
    environment.push(("MESHWRIGHT_ALLOW_NETWORKS", "127.0.0.0/8".to_owned()));
    let setting = ApiProcessConfig {
        log_file: Some(api_log.clone()),
        log_level: "trace",
        environment,
        ..ApiProcessConfig::new(&url("mw_api"), &secret)
    };
    let api = ApiProcess::start(setting)?;
    let mut environment = telemetry(&worker_metrics);
    environment.push(("SSL_CERT_FILE", authority.display().to_string()));
    let worker = start_worker(&url("mw_worker"), &secret, &worker_log, environment)?;
    let (answers, mut words) = runtime.block_on(send_requests(
        options.requests,
        &api.address,
        &owner,
        &outside,
    ))?;
    words.extend(encoded_forms(SECRET_MARKER));
    words.insert(owner.rsplit('_').next().unwrap_or(&owner).to_owned());
    // Give the worker time for the operations that were accepted last.
    std::thread::sleep(Duration::from_secs(5));
    let metrics = runtime.block_on(async {
        Ok::<_, String>([
            scrape_metrics(&api_metrics).await?,
            scrape_metrics(&worker_metrics).await?,
        ])
    })?;
    drop((api, worker));
    let root = url(meshwright_store::embedded_postgres::SUPERUSER);
    run_command(
        Command::new(fresh::postgres_program("psql")?)
            .args(["--quiet", "--command", "CHECKPOINT"])
            .arg(&root),
    )?;
    let dump = scratch.path().join("dump.sql");
    run_command(
        Command::new(fresh::postgres_program("pg_dump")?)
            .arg("--file")
            .arg(&dump)
            .arg(&root),
    )?;
    let data = scratch.path().join("postgres").join("data");
    let log = scratch.path().join("postgres").join("postgres.log");
    let places = [
        ("the dump", &dump),
        ("the API's log", &api_log),
        ("the worker's log", &worker_log),
        ("the database's log", &log),
    ];
    let mut haystacks: Vec<(String, Vec<u8>)> = vec![("answers".into(), answers)];
    for (title, path) in places {
        haystacks.push((
            title.into(),
            std::fs::read(path).map_err(|error| format!("{title}: {error}"))?,
        ));
    }
    read_files_below(&data, &mut haystacks)?;
    haystacks.push(("traces".into(), outside.take_traces()));
    haystacks.push(("metrics".into(), metrics.concat()));
    check_for_leaks(&haystacks, &words, options.requests)
}

/// Returns a secret as it is and in the encodings that our own code uses: hexadecimal and base64.
fn encoded_forms(secret: &str) -> BTreeSet<String> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD_NO_PAD;
    let hex = secret
        .bytes()
        .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    // Base64 encodes three bytes at a time, so a secret looks different at each of three offsets.
    // The first and last characters depend on the bytes around the secret and are cut off.
    let shifted = (0..3).map(|shift| {
        let text = STANDARD_NO_PAD.encode(format!("{}{secret}", &"..."[..shift]));
        text[4..text.len() - 4].to_owned()
    });
    shifted.chain([secret.to_owned(), hex]).collect()
}

fn check_for_leaks(
    haystacks: &[(String, Vec<u8>)],
    words: &BTreeSet<String>,
    requests: usize,
) -> Result<()> {
    let found = |bytes: &[u8], word: &str| memchr::memmem::find(bytes, word.as_bytes()).is_some();
    let finder: Vec<&str> = words.iter().map(String::as_str).collect();
    let leaks: Vec<String> = haystacks
        .iter()
        .flat_map(|(title, bytes)| {
            finder
                .iter()
                .filter(|word| found(bytes, word))
                .map(move |word| format!("{title} shows {word}"))
        })
        .collect();
    let seen: Vec<&str> = haystacks
        .iter()
        .filter(|(_, bytes)| found(bytes, PLAIN_MARKER))
        .map(|(title, _)| title.as_str())
        .collect();
    let bytes: usize = haystacks.iter().map(|(_, bytes)| bytes.len()).sum();
    println!(
        "{}",
        json!({ "requests": requests, "places": haystacks.len(), "bytes": bytes, "words": words.len(), "leaks": leaks.len() })
    );
    for leak in &leaks {
        println!("{leak}");
    }
    for needed in [
        "answers",
        "the dump",
        "the API's log",
        "write-ahead log",
        "table",
    ] {
        if !seen.iter().any(|title| title.contains(needed)) {
            return Err(format!(
                "what is no secret was not found in {needed}: the judge is blind"
            ));
        }
    }
    for (place, word) in [
        (
            "metrics",
            r#"meshwright_operations_total{kind="register_cluster",state="failed"}"#,
        ),
        (
            "metrics",
            r#"meshwright_deliveries_total{outcome="arrived"}"#,
        ),
        ("metrics", r#"route="/v1/clusters",status="202"}"#),
        ("traces", "POST /v1/clusters"),
        ("traces", "operation.id"),
    ] {
        if !haystacks
            .iter()
            .any(|(title, bytes)| title == place && found(bytes, word))
        {
            return Err(format!(
                "{word} was not found in the {place}: the judge is blind"
            ));
        }
    }
    // This finding shows that a worker has sent a credential to a cluster.
    if !haystacks
        .iter()
        .any(|(title, bytes)| title == "the dump" && found(bytes, "credential_expired"))
    {
        return Err("no cluster has refused a credential: the judge is blind".into());
    }
    // This state shows that a worker has sent signed messages to a webhook.
    if !haystacks
        .iter()
        .any(|(title, bytes)| title == "the dump" && found(bytes, "\tdelivered\t"))
    {
        return Err("no message has arrived at a webhook: the judge is blind".into());
    }
    if leaks.is_empty() {
        Ok(())
    } else {
        Err("a secret is shown".into())
    }
}

fn read_files_below(folder: &Path, into: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            read_files_below(&path, into)?;
            continue;
        }
        let kind = if path.to_string_lossy().contains("pg_wal") {
            "write-ahead log"
        } else {
            "table"
        };
        // A running Postgres may delete a file between the listing and the read.
        if let Ok(bytes) = std::fs::read(&path) {
            into.push((format!("{kind} {}", path.display()), bytes));
        }
    }
    Ok(())
}

/// Creates a tenant with quotas that no test reaches and a hosting cluster whose kubeconfig is
/// secret, and returns the key of the tenant's owner.
async fn prepare_database(
    database: &str,
) -> std::result::Result<String, meshwright_store::StoreError> {
    let store = Store::connect(database, Sealer::new([7; 32])).await?;
    let tenant = service::create_unlimited_tenant(&store, "canary").await?;
    let hosting = HostingCluster {
        id: HostingClusterId(SystemClock.new_uuid()),
        name: PLAIN_MARKER.into(),
        created_at: SystemClock.now(),
    };
    store
        .add_hosting_cluster(&hosting, SECRET_MARKER.as_bytes())
        .await?;
    service::create_api_key(&store, tenant, Role::Owner).await
}

async fn scrape_metrics(address: &str) -> Result<Vec<u8>> {
    let answer = reqwest::get(format!("http://{address}/metrics"))
        .await
        .map_err(|error| error.to_string())?;
    Ok(answer
        .bytes()
        .await
        .map_err(|error| error.to_string())?
        .to_vec())
}

/// Starts a worker that logs at the level `trace`. It is killed when the returned process is
/// dropped.
fn start_worker(
    database: &str,
    secret: &Path,
    log: &Path,
    telemetry: Vec<(&'static str, String)>,
) -> Result<ChildProcess> {
    let log = std::fs::File::create(log).map_err(|error| error.to_string())?;
    let mut run = Command::new(SERVER_BINARY);
    run.args([
        "work",
        "--database-url",
        database,
        "--allow-network",
        "127.0.0.0/8",
        "--vault-key-file",
    ])
    .arg(secret);
    run.env("MESHWRIGHT_LOG", "trace")
        .envs(telemetry)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    ChildProcess::start("the worker", &mut run)
}

/// Sends requests that carry the secret in every possible field. Returns the text of all answers
/// without the secrets that an answer is meant to show, and some of those secrets, which are
/// searched for as well.
async fn send_requests(
    requests: usize,
    address: &str,
    owner: &str,
    outside: &Peers,
) -> Result<(Vec<u8>, BTreeSet<String>)> {
    let http = reqwest::Client::new();
    let sent = (0..requests).map(|number| {
        let request = build_request(number, &http, &format!("http://{address}"), owner, outside);
        async move {
            let answer = request.send().await.map_err(|error| error.to_string())?;
            let headers = format!("{:?}", answer.headers());
            Ok::<_, String>((
                headers,
                answer.text().await.map_err(|error| error.to_string())?,
            ))
        }
    });
    let answers: Vec<Result<(String, String)>> = futures::stream::iter(sent)
        .buffer_unordered(MAX_IN_FLIGHT)
        .collect()
        .await;
    let (mut all, mut secrets) = (Vec::new(), BTreeSet::new());
    for answer in answers {
        let (headers, mut body) = answer?;
        if let Ok(Value::Object(shown)) = serde_json::from_str::<Value>(&body)
            && let Some(secret) = shown.get("secret").and_then(Value::as_str)
        {
            body = body.replace(secret, "");
            // Searching for thousands of secrets would take too long, so 20 stand for all.
            if secrets.len() < 20 {
                secrets.insert(secret.rsplit('_').next().unwrap_or(secret).to_owned());
            }
        }
        all.extend(headers.bytes().chain(body.bytes()));
    }
    Ok((all, secrets))
}

fn build_request(
    number: usize,
    http: &reqwest::Client,
    base: &str,
    owner: &str,
    outside: &Peers,
) -> RequestBuilder {
    use base64::Engine as _;
    let to = |method: Method, path: &str| {
        http.request(method, format!("{base}{path}"))
            .bearer_auth(owner)
    };
    let register = |kubeconfig: String| {
        let body = json!({ "name": format!("c{number}"), "display_name": PLAIN_MARKER, "labels": { PLAIN_MARKER: "x" }, "kubeconfig": kubeconfig });
        to(Method::POST, "/v1/clusters")
            .header("Idempotency-Key", format!("{number}"))
            .json(&body)
    };
    let pem = |text: &str| {
        base64::engine::general_purpose::STANDARD.encode(format!("-----BEGIN X-----\n{text}\n"))
    };
    match number % 12 {
        0 => register(outside.build_kubeconfig(&json!({ "token": SECRET_MARKER })).to_string()),
        1 => register(
            outside
                .build_kubeconfig(&json!({ "client-certificate-data": pem("x"), "client-key-data": pem(SECRET_MARKER) }))
                .to_string(),
        ),
        // Secrets in fields where they do not belong: the error must not repeat them.
        2 => register(outside.build_kubeconfig(&json!(SECRET_MARKER)).to_string()),
        3 => register(outside.build_kubeconfig(&json!({ "token": [SECRET_MARKER] })).to_string()),
        4 => register(outside.build_kubeconfig(&json!({ "token": SECRET_MARKER, "client-key-data": SECRET_MARKER })).to_string()),
        5 => register(format!("users: [{{user: {{token: {SECRET_MARKER}}}\n {SECRET_MARKER}")),
        6 => register(SECRET_MARKER.into()),
        7 => to(Method::POST, "/v1/clusters")
            .json(&json!({ "name": format!("c{number}"), "kubeconfig": { "token": SECRET_MARKER } })),
        8 => to(Method::POST, "/v1/api-keys")
            .header("Idempotency-Key", format!("{number}"))
            .json(&json!({ "name": format!("k{number}"), "role": "viewer" })),
        9 => http.get(format!("{base}/v1/meshes")).bearer_auth(format!("mwk_x_y_{SECRET_MARKER}")),
        10 => {
            http.get(format!("{base}/v1/meshes")).bearer_auth(format!("eyJhbGciOiJSUzI1NiJ9.{}.{SECRET_MARKER}", pem(SECRET_MARKER)))
        }
        // Create only a few webhooks, because every event is sent to each of them.
        11 if number < 12 * 5 => to(Method::POST, "/v1/webhooks")
            .header("Idempotency-Key", format!("{number}"))
            .json(&json!({ "name": format!("w{number}"), "url": format!("https://localhost:{}/{PLAIN_MARKER}", outside.webhook.port()), "kinds": ["operation.state"] })),
        _ => to(Method::GET, &format!("/v1/clusters?label_selector={PLAIN_MARKER}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_disguise_is_found_wherever_it_begins() {
        use base64::Engine as _;
        for before in ["", "a", "ab", "abc"] {
            let shown = base64::engine::general_purpose::STANDARD
                .encode(format!("{before}{SECRET_MARKER}{before}"));
            assert!(
                encoded_forms(SECRET_MARKER)
                    .iter()
                    .any(|disguise| shown.contains(disguise.as_str())),
                "{shown}"
            );
        }
    }
}
