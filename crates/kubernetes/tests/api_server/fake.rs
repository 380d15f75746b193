//! An API server in the test's own process, which answers as it is told.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meshwright_kubernetes::credential::ClientIdentity;
use meshwright_kubernetes::{AddressPolicy, ClusterClient, Credential, ResponseLimits};
use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_util::task::AbortOnDropHandle;

/// The name in its certificate, besides 127.0.0.1.
pub(crate) const NAME: &str = "api.c.example";

/// What it answers to one request.
pub(crate) enum Answer {
    /// An object.
    Json(u16, Value),
    /// An object, after which the connection ends.
    Closing(Value),
    /// An object after a while.
    Late(Duration, Value),
    /// Any text.
    Text(u16, String),
    /// A body of JSON that never ends.
    Endless,
    /// A body of which a byte comes now and then.
    Drip,
}

/// Answers a request by its head and body, and by the number of earlier requests.
type Script = dyn Fn(&str, usize) -> Answer + Send + Sync;

pub(crate) struct FakeCluster {
    pub(crate) address: SocketAddr,
    pub(crate) authority: Vec<u8>,
    shared: Arc<Shared>,
    _served: AbortOnDropHandle<()>,
}

struct Shared {
    script: Box<Script>,
    asked: Mutex<Vec<String>>,
    sent: AtomicUsize,
    connections: AtomicUsize,
}

impl FakeCluster {
    pub(crate) async fn start(
        script: impl Fn(&str, usize) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(vec!["127.0.0.1".into(), NAME.into()])
            .and_then(|params| params.self_signed(&key))
            .expect("a certificate");
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .expect("a server");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            script: Box::new(script),
            asked: Mutex::default(),
            sent: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
        });
        let served = tokio::spawn(serve(
            listener,
            TlsAcceptor::from(Arc::new(config)),
            shared.clone(),
        ));
        let authority = certificate.pem().into_bytes();
        Self {
            address,
            authority,
            shared,
            _served: AbortOnDropHandle::new(served),
        }
    }

    /// The first lines of the requests so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        let asked = self.shared.asked.lock().expect("no holder panics");
        asked
            .iter()
            .map(|request| request.lines().next().unwrap_or_default().to_owned())
            .collect()
    }

    /// Bytes of endless bodies that were taken off its hands.
    pub(crate) fn sent(&self) -> usize {
        self.shared.sent.load(Ordering::SeqCst)
    }

    /// Connections that are open.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn credential(&self, server: &str, token: &str) -> Credential {
        let identity = ClientIdentity::Token(token.to_owned().into());
        Credential::new(server, self.authority.clone(), identity).expect("a credential")
    }
}

/// Rules that allow the test's own machine.
pub(crate) fn within(limits: ResponseLimits) -> AddressPolicy {
    let allowed = vec![AddressPolicy::parse_network("127.0.0.0/24").expect("a network")];
    AddressPolicy {
        allowed_networks: allowed,
        limits,
        ..AddressPolicy::default()
    }
}

pub(crate) fn client(cluster: &FakeCluster, rules: AddressPolicy) -> ClusterClient {
    let credential = cluster.credential(&format!("https://{}", cluster.address), "a-token");
    ClusterClient::open("c", &credential, &rules).expect("a client")
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Shared>) {
    let mut open = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, shared) = (tls.clone(), shared.clone());
        open.spawn(async move {
            shared.connections.fetch_add(1, Ordering::SeqCst);
            if let Ok(stream) = tls.accept(stream).await {
                answer_all(stream, &shared).await.ok();
            }
            shared.connections.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn answer_all(
    mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin,
    shared: &Shared,
) -> std::io::Result<()> {
    loop {
        let Some(request) = read_request(&mut stream).await? else {
            return Ok(());
        };
        let count = {
            let mut asked = shared.asked.lock().expect("no holder panics");
            asked.push(request.clone());
            asked.len() - 1
        };
        match (shared.script)(&request, count) {
            Answer::Json(status, body) => write(&mut stream, status, &body.to_string()).await?,
            Answer::Closing(body) => {
                write(&mut stream, 200, &body.to_string()).await?;
                return stream.shutdown().await;
            }
            Answer::Late(time, body) => {
                tokio::time::sleep(time).await;
                write(&mut stream, 200, &body.to_string()).await?;
            }
            Answer::Text(status, body) => write(&mut stream, status, &body).await?,
            Answer::Endless => {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[0\r\n")
                    .await?;
                let chunk = format!("{:x}\r\n{}\r\n", 64 * 1024, ",0".repeat(32 * 1024));
                loop {
                    stream.write_all(chunk.as_bytes()).await?;
                    shared.sent.fetch_add(chunk.len(), Ordering::SeqCst);
                }
            }
            Answer::Drip => {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                    .await?;
                loop {
                    stream.write_all(b"1\r\n \r\n").await?;
                    stream.flush().await?;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

/// A request: its head, an empty line and its body.
async fn read_request(stream: &mut (impl AsyncReadExt + Unpin)) -> std::io::Result<Option<String>> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).await? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let length = head.lines().find_map(|line| {
        line.to_lowercase()
            .strip_prefix("content-length: ")?
            .parse()
            .ok()
    });
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    Ok(Some(head + &String::from_utf8_lossy(&body)))
}

async fn write(
    stream: &mut (impl AsyncWriteExt + Unpin),
    status: u16,
    body: &str,
) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.flush().await
}
