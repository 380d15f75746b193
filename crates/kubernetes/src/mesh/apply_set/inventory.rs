//! Reads and writes inventories: the value of a target, and its objects that exist or are being
//! written.

use meshwright_model::Version;
use meshwright_model::plan::Target;
use meshwright_rollout::ports::{ClusterError, FencingToken, ObjectVersion};
use serde_json::{Value, json};

use super::super::{KubernetesMesh, object_version, text_at, uid_and_version};
use super::{foreign_object_error, owns_namespace};
use crate::client::ClusterClient;
use crate::labels::OWNER_LABEL;

/// Annotation of an inventory that names the operation and epoch whose change is under way.
const WRITER_ANNOTATION: &str = "meshwright.dev/writer";

/// Change of an `ApplySet` that is under way.
pub(super) struct InventoryChange {
    /// Version of the inventory since it became dirty.
    pub(super) mark: ObjectVersion,
    /// Objects that the inventory listed before the change.
    pub(super) before: Vec<Value>,
    /// Objects that the inventory lists during the change: the old and the new ones.
    pub(super) union: Vec<Value>,
}

/// Formats the operation and epoch that change an inventory, for its annotation.
fn writer_id(permit: &FencingToken) -> String {
    format!("{}/{}", permit.operation, permit.epoch)
}

/// Returns the value of a clean inventory. A dirty one has none.
pub(super) fn clean_value(inventory: &Value) -> Option<String> {
    text_at(inventory, "/data/value")
        .filter(|value| !value.is_empty())
        .map(str::to_owned)
}

/// Returns the objects that an inventory lists.
pub(super) fn inventory_objects(inventory: &Value) -> Vec<Value> {
    text_at(inventory, "/data/objects")
        .and_then(|list| serde_json::from_str(list).ok())
        .unwrap_or_default()
}

/// Reduces objects to kind, name and namespace, as an inventory lists them.
fn object_identities(objects: &[Value]) -> Vec<Value> {
    let named = |object: &Value| {
        let metadata = json!({ "name": object["metadata"]["name"], "namespace": object["metadata"]["namespace"] });
        json!({ "kind": object["kind"], "metadata": metadata })
    };
    objects.iter().map(named).collect()
}

/// Returns the version to apply. Definitions only move forward: if those of a newer release were
/// applied in part, that release is finished.
pub(super) fn newest_crd_release(target: &Target, value: &str, known: Option<&Value>) -> String {
    let precedence = |text: &str| {
        text.parse::<Version>()
            .ok()
            .map(|version| version.precedence())
    };
    let toward = known.and_then(|inventory| text_at(inventory, "/data/toward"));
    let toward = toward.filter(|toward| {
        matches!(target, Target::Crds { .. }) && precedence(toward) > precedence(value)
    });
    toward.unwrap_or(value).to_owned()
}

impl KubernetesMesh {
    /// Makes the inventory dirty: it loses its value, and lists both the old and the new objects.
    pub(super) async fn mark_inventory_dirty(
        &self,
        client: &ClusterClient,
        target: &Target,
        known: Option<&Value>,
        (toward, desired): (Option<&str>, &[Value]),
        permit: &FencingToken,
    ) -> Result<InventoryChange, ClusterError> {
        let before = known.map(inventory_objects).unwrap_or_default();
        let added = object_identities(desired)
            .into_iter()
            .filter(|object| !before.contains(object));
        let union: Vec<Value> = before.iter().cloned().chain(added).collect();
        let data = json!({ "value": "", "toward": toward, "objects": Value::from(union.clone()).to_string() });
        let inventory = match uid_and_version(&object_version(known)) {
            None => self.create_inventory(client, target, data, permit).await?,
            Some((uid, version)) => {
                let writer = json!({ WRITER_ANNOTATION: writer_id(permit) });
                let metadata =
                    json!({ "uid": uid, "resourceVersion": version, "annotations": writer });
                let patch = json!({ "metadata": metadata, "data": data });
                client
                    .patch(&self.inventory_path(target), &patch, Some(permit))
                    .await?
            }
        };
        Ok(InventoryChange {
            mark: object_version(Some(&inventory)),
            before,
            union,
        })
    }

    /// Makes the inventory clean, unless another change has begun meanwhile.
    pub(super) async fn mark_inventory_clean(
        &self,
        client: &ClusterClient,
        target: &Target,
        (value, desired): (&str, &[Value]),
        turn: &InventoryChange,
        permit: &FencingToken,
    ) -> Result<(), ClusterError> {
        let (uid, version) = uid_and_version(&turn.mark).unwrap_or_default();
        let objects = Value::from(object_identities(desired)).to_string();
        let patch = json!({
            "metadata": { "uid": uid, "resourceVersion": version },
            "data": { "value": value, "toward": null, "objects": objects },
        });
        client
            .patch(&self.inventory_path(target), &patch, Some(permit))
            .await
            .map(|_| ())
    }

    pub(super) async fn create_inventory(
        &self,
        client: &ClusterClient,
        target: &Target,
        mut data: Value,
        permit: &FencingToken,
    ) -> Result<Value, ClusterError> {
        if owns_namespace(target) {
            if !self.can_own_namespace(client).await? {
                return Err(foreign_object_error(
                    client,
                    "the mesh's namespace belongs to another mesh",
                ));
            }
            let metadata =
                json!({ "name": self.namespace(), "labels": { OWNER_LABEL: self.namespace() } });
            let namespace =
                json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata });
            client
                .apply(&self.namespace_path(), &namespace, Some(permit))
                .await?;
        }
        // A merge patch removes fields that are null, but an object that is created must not
        // contain them.
        if let Some(data) = data.as_object_mut() {
            data.retain(|_, value| !value.is_null());
        }
        let inventory = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {
                "name": Self::inventory_name(target), "namespace": self.namespace(),
                "labels": { OWNER_LABEL: self.namespace() }, "annotations": { WRITER_ANNOTATION: writer_id(permit) },
            },
            "data": data,
        });
        let path = format!("/api/v1/namespaces/{}/configmaps", self.namespace());
        client.create(&path, &inventory, Some(permit)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inventory(data: Value) -> Value {
        json!({ "metadata": { "uid": "u", "resourceVersion": "1" }, "data": data })
    }

    #[test]
    fn an_inventory_of_an_earlier_server_reads_as_clean() {
        let service =
            json!({ "kind": "Service", "metadata": { "name": "a", "namespace": "mesh-a" } });
        let objects = Value::from(vec![service.clone()]).to_string();
        let old = inventory(json!({ "value": "1.25.1.1", "objects": objects }));
        assert_eq!(
            (clean_value(&old), inventory_objects(&old)),
            (Some("1.25.1.1".into()), vec![service])
        );
    }

    #[test]
    fn a_dirty_inventory_has_no_value() {
        let dirty = inventory(json!({ "value": "", "toward": "1.27.9.1", "objects": "[]" }));
        assert_eq!(
            (clean_value(&dirty), inventory_objects(&dirty)),
            (None, Vec::new())
        );
    }

    #[test]
    fn definitions_that_were_applied_in_part_do_not_move_back() {
        let dirty = inventory(json!({ "value": "", "toward": "1.27.9.1", "objects": "[]" }));
        let crds = Target::Crds {
            member: "c1".parse().expect("a name"),
        };
        let objects = Target::ControlPlane {
            revision: "1-27-9".parse().expect("a revision"),
        };
        assert_eq!(
            newest_crd_release(&crds, "1.26.3.1", Some(&dirty)),
            "1.27.9.1"
        );
        assert_eq!(
            newest_crd_release(&crds, "1.28.0.1", Some(&dirty)),
            "1.28.0.1"
        );
        assert_eq!(
            newest_crd_release(&objects, "1.26.3.1", Some(&dirty)),
            "1.26.3.1"
        );
    }
}
