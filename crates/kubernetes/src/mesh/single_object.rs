//! Writes targets that are one object: a tag, the default validator, a namespace's label, a
//! workload's restart stamp.
//!
//! A change is one merge patch with the uid and version that were observed. An object that has
//! changed since refuses it, and an object that was deleted is not created again. A webhook of the
//! same name without our mesh's label belongs to another mesh or another Istio: it counts as
//! absent, and is never overwritten.

use meshwright_model::plan::{Target, WorkloadKind, WorkloadRef};
use meshwright_model::version::RevisionName;
use meshwright_rollout::plan::TAGS;
use meshwright_rollout::plan::data_plane::{INJECTION_LABEL, REV_LABEL, label_value, parse_labels};
use meshwright_rollout::ports::{
    ClusterError, Fence, FencingToken, ObjectVersion, Observed, Readiness,
};
use serde_json::{Value, json};

use super::records::namespace_labels;
use super::{KubernetesMesh, object_version, text_at, uid_and_version};
use crate::api_paths::MUTATING_WEBHOOKS_PATH;
use crate::api_paths::VALIDATING_WEBHOOKS_PATH;
use crate::client::ClusterClient;
use crate::labels::{FENCE_ANNOTATION, OWNER_LABEL, RESTART_ANNOTATION};

mod webhooks;

/// Name of the webhook of the tag `default`. istiod's leader election looks for exactly this name;
/// the webhooks of other tags have the mesh's namespace as a suffix.
const DEFAULT_TAG_WEBHOOK: &str = "istio-revision-tag-default";
/// Name of the default validator, as istiod and Istio's charts know it.
pub(super) const DEFAULT_VALIDATOR: &str = "istiod-default-validator";
/// Object of a target, with the field of it that is ours.
pub(super) struct ObjectTarget<'a> {
    client: &'a ClusterClient,
    target: &'a Target,
    path: String,
    field: Field<'a>,
    /// Namespace of the mesh, which is the value of the owner label on its webhooks.
    owner: &'a str,
}

/// Field of an object that holds the target's value.
enum Field<'a> {
    Tag {
        name: String,
        tag: &'a str,
    },
    /// Webhook of a revision, which becomes an alias of another revision and back. Its name serves
    /// without a gap meanwhile.
    RevisionWebhook {
        revision: RevisionName,
    },
    Validator,
    NamespaceLabel,
    Stamp,
}

impl<'a> ObjectTarget<'a> {
    /// Finds the object of a target. Returns `None` for targets that are `ApplySets`. May call the
    /// cluster, to find out whether a tag has the name of a revision.
    pub(super) async fn for_target(
        clusters: &'a KubernetesMesh,
        target: &'a Target,
    ) -> Result<Option<Self>, ClusterError> {
        let (path, part) = match target {
            Target::Tag { tag, .. } => {
                if let Some(own) = revision_alias(clusters, target, tag).await? {
                    return Ok(Some(own));
                }
                let name = tag_webhook_name(tag, clusters.namespace());
                (
                    format!("{MUTATING_WEBHOOKS_PATH}/{name}"),
                    Field::Tag { name, tag },
                )
            }
            Target::Validator { .. } => (
                format!("{VALIDATING_WEBHOOKS_PATH}/{DEFAULT_VALIDATOR}"),
                Field::Validator,
            ),
            Target::NamespaceLabel { namespace, .. } => (
                format!("/api/v1/namespaces/{namespace}"),
                Field::NamespaceLabel,
            ),
            Target::Workload { workload, .. } => (workload_path(workload), Field::Stamp),
            _ => return Ok(None),
        };
        Ok(Some(Self {
            client: clusters.client_for(target)?,
            target,
            path,
            field: part,
            owner: clusters.namespace(),
        }))
    }

    /// Observes the value of the target.
    pub(super) async fn observe_value(&self) -> Result<Observed, ClusterError> {
        let object = self
            .client
            .get(&self.path)
            .await?
            .filter(|object| self.is_owned(object));
        let value = object
            .as_ref()
            .and_then(|object| self.field.read_value(object));
        Ok(Observed {
            value,
            version: object_version(object.as_ref()),
            readiness: Readiness::Ready,
            partial: false,
            gone: object.is_none() && !self.field.is_webhook(),
        })
    }

    /// Returns whether an object is ours to write. Namespaces and workloads belong to the users;
    /// only our label or stamp on them is ours.
    fn is_owned(&self, object: &Value) -> bool {
        !self.field.is_webhook() || object["metadata"]["labels"][OWNER_LABEL] == self.owner
    }

    /// Fences the object. An annotation moves its version and is removed again, so that a fenced
    /// cluster looks as it did before.
    pub(super) async fn fence_object(&self, permit: &FencingToken) -> Result<Fence, ClusterError> {
        let webhook = self.field.is_webhook();
        if webhook
            && !self
                .client
                .get(&self.path)
                .await?
                .is_some_and(|object| self.is_owned(&object))
        {
            return Ok(Fence::UntilLeaseEnds);
        }
        for value in [Some(format!("{}/{}", permit.operation, permit.epoch)), None] {
            let patch = json!({ "metadata": { "annotations": { FENCE_ANNOTATION: value } } });
            if !self
                .client
                .patch_if_exists(&self.path, &patch, permit)
                .await?
            {
                // We never create namespaces or workloads, so no late write can affect a missing
                // one.
                return Ok(if webhook {
                    Fence::UntilLeaseEnds
                } else {
                    Fence::Holds
                });
            }
        }
        Ok(Fence::Holds)
    }

    /// Brings the target to a value, or removes it, if the object still has the observed version.
    pub(super) async fn set_value(
        &self,
        clusters: &KubernetesMesh,
        to: Option<&str>,
        seen: &ObjectVersion,
        permit: &FencingToken,
    ) -> Result<(), ClusterError> {
        let known = uid_and_version(seen);
        let mut patch = match (&self.field, to) {
            (Field::Tag { .. } | Field::RevisionWebhook { .. } | Field::Validator, None) => {
                let Some((uid, version)) = known else {
                    return Ok(());
                };
                return self
                    .client
                    .delete(
                        &self.path,
                        Some(json!({ "uid": uid, "resourceVersion": version })),
                        Some(permit),
                    )
                    .await;
            }
            (Field::RevisionWebhook { revision: own }, Some(revision)) => {
                self.revision_alias_patch(clusters, own, revision).await?
            }
            (Field::Tag { name, tag }, Some(revision)) => {
                self.tag_webhook(clusters, name, tag, revision).await?
            }
            (Field::Validator, Some(revision)) => {
                self.validator_webhook(clusters, revision, known.is_some())
                    .await?
            }
            (Field::NamespaceLabel, to) => {
                let labels = parse_labels(to);
                json!({ "metadata": { "labels": { INJECTION_LABEL: labels.injection, REV_LABEL: labels.rev } } })
            }
            (Field::Stamp, to) => {
                json!({ "spec": { "template": { "metadata": { "annotations": { RESTART_ANNOTATION: to } } } } })
            }
        };
        let Some((uid, version)) = known else {
            return match self.field {
                Field::Tag { .. } => {
                    self.create_webhook(MUTATING_WEBHOOKS_PATH, &patch, permit)
                        .await
                }
                Field::Validator => {
                    self.create_webhook(VALIDATING_WEBHOOKS_PATH, &patch, permit)
                        .await
                }
                // The object is gone, so there is nothing to change; the next check reports it.
                Field::NamespaceLabel | Field::Stamp | Field::RevisionWebhook { .. } => Ok(()),
            };
        };
        patch["metadata"]["uid"] = uid.into();
        patch["metadata"]["resourceVersion"] = version.into();
        let answer = self.client.patch(&self.path, &patch, Some(permit)).await?;
        if let Target::Workload { member, workload } = self.target {
            clusters
                .watches
                .record_written_workload(member, workload.kind, &answer);
        }
        Ok(())
    }
}

/// Returns the webhook of a revision as a tag's object, if the tag has the name of a revision and
/// that webhook exists.
async fn revision_alias<'a>(
    clusters: &'a KubernetesMesh,
    target: &'a Target,
    tag: &'a str,
) -> Result<Option<ObjectTarget<'a>>, ClusterError> {
    let Ok(revision) = tag.parse::<RevisionName>() else {
        return Ok(None);
    };
    if TAGS.contains(&tag) {
        return Ok(None);
    }
    let client = clusters.client_for(target)?;
    let path = format!(
        "{MUTATING_WEBHOOKS_PATH}/{}",
        revision_webhook_name(clusters, tag)
    );
    let known = client.get(&path).await?.is_some();
    Ok(known.then_some(ObjectTarget {
        client,
        target,
        path,
        field: Field::RevisionWebhook { revision },
        owner: clusters.namespace(),
    }))
}

/// Returns the name of a tag's webhook.
pub(super) fn tag_webhook_name(tag: &str, namespace: &str) -> String {
    if tag == "default" {
        DEFAULT_TAG_WEBHOOK.to_owned()
    } else {
        format!("istio-revision-tag-{tag}-{namespace}")
    }
}

/// Returns the name that Istio's charts give to a revision's own webhook.
pub(super) fn revision_webhook_name(clusters: &KubernetesMesh, revision: &str) -> String {
    format!("istio-sidecar-injector-{revision}-{}", clusters.namespace())
}

impl Field<'_> {
    /// Returns true for the fields of a webhook, which is an object of ours as a whole.
    fn is_webhook(&self) -> bool {
        match self {
            Self::Tag { .. } | Self::RevisionWebhook { .. } | Self::Validator => true,
            Self::NamespaceLabel | Self::Stamp => false,
        }
    }

    fn read_value(&self, object: &Value) -> Option<String> {
        match self {
            Self::Tag { .. } | Self::RevisionWebhook { .. } | Self::Validator => {
                text_at(object, "/metadata/labels/istio.io~1rev").map(str::to_owned)
            }
            Self::NamespaceLabel => label_value(&namespace_labels(object)),
            Self::Stamp => text_at(
                object,
                "/spec/template/metadata/annotations/meshwright.dev~1restart",
            )
            .map(str::to_owned),
        }
    }
}

fn workload_path(workload: &WorkloadRef) -> String {
    let plural = match workload.kind {
        WorkloadKind::Deployment => "deployments",
        WorkloadKind::StatefulSet => "statefulsets",
        WorkloadKind::DaemonSet => "daemonsets",
    };
    format!(
        "/apis/apps/v1/namespaces/{}/{plural}/{}",
        workload.namespace, workload.name
    )
}
