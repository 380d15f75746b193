//! Asks each istiod replica which members it has synced and which proxies are connected to it.
//! Requests go through a port-forward to the pod, which works even if the users' clusters do not.

use std::collections::BTreeSet;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use meshwright_model::Name;
use meshwright_model::observation::{MemberObservation, ProxyObservation};
use meshwright_model::version::RevisionName;
use meshwright_rollout::plan::data_plane::REV_LABEL;
use meshwright_rollout::ports::{ClusterError, Readiness};
use serde_json::Value;

use super::{KubernetesMesh, label_query, object_names, text_at};
use crate::client::parse_array;

/// Port of istiod's debug endpoints.
const ISTIOD_DEBUG_PORT: u16 = 8080;
/// Timeout of one request to one replica.
const REPLICA_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum size of a replica's answer, in bytes. It has about a kilobyte for each proxy.
const MAX_DEBUG_RESPONSE_BYTES: usize = 64 * 1024 * 1024;

impl KubernetesMesh {
    /// Returns the names of all replicas of a revision: also those that are not ready, and those
    /// that are terminating.
    pub(super) async fn replica_names(
        &self,
        revision: &RevisionName,
    ) -> Result<Vec<String>, ClusterError> {
        Ok(object_names(&self.list_istiod_pods(revision).await?))
    }

    /// Returns the names of the replicas that are not terminating. A terminating one drains for
    /// half a minute and answers no request.
    async fn running_replica_names(
        &self,
        revision: &RevisionName,
    ) -> Result<Vec<String>, ClusterError> {
        let mut pods = self.list_istiod_pods(revision).await?;
        pods.retain(|pod| pod.pointer("/metadata/deletionTimestamp").is_none());
        Ok(object_names(&pods))
    }

    pub(super) async fn list_istiod_pods(
        &self,
        revision: &RevisionName,
    ) -> Result<Vec<Value>, ClusterError> {
        let query = label_query(&[("app", "istiod"), (REV_LABEL, revision.as_str())]);
        self.config
            .hosting
            .list(
                &format!("/api/v1/namespaces/{}/pods", self.namespace()),
                &query,
            )
            .await
    }

    /// Requests a list from a replica and keeps only what `keep` returns for each entry.
    pub(super) async fn query_replica<T>(
        &self,
        pod: &str,
        path: &str,
        keep: impl Fn(&Value) -> T,
    ) -> Result<Vec<T>, ClusterError> {
        let place = format!("istiod replica {pod}");
        let asked =
            tokio::time::timeout(REPLICA_TIMEOUT, self.fetch_debug_endpoint(pod, path)).await;
        let silent = |cause: &str| ClusterError::unreachable(place.clone(), cause);
        let body = asked
            .map_err(|_| silent("no answer in time"))?
            .map_err(silent)?;
        parse_array(&body, self.config.hosting.limits().max_list_items, &keep)
            .map_err(|_| silent("its answer is no list"))
    }

    /// Requests a debug endpoint of a replica through a port-forward.
    async fn fetch_debug_endpoint(
        &self,
        pod: &str,
        path: &str,
    ) -> Result<bytes::Bytes, &'static str> {
        let failed = |what: &'static str| {
            move |error: &(dyn std::error::Error + 'static)| {
                tracing::debug!(pod, error, "{what}");
                what
            }
        };
        let forward = self
            .config
            .hosting
            .port_forward(self.namespace(), pod, ISTIOD_DEBUG_PORT)
            .await;
        let mut forward = forward.map_err(|error| failed("the port was not forwarded")(&error))?;
        let stream = forward
            .take_stream(ISTIOD_DEBUG_PORT)
            .ok_or("the port was not forwarded")?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) =
            handshake.map_err(|error| failed("the connection failed")(&error))?;
        let question = async {
            let request = http::Request::get(path)
                .header("Host", "localhost")
                .body(Empty::<bytes::Bytes>::new());
            let request = request.map_err(|error| failed("the question was not sent")(&error))?;
            let answer = sender.send_request(request).await;
            let answer = answer.map_err(|error| failed("the connection failed")(&error))?;
            let body = Limited::new(answer.into_body(), MAX_DEBUG_RESPONSE_BYTES)
                .collect()
                .await;
            let body = body
                .map_err(|error| failed("the answer broke off or is too large")(error.as_ref()))?;
            Ok(body.to_bytes())
        };
        tokio::select! {
            answered = question => answered,
            _ = connection => Err("the connection ended"),
        }
    }

    /// Checks that all replicas are ready and have synced every member. A replica becomes ready
    /// after half a minute even if a member is missing, so each one is asked about every member.
    pub(super) async fn revision_readiness(
        &self,
        revision: &RevisionName,
        members: &[Name],
    ) -> Result<Readiness, ClusterError> {
        if let waiting @ (Readiness::Pending(_) | Readiness::Failing(_)) =
            self.replica_readiness(revision).await?
        {
            return Ok(waiting);
        }
        for pod in self.running_replica_names(revision).await? {
            let clusters = self
                .query_replica(&pod, "/debug/clusterz", cluster_sync_state)
                .await?;
            for member in members {
                let known = clusters
                    .iter()
                    .find(|(cluster, _)| cluster == member.as_str());
                let state = known.map_or("unknown", |(_, state)| state);
                if state != "synced" {
                    return Ok(Readiness::Pending(format!(
                        "{pod} reports {member} as {state}"
                    )));
                }
            }
        }
        Ok(Readiness::Ready)
    }

    /// Returns why the first replica that is not ready is waiting: the reason that its node gives,
    /// or the members that it has not synced. The text is empty if no replica gives a reason.
    pub(super) async fn unready_reason(
        &self,
        revision: &RevisionName,
    ) -> Result<String, ClusterError> {
        for pod in self.list_istiod_pods(revision).await? {
            let container = pod
                .pointer("/status/containerStatuses/0")
                .cloned()
                .unwrap_or_default();
            let name = text_at(&pod, "/metadata/name").unwrap_or_default();
            if container["ready"] == true || pod.pointer("/metadata/deletionTimestamp").is_some() {
                continue;
            }
            if let Some(reason) = text_at(&container, "/state/waiting/reason") {
                return Ok(format!("; {name}: {reason}"));
            }
            // A replica that is only starting does not answer either, so the wait is short.
            let asked = self.query_replica(name, "/debug/clusterz", cluster_sync_state);
            let Ok(Ok(clusters)) = tokio::time::timeout(Duration::from_secs(1), asked).await else {
                continue;
            };
            let unsynced = clusters.iter().filter(|(_, state)| state != "synced");
            let names: Vec<&str> = unsynced.map(|(cluster, _)| cluster.as_str()).collect();
            if !names.is_empty() {
                return Ok(format!("; {name} has not synced {}", names.join(", ")));
            }
        }
        Ok(String::new())
    }

    /// Lists the proxies of every replica of every revision of the mesh. Replicas that do not
    /// answer are left out, because the list is only shown.
    pub(super) async fn observe_proxies(
        &self,
        members: &[MemberObservation],
    ) -> Vec<ProxyObservation> {
        let revisions: BTreeSet<&RevisionName> = members
            .iter()
            .flat_map(|member| member.injectors.iter().map(|injector| &injector.revision))
            .collect();
        let looks = revisions.into_iter().map(|revision| async move {
            let replicas = self.replica_names(revision).await.unwrap_or_default();
            let asked = replicas.iter().map(|pod| {
                self.query_replica(pod, "/debug/syncz", |proxy| {
                    proxy_observation(revision, proxy)
                })
            });
            futures::future::join_all(asked).await
        });
        futures::future::join_all(looks)
            .await
            .into_iter()
            .flatten()
            .flatten()
            .flatten()
            .collect()
    }
}

/// Returns the name of a member in a control plane, and its sync status there.
fn cluster_sync_state(cluster: &Value) -> (String, String) {
    let part = |key: &str| cluster[key].as_str().unwrap_or_default().to_owned();
    (part("id"), part("syncStatus"))
}

fn proxy_observation(revision: &RevisionName, proxy: &Value) -> ProxyObservation {
    let part = |key: &str| proxy[key].as_str().unwrap_or_default().to_owned();
    let kinds = ["cluster", "listener", "route", "endpoint"];
    let synced = kinds
        .iter()
        .all(|kind| proxy[format!("{kind}_sent")] == proxy[format!("{kind}_acked")]);
    let error = proxy
        .get("lastError")
        .or_else(|| proxy.get("last_error"))
        .and_then(Value::as_str)
        .map(str::to_owned);
    ProxyObservation {
        proxy: part("proxy"),
        member: part("cluster_id"),
        revision: revision.clone(),
        version: part("istio_version"),
        synced: synced && error.is_none(),
        error,
        ghost: false,
    }
}
