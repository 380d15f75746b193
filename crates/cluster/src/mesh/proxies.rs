//! What each istiod replica says: which members it has synced, which proxies are connected to it. Asked through a
//! port-forward to the pod, which works when the users' clusters do not.

use std::collections::BTreeSet;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use model::Name;
use model::survey::{MemberSurvey, ProxySurvey};
use model::version::RevisionName;
use rollout::plan::data_plane::REV_LABEL;
use rollout::ports::{Settled, Usage, WorldError};
use serde_json::Value;

use super::pinned::pinned_in;
use super::single::{MUTATING, own_name};
use super::{MeshWorld, names, selector, text};

/// istiod's debug port.
const DEBUG: u16 = 8080;
/// One question to one replica.
const ANSWER: Duration = Duration::from_secs(5);
/// The largest answer that is read: about a kilobyte a proxy.
const MAX_BYTES: usize = 64 * 1024 * 1024;

impl MeshWorld {
    /// The replicas of a revision that exist, ready or not, ending or not.
    pub(super) async fn replicas(&self, revision: &RevisionName) -> Result<Vec<String>, WorldError> {
        Ok(names(&self.istiods(revision).await?))
    }

    /// The replicas that are there to stay. One that is ending drains for half a minute and answers nobody.
    async fn lasting_replicas(&self, revision: &RevisionName) -> Result<Vec<String>, WorldError> {
        let mut pods = self.istiods(revision).await?;
        pods.retain(|pod| pod.pointer("/metadata/deletionTimestamp").is_none());
        Ok(names(&pods))
    }

    async fn istiods(&self, revision: &RevisionName) -> Result<Vec<Value>, WorldError> {
        let query = selector(&[("app", "istiod"), (REV_LABEL, revision.as_str())]);
        self.config.hosting.list(&format!("/api/v1/namespaces/{}/pods", self.namespace()), &query).await
    }

    async fn ask(&self, pod: &str, path: &str) -> Result<Value, WorldError> {
        let silent = |cause: String| WorldError::Unreachable { place: format!("istiod replica {pod}"), cause };
        let asked = tokio::time::timeout(ANSWER, self.ask_over(pod, path)).await;
        asked.map_err(|_| silent("no answer in time".into()))?.map_err(silent)
    }

    async fn ask_over(&self, pod: &str, path: &str) -> Result<Value, String> {
        let pods: Api<Pod> = Api::namespaced(self.config.hosting.client(), self.namespace());
        let mut forward = pods.portforward(pod, &[DEBUG]).await.map_err(|error| error.to_string())?;
        let stream = forward.take_stream(DEBUG).ok_or("the port was not forwarded")?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        let question = async {
            let request = http::Request::get(path)
                .header("Host", "localhost")
                .body(Empty::<bytes::Bytes>::new())
                .map_err(|error| error.to_string())?;
            let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let body = Limited::new(answer.into_body(), MAX_BYTES)
                .collect()
                .await
                .map_err(|error| error.to_string())?
                .to_bytes();
            serde_json::from_slice(&body).map_err(|_| "the answer is not JSON".to_owned())
        };
        tokio::select! {
            answered = question => answered,
            ended = connection => Err(ended.err().map_or_else(|| "the connection ended".into(), |error| error.to_string())),
        }
    }

    /// Readiness alone turns green after half a minute without a member, so every replica is asked about every member.
    pub(super) async fn ready_and_synced(
        &self,
        revision: &RevisionName,
        members: &[Name],
    ) -> Result<Settled, WorldError> {
        if let waiting @ (Settled::NotYet(_) | Settled::Failing(_)) = self.replicas_ready(revision).await? {
            return Ok(waiting);
        }
        for pod in self.lasting_replicas(revision).await? {
            let clusters = self.ask(&pod, "/debug/clusterz").await?;
            for member in members {
                let known =
                    clusters.as_array().and_then(|list| list.iter().find(|cluster| cluster["id"] == member.as_str()));
                let state = known.and_then(|cluster| cluster["syncStatus"].as_str()).unwrap_or("unknown");
                if state != "synced" {
                    return Ok(Settled::NotYet(format!("{pod} reports {member} as {state}")));
                }
            }
        }
        Ok(Settled::Yes)
    }

    /// What keeps the first replica that is not ready: its node's reason, or the members that it has not synced. Nothing
    /// where nobody says.
    pub(super) async fn why_not_ready(&self, revision: &RevisionName) -> Result<String, WorldError> {
        for pod in self.istiods(revision).await? {
            let container = pod.pointer("/status/containerStatuses/0").cloned().unwrap_or_default();
            let name = text(&pod, "/metadata/name").unwrap_or_default();
            if container["ready"] == true || pod.pointer("/metadata/deletionTimestamp").is_some() {
                continue;
            }
            if let Some(reason) = text(&container, "/state/waiting/reason") {
                return Ok(format!("; {name}: {reason}"));
            }
            // One that is only starting does not answer either, and is not worth waiting for.
            let asked = tokio::time::timeout(Duration::from_secs(1), self.ask_over(name, "/debug/clusterz")).await;
            let Ok(Ok(Value::Array(clusters))) = asked else { continue };
            let unsynced = clusters.iter().filter(|cluster| cluster["syncStatus"] != "synced");
            let names: Vec<&str> = unsynced.filter_map(|cluster| cluster["id"].as_str()).collect();
            if !names.is_empty() {
                return Ok(format!("; {name} has not synced {}", names.join(", ")));
            }
        }
        Ok(String::new())
    }

    /// Every replica of every revision of the mesh; replicas that do not answer are left out, for this is only shown.
    pub(super) async fn proxies(&self, members: &[MemberSurvey]) -> Vec<ProxySurvey> {
        let revisions: BTreeSet<&RevisionName> =
            members.iter().flat_map(|member| member.injectors.iter().map(|injector| &injector.revision)).collect();
        let mut proxies = Vec::new();
        for revision in revisions {
            for pod in self.replicas(revision).await.unwrap_or_default() {
                if let Ok(Value::Array(connected)) = self.ask(&pod, "/debug/syncz").await {
                    proxies.extend(connected.iter().map(|proxy| proxy_survey(revision, proxy)));
                }
            }
        }
        self.mark_ghosts(&mut proxies).await;
        proxies
    }

    /// All of a proxy's identity is what it says of itself: one without a pod is shown, and blocks, but is marked.
    async fn mark_ghosts(&self, proxies: &mut [ProxySurvey]) {
        for member in &self.config.members {
            let Ok(snapshot) = self.snapshots.of(member).await else { continue };
            let pods: BTreeSet<String> =
                snapshot.pods.keys().map(|(namespace, name)| format!("{name}.{namespace}")).collect();
            for proxy in proxies.iter_mut().filter(|proxy| proxy.member == member.name.as_str()) {
                proxy.ghost = !pods.contains(&proxy.proxy);
            }
        }
    }

    /// Requirement B8: connected proxies of every replica, live pods, pod templates, namespaces, tags. What does not answer
    /// counts as using it.
    pub(super) async fn who_uses(&self, revision: &RevisionName) -> Result<Usage, WorldError> {
        let (mut users, mut silent) = (Vec::new(), Vec::new());
        let running = self.istiods(revision).await?.into_iter().filter(runs);
        for pod in running.filter_map(|pod| text(&pod, "/metadata/name").map(str::to_owned)) {
            match self.ask(&pod, "/debug/syncz").await {
                Ok(Value::Array(connected)) => {
                    users.extend(
                        connected.iter().map(|proxy| format!("proxy {}", proxy["proxy"].as_str().unwrap_or("?"))),
                    );
                }
                Ok(Value::Null) => {}
                Ok(_) | Err(_) => silent.push(format!("replica {pod}")),
            }
        }
        for member in &self.config.members {
            match self.used_in(member, revision).await {
                Ok(found) => users.extend(found),
                Err(WorldError::Expired) => return Err(WorldError::Expired),
                Err(error) => silent.push(format!("{error}")),
            }
        }
        Ok(match (users.is_empty(), silent.is_empty()) {
            (false, _) => Usage::InUse(users),
            (true, false) => Usage::Unknown(silent),
            (true, true) => Usage::Unused,
        })
    }

    async fn used_in(&self, member: &super::MemberDoor, revision: &RevisionName) -> Result<Vec<String>, WorldError> {
        let snapshot = self.snapshots.of(member).await?;
        let name = revision.as_str();
        let carry = snapshot.pods.values().filter(|pod| pod.live && pod.revision.as_deref() == Some(name));
        let mut users: Vec<String> =
            carry.map(|pod| format!("pod {}/{} in {}", pod.namespace, pod.name, member.name)).collect();
        let own = member.door.get(&format!("{MUTATING}/{}", own_name(self, name))).await?.unwrap_or_default();
        // Its name is another revision's by now: labels with it ask for that one.
        let aliased = text(&own, "/metadata/labels/istio.io~1rev").is_some_and(|serves| serves != name);
        let templates =
            snapshot.workloads.values().filter(|record| !aliased && record.template.rev.as_deref() == Some(name));
        users.extend(templates.map(|record| format!("pod template of {} in {}", record.workload, member.name)));
        let selector = selector(&[(REV_LABEL, name)]);
        if !aliased {
            let namespaces = member.door.list("/api/v1/namespaces", &selector).await?;
            users.extend(
                namespaces
                    .iter()
                    .map(|object| format!("namespace {}", text(object, "/metadata/name").unwrap_or_default())),
            );
        }
        let webhooks = member.door.list(MUTATING, &selector).await?;
        // Deleting a whole mesh looks too, with its own tags still in place: those move or go by steps of their own.
        let foreign_tags = webhooks.iter().filter(|object| object["metadata"]["labels"].get("istio.io/tag").is_some());
        let ours = |object: &&Value| object["metadata"]["labels"][super::bundle::OWNER_LABEL] == self.namespace();
        users.extend(
            foreign_tags
                .filter(|object| !ours(object))
                .map(|object| format!("tag {}", text(object, "/metadata/name").unwrap_or_default())),
        );
        if users.is_empty() {
            users = pinned_in(member, revision).await?;
        }
        Ok(users)
    }
}

/// Whether its node says that its container runs: to one that never started, nobody can be connected.
fn runs(pod: &Value) -> bool {
    let containers = pod.pointer("/status/containerStatuses").and_then(Value::as_array);
    containers.is_some_and(|list| list.iter().any(|container| container["state"].get("running").is_some()))
}

fn proxy_survey(revision: &RevisionName, proxy: &Value) -> ProxySurvey {
    let part = |key: &str| proxy[key].as_str().unwrap_or_default().to_owned();
    let kinds = ["cluster", "listener", "route", "endpoint"];
    let synced = kinds.iter().all(|kind| proxy[format!("{kind}_sent")] == proxy[format!("{kind}_acked")]);
    let error = proxy.get("lastError").or_else(|| proxy.get("last_error")).and_then(Value::as_str).map(str::to_owned);
    ProxySurvey {
        proxy: part("proxy"),
        member: part("cluster_id"),
        revision: revision.clone(),
        version: part("istio_version"),
        synced: synced && error.is_none(),
        error,
        ghost: false,
    }
}
