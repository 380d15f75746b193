//! Clients that send nothing, or almost nothing, or far too much.

use std::sync::Arc;
use std::time::Duration;

use meshwright_api::{ConnectionLimits, Rate, Rates, RequestLimiter};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::support::Service;

/// The patience of these tests with heads and answers.
const SHORT: Duration = Duration::from_millis(300);

struct Listening {
    address: std::net::SocketAddr,
    stop: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<std::io::Result<()>>,
}

async fn listen(connections: usize) -> Listening {
    listen_for(router(&Service::new().await), short(connections)).await
}

fn short(connections: usize) -> ConnectionLimits {
    ConnectionLimits {
        header_timeout: SHORT,
        body_timeout: SHORT,
        write_timeout: SHORT,
        max_connections: connections,
    }
}

fn router(service: &Service) -> axum::Router {
    meshwright_api::router(service.app.clone())
}

async fn listen_for(routes: axum::Router, patience: ConnectionLimits) -> Listening {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (stop, stopped) = oneshot::channel();
    let ended = tokio::spawn(async move {
        meshwright_api::serve(listener, routes, patience, async { drop(stopped.await) }).await
    });
    Listening {
        address,
        stop,
        ended,
    }
}

/// What comes back, up to the end of the connection.
async fn answer(address: std::net::SocketAddr, sent: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    // It may be closed before everything was sent.
    drop(stream.write_all(sent).await);
    let mut read = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut read)).await;
    drop(ended.expect("the connection ends"));
    String::from_utf8_lossy(&read).into_owned()
}

const GOOD: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_sends_a_request_slowly_or_not_at_all_is_hung_up_on_and_others_are_served() {
    let listening = listen(1000).await;
    let mut idle = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(listening.address)
            .await
            .expect("a connection");
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHos")
            .await
            .expect("a beginning");
        idle.push(stream);
    }
    assert!(
        answer(listening.address, GOOD)
            .await
            .starts_with("HTTP/1.1 200"),
        "others are served meanwhile"
    );
    for mut stream in idle {
        let mut rest = Vec::new();
        let ended =
            tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
        drop(ended.expect("it is hung up on"));
        assert!(!String::from_utf8_lossy(&rest).contains("200 OK"));
    }
}

/// Longer than any of these tests: only the rule for places ends a connection.
const LONG: Duration = Duration::from_mins(10);

fn few_places(connections: usize) -> ConnectionLimits {
    ConnectionLimits {
        header_timeout: LONG,
        body_timeout: LONG,
        write_timeout: LONG,
        max_connections: connections,
    }
}

async fn ends(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
    drop(ended.expect("the connection ends"));
    rest.is_empty()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_too_many_takes_the_place_of_the_oldest_without_a_caller() {
    let listening = listen_for(router(&Service::new().await), few_places(2)).await;
    let mut oldest = TcpStream::connect(listening.address)
        .await
        .expect("a connection");
    let mut newer = TcpStream::connect(listening.address)
        .await
        .expect("a connection");
    assert!(
        answer(listening.address, GOOD)
            .await
            .starts_with("HTTP/1.1 200")
    );
    assert!(ends(&mut oldest).await);
    newer.write_all(GOOD).await.expect("a request");
    assert!(!ends(&mut newer).await, "the newer one is still served");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_connection_without_a_caller_leaves_before_the_last_place_is_taken() {
    let listening = listen_for(router(&Service::new().await), few_places(64)).await;
    let mut silent = Vec::new();
    for _ in 0..63 {
        let stream = TcpStream::connect(listening.address).await;
        silent.push(stream.expect("a connection"));
    }
    // A new connection cannot be closed for a quarter of a second.
    tokio::time::sleep(SHORT).await;
    let last = TcpStream::connect(listening.address).await;
    assert!(ends(&mut silent[0]).await);
    drop(last.expect("a connection"));
}

/// Connects again and again and says nothing; some begin a head, some ask for answers that they never read.
async fn flood(address: std::net::SocketAddr, count: usize) -> Vec<TcpStream> {
    let greedy = "GET /version HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100);
    let mut open = Vec::new();
    for number in 0..count {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        let sent: &[u8] = match number % 3 {
            0 => b"",
            1 => b"GET /version HTTP/1.1\r\nHos",
            _ => greedy.as_bytes(),
        };
        // It may be closed already.
        drop(tokio::time::timeout(Duration::from_millis(20), stream.write_all(sent)).await);
        open.push(stream);
    }
    open
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_connections_without_a_caller_leaves_room_for_callers() {
    let service = Service::new().await;
    let key = service.key(meshwright_model::access::Role::Viewer).await;
    let listening = listen_for(router(&service), few_places(30)).await;
    let ask = format!("GET /v1/clusters HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n");
    let mut known = TcpStream::connect(listening.address)
        .await
        .expect("a connection");
    known
        .write_all(format!("{ask}\r\n").as_bytes())
        .await
        .expect("a request");
    let mut first = [0; 12];
    known.read_exact(&mut first).await.expect("an answer");
    assert_eq!(&first, b"HTTP/1.1 200");
    let flood = tokio::spawn(flood(listening.address, 300));
    for round in 0..20 {
        let answered = answer(
            listening.address,
            format!("{ask}Connection: close\r\n\r\n").as_bytes(),
        )
        .await;
        assert!(
            answered.starts_with("HTTP/1.1 200"),
            "round {round}: {answered}"
        );
    }
    let flood = flood.await.expect("no panic");
    known
        .write_all(format!("{ask}Connection: close\r\n\r\n").as_bytes())
        .await
        .expect("the next request");
    let mut rest = Vec::new();
    known.read_to_end(&mut rest).await.expect("the next answer");
    assert!(
        String::from_utf8_lossy(&rest).contains("HTTP/1.1 200"),
        "a known caller keeps its connection"
    );
    drop(flood);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_connections_leaves_room_at_the_listener_for_metrics() {
    let service = Service::new().await;
    let vitals = meshwright_api::MetricsServer {
        store: service.app.store.clone(),
        metrics: std::sync::Arc::new(|| "measured 1\n".to_owned()),
    };
    let listening = listen_for(meshwright_api::metrics_router(vitals), few_places(30)).await;
    let flood = flood(listening.address, 200).await;
    let asked = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert!(
        answer(listening.address, asked)
            .await
            .ends_with("measured 1\n")
    );
    drop(flood);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_its_answers_is_cut_off() {
    let listening = listen_for(
        router(&Service::new().await),
        ConnectionLimits {
            header_timeout: LONG,
            ..short(10)
        },
    )
    .await;
    let ask = "GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2000);
    let mut never = TcpStream::connect(listening.address)
        .await
        .expect("a connection");
    let mut drips = TcpStream::connect(listening.address)
        .await
        .expect("a connection");
    for stream in [&mut never, &mut drips] {
        stream.write_all(ask.as_bytes()).await.expect("requests");
    }
    let drip = async {
        let mut some = [0; 1000];
        while matches!(drips.read(&mut some).await, Ok(1..)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(2), drip)
        .await
        .expect("a slow reader is cut off");
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(20), never.read_to_end(&mut rest)).await;
    drop(ended.expect("a client that does not read is cut off"));
    assert!(
        rest.len() < 2000 * meshwright_api::openapi().len(),
        "it did not get all of it"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_silent_or_drips_or_has_had_its_answer_is_ended() {
    let listening = listen(10).await;
    let mut silent = TcpStream::connect(listening.address)
        .await
        .expect("a connection");
    assert!(ends(&mut silent).await);
    let mut answered = TcpStream::connect(listening.address)
        .await
        .expect("a connection");
    answered
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .expect("a request");
    assert!(!ends(&mut answered).await, "it was answered first");
    let mut drips = TcpStream::connect(listening.address)
        .await
        .expect("a connection");
    let dripping = async {
        while drips.write_all(b"G").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), dripping)
        .await
        .expect("a head that comes in drips is not waited for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_and_bodies_that_are_far_too_large_are_refused() {
    let listening = listen(100).await;
    let many = (0..100).fold(String::new(), |headers, number| {
        headers + &format!("X-{number}: y\r\n")
    });
    let long = format!("X-Long: {}\r\n", "y".repeat(200_000));
    for headers in [many, long] {
        let sent =
            format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{headers}Connection: close\r\n\r\n");
        let refused = answer(listening.address, sent.as_bytes()).await;
        assert!(
            refused.is_empty() || refused.starts_with("HTTP/1.1 4"),
            "{refused}"
        );
    }
    // Nothing is unpacked: what claims to be packed is not JSON.
    for (headers, body) in [
        ("Content-Encoding: gzip\r\n", "\u{1f}x".to_owned()),
        ("", "[".repeat(100_000)),
    ] {
        let length = body.len();
        let sent = format!(
            "POST /v1/meshes HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        let refused = answer(listening.address, sent.as_bytes()).await;
        assert!(refused.starts_with("HTTP/1.1 4"), "{refused}");
    }
}

/// Nothing of the body is ever sent: an answer can only come to those whose body is not waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_no_credential_is_refused_before_their_body_is_read() {
    let listening = listen(10).await;
    let sent = b"POST /v1/meshes HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\nConnection: close\r\n\r\n";
    let refused = answer(listening.address, sent).await;
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
}

/// The head of a request by a caller with a key, whose body never arrives.
async fn without_its_body(service: &Service) -> String {
    let key = service.key(meshwright_model::access::Role::Owner).await;
    format!(
        "POST /v1/meshes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: 100\r\n\r\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_whose_bodies_never_arrive_take_no_place_from_others() {
    let service = Service::new().await;
    let head = without_its_body(&service).await;
    let listening = listen_for(router(&service), few_places(3)).await;
    let mut unfinished = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(listening.address)
            .await
            .expect("a connection");
        // The first answer proves that the caller is known, so that the next request is on its way to a handler.
        stream
            .write_all(
                head.replace("POST", "GET")
                    .replace("Length: 100", "Length: 0")
                    .as_bytes(),
            )
            .await
            .expect("a look");
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.expect("an answer");
        assert_eq!(&first, b"HTTP/1.1 200");
        stream.write_all(head.as_bytes()).await.expect("a head");
        unfinished.push(stream);
    }
    tokio::time::sleep(SHORT).await;
    for round in 0..10 {
        let answered = answer(listening.address, GOOD).await;
        assert!(
            answered.starts_with("HTTP/1.1 200"),
            "round {round}: {answered}"
        );
    }
}

/// Clients beyond the limit of a caller, each with many requests that are already sent.
async fn hasty(address: std::net::SocketAddr, key: &str, count: usize) -> Vec<TcpStream> {
    let ask =
        format!("GET /v1/releases HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n");
    let mut open = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        let sent = stream.write_all(ask.repeat(200).as_bytes()).await;
        sent.expect("requests");
        open.push(stream);
    }
    open
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_beyond_their_limit_who_wait_for_the_refusal_take_no_place_from_others() {
    let mut service = Service::new().await;
    let once = Rate {
        burst: 1,
        period: LONG,
    };
    let rates = Rates {
        read: once,
        write: once,
        expensive: once,
    };
    service.app.limits = Arc::new(RequestLimiter::new(
        rates,
        rates,
        service.fleet.clock.clone(),
    ));
    let key = service.key(meshwright_model::access::Role::Viewer).await;
    let listening = listen_for(router(&service), few_places(3)).await;
    let hasty = hasty(listening.address, &key, 3).await;
    // A new connection cannot be closed for a quarter of a second.
    tokio::time::sleep(2 * SHORT).await;
    // Each of them takes the place of one that waits for a refusal.
    for round in 0..3 {
        let answered = answer(listening.address, GOOD).await;
        assert!(
            answered.starts_with("HTTP/1.1 200"),
            "round {round}: {answered}"
        );
    }
    drop(hasty);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_does_not_arrive_in_time_is_refused_with_a_problem() {
    let service = Service::new().await;
    let head = without_its_body(&service).await;
    let patience = ConnectionLimits {
        body_timeout: SHORT,
        ..few_places(10)
    };
    let listening = listen_for(router(&service), patience).await;
    for sent in [head.clone(), format!("{head}{{\"name\":")] {
        let mut stream = TcpStream::connect(listening.address)
            .await
            .expect("a connection");
        stream
            .write_all(sent.as_bytes())
            .await
            .expect("a beginning");
        let mut answered = Vec::new();
        while !String::from_utf8_lossy(&answered).contains("body_too_slow") {
            let mut some = [0; 4096];
            let read = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut some)).await;
            let read = read.expect("an answer in time").expect("a connection");
            assert_ne!(read, 0, "{}", String::from_utf8_lossy(&answered));
            answered.extend_from_slice(&some[..read]);
        }
        assert!(
            answered.starts_with(b"HTTP/1.1 408"),
            "{}",
            String::from_utf8_lossy(&answered)
        );
    }
}

/// Who was refused before their body had come sends it nevertheless, and goes on over the same connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_comes_after_its_answer_is_in_nobodys_way() {
    let listening = listen(10).await;
    for path in ["/v1/meshes", "/v1/nowhere", "/healthz"] {
        let mut stream = TcpStream::connect(listening.address)
            .await
            .expect("a connection");
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 600000\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("a head");
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.expect("an answer");
        assert!(first.starts_with(b"HTTP/1.1 4"), "{path}");
        stream
            .write_all(&vec![b' '; 600_000])
            .await
            .expect("a body");
        stream.write_all(GOOD).await.expect("the next request");
        let mut rest = Vec::new();
        let ended =
            tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
        ended
            .expect("the connection ends")
            .expect("without an error");
        assert!(
            String::from_utf8_lossy(&rest).contains("HTTP/1.1 200 OK"),
            "{path}"
        );
    }
}

/// A client that sends the whole body before it reads finds the answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_too_large_is_refused_and_not_cut_off() {
    let listening = listen(10).await;
    for size in [2_000_000, 8_000_000] {
        let mut sent =
            format!("POST /v1/meshes HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n")
                .into_bytes();
        sent.resize(sent.len() + size, b' ');
        let mut stream = TcpStream::connect(listening.address)
            .await
            .expect("a connection");
        stream.write_all(&sent).await.expect("all of it");
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.expect("an answer");
        assert_eq!(&first, b"HTTP/1.1 413");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_stops_ends_idle_connections_and_itself() {
    let listening = listen(10).await;
    let idle = TcpStream::connect(listening.address)
        .await
        .expect("a connection");
    assert!(
        answer(listening.address, GOOD)
            .await
            .starts_with("HTTP/1.1 200")
    );
    listening.stop.send(()).expect("it listens");
    let ended = tokio::time::timeout(Duration::from_secs(20), listening.ended).await;
    ended
        .expect("in time")
        .expect("no panic")
        .expect("no error");
    drop(idle);
    assert!(
        TcpStream::connect(listening.address).await.is_err(),
        "nobody listens any more"
    );
}
