//! Client of one cluster's API. It sends and receives JSON, limits every answer, and reports errors
//! as the ports of `rollout` define them.
//!
//! | module | purpose |
//! |---|---|
//! | `transport` | builds the HTTP client of one credential |
//! | `answer` | reads answers and watches within the limits |
//! | `told` | sanitizes all text that a cluster sends |
//! | `refusal` | explains a cluster's error status in our own words |

use std::collections::BTreeSet;
use std::sync::{Arc, RwLock};

use async_trait::async_trait;
use http::{Method, Request, StatusCode};
use kube::api::Portforwarder;
use meshwright_rollout::ports::{ClusterError, FencingToken};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::address_policy::AddressPolicy;
use crate::credential::Credential;
use crate::response_limits::ResponseLimits;

mod answer;
mod refusal;
mod told;
pub(crate) mod transport;

pub(crate) use answer::WatchEvents;
use answer::{CallError, check_status};
pub(crate) use told::parse_array;

/// Field manager of all fields that we write.
pub const FIELD_MANAGER: &str = "meshwright";
/// Number of objects in one page of a list.
const LIST_PAGE_SIZE: u32 = 250;
/// Number of objects in one page after a page of the usual size was larger than one answer may be.
const SMALL_LIST_PAGE_SIZE: u32 = 20;

/// Provides the current credential of a cluster, which may be newer than the one a client was
/// opened with.
#[async_trait]
pub trait CredentialSource: Send + Sync {
    /// Returns the current credential, or `None` if it cannot be read.
    async fn current_credential(&self) -> Option<Credential>;
}

/// Client of one cluster. Clones share its connections, and also a renewed credential.
#[derive(Clone)]
pub struct ClusterClient {
    shared: Arc<SharedClient>,
}

/// State that all clones of a client share.
struct SharedClient {
    cluster_name: String,
    address_policy: AddressPolicy,
    credential_source: Option<Arc<dyn CredentialSource>>,
    active_credential: RwLock<Arc<ActiveCredential>>,
    /// Serializes reads of the credential source: calls that wait for the lock use the credential
    /// that the first of them has read.
    refresh_lock: tokio::sync::Mutex<()>,
}

/// Credential in use, with the HTTP client that was built from it.
struct ActiveCredential {
    stored: Vec<u8>,
    client: kube::Client,
}

impl ActiveCredential {
    fn from_credential(
        credential: &Credential,
        rules: &AddressPolicy,
    ) -> Result<Arc<Self>, &'static str> {
        Ok(Arc::new(Self {
            stored: credential.to_stored(),
            client: transport::build_client(credential, rules)?,
        }))
    }
}

/// Complete list, reduced to what `keep` returned for each object.
pub(crate) struct ObjectList<T> {
    pub(crate) items: Vec<T>,
    /// Resource version of the list, from which a watch continues.
    pub(crate) version: String,
}

impl std::fmt::Debug for ClusterClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door")
            .field("place", &self.shared.cluster_name)
            .finish_non_exhaustive()
    }
}

impl ClusterClient {
    /// Prepares a client for a credential. No call is made yet: each connect resolves the server's
    /// name, checks its addresses and pins one. Redirects are not followed.
    ///
    /// # Errors
    /// Returns an error if the server is an IP address that is not allowed, or if the credential
    /// cannot be used.
    pub fn open(
        place: &str,
        credential: &Credential,
        rules: &AddressPolicy,
    ) -> Result<Self, ClusterError> {
        let refused = |code, cause: &str| ClusterError::Refused {
            place: place.to_owned(),
            code,
            cause: cause.to_owned(),
        };
        if !rules.allows_host(credential.host()) {
            return Err(refused(
                "address_refused",
                "its address is loopback, private or link-local; the operator can allow the network",
            ));
        }
        let present = ActiveCredential::from_credential(credential, rules)
            .map_err(|cause| refused("credential_refused", cause))?;
        Ok(Self {
            shared: Arc::new(SharedClient {
                cluster_name: place.to_owned(),
                address_policy: rules.clone(),
                credential_source: None,
                active_credential: RwLock::new(present),
                refresh_lock: tokio::sync::Mutex::default(),
            }),
        })
    }

    /// Adds a source that is asked for the current credential when the cluster refuses the one in
    /// use.
    #[must_use]
    pub fn with_credential_source(self, keeper: Arc<dyn CredentialSource>) -> Self {
        let SharedClient {
            cluster_name: place,
            address_policy: rules,
            ..
        } = self.shared.as_ref();
        let (place, rules, present) = (
            place.clone(),
            rules.clone(),
            RwLock::new(self.active_credential()),
        );
        let turn = tokio::sync::Mutex::default();
        Self {
            shared: Arc::new(SharedClient {
                cluster_name: place,
                address_policy: rules,
                credential_source: Some(keeper),
                active_credential: present,
                refresh_lock: turn,
            }),
        }
    }

    /// Returns the name of the cluster for messages.
    pub fn cluster_name(&self) -> &str {
        &self.shared.cluster_name
    }

    /// Returns the limits on the cluster's answers. They also hold for answers that are read
    /// through a port-forward.
    pub(crate) fn limits(&self) -> &ResponseLimits {
        &self.shared.address_policy.limits
    }

    fn active_credential(&self) -> Arc<ActiveCredential> {
        self.shared
            .active_credential
            .read()
            .expect("no holder panics")
            .clone()
    }

    /// Reads the credential again. Returns whether there is now another one than `used`.
    async fn refresh_credential(&self, used: &Arc<ActiveCredential>) -> bool {
        let Some(keeper) = &self.shared.credential_source else {
            return false;
        };
        let _turn = self.shared.refresh_lock.lock().await;
        if !Arc::ptr_eq(&self.active_credential(), used) {
            return true;
        }
        let Some(credential) = keeper
            .current_credential()
            .await
            .filter(|found| found.to_stored() != used.stored)
        else {
            return false;
        };
        let Ok(present) =
            ActiveCredential::from_credential(&credential, &self.shared.address_policy)
        else {
            return false;
        };
        tracing::info!(
            place = self.cluster_name(),
            "the cluster's credential was renewed; calls continue with the new one"
        );
        *self
            .shared
            .active_credential
            .write()
            .expect("no holder panics") = present;
        true
    }

    /// Reads an object. Returns `None` if it does not exist.
    ///
    /// # Errors
    /// Returns an error if the cluster does not answer or refuses the call.
    pub async fn get(&self, path: &str) -> Result<Option<Value>, ClusterError> {
        match self.call_json(Method::GET, path, None, None).await {
            Ok(object) => Ok(Some(object)),
            Err(failure) if failure.http_status() == Some(StatusCode::NOT_FOUND) => Ok(None),
            Err(failure) => Err(failure.into_cluster_error(self.cluster_name())),
        }
    }

    /// Lists all objects of a collection, page by page. A kind that the cluster does not know has
    /// no objects.
    ///
    /// # Errors
    /// Fails as [`ClusterClient::get`] does, or if the list exceeds a limit.
    pub async fn list(&self, path: &str, query: &str) -> Result<Vec<Value>, ClusterError> {
        Ok(self.list_mapped(path, query, Value::clone).await?.items)
    }

    /// Lists all objects of a collection and keeps only what `keep` returns for each of them, so
    /// that the whole objects do not stay in memory.
    ///
    /// # Errors
    /// Fails as [`ClusterClient::list`] does.
    pub(crate) async fn list_mapped<T: Send>(
        &self,
        path: &str,
        query: &str,
        keep: impl Fn(&Value) -> T + Send + Sync,
    ) -> Result<ObjectList<T>, ClusterError> {
        let slow =
            CallError::Unreachable("list_too_slow", "its list did not come to an end in time");
        let listed = tokio::time::timeout(
            self.limits().list_timeout,
            self.list_pages(path, query, &keep),
        )
        .await;
        listed
            .unwrap_or(Err(slow))
            .map_err(|failure| failure.into_cluster_error(self.cluster_name()))
    }

    /// Reads the pages of a list one after another. After an answer that is too large it asks for
    /// smaller pages. A repeated page token ends the list with an error, because the list would
    /// never end.
    async fn list_pages<T: Send>(
        &self,
        path: &str,
        query: &str,
        keep: &(impl Fn(&Value) -> T + Send + Sync),
    ) -> Result<ObjectList<T>, CallError> {
        let limits = self.limits();
        let too_long = || {
            CallError::InvalidResponse(
                "list_too_long",
                "its list has more than a list may have".into(),
            )
        };
        let mut listed = ObjectList {
            items: Vec::new(),
            version: String::new(),
        };
        let (mut size, mut left, mut tokens, mut token) = (
            LIST_PAGE_SIZE,
            limits.max_list_bytes,
            BTreeSet::new(),
            String::new(),
        );
        while tokens.len() < limits.max_list_pages {
            let asked = format!(
                "{path}?limit={size}&{query}&continue={}",
                escape_query_value(&token)
            );
            let bytes = match self.send_and_read(Method::GET, &asked, None, None).await {
                Ok(bytes) => bytes,
                Err(failure) if failure.http_status() == Some(StatusCode::NOT_FOUND) => {
                    return Ok(listed);
                }
                Err(CallError::InvalidResponse("answer_too_large", _))
                    if size > SMALL_LIST_PAGE_SIZE =>
                {
                    size = SMALL_LIST_PAGE_SIZE;
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            left = left.checked_sub(bytes.len()).ok_or_else(too_long)?;
            let room = limits.max_list_items - listed.items.len();
            let page = told::parse_page(&bytes, room, keep).map_err(|error| {
                if told::is_page_too_long(&error) {
                    too_long()
                } else {
                    CallError::unreadable_response()
                }
            })?;
            listed.items.extend(page.items);
            listed.version = page.version;
            if page.next.is_empty() {
                return Ok(listed);
            }
            if !tokens.insert(page.next.clone()) {
                return Err(CallError::InvalidResponse(
                    "list_repeats",
                    "its list comes back to a page that it had before".into(),
                ));
            }
            token = page.next;
        }
        Err(too_long())
    }

    /// Opens a watch that continues from a resource version.
    ///
    /// # Errors
    /// Fails as [`ClusterClient::get`] does.
    pub(crate) async fn watch(
        &self,
        path: &str,
        version: &str,
    ) -> Result<WatchEvents, ClusterError> {
        // The cluster ends the watch a little before our own timeout would.
        let seconds = (self.limits().watch_timeout * 4 / 5).as_secs().max(1);
        let query = format!("watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}");
        let path = format!(
            "{path}?{query}&resourceVersion={}",
            escape_query_value(version)
        );
        let opened = async {
            let (request, latest) = (
                self.build_request(Method::GET, &path, None)?,
                Instant::now() + self.limits().call_timeout,
            );
            let answer = self.send_request(&request, latest).await?;
            let status = answer.status();
            if status.is_success() {
                return Ok(WatchEvents::new(self, answer));
            }
            let body = self.read_body(answer, latest).await?;
            check_status(status, &describe_request(&request), &body)
                .and(Err(CallError::unreadable_response()))
        };
        opened
            .await
            .map_err(|failure: CallError| failure.into_cluster_error(self.cluster_name()))
    }

    /// Opens a connection to a port of a pod. It is closed when the result is dropped.
    ///
    /// # Errors
    /// Returns an error if the cluster does not answer in time or refuses the call.
    pub(crate) async fn port_forward(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
    ) -> Result<PortForward, ClusterError> {
        use k8s_openapi::api::core::v1::Pod;
        let pods: kube::Api<Pod> =
            kube::Api::namespaced(self.active_credential().client.clone(), namespace);
        let opened =
            tokio::time::timeout(self.limits().call_timeout, pods.portforward(pod, &[port])).await;
        let silent = |cause: &str| ClusterError::unreachable(self.cluster_name(), cause);
        match opened {
            Ok(Ok(forwarder)) => Ok(PortForward(forwarder)),
            Ok(Err(error)) => {
                tracing::debug!(
                    place = self.cluster_name(),
                    pod,
                    error = &error as &dyn std::error::Error,
                    "could not open a port-forward to the pod"
                );
                Err(silent("the port was not forwarded"))
            }
            Err(_) => Err(silent("the port was not forwarded in time")),
        }
    }

    /// Creates an object. Fails with `Changed` if it exists already.
    ///
    /// # Errors
    /// Fails as [`ClusterClient::get`] does.
    pub async fn create(
        &self,
        path: &str,
        object: &Value,
        permit: Option<&FencingToken>,
    ) -> Result<Value, ClusterError> {
        let path = format!("{path}?fieldManager={FIELD_MANAGER}");
        self.call_json(
            Method::POST,
            &path,
            Some(("application/json", object)),
            permit,
        )
        .await
        .map_err(|failure| failure.into_cluster_error(self.cluster_name()))
    }

    /// Sends an object through admission without storing it (`dryRun=All`). Returns the admitted
    /// object.
    ///
    /// # Errors
    /// Fails as [`ClusterClient::get`] does. A webhook that does not answer gives the code
    /// `webhook_failed`.
    pub async fn dry_run(&self, path: &str, object: &Value) -> Result<Value, ClusterError> {
        let path = format!("{path}?dryRun=All");
        match self
            .call_json(
                Method::POST,
                &path,
                Some(("application/json", object)),
                None,
            )
            .await
        {
            Ok(admitted) => Ok(admitted),
            // The API server did answer; a webhook that it called did not.
            Err(CallError::Status(refusal)) if refusal.status.is_server_error() => {
                Err(ClusterError::Refused {
                    place: self.cluster_name().into(),
                    code: "webhook_failed",
                    cause: refusal.message,
                })
            }
            Err(failure) => Err(failure.into_cluster_error(self.cluster_name())),
        }
    }

    /// Applies an object on the server side with our field manager. `force` takes over fields that
    /// another manager owns.
    ///
    /// # Errors
    /// Fails as [`ClusterClient::get`] does.
    pub async fn apply(
        &self,
        path: &str,
        object: &Value,
        permit: Option<&FencingToken>,
    ) -> Result<Value, ClusterError> {
        let path = format!("{path}?fieldManager={FIELD_MANAGER}&force=true");
        self.call_json(
            Method::PATCH,
            &path,
            Some(("application/apply-patch+yaml", object)),
            permit,
        )
        .await
        .map_err(|failure| failure.into_cluster_error(self.cluster_name()))
    }

    /// Sends a merge patch. It fails with `Changed` if the object is gone, or if the patch carries
    /// `uid` and `resourceVersion` and the object has another version by now.
    ///
    /// # Errors
    /// Fails as [`ClusterClient::get`] does.
    pub async fn patch(
        &self,
        path: &str,
        change: &Value,
        permit: Option<&FencingToken>,
    ) -> Result<Value, ClusterError> {
        let path = format!("{path}?fieldManager={FIELD_MANAGER}");
        match self
            .call_json(
                Method::PATCH,
                &path,
                Some(("application/merge-patch+json", change)),
                permit,
            )
            .await
        {
            Err(failure) if failure.http_status() == Some(StatusCode::NOT_FOUND) => {
                Err(ClusterError::Changed {
                    place: self.cluster_name().into(),
                })
            }
            answer => answer.map_err(|failure| failure.into_cluster_error(self.cluster_name())),
        }
    }

    /// Sends a merge patch for an object that may be gone. Returns false, and changes nothing, if
    /// it is.
    ///
    /// # Errors
    /// Fails as [`ClusterClient::get`] does.
    pub async fn patch_if_exists(
        &self,
        path: &str,
        change: &Value,
        permit: &FencingToken,
    ) -> Result<bool, ClusterError> {
        let path = format!("{path}?fieldManager={FIELD_MANAGER}");
        match self
            .call_json(
                Method::PATCH,
                &path,
                Some(("application/merge-patch+json", change)),
                Some(permit),
            )
            .await
        {
            Ok(_) => Ok(true),
            Err(failure) if failure.http_status() == Some(StatusCode::NOT_FOUND) => Ok(false),
            Err(failure) => Err(failure.into_cluster_error(self.cluster_name())),
        }
    }

    /// Deletes an object with background propagation. An object that is gone already is no error.
    ///
    /// # Errors
    /// Fails as [`ClusterClient::get`] does.
    pub async fn delete(
        &self,
        path: &str,
        preconditions: Option<Value>,
        permit: Option<&FencingToken>,
    ) -> Result<(), ClusterError> {
        let options = json!({ "kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background", "preconditions": preconditions });
        match self
            .call_json(
                Method::DELETE,
                path,
                Some(("application/json", &options)),
                permit,
            )
            .await
        {
            Err(failure) if failure.http_status() != Some(StatusCode::NOT_FOUND) => {
                Err(failure.into_cluster_error(self.cluster_name()))
            }
            _ => Ok(()),
        }
    }

    /// Sends a request and parses the answer.
    async fn call_json(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
        permit: Option<&FencingToken>,
    ) -> Result<Value, CallError> {
        let bytes = self.send_and_read(method, path, body, permit).await?;
        told::parse_object(&bytes).map_err(|_| CallError::unreadable_response())
    }

    /// Sends a request and reads the whole answer. This is the last point before the bytes go out,
    /// so the fencing token is checked here: its deadline, or the timeout of a call if that is
    /// earlier, ends the call.
    async fn send_and_read(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
        permit: Option<&FencingToken>,
    ) -> Result<bytes::BytesMut, CallError> {
        let request = self.build_request(method, path, body)?;
        let latest = Instant::now() + self.limits().call_timeout;
        let latest = permit.map_or(latest, |permit| {
            latest.min(permit.deadline.instant().into())
        });
        let answer = self.send_request(&request, latest).await?;
        let status = answer.status();
        let bytes = self.read_body(answer, latest).await?;
        check_status(status, &describe_request(&request), &bytes)?;
        Ok(bytes)
    }

    /// Builds a request. Refuses a path with a part that is no plain name.
    fn build_request(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<Request<Vec<u8>>, CallError> {
        let mut request = Request::builder().method(method).uri(path);
        let mut bytes = Vec::new();
        if let Some((kind, object)) = body {
            request = request.header("Content-Type", kind);
            bytes = serde_json::to_vec(object).expect("JSON values have string keys");
        }
        let request = request
            .body(bytes)
            .ok()
            .filter(|request| is_plain_path(request.uri().path()));
        request.ok_or_else(|| {
            tracing::debug!(
                place = self.cluster_name(),
                path,
                "request not sent: a part of its path is no valid name"
            );
            CallError::InvalidResponse(
                "cluster_refused",
                "a name in it makes no path of an API".into(),
            )
        })
    }
}

/// Connection to a port of a pod, through the API server.
pub(crate) struct PortForward(Portforwarder);

impl PortForward {
    /// Takes the stream to the port. It can be taken once.
    pub(crate) fn take_stream(
        &mut self,
        port: u16,
    ) -> Option<impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + use<>> {
        self.0.take_stream(port)
    }
}

impl Drop for PortForward {
    fn drop(&mut self) {
        // Without this, the library's task waits until the cluster closes the connection, possibly
        // for ever.
        self.0.abort();
    }
}

/// Formats method and path of a request for messages. All parts of the path are plain names.
fn describe_request(request: &Request<Vec<u8>>) -> String {
    format!("{} {}", request.method(), request.uri().path())
}

/// Escapes text that a cluster sent for use as a value in a query.
fn escape_query_value(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

/// Returns whether every part of a path is a name that Kubernetes could have given. Parts come from
/// requests and from what clusters report about themselves; none of them may lead to another object
/// than the one that was observed.
fn is_plain_path(path: &str) -> bool {
    let named = |part: &str| {
        let letters = part
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte));
        letters && !part.is_empty() && part != "." && part != ".."
    };
    path.strip_prefix('/')
        .is_some_and(|parts| parts.split('/').all(named))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_where_its_names_say() {
        for good in [
            "/version",
            "/api/v1/namespaces/istio-system/pods",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/a:b",
        ] {
            assert!(is_plain_path(good), "{good}");
        }
        for bad in [
            "",
            "/",
            "version",
            "/api//v1",
            "/api/v1/",
            "/api/./v1",
            "/a/../b",
            "/a/%2e%2e/b",
            "/a/b c",
            "/a/\u{e9}",
        ] {
            assert!(!is_plain_path(bad), "{bad}");
        }
    }
}
