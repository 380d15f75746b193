//! Builds the webhooks of tags, of revisions that are aliases, and of the default validator.

use meshwright_model::plan::Target;
use meshwright_model::problem::ProblemCode;
use meshwright_model::version::RevisionName;
use meshwright_rollout::plan::data_plane::{INJECTION_LABEL, REV_LABEL};
use meshwright_rollout::ports::{ClusterError, FencingToken};
use serde_json::{Map, Value, json};

use super::super::KubernetesMesh;
use super::{DEFAULT_VALIDATOR, ObjectTarget, revision_webhook_name};
use crate::api_paths::MUTATING_WEBHOOKS_PATH;
use crate::labels::{APPLY_SET_LABEL, OWNER_LABEL, SIDECAR_INJECT_LABEL};

impl ObjectTarget<'_> {
    /// Creates a webhook. If another mesh or another Istio has the name, that is no race that a
    /// retry could win, so it is an error of its own.
    pub(super) async fn create_webhook(
        &self,
        collection: &str,
        object: &Value,
        permit: &FencingToken,
    ) -> Result<(), ClusterError> {
        match self.client.create(collection, object, Some(permit)).await {
            Ok(_) => Ok(()),
            Err(error @ ClusterError::Changed { .. }) => match self.client.get(&self.path).await? {
                Some(there) if !self.is_owned(&there) => Err(ClusterError::Refused {
                    place: self.client.cluster_name().to_owned(),
                    code: ProblemCode::ForeignIstio,
                    cause: format!("{} is there, and it is not this mesh's", self.target),
                }),
                _ => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// Builds the webhook of a tag, copied from the canonical webhook of the revision that it
    /// points to. istioctl and istiod treat it as if `istioctl tag set` had created it.
    pub(super) async fn tag_webhook(
        &self,
        clusters: &KubernetesMesh,
        name: &str,
        tag: &str,
        revision: &str,
    ) -> Result<Value, ClusterError> {
        let canonical_name = revision_webhook_name(clusters, revision);
        let canonical = self
            .client
            .get(&format!("{MUTATING_WEBHOOKS_PATH}/{canonical_name}"))
            .await?;
        let missing = || ClusterError::Refused {
            place: self.client.cluster_name().to_owned(),
            code: ProblemCode::RevisionMissing,
            cause: format!("there is no webhook {canonical_name}"),
        };
        let canonical = canonical.ok_or_else(missing)?;
        let entry = canonical
            .pointer("/webhooks/0")
            .cloned()
            .ok_or_else(missing)?;
        let mut labels: Map<String, Value> = canonical["metadata"]["labels"]
            .as_object()
            .cloned()
            .unwrap_or_default();
        labels.remove(APPLY_SET_LABEL);
        labels.insert("istio.io/tag".into(), tag.into());
        labels.insert(REV_LABEL.into(), revision.into());
        labels.insert(OWNER_LABEL.into(), clusters.namespace().into());
        Ok(json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": { "name": name, "labels": labels },
            "webhooks": tag_webhook_entries(&entry, tag),
        }))
    }

    /// Builds the patch that makes a revision's own webhook an alias of another revision, or its
    /// own again. An alias belongs to no `ApplySet`, so the removal of its revision's objects
    /// leaves it alone.
    pub(super) async fn revision_alias_patch(
        &self,
        clusters: &KubernetesMesh,
        own: &RevisionName,
        revision: &str,
    ) -> Result<Value, ClusterError> {
        let Target::Tag { member, .. } = self.target else {
            return Err(ClusterError::Changed {
                place: own.to_string(),
            });
        };
        if own.as_str() != revision {
            let mut alias = self
                .tag_webhook(clusters, "", own.as_str(), revision)
                .await?;
            let labels =
                json!({ REV_LABEL: revision, "istio.io/tag": own.as_str(), APPLY_SET_LABEL: null });
            return Ok(
                json!({ "metadata": { "labels": labels }, "webhooks": alias["webhooks"].take() }),
            );
        }
        let bundle = Target::MemberObjects {
            member: member.clone(),
            revision: own.clone(),
        };
        let release = clusters
            .observe_apply_set(&bundle)
            .await?
            .value
            .unwrap_or_default();
        let objects = clusters
            .member_objects(clusters.find_member(member)?, own, &release)
            .await?;
        let webhook = objects
            .into_iter()
            .find(|object| object["kind"] == "MutatingWebhookConfiguration");
        let mut webhook = webhook.ok_or_else(|| ClusterError::Changed {
            place: own.to_string(),
        })?;
        let labels = json!({ REV_LABEL: revision, "istio.io/tag": null, APPLY_SET_LABEL: KubernetesMesh::inventory_name(&bundle) });
        Ok(json!({ "metadata": { "labels": labels }, "webhooks": webhook["webhooks"].take() }))
    }

    /// Builds the change of the default validator. A move changes only address and label:
    /// `failurePolicy` and the CA bundle belong to istiod once it serves the webhook.
    pub(super) async fn validator_webhook(
        &self,
        clusters: &KubernetesMesh,
        revision: &str,
        exists: bool,
    ) -> Result<Value, ClusterError> {
        let name: RevisionName = revision.parse().map_err(|_| ClusterError::Changed {
            place: DEFAULT_VALIDATOR.into(),
        })?;
        let release = clusters
            .observe_apply_set(&Target::ControlPlane {
                revision: name.clone(),
            })
            .await?
            .value
            .unwrap_or_default();
        let rendered = clusters.default_validator(&name, &release).await?;
        let mut object = rendered.ok_or_else(|| ClusterError::Changed {
            place: DEFAULT_VALIDATOR.into(),
        })?;
        object["metadata"]["labels"][OWNER_LABEL] = clusters.namespace().into();
        if !exists {
            return Ok(object);
        }
        let mut webhooks = self
            .client
            .get(&self.path)
            .await?
            .map(|known| known["webhooks"].clone())
            .unwrap_or_default();
        let url = object.pointer("/webhooks/0/clientConfig/url").cloned();
        if let (Some(list), Some(url)) = (webhooks.as_array_mut(), url) {
            for webhook in list {
                webhook["clientConfig"]["url"] = url.clone();
            }
        }
        Ok(json!({ "metadata": { "labels": { REV_LABEL: revision } }, "webhooks": webhooks }))
    }
}

/// Builds the webhook entries of a tag: by namespace label and by pod label. The tag `default` also
/// matches the older labels.
fn tag_webhook_entries(canonical: &Value, tag: &str) -> Vec<Value> {
    let is = |key: &str, value: &str| json!({ "key": key, "operator": "In", "values": [value] });
    let not =
        |key: &str, value: &str| json!({ "key": key, "operator": "NotIn", "values": [value] });
    let no = |key: &str| json!({ "key": key, "operator": "DoesNotExist" });
    let entry = |prefix: &str, namespace: Value, object: Value| {
        let mut entry = canonical.clone();
        entry["name"] = format!("{prefix}.sidecar-injector.istio.io").into();
        entry["namespaceSelector"] = json!({ "matchExpressions": namespace });
        entry["objectSelector"] = json!({ "matchExpressions": object });
        entry
    };
    let unlabelled = json!([no(REV_LABEL), no(INJECTION_LABEL)]);
    let mut all = vec![
        entry(
            "rev.namespace",
            json!([is(REV_LABEL, tag), no(INJECTION_LABEL)]),
            json!([not(SIDECAR_INJECT_LABEL, "false")]),
        ),
        entry(
            "rev.object",
            unlabelled.clone(),
            json!([not(SIDECAR_INJECT_LABEL, "false"), is(REV_LABEL, tag)]),
        ),
    ];
    if tag == "default" {
        all.push(entry(
            "namespace",
            json!([is(INJECTION_LABEL, "enabled")]),
            json!([not(SIDECAR_INJECT_LABEL, "false")]),
        ));
        all.push(entry(
            "object",
            unlabelled,
            json!([is(SIDECAR_INJECT_LABEL, "true"), no(REV_LABEL)]),
        ));
    }
    all
}
