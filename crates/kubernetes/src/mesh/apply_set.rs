//! Writes `ApplySets`: targets made of several objects. An inventory in the cluster lists the
//! objects of the set and holds the target's value.
//!
//! A change first makes the inventory *dirty*: it has no value, and lists the union of the old and
//! the new objects. At its end the change makes the inventory clean: with the new value and the new
//! objects. A change that stops in between, because a quota or a policy refused an object, leaves
//! neither the old value nor the new one. A later change continues from the union, and a removal
//! deletes all of it.
//!
//! The inventory is also the fence. Every change begins by moving the inventory's version, so that
//! a change that read it earlier is refused. The clean value is only written over the version that
//! the change began with.

use meshwright_model::plan::Target;
use meshwright_model::problem::ProblemCode;
use meshwright_rollout::ports::{
    ClusterError, Fence, FencingToken, ObjectVersion, Observed, Readiness,
};
use serde_json::{Value, json};

use super::limits::OUTDATED_VALUE;
use super::{KubernetesMesh, api_paths, object_version, text_at};
use crate::client::ClusterClient;
use crate::labels::OWNER_LABEL;
use crate::labels::{APPLY_SET_LABEL, FENCE_ANNOTATION};

mod inventory;
mod removal;

use inventory::{clean_value, newest_crd_release};

impl KubernetesMesh {
    /// Returns the name of a target's inventory, a `ConfigMap` in the mesh's namespace.
    pub(super) fn inventory_name(target: &Target) -> String {
        match target {
            Target::MeshNamespace => "meshwright-home".into(),
            Target::Limits => "meshwright-limits".into(),
            Target::MemberBootstrap { .. } => "meshwright-foothold".into(),
            Target::RemoteAccess { member } => format!("meshwright-link-{member}"),
            Target::Address { revision } => format!("meshwright-address-{revision}"),
            Target::Crds { .. } => "meshwright-definitions".into(),
            Target::MemberObjects { revision, .. } => format!("meshwright-objects-{revision}"),
            Target::ControlPlane { revision } => format!("meshwright-control-plane-{revision}"),
            Target::Tag { .. }
            | Target::Validator { .. }
            | Target::Certificates { .. }
            | Target::NamespaceLabel { .. }
            | Target::Workload { .. } => {
                unreachable!("these keep their value in the object itself")
            }
        }
    }

    fn inventory_path(&self, target: &Target) -> String {
        api_paths::path_by_name(
            "ConfigMap",
            Some(self.namespace()),
            &Self::inventory_name(target),
        )
        .expect("a known kind")
    }

    /// Observes an `ApplySet` through its inventory: clean, dirty (`partial`), or absent.
    pub(super) async fn observe_apply_set(
        &self,
        target: &Target,
    ) -> Result<Observed, ClusterError> {
        let client = self.client_for(target)?;
        let inventory = client.get(&self.inventory_path(target)).await?;
        let clean = inventory.as_ref().and_then(clean_value);
        let outdated =
            clean.is_some() && *target == Target::Limits && !self.are_limits_current().await?;
        let value = if outdated {
            Some(OUTDATED_VALUE.to_owned())
        } else {
            clean
        };
        let (partial, settled) = match (&inventory, &value) {
            (_, Some(_)) => (false, self.apply_set_readiness(target).await?),
            (Some(_), None) => (true, self.observe_namespace_removal(client).await?.1),
            (None, None) => self.observe_removed_apply_set(target, client).await?,
        };
        Ok(Observed {
            value,
            version: object_version(inventory.as_ref()),
            readiness: settled,
            partial,
            gone: false,
        })
    }

    /// Checks the conditions that a target needs besides the existence of its objects.
    async fn apply_set_readiness(&self, target: &Target) -> Result<Readiness, ClusterError> {
        match target {
            Target::Address { revision } => Ok(match self.assigned_address(revision).await? {
                Some(_) => Readiness::Ready,
                None => Readiness::Pending("no address was assigned yet".into()),
            }),
            Target::Crds { member } => self.crds_readiness(member).await,
            Target::ControlPlane { revision } => self.replica_readiness(revision).await,
            _ => Ok(Readiness::Ready),
        }
    }

    /// Returns, for a target without an inventory, whether a part of it is left and whether it is
    /// being removed. Namespaces and pods take a while to go, and an istiod that still runs would
    /// write again the objects that are removed next.
    async fn observe_removed_apply_set(
        &self,
        target: &Target,
        client: &ClusterClient,
    ) -> Result<(bool, Readiness), ClusterError> {
        if let Target::ControlPlane { revision } = target {
            let left = self.replica_names(revision).await?.len();
            let ending = || Readiness::Pending(format!("{left} replicas are still ending"));
            return Ok((
                false,
                if left == 0 {
                    Readiness::Ready
                } else {
                    ending()
                },
            ));
        }
        if owns_namespace(target) {
            self.observe_namespace_removal(client).await
        } else {
            Ok((false, Readiness::Ready))
        }
    }

    /// Returns whether the mesh's namespace exists and is ours to remove, and whether it is being
    /// removed.
    async fn observe_namespace_removal(
        &self,
        client: &ClusterClient,
    ) -> Result<(bool, Readiness), ClusterError> {
        let Some(namespace) = client.get(&self.namespace_path()).await? else {
            return Ok((false, Readiness::Ready));
        };
        if namespace.pointer("/metadata/deletionTimestamp").is_some() {
            return Ok((
                false,
                Readiness::Pending("the namespace is being removed".into()),
            ));
        }
        Ok((
            namespace["metadata"]["labels"][OWNER_LABEL] == self.namespace(),
            Readiness::Ready,
        ))
    }

    fn namespace_path(&self) -> String {
        format!("/api/v1/namespaces/{}", self.namespace())
    }

    /// Fences an `ApplySet` by moving the version of its inventory. For a removal, a missing
    /// inventory is not created again, because no later step would remove it. The objects of the
    /// set have no version of ours, so a worker in the middle of a change continues to write them
    /// until its fencing token expires.
    pub(super) async fn fence_apply_set(
        &self,
        target: &Target,
        goal: Option<&str>,
        permit: &FencingToken,
    ) -> Result<Fence, ClusterError> {
        let client = self.client_for(target)?;
        let path = self.inventory_path(target);
        for value in [Some(format!("{}/{}", permit.operation, permit.epoch)), None] {
            let change = json!({ "metadata": { "annotations": { FENCE_ANNOTATION: value } } });
            if !client.patch_if_exists(&path, &change, permit).await? && goal.is_some() {
                self.create_inventory(
                    client,
                    target,
                    json!({ "value": "", "objects": "[]" }),
                    permit,
                )
                .await?;
            }
        }
        Ok(Fence::UntilLeaseEnds)
    }

    /// Brings an `ApplySet` to a value, or removes it. Fails with `Changed` if the inventory is not
    /// the one that was observed.
    pub(super) async fn write_apply_set(
        &self,
        target: &Target,
        to: Option<&str>,
        seen: &ObjectVersion,
        permit: &FencingToken,
    ) -> Result<(), ClusterError> {
        let client = self.client_for(target)?;
        let known = client.get(&self.inventory_path(target)).await?;
        if object_version(known.as_ref()) != *seen {
            return Err(ClusterError::Changed {
                place: client.cluster_name().to_owned(),
            });
        }
        let Some(value) = to else {
            return self
                .remove_apply_set(client, target, known.as_ref(), permit)
                .await;
        };
        let value = newest_crd_release(target, value, known.as_ref());
        let desired = self.desired_objects(target, &value, permit).await?;
        let turn = self
            .mark_inventory_dirty(
                client,
                target,
                known.as_ref(),
                (Some(&value), &desired),
                permit,
            )
            .await?;
        for object in &desired {
            self.apply_object(client, target, object, permit).await?;
        }
        // Definitions belong to the cluster: deleting one would delete every object of its kind.
        if !matches!(target, Target::Crds { .. }) {
            self.prune_objects(client, &turn.before, &desired, permit)
                .await?;
        }
        self.mark_inventory_clean(client, target, (&value, &desired), &turn, permit)
            .await
    }

    /// Applies one object of a set, with our labels.
    async fn apply_object(
        &self,
        client: &ClusterClient,
        target: &Target,
        object: &Value,
        permit: &FencingToken,
    ) -> Result<(), ClusterError> {
        let path = api_paths::object_path(object).expect("only known kinds are rendered");
        let definition = object["kind"] == "CustomResourceDefinition";
        if !definition && !self.is_named_after_mesh(object) {
            return Err(foreign_object_error(
                client,
                "an object's name does not name the mesh",
            ));
        }
        let mut object = object.clone();
        // Definitions belong to the cluster and to no mesh, so they get no label of ours.
        if !definition {
            object["metadata"]["labels"][OWNER_LABEL] = self.namespace().into();
            object["metadata"]["labels"][APPLY_SET_LABEL] = Self::inventory_name(target).into();
        }
        // istiod sets its validators to `Fail` once it serves them. Writing `Ignore` again would
        // let invalid resources pass for a moment.
        if object["kind"] == "ValidatingWebhookConfiguration"
            && client.get(&path).await?.is_some()
            && let Some(webhooks) = object["webhooks"].as_array_mut()
        {
            for webhook in webhooks.iter_mut().filter_map(Value::as_object_mut) {
                webhook.remove("failurePolicy");
            }
        }
        client.apply(&path, &object, Some(permit)).await.map(|_| ())
    }

    /// Returns whether an object's name alone allows it to be this mesh's: it is in the mesh's
    /// namespace, or its name ends with that namespace. Objects of other meshes never do, so none
    /// of them is overwritten or deleted, even if an inventory lists it.
    fn is_named_after_mesh(&self, object: &Value) -> bool {
        let namespace = self.namespace();
        let name = text_at(object, "/metadata/name").unwrap_or_default();
        match text_at(object, "/metadata/namespace") {
            Some(there) => there == namespace,
            None if object["kind"] == "Namespace" => name == namespace,
            None => name
                .strip_suffix(namespace)
                .is_some_and(|rest| rest.ends_with('-')),
        }
    }

    /// Returns whether the mesh's namespace is absent or may be this mesh's: it has no other mesh's
    /// label.
    async fn can_own_namespace(&self, client: &ClusterClient) -> Result<bool, ClusterError> {
        let there = client
            .get(&self.namespace_path())
            .await?
            .unwrap_or_default();
        Ok(there["metadata"]["labels"][OWNER_LABEL]
            .as_str()
            .is_none_or(|owner| owner == self.namespace()))
    }
}

/// Returns whether a target includes the mesh's namespace. The target's inventory is in that
/// namespace.
fn owns_namespace(target: &Target) -> bool {
    matches!(
        target,
        Target::MeshNamespace | Target::MemberBootstrap { .. }
    )
}

fn foreign_object_error(client: &ClusterClient, cause: &str) -> ClusterError {
    ClusterError::Refused {
        place: client.cluster_name().to_owned(),
        code: ProblemCode::ForeignIstio,
        cause: cause.to_owned(),
    }
}
