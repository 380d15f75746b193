//! Finds the users of a revision (requirement B8): connected proxies of every replica, live pods,
//! pod templates, namespaces, tags, and resources whose label names the revision. A list that
//! cannot be read hides users, so its cluster counts as silent.

use meshwright_model::problem::ProblemCode;
use meshwright_model::version::RevisionName;
use meshwright_rollout::plan::data_plane::REV_LABEL;
use meshwright_rollout::ports::{ClusterError, RevisionUser, RevisionUsers, UserKind, UserSearch};
use serde_json::Value;

use super::data_plane::Snapshot;
use super::revision_pins::pinned_resources_in;
use super::single_object::revision_webhook_name;
use super::{KubernetesMesh, MemberCluster, label_query, object_names, text_at};
use crate::api_paths::MUTATING_WEBHOOKS_PATH;
use crate::labels::OWNER_LABEL;
use crate::object_fields::has_controller;

/// Label of a webhook that serves a tag, with the tag's name.
const TAG_LABEL: &str = "istio.io/tag";

/// Kind of an object with a pod template that no restart of ours changes.
struct TemplateKind {
    /// Kind as users write it after the namespace.
    kind: &'static str,
    path: &'static str,
    query: &'static str,
    /// Pointer to the value of the template's label `istio.io/rev`.
    label: &'static str,
    /// Returns whether the object may still create pods.
    creates_pods: fn(&Value) -> bool,
}

/// Kinds that are listed for their templates only. Deployments, `StatefulSets` and `DaemonSets` are
/// part of the snapshot.
const TEMPLATE_KINDS: [TemplateKind; 3] = [
    TemplateKind {
        kind: "replicaset",
        path: "/apis/apps/v1/replicasets",
        query: "labelSelector=%21pod-template-hash",
        label: "/spec/template/metadata/labels/istio.io~1rev",
        creates_pods: |object| !has_controller(object),
    },
    TemplateKind {
        kind: "job",
        path: "/apis/batch/v1/jobs",
        query: "",
        label: "/spec/template/metadata/labels/istio.io~1rev",
        creates_pods: |object| !is_finished(object),
    },
    TemplateKind {
        kind: "cronjob",
        path: "/apis/batch/v1/cronjobs",
        query: "",
        label: "/spec/jobTemplate/spec/template/metadata/labels/istio.io~1rev",
        creates_pods: |_| true,
    },
];

/// `ReplicaSets` that a Deployment has made. They count only if the Deployment was deleted without
/// them. A cluster has up to eleven of them for each Deployment, so they are listed last, and only
/// if the member has no other user.
const ORPHANED_SETS: TemplateKind = TemplateKind {
    kind: "replicaset",
    path: "/apis/apps/v1/replicasets",
    query: "labelSelector=pod-template-hash",
    label: "/spec/template/metadata/labels/istio.io~1rev",
    creates_pods: |object| !has_controller(object),
};

/// Users of a revision in one member, collected list by list.
struct MemberUsers<'a> {
    member: &'a MemberCluster,
    found: RevisionUsers,
}

impl KubernetesMesh {
    /// Lists the users of a revision in all members, and the places that did not answer.
    pub(super) async fn find_users(
        &self,
        search: &UserSearch<'_>,
    ) -> Result<RevisionUsers, ClusterError> {
        let members = self
            .config
            .members
            .iter()
            .filter(|member| !search.left_behind.contains(&member.name));
        let looks = members.map(|member| self.member_users(member, search));
        let proxies = async {
            if search.members_only {
                return Ok(RevisionUsers::default());
            }
            self.connected_proxies(search).await
        };
        let (connected, used) = tokio::join!(proxies, futures::future::join_all(looks));
        let mut all = connected?;
        for found in used {
            let found = found?;
            all.users.extend(found.users);
            all.silent.extend(found.silent);
        }
        Ok(all)
    }

    /// Lists the proxies that are connected to any running replica of the revision. Proxies of
    /// members that are left behind may stay connected although their API server is gone for good.
    async fn connected_proxies(
        &self,
        search: &UserSearch<'_>,
    ) -> Result<RevisionUsers, ClusterError> {
        let mut replicas = self.list_istiod_pods(search.revision).await?;
        replicas.retain(is_running);
        let left_behind = |member: &str| {
            search
                .left_behind
                .iter()
                .any(|left| left.as_str() == member)
        };
        let asked = object_names(&replicas).into_iter().map(|pod| async move {
            let connected = self.query_replica(&pod, "/debug/syncz", proxy_user).await;
            connected.map_err(|_| format!("replica {pod}"))
        });
        let mut found = RevisionUsers::default();
        for connected in futures::future::join_all(asked).await {
            match connected {
                Ok(proxies) => found.users.extend(
                    proxies
                        .into_iter()
                        .filter(|proxy| !left_behind(&proxy.member)),
                ),
                Err(replica) => found.silent.push(replica),
            }
        }
        Ok(found)
    }

    /// Lists the users of a revision in one member.
    async fn member_users(
        &self,
        member: &MemberCluster,
        search: &UserSearch<'_>,
    ) -> Result<RevisionUsers, ClusterError> {
        let revision = search.revision;
        let mut users = MemberUsers {
            member,
            found: RevisionUsers::default(),
        };
        let snapshot = match Snapshot::read_member(member).await {
            Ok(snapshot) => snapshot,
            // A member that does not answer is asked once and not for every list.
            Err(error) => {
                users.add("workloads and pods", Err(error))?;
                return Ok(users.found);
            }
        };
        let own = revision_webhook_name(self, revision.as_str());
        let own = format!("{MUTATING_WEBHOOKS_PATH}/{own}");
        let templates = TEMPLATE_KINDS
            .iter()
            .map(|kind| users.list_templates(kind, revision));
        let (own, templates, namespaces, tags, resources) = tokio::join!(
            member.client.get(&own),
            futures::future::join_all(templates),
            users.list_namespaces(revision),
            self.list_tags(member, search),
            pinned_resources_in(member, revision),
        );
        // The revision's name may be an alias of another revision by now. Labels with the name then
        // select that one, so they are no users of this one. Pods keep their sidecar, and istiod
        // compares a resource's label with its own name.
        let serves =
            |own: &Value| text_at(own, "/metadata/labels/istio.io~1rev").map(str::to_owned);
        let aliased = matches!(&own, Ok(Some(own)) if serves(own).is_some_and(|serves| serves != revision.as_str()));
        users.add("webhooks", own.map(|_| Vec::new()))?;
        users.add_snapshot(&snapshot, revision, aliased);
        if !aliased {
            for (kind, listed) in TEMPLATE_KINDS.iter().zip(templates) {
                users.add(&format!("{}s", kind.kind), listed)?;
            }
            users.add("namespaces", namespaces)?;
        }
        users.add("webhooks", tags)?;
        users.add("Istio's resources and Gateways", resources)?;
        if !aliased && users.found.is_unused() {
            let orphans = users.list_templates(&ORPHANED_SETS, revision).await;
            users.add("replicasets", orphans)?;
        }
        Ok(users.found)
    }

    /// Lists the tags that point to a revision, foreign ones always and our own if they are asked
    /// for. The revision's own webhook is no tag.
    async fn list_tags(
        &self,
        member: &MemberCluster,
        search: &UserSearch<'_>,
    ) -> Result<Vec<RevisionUser>, ClusterError> {
        let own = revision_webhook_name(self, search.revision.as_str());
        let selector = label_query(&[(REV_LABEL, search.revision.as_str())]);
        let webhooks = member
            .client
            .list(MUTATING_WEBHOOKS_PATH, &selector)
            .await?;
        let tag = |webhook: &Value| {
            let labels = &webhook["metadata"]["labels"];
            let name = text_at(webhook, "/metadata/name").filter(|name| *name != own)?;
            let tag = labels[TAG_LABEL].as_str()?;
            let ours = labels[OWNER_LABEL] == self.namespace();
            let shown = if ours { tag } else { name };
            (!ours || search.own_tags).then(|| new_user(member, UserKind::Tag, shown.to_owned()))
        };
        Ok(webhooks.iter().filter_map(tag).collect())
    }
}

impl MemberUsers<'_> {
    /// Adds the users that a list has shown. If the list was not readable, the member is silent.
    fn add(
        &mut self,
        what: &str,
        listed: Result<Vec<RevisionUser>, ClusterError>,
    ) -> Result<(), ClusterError> {
        let silent = match listed {
            Ok(users) => {
                self.found.users.extend(users);
                return Ok(());
            }
            Err(ClusterError::Expired) => return Err(ClusterError::Expired),
            Err(ClusterError::Refused {
                code: ProblemCode::PermissionMissing,
                ..
            }) => format!(
                "{name} (our account may not list its {what}; `meshwright cluster renew {name}` grants what this version needs)",
                name = self.member.name
            ),
            Err(error) => error.to_string(),
        };
        if !self.found.silent.contains(&silent) {
            self.found.silent.push(silent);
        }
        Ok(())
    }

    /// Adds the live pods that the revision injected, and the workloads whose pod template names
    /// the revision.
    fn add_snapshot(&mut self, snapshot: &Snapshot, revision: &RevisionName, aliased: bool) {
        let name = Some(revision.as_str());
        let carrying = snapshot
            .pods
            .values()
            .filter(|pod| pod.live && pod.revision.as_deref() == name);
        self.found.users.extend(carrying.map(|pod| {
            RevisionUser {
                sidecar: pod.sidecar.clone(),
                workload: pod
                    .owner
                    .clone()
                    .filter(|owner| snapshot.workloads.contains_key(owner)),
                evictable: pod.is_recreated().then(|| pod.version()),
                ..new_user(
                    self.member,
                    UserKind::Pod,
                    format!("{}/{}", pod.namespace, pod.name),
                )
            }
        }));
        let naming = snapshot
            .workloads
            .values()
            .filter(|record| !aliased && record.template.rev.as_deref() == name);
        self.found.users.extend(naming.map(|record| RevisionUser {
            workload: Some(record.workload.clone()),
            ..new_user(self.member, UserKind::Template, record.workload.to_string())
        }));
    }

    /// Lists the objects of a kind whose pod template names the revision.
    async fn list_templates(
        &self,
        kind: &TemplateKind,
        revision: &RevisionName,
    ) -> Result<Vec<RevisionUser>, ClusterError> {
        let user = |object: &Value| {
            let names = text_at(object, kind.label) == Some(revision.as_str());
            let part = |pointer: &str| text_at(object, pointer).unwrap_or_default();
            (names && (kind.creates_pods)(object)).then(|| {
                let (namespace, name) = (part("/metadata/namespace"), part("/metadata/name"));
                let shown = format!("{namespace}/{}/{name}", kind.kind);
                new_user(self.member, UserKind::Template, shown)
            })
        };
        let client = &self.member.client;
        let listed = client.list_mapped(kind.path, kind.query, user).await?;
        Ok(listed.items.into_iter().flatten().collect())
    }

    /// Lists the namespaces whose label names the revision.
    async fn list_namespaces(
        &self,
        revision: &RevisionName,
    ) -> Result<Vec<RevisionUser>, ClusterError> {
        let selector = label_query(&[(REV_LABEL, revision.as_str())]);
        let client = &self.member.client;
        let namespaces = client.list("/api/v1/namespaces", &selector).await?;
        let user = |name| new_user(self.member, UserKind::Namespace, name);
        Ok(object_names(&namespaces).into_iter().map(user).collect())
    }
}

fn new_user(member: &MemberCluster, kind: UserKind, name: String) -> RevisionUser {
    RevisionUser {
        member: member.name.to_string(),
        kind,
        name,
        sidecar: None,
        workload: None,
        evictable: None,
    }
}

/// Returns a connected proxy as a user. The member is the one that the proxy claims to be in.
fn proxy_user(proxy: &Value) -> RevisionUser {
    let part = |key: &str| proxy[key].as_str().unwrap_or("?").to_owned();
    RevisionUser {
        member: part("cluster_id"),
        kind: UserKind::Proxy,
        name: part("proxy"),
        sidecar: None,
        workload: None,
        evictable: None,
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

/// Returns whether a Job has ended, so that it creates no more pods.
fn is_finished(job: &Value) -> bool {
    let conditions = job.pointer("/status/conditions").and_then(Value::as_array);
    conditions.is_some_and(|conditions| {
        conditions.iter().any(|condition| {
            condition["status"] == "True"
                && (condition["type"] == "Complete" || condition["type"] == "Failed")
        })
    })
}
