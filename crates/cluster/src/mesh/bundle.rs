//! Targets made of several objects: applied one by one, with an inventory that is written last and names them all.
//!
//! The inventory is also the fence: every change begins by moving its version, so whoever looked before is refused.

use std::collections::BTreeSet;

use model::plan::Target;
use rollout::ports::{Mark, Permit, Seen, Settled, WorldError};
use serde_json::{Value, json};

use super::limits::OUTDATED;
use super::{MeshWorld, kinds, mark_of, preconditions, selector, text};
use crate::door::Door;

/// Marks an object as ours, with the mesh that it belongs to.
pub(crate) const OWNER_LABEL: &str = "meshwright.dev/mesh";
/// Which inventory an object belongs to. What carries it and is in no inventory was made by somebody whose turn was over.
pub(super) const BUNDLE_LABEL: &str = "meshwright.dev/bundle";
/// Whose turn it is with an inventory.
const WRITER: &str = "meshwright.dev/writer";

impl MeshWorld {
    pub(super) fn inventory_name(target: &Target) -> String {
        match target {
            Target::Home => "meshwright-home".into(),
            Target::Limits => "meshwright-limits".into(),
            Target::Foothold { .. } => "meshwright-foothold".into(),
            Target::Link { member } => format!("meshwright-link-{member}"),
            Target::Address { revision } => format!("meshwright-address-{revision}"),
            Target::Crds { .. } => "meshwright-definitions".into(),
            Target::MemberObjects { revision, .. } => format!("meshwright-objects-{revision}"),
            Target::ControlPlane { revision } => format!("meshwright-control-plane-{revision}"),
            Target::Tag { .. } | Target::Validator { .. } | Target::NamespaceLabel { .. } | Target::Workload { .. } => {
                unreachable!("these keep their value in the object itself")
            }
        }
    }

    fn inventory_path(&self, target: &Target) -> String {
        kinds::path("ConfigMap", Some(self.namespace()), &Self::inventory_name(target)).expect("a known kind")
    }

    pub(super) async fn look_at_bundle(&self, target: &Target) -> Result<Seen, WorldError> {
        let door = self.door(target)?;
        let inventory = door.get(&self.inventory_path(target)).await?;
        let value =
            inventory.as_ref().and_then(|inventory| text(inventory, "/data/value")).filter(|value| !value.is_empty());
        let outdated = value.is_some() && *target == Target::Limits && !self.limits_current().await?;
        let value = if outdated { Some(OUTDATED) } else { value };
        let settled = match value {
            Some(_) => self.bundle_settled(target).await?,
            None => self.bundle_gone(target, door).await?,
        };
        Ok(Seen { value: value.map(str::to_owned), mark: mark_of(inventory.as_ref()), settled })
    }

    /// What else must be true besides the objects being there.
    async fn bundle_settled(&self, target: &Target) -> Result<Settled, WorldError> {
        match target {
            Target::Address { revision } => Ok(match self.address(revision).await? {
                Some(_) => Settled::Yes,
                None => Settled::NotYet("no address was assigned yet".into()),
            }),
            Target::Crds { member } => self.definitions_established(member).await,
            Target::ControlPlane { revision } => self.replicas_ready(revision).await,
            _ => Ok(Settled::Yes),
        }
    }

    /// Namespaces and pods take a while to go. An istiod that still runs would write again what is removed next.
    async fn bundle_gone(&self, target: &Target, door: &Door) -> Result<Settled, WorldError> {
        if let Target::ControlPlane { revision } = target {
            let left = self.replicas(revision).await?.len();
            return Ok(if left == 0 {
                Settled::Yes
            } else {
                Settled::NotYet(format!("{left} replicas are still ending"))
            });
        }
        if !matches!(target, Target::Home | Target::Foothold { .. }) {
            return Ok(Settled::Yes);
        }
        let namespace = door.get(&format!("/api/v1/namespaces/{}", self.namespace())).await?;
        let leaving = namespace.is_some_and(|namespace| namespace.pointer("/metadata/deletionTimestamp").is_some());
        Ok(if leaving { Settled::NotYet("the namespace is being removed".into()) } else { Settled::Yes })
    }

    /// An inventory that is gone is not made again for a removal: its end would be nobody's business.
    pub(super) async fn fence_bundle(
        &self,
        target: &Target,
        goal: Option<&str>,
        permit: &Permit,
    ) -> Result<(), WorldError> {
        let door = self.door(target)?;
        let inventory = door.get(&self.inventory_path(target)).await?;
        if inventory.is_none() && goal.is_none() {
            return Ok(());
        }
        self.take_turn(door, target, &mark_of(inventory.as_ref()), permit).await.map(|_| ())
    }

    /// Moves the inventory's version; answers the objects that it named.
    async fn take_turn(
        &self,
        door: &Door,
        target: &Target,
        seen: &Mark,
        permit: &Permit,
    ) -> Result<Vec<Value>, WorldError> {
        let writer = format!("{}/{}", permit.operation, permit.epoch);
        let inventory = if let Some((uid, version)) = preconditions(seen) {
            let patch =
                json!({ "metadata": { "uid": uid, "resourceVersion": version, "annotations": { WRITER: writer } } });
            door.patch(&self.inventory_path(target), &patch, Some(permit)).await?
        } else {
            if matches!(target, Target::Home | Target::Foothold { .. }) {
                if !self.may_have_namespace(door).await? {
                    return Err(not_ours(door, "the mesh's namespace belongs to another mesh"));
                }
                let namespace =
                    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": self.namespace() } });
                door.apply(&format!("/api/v1/namespaces/{}", self.namespace()), &namespace, Some(permit)).await?;
            }
            let path = format!("/api/v1/namespaces/{}/configmaps", self.namespace());
            door.create(&path, &self.inventory(target, "", &[], &writer), Some(permit)).await?
        };
        let objects = text(&inventory, "/data/objects").and_then(|list| serde_json::from_str(list).ok());
        Ok(objects.unwrap_or_default())
    }

    fn inventory(&self, target: &Target, value: &str, objects: &[Value], writer: &str) -> Value {
        let names: Vec<Value> = objects
            .iter()
            .map(|object| json!({ "kind": object["kind"], "metadata": { "name": object["metadata"]["name"], "namespace": object["metadata"]["namespace"] } }))
            .collect();
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {
                "name": Self::inventory_name(target), "namespace": self.namespace(),
                "labels": { OWNER_LABEL: self.namespace() }, "annotations": { WRITER: writer },
            },
            "data": { "value": value, "objects": Value::from(names).to_string() },
        })
    }

    pub(super) async fn set_bundle(
        &self,
        target: &Target,
        to: Option<&str>,
        seen: &Mark,
        permit: &Permit,
    ) -> Result<(), WorldError> {
        let door = self.door(target)?;
        match to {
            None if preconditions(seen).is_none() => Ok(()),
            None => {
                let objects = self.take_turn(door, target, seen, permit).await?;
                self.remove(door, target, &objects, permit).await
            }
            Some(value) => {
                let desired = self.objects(target, value, permit).await?;
                let before = self.take_turn(door, target, seen, permit).await?;
                for object in &desired {
                    self.apply_one(door, target, object, permit).await?;
                }
                // Definitions belong to the cluster: with one of them every object of its kind would go.
                if !matches!(target, Target::Crds { .. }) {
                    self.prune(door, &before, &desired, permit).await?;
                }
                let writer = format!("{}/{}", permit.operation, permit.epoch);
                let inventory = self.inventory(target, value, &desired, &writer);
                door.apply(&self.inventory_path(target), &inventory, Some(permit)).await.map(|_| ())
            }
        }
    }

    async fn apply_one(&self, door: &Door, target: &Target, object: &Value, permit: &Permit) -> Result<(), WorldError> {
        let path = kinds::path_of(object).expect("only known kinds are rendered");
        let definition = object["kind"] == "CustomResourceDefinition";
        if !definition && !self.names_us(object) {
            return Err(not_ours(door, "an object's name does not name the mesh"));
        }
        let mut object = object.clone();
        // Definitions belong to the cluster and to no mesh.
        if !definition {
            object["metadata"]["labels"][OWNER_LABEL] = self.namespace().into();
            object["metadata"]["labels"][BUNDLE_LABEL] = Self::inventory_name(target).into();
        }
        // istiod closes its validators once it serves them; writing `Ignore` again would open them for a moment.
        if object["kind"] == "ValidatingWebhookConfiguration"
            && door.get(&path).await?.is_some()
            && let Some(webhooks) = object["webhooks"].as_array_mut()
        {
            for webhook in webhooks.iter_mut().filter_map(Value::as_object_mut) {
                webhook.remove("failurePolicy");
            }
        }
        door.apply(&path, &object, Some(permit)).await.map(|_| ())
    }

    /// Whether an object can be this mesh's by its name alone: it is in the mesh's namespace, or its name ends with that.
    /// Another mesh's objects never do, so nothing of theirs is written over or deleted, whatever an inventory says.
    fn names_us(&self, object: &Value) -> bool {
        let namespace = self.namespace();
        let name = text(object, "/metadata/name").unwrap_or_default();
        match text(object, "/metadata/namespace") {
            Some(there) => there == namespace,
            None if object["kind"] == "Namespace" => name == namespace,
            None => name.strip_suffix(namespace).is_some_and(|rest| rest.ends_with('-')),
        }
    }

    /// Whether the mesh's namespace is absent or may be this mesh's: it does not carry another one's label.
    async fn may_have_namespace(&self, door: &Door) -> Result<bool, WorldError> {
        let there = door.get(&format!("/api/v1/namespaces/{}", self.namespace())).await?.unwrap_or_default();
        Ok(there["metadata"]["labels"][OWNER_LABEL].as_str().is_none_or(|owner| owner == self.namespace()))
    }

    /// Removes what the old inventory named and the new one does not.
    async fn prune(&self, door: &Door, before: &[Value], desired: &[Value], permit: &Permit) -> Result<(), WorldError> {
        let kept: Vec<Option<String>> = desired.iter().map(kinds::path_of).collect();
        for old in before.iter().filter(|old| self.names_us(old)) {
            let path = kinds::path_of(old);
            if let (Some(path), false) = (&path, kept.contains(&path)) {
                door.delete(path, None, Some(permit)).await?;
            }
        }
        Ok(())
    }

    /// Last in, first out; the inventory goes last, so that a crash in between is found and finished.
    async fn remove(&self, door: &Door, target: &Target, objects: &[Value], permit: &Permit) -> Result<(), WorldError> {
        let leases = self.leases_of(target).into_iter();
        let paths = objects
            .iter()
            .rev()
            .filter(|object| object["kind"] != "Namespace" && self.names_us(object))
            .filter_map(kinds::path_of)
            .chain(leases);
        for path in paths {
            if self.still_ours(door, target, &path).await? {
                door.delete(&path, None, Some(permit)).await?;
            }
        }
        self.sweep(door, target, objects, permit).await?;
        door.delete(&self.inventory_path(target), None, Some(permit)).await?;
        if matches!(target, Target::Home | Target::Foothold { .. }) && self.may_have_namespace(door).await? {
            door.delete(&format!("/api/v1/namespaces/{}", self.namespace()), None, Some(permit)).await?;
        }
        Ok(())
    }

    /// A webhook that became an alias of another revision has left its bundle.
    async fn still_ours(&self, door: &Door, target: &Target, path: &str) -> Result<bool, WorldError> {
        if !path.contains("/mutatingwebhookconfigurations/") {
            return Ok(true);
        }
        let webhook = door.get(path).await?.unwrap_or_default();
        let labels = &webhook["metadata"]["labels"];
        Ok(labels[OWNER_LABEL] == self.namespace() && labels[BUNDLE_LABEL] == Self::inventory_name(target))
    }

    /// Removes what a worker made whose turn was over: it carries our label and is in no inventory.
    async fn sweep(&self, door: &Door, target: &Target, objects: &[Value], permit: &Permit) -> Result<(), WorldError> {
        let named = |object: &Value| text(object, "/kind").filter(|kind| *kind != "Namespace").map(str::to_owned);
        let kinds: BTreeSet<String> = objects.iter().filter_map(named).collect();
        let selector = selector(&[(OWNER_LABEL, self.namespace()), (BUNDLE_LABEL, &Self::inventory_name(target))]);
        for kind in kinds {
            let Some(collection) = kinds::collection(&kind) else { continue };
            for mut left in door.list(&collection, &selector).await? {
                left["kind"] = kind.clone().into();
                if let Some(path) = kinds::path_of(&left)
                    .filter(|_| self.names_us(&left) && left.pointer("/metadata/deletionTimestamp").is_none())
                {
                    tracing::info!(path, "swept");
                    door.delete(&path, None, Some(permit)).await?;
                }
            }
        }
        Ok(())
    }

    /// What a revision's istiod leaves behind in a member.
    fn leases_of(&self, target: &Target) -> Vec<String> {
        let Target::MemberObjects { revision, .. } = target else { return Vec::new() };
        let lease = |name: &str| {
            format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases/{name}-{revision}", self.namespace())
        };
        ["istio-gateway-deployment", "istio-gateway-status-leader"].map(lease).into()
    }
}

fn not_ours(door: &Door, cause: &str) -> WorldError {
    WorldError::Refused { place: door.place().to_owned(), code: "foreign_istio", cause: cause.to_owned() }
}
