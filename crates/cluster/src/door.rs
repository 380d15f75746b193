//! One cluster's API: JSON in and out, limits on every answer, errors in the ports' words.
//!
//! | module | what it decides |
//! |---|---|
//! | `limits` | how much and how long a cluster may answer |
//! | `client` | the HTTP client of one credential |
//! | `answer` | reading of answers and watches within the limits |
//! | `told` | cleaning of all text that a cluster sends |
//! | `refusal` | a cluster's refusal in our own words |

use std::collections::BTreeSet;
use std::sync::{Arc, RwLock};

use async_trait::async_trait;
use http::{Method, Request, StatusCode};
use kube::api::Portforwarder;
use rollout::ports::{Permit, WorldError};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::dialling::Dialling;
use crate::kubeconfig::Credential;

mod answer;
pub(crate) mod client;
mod limits;
mod refusal;
mod told;

pub(crate) use answer::Events;
use answer::{Failure, judge};
pub use limits::Limits;
pub(crate) use told::array;

/// Field manager of all fields that we write.
pub const FIELD_MANAGER: &str = "meshwright";
/// Objects of one page of a list.
const PAGE: u32 = 250;
/// Objects of one page where a page of the usual size is larger than one answer may be.
const SMALL_PAGE: u32 = 20;

/// Keeps the present credential of a cluster, which may be another one than the door was opened with.
#[async_trait]
pub trait Keeper: Send + Sync {
    /// The present credential; `None` when it cannot be read.
    async fn present(&self) -> Option<Credential>;
}

/// A connection to one cluster. Clones share it, and a new credential as well.
#[derive(Clone)]
pub struct Door {
    shared: Arc<Shared>,
}

struct Shared {
    place: String,
    rules: Dialling,
    keeper: Option<Arc<dyn Keeper>>,
    present: RwLock<Arc<Present>>,
    /// One reading of the credential at a time.
    turn: tokio::sync::Mutex<()>,
}

/// The credential in use.
struct Present {
    stored: Vec<u8>,
    client: kube::Client,
}

impl Present {
    fn of(credential: &Credential, rules: &Dialling) -> Result<Arc<Self>, &'static str> {
        Ok(Arc::new(Self { stored: credential.stored(), client: client::build(credential, rules)? }))
    }
}

/// All objects of a list, as far as `keep` kept of them.
pub(crate) struct Listed<T> {
    pub(crate) items: Vec<T>,
    /// Version of the list, from which a watch goes on.
    pub(crate) version: String,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door").field("place", &self.shared.place).finish_non_exhaustive()
    }
}

impl Door {
    /// Prepares calls by a credential. Nothing is called yet: each connect resolves the server's name, checks its addresses
    /// and pins one. Redirects are not followed.
    ///
    /// # Errors
    /// The server is a literal address that is not allowed, or the credential cannot be used.
    pub fn open(place: &str, credential: &Credential, rules: &Dialling) -> Result<Self, WorldError> {
        let refused =
            |code, cause: &str| WorldError::Refused { place: place.to_owned(), code, cause: cause.to_owned() };
        if !rules.allows_literal(credential.host()) {
            return Err(refused(
                "address_refused",
                "its address is loopback, private or link-local; the operator can allow the network",
            ));
        }
        let present = Present::of(credential, rules).map_err(|cause| refused("credential_refused", cause))?;
        Ok(Self {
            shared: Arc::new(Shared {
                place: place.to_owned(),
                rules: rules.clone(),
                keeper: None,
                present: RwLock::new(present),
                turn: tokio::sync::Mutex::default(),
            }),
        })
    }

    /// The same door, which asks for the present credential when the one that it has is not valid any more.
    #[must_use]
    pub fn kept_by(self, keeper: Arc<dyn Keeper>) -> Self {
        let Shared { place, rules, .. } = self.shared.as_ref();
        let (place, rules, present) = (place.clone(), rules.clone(), RwLock::new(self.present()));
        let turn = tokio::sync::Mutex::default();
        Self { shared: Arc::new(Shared { place, rules, keeper: Some(keeper), present, turn }) }
    }

    /// The cluster's name in messages.
    pub fn place(&self) -> &str {
        &self.shared.place
    }

    /// The limits of its answers, which hold for what is asked through it as well.
    pub(crate) fn limits(&self) -> &Limits {
        &self.shared.rules.limits
    }

    fn present(&self) -> Arc<Present> {
        self.shared.present.read().expect("no holder panics").clone()
    }

    /// Reads the credential again. Answers whether there is another one than `used`.
    async fn renewed(&self, used: &Arc<Present>) -> bool {
        let Some(keeper) = &self.shared.keeper else { return false };
        let _turn = self.shared.turn.lock().await;
        if !Arc::ptr_eq(&self.present(), used) {
            return true;
        }
        let Some(credential) = keeper.present().await.filter(|found| found.stored() != used.stored) else {
            return false;
        };
        let Ok(present) = Present::of(&credential, &self.shared.rules) else { return false };
        tracing::info!(place = self.place(), "its credential was renewed; calls go on with the new one");
        *self.shared.present.write().expect("no holder panics") = present;
        true
    }

    /// An object; `None` when there is none.
    ///
    /// # Errors
    /// The cluster did not answer or refused.
    pub async fn get(&self, path: &str) -> Result<Option<Value>, WorldError> {
        match self.call(Method::GET, path, None, None).await {
            Ok(object) => Ok(Some(object)),
            Err(failure) if failure.status() == Some(StatusCode::NOT_FOUND) => Ok(None),
            Err(failure) => Err(failure.explain(self.place())),
        }
    }

    /// Every object of a list, page by page. A kind that the cluster does not know has no objects.
    ///
    /// # Errors
    /// As for [`Door::get`]; or the list passes a limit.
    pub async fn list(&self, path: &str, query: &str) -> Result<Vec<Value>, WorldError> {
        Ok(self.list_as(path, query, Value::clone).await?.items)
    }

    /// The same, of which only what `keep` makes of each object is held in memory.
    ///
    /// # Errors
    /// As for [`Door::list`].
    pub(crate) async fn list_as<T: Send>(
        &self,
        path: &str,
        query: &str,
        keep: impl Fn(&Value) -> T + Send + Sync,
    ) -> Result<Listed<T>, WorldError> {
        let slow = Failure::Silent("list_too_slow", "its list did not come to an end in time");
        let listed = tokio::time::timeout(self.limits().list, self.pages(path, query, &keep)).await;
        listed.unwrap_or(Err(slow)).map_err(|failure| failure.explain(self.place()))
    }

    async fn pages<T: Send>(
        &self,
        path: &str,
        query: &str,
        keep: &(impl Fn(&Value) -> T + Send + Sync),
    ) -> Result<Listed<T>, Failure> {
        let limits = self.limits();
        let too_long = || Failure::Unusable("list_too_long", "its list has more than a list may have".into());
        let mut listed = Listed { items: Vec::new(), version: String::new() };
        let (mut size, mut left, mut tokens, mut token) = (PAGE, limits.list_bytes, BTreeSet::new(), String::new());
        while tokens.len() < limits.pages {
            let asked = format!("{path}?limit={size}&{query}&continue={}", escaped(&token));
            let bytes = match self.exchange(Method::GET, &asked, None, None).await {
                Ok(bytes) => bytes,
                Err(failure) if failure.status() == Some(StatusCode::NOT_FOUND) => return Ok(listed),
                Err(Failure::Unusable("answer_too_large", _)) if size > SMALL_PAGE => {
                    size = SMALL_PAGE;
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            left = left.checked_sub(bytes.len()).ok_or_else(too_long)?;
            let room = limits.items - listed.items.len();
            let page = told::page(&bytes, room, keep)
                .map_err(|error| if told::is_too_long(&error) { too_long() } else { Failure::unreadable() })?;
            listed.items.extend(page.items);
            listed.version = page.version;
            if page.next.is_empty() {
                return Ok(listed);
            }
            if !tokens.insert(page.next.clone()) {
                return Err(Failure::Unusable(
                    "list_repeats",
                    "its list comes back to a page that it had before".into(),
                ));
            }
            token = page.next;
        }
        Err(too_long())
    }

    /// Opens a watch that goes on from a version.
    ///
    /// # Errors
    /// As for [`Door::get`].
    pub(crate) async fn watch(&self, path: &str, version: &str) -> Result<Events, WorldError> {
        // The cluster ends the watch a little before we would.
        let seconds = (self.limits().watch * 4 / 5).as_secs().max(1);
        let query = format!("watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}");
        let path = format!("{path}?{query}&resourceVersion={}", escaped(version));
        let opened = async {
            let (request, latest) = (self.request(Method::GET, &path, None)?, Instant::now() + self.limits().call);
            let answer = self.send(&request, latest).await?;
            let status = answer.status();
            if status.is_success() {
                return Ok(Events::new(self, answer));
            }
            let body = self.read(answer, latest).await?;
            judge(status, &asked(&request), &body).and(Err(Failure::unreadable()))
        };
        opened.await.map_err(|failure: Failure| failure.explain(self.place()))
    }

    /// Opens a connection to a port of a pod, which ends when it is dropped.
    ///
    /// # Errors
    /// The cluster did not answer in time or refused.
    pub(crate) async fn forward(&self, namespace: &str, pod: &str, port: u16) -> Result<Forward, WorldError> {
        use k8s_openapi::api::core::v1::Pod;
        let pods: kube::Api<Pod> = kube::Api::namespaced(self.present().client.clone(), namespace);
        let opened = tokio::time::timeout(self.limits().call, pods.portforward(pod, &[port])).await;
        let silent = |cause: &str| WorldError::silent(self.place(), cause);
        match opened {
            Ok(Ok(forwarder)) => Ok(Forward(forwarder)),
            Ok(Err(error)) => {
                tracing::debug!(place = self.place(), pod, error = &error as &dyn std::error::Error, "no port-forward");
                Err(silent("the port was not forwarded"))
            }
            Err(_) => Err(silent("the port was not forwarded in time")),
        }
    }

    /// Creates an object; `Changed` when it is there already.
    ///
    /// # Errors
    /// As for [`Door::get`].
    pub async fn create(&self, path: &str, object: &Value, permit: Option<&Permit>) -> Result<Value, WorldError> {
        let path = format!("{path}?fieldManager={FIELD_MANAGER}");
        self.call(Method::POST, &path, Some(("application/json", object)), permit)
            .await
            .map_err(|failure| failure.explain(self.place()))
    }

    /// Sends an object through admission and throws it away.
    ///
    /// # Errors
    /// As for [`Door::get`].
    pub async fn dry_run(&self, path: &str, object: &Value) -> Result<Value, WorldError> {
        let path = format!("{path}?dryRun=All");
        match self.call(Method::POST, &path, Some(("application/json", object)), None).await {
            Ok(admitted) => Ok(admitted),
            // The cluster did answer: it is a webhook that did not.
            Err(Failure::Status(refusal)) if refusal.status.is_server_error() => {
                Err(WorldError::Refused { place: self.place().into(), code: "webhook_failed", cause: refusal.words })
            }
            Err(failure) => Err(failure.explain(self.place())),
        }
    }

    /// Server-side apply with our field manager. `force` takes fields over that another manager holds.
    ///
    /// # Errors
    /// As for [`Door::get`].
    pub async fn apply(&self, path: &str, object: &Value, permit: Option<&Permit>) -> Result<Value, WorldError> {
        let path = format!("{path}?fieldManager={FIELD_MANAGER}&force=true");
        self.call(Method::PATCH, &path, Some(("application/apply-patch+yaml", object)), permit)
            .await
            .map_err(|failure| failure.explain(self.place()))
    }

    /// Merge patch. A patch that carries `uid` and `resourceVersion` fails with `Changed` when the object moved on, and every
    /// patch does when the object is gone.
    ///
    /// # Errors
    /// As for [`Door::get`].
    pub async fn patch(&self, path: &str, change: &Value, permit: Option<&Permit>) -> Result<Value, WorldError> {
        let path = format!("{path}?fieldManager={FIELD_MANAGER}");
        match self.call(Method::PATCH, &path, Some(("application/merge-patch+json", change)), permit).await {
            Err(failure) if failure.status() == Some(StatusCode::NOT_FOUND) => {
                Err(WorldError::Changed { place: self.place().into() })
            }
            answer => answer.map_err(|failure| failure.explain(self.place())),
        }
    }

    /// The same for an object that may be gone by now: then there is nothing to do, and the answer is false.
    ///
    /// # Errors
    /// As for [`Door::get`].
    pub async fn patch_if_there(&self, path: &str, change: &Value, permit: &Permit) -> Result<bool, WorldError> {
        let path = format!("{path}?fieldManager={FIELD_MANAGER}");
        match self.call(Method::PATCH, &path, Some(("application/merge-patch+json", change)), Some(permit)).await {
            Ok(_) => Ok(true),
            Err(failure) if failure.status() == Some(StatusCode::NOT_FOUND) => Ok(false),
            Err(failure) => Err(failure.explain(self.place())),
        }
    }

    /// Deletes an object in the background; one that is gone already is fine.
    ///
    /// # Errors
    /// As for [`Door::get`].
    pub async fn delete(
        &self,
        path: &str,
        preconditions: Option<Value>,
        permit: Option<&Permit>,
    ) -> Result<(), WorldError> {
        let options = json!({ "kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background", "preconditions": preconditions });
        match self.call(Method::DELETE, path, Some(("application/json", &options)), permit).await {
            Err(failure) if failure.status() != Some(StatusCode::NOT_FOUND) => Err(failure.explain(self.place())),
            _ => Ok(()),
        }
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
        permit: Option<&Permit>,
    ) -> Result<Value, Failure> {
        let bytes = self.exchange(method, path, body, permit).await?;
        told::read(&bytes).map_err(|_| Failure::unreadable())
    }

    /// The last place before bytes go out: here the permit is checked, and here the deadline cuts the call off.
    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
        permit: Option<&Permit>,
    ) -> Result<bytes::BytesMut, Failure> {
        let request = self.request(method, path, body)?;
        let latest = Instant::now() + self.limits().call;
        let latest = permit.map_or(latest, |permit| latest.min(permit.deadline.instant().into()));
        let answer = self.send(&request, latest).await?;
        let status = answer.status();
        let bytes = self.read(answer, latest).await?;
        judge(status, &asked(&request), &bytes)?;
        Ok(bytes)
    }

    fn request(&self, method: Method, path: &str, body: Option<(&str, &Value)>) -> Result<Request<Vec<u8>>, Failure> {
        let mut request = Request::builder().method(method).uri(path);
        let mut bytes = Vec::new();
        if let Some((kind, object)) = body {
            request = request.header("Content-Type", kind);
            bytes = serde_json::to_vec(object).expect("JSON values have string keys");
        }
        let request = request.body(bytes).ok().filter(|request| is_plain(request.uri().path()));
        request.ok_or_else(|| {
            tracing::debug!(place = self.place(), path, "a path was not sent");
            Failure::Unusable("cluster_refused", "a name in it makes no path of an API".into())
        })
    }
}

/// A connection to a port of a pod.
pub(crate) struct Forward(Portforwarder);

impl Forward {
    /// The stream to the port; once.
    pub(crate) fn stream(
        &mut self,
        port: u16,
    ) -> Option<impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + use<>> {
        self.0.take_stream(port)
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        // Without this the library's task waits for the cluster to close the connection, for ever if need be.
        self.0.abort();
    }
}

/// Method and path of a request, for messages. All parts of the path are plain names.
fn asked(request: &Request<Vec<u8>>) -> String {
    format!("{} {}", request.method(), request.uri().path())
}

/// Text of a cluster as a value of a query.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Whether every part of a path is a name as Kubernetes has them. Parts come from requests and from what clusters say of
/// themselves, and none of them may lead to another object than the one that was looked at.
fn is_plain(path: &str) -> bool {
    let named = |part: &str| {
        let letters = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte));
        letters && !part.is_empty() && part != "." && part != ".."
    };
    path.strip_prefix('/').is_some_and(|parts| parts.split('/').all(named))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_where_its_names_say() {
        for good in
            ["/version", "/api/v1/namespaces/istio-system/pods", "/apis/rbac.authorization.k8s.io/v1/clusterroles/a:b"]
        {
            assert!(is_plain(good), "{good}");
        }
        for bad in
            ["", "/", "version", "/api//v1", "/api/v1/", "/api/./v1", "/a/../b", "/a/%2e%2e/b", "/a/b c", "/a/\u{e9}"]
        {
            assert!(!is_plain(bad), "{bad}");
        }
    }
}
