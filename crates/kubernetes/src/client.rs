//! Client of one cluster's API. It sends and receives JSON, limits every answer, and reports errors
//! as the ports of `rollout` define them.
//!
//! | module | purpose |
//! |---|---|
//! | `transport` | builds the HTTP client of one credential |
//! | `request` | builds and sends requests |
//! | `list` | reads lists page by page |
//! | `write` | creates, changes and deletes objects |
//! | `port_forward` | connects to ports of pods |
//! | `answer` | reads answers and watches within the limits |
//! | `told` | sanitizes all text that a cluster sends |
//! | `refusal` | explains a cluster's error status in our own words |

use std::sync::{Arc, RwLock};

use async_trait::async_trait;
use http::{Method, StatusCode};
use meshwright_model::problem::ProblemCode;
use meshwright_rollout::ports::ClusterError;
use serde_json::Value;
use tokio::time::Instant;

use crate::address_policy::AddressPolicy;
use crate::credential::Credential;
use crate::response_limits::ResponseLimits;

mod answer;
mod list;
mod port_forward;
mod refusal;
mod request;
mod told;
pub(crate) mod transport;
mod write;

pub(crate) use answer::WatchEvents;
use answer::{CallError, check_status};
pub(crate) use refusal::{explain_message, is_exceeded_quota, is_plain_name};
use request::{describe_request, escape_query_value};
pub(crate) use told::parse_array;

/// Field manager of all fields that we write.
pub const FIELD_MANAGER: &str = "meshwright";
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

impl std::fmt::Debug for ClusterClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterClient")
            .field("cluster_name", &self.shared.cluster_name)
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
        cluster_name: &str,
        credential: &Credential,
        rules: &AddressPolicy,
    ) -> Result<Self, ClusterError> {
        let refused = |code, cause: &str| ClusterError::Refused {
            place: cluster_name.to_owned(),
            code,
            cause: cause.to_owned(),
        };
        if !rules.allows_host(credential.host()) {
            return Err(refused(
                ProblemCode::AddressRefused,
                "its address is loopback, private or link-local; the operator can allow the network",
            ));
        }
        let present = ActiveCredential::from_credential(credential, rules)
            .map_err(|cause| refused(ProblemCode::CredentialRefused, cause))?;
        Ok(Self {
            shared: Arc::new(SharedClient {
                cluster_name: cluster_name.to_owned(),
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
    pub fn with_credential_source(self, source: Arc<dyn CredentialSource>) -> Self {
        Self {
            shared: Arc::new(SharedClient {
                cluster_name: self.shared.cluster_name.clone(),
                address_policy: self.shared.address_policy.clone(),
                credential_source: Some(source),
                active_credential: RwLock::new(self.active_credential()),
                refresh_lock: tokio::sync::Mutex::default(),
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
        let Some(source) = &self.shared.credential_source else {
            return false;
        };
        let _refresh = self.shared.refresh_lock.lock().await;
        if !Arc::ptr_eq(&self.active_credential(), used) {
            return true;
        }
        let Some(credential) = source
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
}
