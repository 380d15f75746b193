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
use meshwright_rollout::ports::{ClusterError, Readiness, Usage};
use serde_json::Value;

use super::data_plane::Snapshot;
use super::revision_pins::pinned_resources_in;
use super::single_object::revision_webhook_name;
use super::{KubernetesMesh, label_query, object_names, text_at};
use crate::api_paths::MUTATING_WEBHOOKS_PATH;
use crate::client::parse_array;
use crate::labels::OWNER_LABEL;

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

    async fn list_istiod_pods(&self, revision: &RevisionName) -> Result<Vec<Value>, ClusterError> {
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
    async fn query_replica<T>(
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

    /// Finds the users of a revision (requirement B8): connected proxies of every replica, live
    /// pods, pod templates, namespaces, tags and, if there are none of these, resources that name
    /// the revision. A cluster or replica that does not answer counts as a user. Members that are
    /// left behind are neither asked nor counted: their proxies may stay connected although their
    /// API server is gone for good.
    pub(super) async fn revision_usage(
        &self,
        revision: &RevisionName,
        left_behind: &[Name],
    ) -> Result<Usage, ClusterError> {
        let counted = |member: &str| !left_behind.iter().any(|left| left.as_str() == member);
        let (mut users, mut silent) = (Vec::new(), Vec::new());
        let running: Vec<Value> = self
            .list_istiod_pods(revision)
            .await?
            .into_iter()
            .filter(is_running)
            .collect();
        let asked = object_names(&running).into_iter().map(|pod| async move {
            let proxy = |proxy: &Value| {
                let member = proxy["cluster_id"].as_str();
                member.is_none_or(counted).then(|| proxy_name(proxy))
            };
            let connected = self
                .query_replica(&pod, "/debug/syncz", proxy)
                .await
                .map_err(|_| format!("replica {pod}"))?;
            Ok::<_, String>(connected.into_iter().flatten().collect::<Vec<_>>())
        });
        let members = self
            .config
            .members
            .iter()
            .filter(|member| counted(member.name.as_str()));
        let looks = members.map(|member| self.member_usage(member, revision));
        let (connected, used) = tokio::join!(
            futures::future::join_all(asked),
            futures::future::join_all(looks)
        );
        for found in connected {
            match found {
                Ok(proxies) => users.extend(proxies),
                Err(replica) => silent.push(replica),
            }
        }
        for found in used {
            match found {
                Ok(found) => users.extend(found),
                Err(ClusterError::Expired) => return Err(ClusterError::Expired),
                Err(error) => silent.push(error.to_string()),
            }
        }
        Ok(match (users.is_empty(), silent.is_empty()) {
            (false, _) => Usage::InUse(users),
            (true, false) => Usage::Unknown(silent),
            (true, true) => Usage::Unused,
        })
    }

    /// Lists the users of a revision in one member.
    async fn member_usage(
        &self,
        member: &super::MemberCluster,
        revision: &RevisionName,
    ) -> Result<Vec<String>, ClusterError> {
        let snapshot = Snapshot::read_member(member).await?;
        let name = revision.as_str();
        let carry = snapshot
            .pods
            .values()
            .filter(|pod| pod.live && pod.revision.as_deref() == Some(name));
        let mut users: Vec<String> = carry
            .map(|pod| format!("pod {}/{} in {}", pod.namespace, pod.name, member.name))
            .collect();
        let own = member
            .client
            .get(&format!(
                "{MUTATING_WEBHOOKS_PATH}/{}",
                revision_webhook_name(self, name)
            ))
            .await?
            .unwrap_or_default();
        // The revision's name is an alias of another revision by now, so labels with it select that
        // one.
        let aliased =
            text_at(&own, "/metadata/labels/istio.io~1rev").is_some_and(|serves| serves != name);
        let templates = snapshot
            .workloads
            .values()
            .filter(|record| !aliased && record.template.rev.as_deref() == Some(name));
        users.extend(
            templates
                .map(|record| format!("pod template of {} in {}", record.workload, member.name)),
        );
        let selector = label_query(&[(REV_LABEL, name)]);
        if !aliased {
            let namespaces = member.client.list("/api/v1/namespaces", &selector).await?;
            users.extend(namespaces.iter().map(|object| {
                format!(
                    "namespace {}",
                    text_at(object, "/metadata/name").unwrap_or_default()
                )
            }));
        }
        let webhooks = member
            .client
            .list(MUTATING_WEBHOOKS_PATH, &selector)
            .await?;
        // The deletion of a whole mesh also checks this while the mesh's own tags are in place.
        // Those are moved or removed by steps of their own, so they do not count.
        let foreign_tags = webhooks
            .iter()
            .filter(|object| object["metadata"]["labels"].get("istio.io/tag").is_some());
        let ours = |object: &&Value| object["metadata"]["labels"][OWNER_LABEL] == self.namespace();
        users.extend(foreign_tags.filter(|object| !ours(object)).map(|object| {
            format!(
                "tag {}",
                text_at(object, "/metadata/name").unwrap_or_default()
            )
        }));
        if users.is_empty() {
            users = pinned_resources_in(member, revision).await?;
        }
        Ok(users)
    }
}

/// Returns whether the node reports a running container. No proxy can be connected to a replica
/// that never started.
fn is_running(pod: &Value) -> bool {
    let containers = pod
        .pointer("/status/containerStatuses")
        .and_then(Value::as_array);
    containers.is_some_and(|list| {
        list.iter()
            .any(|container| container["state"].get("running").is_some())
    })
}

/// Returns the name of a member in a control plane, and its sync status there.
fn cluster_sync_state(cluster: &Value) -> (String, String) {
    let part = |key: &str| cluster[key].as_str().unwrap_or_default().to_owned();
    (part("id"), part("syncStatus"))
}

/// Returns a connected proxy with its member, as text for people.
fn proxy_name(proxy: &Value) -> String {
    let part = |key: &str| proxy[key].as_str().unwrap_or("?");
    format!("proxy {} in {}", part("proxy"), part("cluster_id"))
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
