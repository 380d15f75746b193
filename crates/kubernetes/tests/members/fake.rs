//! A cluster's API as far as our account uses it: objects by their paths, tokens that die with the Secret that they are
//! bound to, and every request written down.

use std::collections::BTreeMap;
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

/// A name that every fake cluster's certificate is for, besides its address.
pub(crate) const NAME: &str = "member.test";
/// The token of somebody who may do everything.
const ADMINISTRATOR: &str = "administrator";

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    tokens: BTreeMap<String, (String, Value)>,
    /// What a `TokenRequest` is answered with instead of a token.
    token: Option<String>,
    /// Webhook names that no dry run gets past.
    silent: Vec<String>,
    /// Whether dry runs get no answer at all.
    stalls: bool,
    /// How many more requests a token gets through after its Secret has gone.
    remembered: usize,
    requests: Vec<String>,
    count: u64,
}

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

    /// Nobody connects to this address any more.
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

fn status(code: u16) -> (u16, Value) {
    (
        code,
        json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": "x", "code": code }),
    )
}

impl State {
    fn put(&mut self, path: &str, mut object: Value) {
        self.count += 1;
        let known = self
            .objects
            .get(path)
            .map(|known| known["metadata"]["uid"].clone());
        let own = object["metadata"]["uid"].clone();
        object["metadata"]["uid"] = known.unwrap_or(if own.is_null() {
            format!("uid-{}", self.count).into()
        } else {
            own
        });
        object["metadata"]["resourceVersion"] = self.count.to_string().into();
        self.objects.insert(path.to_owned(), object);
    }

    fn known(&mut self, token: &str) -> bool {
        if token == ADMINISTRATOR {
            return true;
        }
        let Some((path, uid)) = self.tokens.get(token) else {
            return false;
        };
        if self
            .objects
            .get(path)
            .is_some_and(|anchor| anchor["metadata"]["uid"] == *uid)
        {
            return true;
        }
        self.remembered = match self.remembered {
            0 => return false,
            left => left - 1,
        };
        true
    }

    fn answer(&mut self, method: &str, uri: &str, token: &str, body: Value) -> (u16, Value) {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        self.requests.push(format!("{method} {path}"));
        if !self.known(token) {
            return status(401);
        }
        match (method, path) {
            ("GET", "/version") => (
                200,
                json!({ "major": "1", "minor": "33", "gitVersion": "v1.33.1" }),
            ),
            ("POST", path) if path.ends_with("/token") => self.mint(path, &body),
            ("POST", path) if path.ends_with("selfsubjectaccessreviews") => {
                (201, json!({ "status": { "allowed": true } }))
            }
            ("POST", path) if query.contains("dryRun") => self.dry_run(path, body),
            ("GET", path) if query.contains("limit=") => {
                (200, json!({ "items": self.list(path, query) }))
            }
            ("GET", path) => self
                .objects
                .get(path)
                .map_or_else(|| status(404), |object| (200, object.clone())),
            ("POST", path) => {
                let path = format!(
                    "{path}/{}",
                    body["metadata"]["name"].as_str().unwrap_or_default()
                );
                if self.objects.contains_key(&path) {
                    return status(409);
                }
                self.put(&path, encoded(body));
                (201, self.objects[&path].clone())
            }
            ("PATCH", path) => self.patch(path, body),
            ("DELETE", path) => {
                let wanted = &body["preconditions"]["uid"];
                match self.objects.get(path) {
                    None => status(404),
                    Some(object) if !wanted.is_null() && object["metadata"]["uid"] != *wanted => {
                        status(409)
                    }
                    Some(_) => (200, self.objects.remove(path).unwrap_or_default()),
                }
            }
            _ => status(405),
        }
    }

    fn patch(&mut self, path: &str, body: Value) -> (u16, Value) {
        let mut object = self.objects.get(path).cloned().unwrap_or(json!({}));
        for field in ["uid", "resourceVersion"] {
            let (wanted, found) = (&body["metadata"][field], &object["metadata"][field]);
            if !wanted.is_null() && wanted != found {
                return status(409);
            }
        }
        merge(&mut object, encoded(body));
        self.put(path, object);
        (200, self.objects[path].clone())
    }

    /// What a label selector leaves of a collection: `key` or `key=value`, several by commas.
    fn list(&self, path: &str, query: &str) -> Vec<Value> {
        let selector = query
            .split('&')
            .find_map(|part| part.strip_prefix("labelSelector="))
            .unwrap_or_default();
        let selector = selector.replace("%2F", "/").replace("%3D", "=");
        let matches = |object: &Value| {
            selector
                .split(',')
                .filter(|term| !term.is_empty())
                .all(|term| {
                    let (key, value) = term
                        .split_once('=')
                        .map_or((term, None), |(key, value)| (key, Some(value)));
                    let label = &object["metadata"]["labels"][key];
                    value.map_or(!label.is_null(), |value| label == value)
                })
        };
        let inside = |known: &&String| {
            known
                .strip_prefix(path)
                .and_then(|rest| rest.strip_prefix('/'))
                .is_some_and(|rest| !rest.contains('/'))
        };
        self.objects
            .iter()
            .filter(|(known, object)| inside(known) && matches(object))
            .map(|(_, object)| object.clone())
            .collect()
    }

    fn mint(&mut self, path: &str, body: &Value) -> (u16, Value) {
        self.count += 1;
        let anchor = &body["spec"]["boundObjectRef"];
        let (namespace, _) = path.split_once("/serviceaccounts/").expect("an account");
        let secret = format!(
            "{namespace}/secrets/{}",
            anchor["name"].as_str().unwrap_or_default()
        );
        let token = self
            .token
            .clone()
            .unwrap_or_else(|| format!("token-{}", self.count));
        self.tokens
            .insert(token.clone(), (secret, anchor["uid"].clone()));
        (
            201,
            json!({ "status": { "token": token, "expirationTimestamp": "2027-11-22T10:00:00Z" } }),
        )
    }

    /// Every silent webhook is asked about every pod of the namespaces that it selects by the label `scan`.
    fn dry_run(&self, path: &str, body: Value) -> (u16, Value) {
        let namespace = path.trim_end_matches("/pods");
        let scanned = self
            .objects
            .get(namespace)
            .is_some_and(|object| object["metadata"]["labels"]["scan"] == "yes");
        if scanned && !self.silent.is_empty() {
            status(500)
        } else {
            (201, body)
        }
    }
}

/// As the API server does with a Secret's `stringData`.
fn encoded(mut object: Value) -> Value {
    use base64::Engine as _;
    if let Some(Value::Object(texts)) = object
        .as_object_mut()
        .and_then(|object| object.remove("stringData"))
    {
        for (key, text) in texts {
            object["data"][key] = base64::engine::general_purpose::STANDARD
                .encode(text.as_str().unwrap_or_default())
                .into();
        }
    }
    object
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
