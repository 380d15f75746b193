//! Fakes a cluster's API as far as our account uses it: objects by their paths, tokens that end with
//! the Secret that they are bound to, and a log of requests.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};

use meshwright_kubernetes::credential::ClientIdentity;
use meshwright_kubernetes::{AddressPolicy, ClusterClient, Credential};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

mod state;

use state::State;

/// Name that every fake cluster's certificate is for, besides its address.
pub(crate) const NAME: &str = "member.test";
/// Token of an administrator.
const ADMINISTRATOR: &str = "administrator";

/// One imagined cluster. Clones share it.
#[derive(Clone)]
pub(crate) struct FakeCluster {
    state: Arc<Mutex<State>>,
    acceptor: TlsAcceptor,
    authority: Vec<u8>,
    pub(crate) address: SocketAddr,
    listening: Option<AbortHandle>,
}

pub(crate) fn rules() -> AddressPolicy {
    let allowed = vec![AddressPolicy::parse_network("127.0.0.0/8").expect("a network")];
    AddressPolicy {
        allowed_networks: allowed,
        worker_name: "test".into(),
        ..AddressPolicy::default()
    }
}

/// A way into a fake cluster by a credential.
pub(crate) fn open(credential: &Credential) -> ClusterClient {
    ClusterClient::open("c", credential, &rules()).expect("a client")
}

impl FakeCluster {
    /// A cluster of this identity with nothing in it.
    pub(crate) async fn new(uid: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["127.0.0.1".into(), NAME.into()]).expect("a name");
        let certificate = params.self_signed(&key).expect("a certificate");
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .expect("a server");
        let (state, acceptor) = (Arc::default(), TlsAcceptor::from(Arc::new(config)));
        let authority = certificate.pem().into_bytes();
        let cluster = Self {
            state,
            acceptor,
            authority,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            listening: None,
        };
        cluster.put(
            "/api/v1/namespaces/kube-system",
            json!({ "metadata": { "name": "kube-system", "uid": uid } }),
        );
        cluster.another_address().await
    }

    /// The same cluster at one more address.
    pub(crate) async fn another_address(&self) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port");
        let there = Self {
            address: listener.local_addr().expect("an address"),
            ..self.clone()
        };
        let serving = there.clone();
        let listening = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        Self {
            listening: Some(listening.abort_handle()),
            ..there
        }
    }

    /// Closes the listener: this address accepts no more connections.
    pub(crate) fn close(&self) {
        self.listening.as_ref().expect("it listens").abort();
    }

    pub(crate) fn administrator(&self) -> Credential {
        let identity = ClientIdentity::Token(ADMINISTRATOR.to_owned().into());
        Credential::new(
            &format!("https://{}", self.address),
            self.authority.clone(),
            identity,
        )
        .expect("a credential")
    }

    pub(crate) fn put(&self, path: &str, object: Value) {
        self.lock().put(path, object);
    }

    pub(crate) fn remove(&self, path: &str) {
        self.lock().objects.remove(path);
    }

    pub(crate) fn object(&self, path: &str) -> Option<Value> {
        self.lock().objects.get(path).cloned()
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        self.lock().objects.keys().cloned().collect()
    }

    pub(crate) fn answer_tokens_with(&self, token: &str) {
        self.lock().token = Some(token.into());
    }

    pub(crate) fn silence_webhook(&self, name: &str) {
        self.lock().silent.push(name.into());
    }

    pub(crate) fn stall_dry_runs(&self) {
        self.lock().stalls = true;
    }

    pub(crate) fn remember(&self, requests: usize) {
        self.lock().remembered = requests;
    }

    /// Every request that would have changed something since this was last asked.
    pub(crate) fn writes(&self) -> Vec<String> {
        let requests = std::mem::take(&mut self.lock().requests);
        requests
            .into_iter()
            .filter(|request| !request.starts_with("GET "))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    async fn serve(self, stream: TcpStream) -> Option<()> {
        let mut stream = BufReader::new(self.acceptor.accept(stream).await.ok()?);
        loop {
            let (mut line, mut length, mut token) = (String::new(), 0, String::new());
            stream
                .read_line(&mut line)
                .await
                .ok()
                .filter(|read| *read > 0)?;
            loop {
                let mut header = String::new();
                stream.read_line(&mut header).await.ok()?;
                let Some((name, value)) = header.split_once(':') else {
                    break;
                };
                match name.to_ascii_lowercase().as_str() {
                    "content-length" => length = value.trim().parse().ok()?,
                    "authorization" => {
                        token = value.trim().trim_start_matches("Bearer ").to_owned();
                    }
                    _ => {}
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await.ok()?;
            let mut words = line.split_whitespace();
            let (method, uri) = (words.next()?, words.next()?);
            let body = serde_json::from_slice(&body).unwrap_or_default();
            if uri.contains("dryRun") && self.lock().stalls {
                return std::future::pending().await;
            }
            let (status, answer) = self.lock().answer(method, uri, &token, body);
            let answer = answer.to_string();
            let head = format!(
                "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                answer.len()
            );
            stream.write_all(head.as_bytes()).await.ok()?;
            stream.write_all(answer.as_bytes()).await.ok()?;
            stream.flush().await.ok()?;
        }
    }
}
