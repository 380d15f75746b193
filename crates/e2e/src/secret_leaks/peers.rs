//! Plays the peers that the service talks to: a cluster, a receiver of webhooks and a collector of
//! traces.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::Result;

const OK_RESPONSE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
/// Answer of a cluster to a credential that it does not know.
const UNAUTHORIZED: &str = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"Unauthorized","reason":"Unauthorized","code":401}"#;

/// Bytes of all requests that a peer has received.
type ReceivedBytes = Arc<Mutex<Vec<u8>>>;

/// The peers, each at an address of its own. The cluster and the receiver of webhooks share one
/// certificate.
pub(super) struct Peers {
    cluster: SocketAddr,
    /// Address of the receiver of webhooks, which accepts every message over TLS.
    pub(super) webhook: SocketAddr,
    /// Address of the collector, which accepts every trace.
    pub(super) collector: SocketAddr,
    traces: ReceivedBytes,
    /// Certificate of the cluster and of the receiver of webhooks, as PEM.
    pub(super) ca_pem: String,
}

impl Peers {
    pub(super) async fn start() -> Result<Self> {
        let names = ["127.0.0.1", "localhost"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names)?;
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![made.cert.der().clone()], key)?;
        let (tls, traces) = (
            TlsAcceptor::from(Arc::new(config)),
            ReceivedBytes::default(),
        );
        let refusal = format!(
            "HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{UNAUTHORIZED}",
            UNAUTHORIZED.len()
        );
        Ok(Self {
            cluster: spawn_responder(Some(tls.clone()), refusal, ReceivedBytes::default()).await?,
            webhook: spawn_responder(Some(tls), OK_RESPONSE.into(), ReceivedBytes::default())
                .await?,
            collector: spawn_responder(None, OK_RESPONSE.into(), traces.clone()).await?,
            traces,
            ca_pem: made.cert.pem(),
        })
    }

    /// Takes the traces that the collector has received out of its buffer.
    pub(super) fn take_traces(&self) -> Vec<u8> {
        std::mem::take(&mut *self.traces.lock().expect("nobody panics with it"))
    }

    /// Returns a kubeconfig of the fake cluster with this user section.
    pub(super) fn build_kubeconfig(&self, user: &Value) -> Value {
        let authority = STANDARD.encode(&self.ca_pem);
        let cluster = json!({ "server": format!("https://{}", self.cluster), "certificate-authority-data": authority });
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{ "name": "c", "cluster": cluster }],
            "contexts": [{ "name": "x", "context": { "cluster": "c", "user": "u" } }],
            "users": [{ "name": "u", "user": user }],
        })
    }
}

/// Listens on a free port, gives every client the same answer, and keeps the requests.
async fn spawn_responder(
    tls: Option<TlsAcceptor>,
    answer: String,
    heard: ReceivedBytes,
) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, answer, heard) = (tls.clone(), answer.clone(), heard.clone());
            tokio::spawn(async move {
                match tls {
                    None => answer_request(stream, &answer, &heard).await,
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => answer_request(stream, &answer, &heard).await,
                        Err(error) => {
                            eprintln!("e2e: a client did not like the certificate: {error}");
                        }
                    },
                }
            });
        }
    });
    Ok(address)
}

async fn answer_request(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: &str,
    heard: &Mutex<Vec<u8>>,
) {
    let mut sent = Vec::new();
    let mut part = vec![0; 64 * 1024];
    while !has_whole_body(&sent) {
        match stream.read(&mut part).await {
            Ok(count @ 1..) => sent.extend(&part[..count]),
            _ => break,
        }
    }
    heard.lock().expect("nobody panics with it").extend(sent);
    // A client that has gone away already is no fault here.
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// Returns whether the request is complete: its body is as long as its `Content-Length` says.
fn has_whole_body(sent: &[u8]) -> bool {
    let Some(end) = memchr::memmem::find(sent, b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&sent[..end]).to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    sent.len() >= end + 4 + length.unwrap_or(0)
}
