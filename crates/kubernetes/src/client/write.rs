//! Creates, changes and deletes objects. A fencing token ends each write at its deadline.

use http::{Method, StatusCode};
use meshwright_model::problem::ProblemCode;
use meshwright_rollout::ports::{ClusterError, FencingToken, ObjectVersion};
use serde_json::{Value, json};

use super::answer::CallError;
use super::{ClusterClient, FIELD_MANAGER};

impl ClusterClient {
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
    /// `webhook_failed`; a server error that names no webhook counts as no answer.
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
            Err(CallError::Status(refusal))
                if refusal.names_cause && refusal.status.is_server_error() =>
            {
                Err(ClusterError::Refused {
                    place: self.cluster_name().into(),
                    code: ProblemCode::WebhookFailed,
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

    /// Evicts a pod, named as `name/uid`, within the disruption budgets of its owner. Fails with
    /// `Changed` if the pod is gone, and with `Delayed` if a budget allows no disruption now.
    ///
    /// # Errors
    /// Fails as [`ClusterClient::get`] does.
    pub(crate) async fn evict(
        &self,
        namespace: &str,
        pod: &ObjectVersion,
        permit: &FencingToken,
    ) -> Result<(), ClusterError> {
        let (name, uid) = pod.0.split_once('/').unwrap_or((&pod.0, ""));
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction");
        let eviction = json!({
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": { "name": name, "namespace": namespace },
            "deleteOptions": { "preconditions": { "uid": uid } },
        });
        let sent = self
            .call_json(
                Method::POST,
                &path,
                Some(("application/json", &eviction)),
                Some(permit),
            )
            .await;
        let place = || format!("pod {namespace}/{name} in {}", self.cluster_name());
        match sent {
            Ok(_) => Ok(()),
            Err(failure) => Err(match failure.http_status() {
                Some(StatusCode::NOT_FOUND) => ClusterError::Changed { place: place() },
                Some(StatusCode::TOO_MANY_REQUESTS) => ClusterError::Delayed {
                    place: place(),
                    cause: "a disruption budget allows no eviction".to_owned(),
                },
                _ => failure.into_cluster_error(self.cluster_name()),
            }),
        }
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
}
