//! Removes objects of `ApplySets`: those that a change leaves out, and whole sets.

use std::collections::BTreeSet;

use meshwright_model::plan::Target;
use meshwright_rollout::ports::{ClusterError, FencingToken};
use serde_json::{Value, json};

use super::super::{KubernetesMesh, api_paths, label_query, text_at, uid_and_version};
use super::owns_namespace;
use crate::client::ClusterClient;
use crate::labels::{APPLY_SET_LABEL, OWNER_LABEL};

impl KubernetesMesh {
    /// Deletes the objects that the old inventory listed and the new one does not.
    pub(super) async fn prune_objects(
        &self,
        client: &ClusterClient,
        before: &[Value],
        desired: &[Value],
        permit: &FencingToken,
    ) -> Result<(), ClusterError> {
        let kept: Vec<Option<String>> = desired.iter().map(api_paths::object_path).collect();
        for old in before.iter().filter(|old| self.is_named_after_mesh(old)) {
            let path = api_paths::object_path(old);
            if let (Some(path), false) = (&path, kept.contains(&path)) {
                client.delete(path, None, Some(permit)).await?;
            }
        }
        Ok(())
    }

    /// Deletes the objects of a set in reverse order. The inventory goes last, so that a later run
    /// finds and finishes a removal that a crash has interrupted.
    pub(super) async fn remove_apply_set(
        &self,
        client: &ClusterClient,
        target: &Target,
        known: Option<&Value>,
        permit: &FencingToken,
    ) -> Result<(), ClusterError> {
        if known.is_some() {
            let turn = self
                .mark_inventory_dirty(client, target, known, (None, &[]), permit)
                .await?;
            let ours =
                |object: &&Value| object["kind"] != "Namespace" && self.is_named_after_mesh(object);
            let objects = turn.union.iter().rev().filter(ours);
            for path in objects
                .filter_map(api_paths::object_path)
                .chain(self.leader_election_leases(target))
            {
                if self.is_still_owned(client, target, &path).await? {
                    client.delete(&path, None, Some(permit)).await?;
                }
            }
            self.sweep_orphans(client, target, &turn.union, permit)
                .await?;
            let (uid, version) = uid_and_version(&turn.mark).unwrap_or_default();
            let unchanged = json!({ "uid": uid, "resourceVersion": version });
            client
                .delete(&self.inventory_path(target), Some(unchanged), Some(permit))
                .await?;
        }
        if !owns_namespace(target) {
            return Ok(());
        }
        let ours = if known.is_some() {
            self.can_own_namespace(client).await?
        } else {
            self.observe_namespace_removal(client).await?.0
        };
        if ours {
            client
                .delete(&self.namespace_path(), None, Some(permit))
                .await
        } else {
            Ok(())
        }
    }

    /// Returns whether an object still belongs to its set. A webhook that became an alias of
    /// another revision does not.
    async fn is_still_owned(
        &self,
        client: &ClusterClient,
        target: &Target,
        path: &str,
    ) -> Result<bool, ClusterError> {
        if !path.contains("/mutatingwebhookconfigurations/") {
            return Ok(true);
        }
        let webhook = client.get(path).await?.unwrap_or_default();
        let labels = &webhook["metadata"]["labels"];
        Ok(labels[OWNER_LABEL] == self.namespace()
            && labels[APPLY_SET_LABEL] == Self::inventory_name(target))
    }

    /// Deletes the objects that have our label but are in no inventory. A worker that had lost its
    /// lease made them.
    async fn sweep_orphans(
        &self,
        client: &ClusterClient,
        target: &Target,
        objects: &[Value],
        permit: &FencingToken,
    ) -> Result<(), ClusterError> {
        let named = |object: &Value| {
            text_at(object, "/kind")
                .filter(|kind| *kind != "Namespace")
                .map(str::to_owned)
        };
        let kinds: BTreeSet<String> = objects.iter().filter_map(named).collect();
        let selector = label_query(&[
            (OWNER_LABEL, self.namespace()),
            (APPLY_SET_LABEL, &Self::inventory_name(target)),
        ]);
        for kind in kinds {
            let Some(collection) = api_paths::collection_path(&kind) else {
                continue;
            };
            for mut left in client.list(&collection, &selector).await? {
                left["kind"] = kind.clone().into();
                if let Some(path) = api_paths::object_path(&left).filter(|_| {
                    self.is_named_after_mesh(&left)
                        && left.pointer("/metadata/deletionTimestamp").is_none()
                }) {
                    tracing::info!(path, "deleting an object that no inventory lists");
                    client.delete(&path, None, Some(permit)).await?;
                }
            }
        }
        Ok(())
    }

    /// Returns the paths of the leader election Leases that a revision's istiod leaves behind in a
    /// member.
    fn leader_election_leases(&self, target: &Target) -> Vec<String> {
        let Target::MemberObjects { revision, .. } = target else {
            return Vec::new();
        };
        let lease = |name: &str| {
            format!(
                "/apis/coordination.k8s.io/v1/namespaces/{}/leases/{name}-{revision}",
                self.namespace()
            )
        };
        ["istio-gateway-deployment", "istio-gateway-status-leader"]
            .map(lease)
            .into()
    }
}
