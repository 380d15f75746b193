//! Targets that are one object: a tag, the default validator, a namespace's label, a workload's stamp.
//!
//! A change is one merge patch that carries the identity and version that were seen: what moved on in between refuses it,
//! and an object that was deleted is not made again. A webhook of the same name that does not carry our mesh's label is
//! another mesh's or another Istio's: for us it is absent, and nothing is written over it.

use model::plan::{Target, WorkloadKind, WorkloadRef};
use model::version::RevisionName;
use rollout::plan::TAGS;
use rollout::plan::data_plane::{INJECTION_LABEL, REV_LABEL, label_value, labels_of};
use rollout::ports::{Fence, Mark, Permit, Seen, Settled, WorldError};
use serde_json::{Map, Value, json};

use super::bundle::{BUNDLE_LABEL, OWNER_LABEL};
use super::{MeshWorld, mark_of, preconditions, text};
use crate::door::Door;

/// Our annotation on a pod template; its value derives from the operation.
pub(super) const STAMP: &str = "meshwright.dev/restart";
/// Moves an object's version and nothing else.
pub(super) const FENCE: &str = "meshwright.dev/fence";
/// The tag that istiod's leader election looks for by this very name; every other tag's object is suffixed.
const DEFAULT_TAG: &str = "istio-revision-tag-default";
pub(super) const VALIDATOR: &str = "istiod-default-validator";
pub(crate) const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
pub(crate) const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

/// One object with the part of it that is ours.
pub(super) struct Single<'a> {
    door: &'a Door,
    target: &'a Target,
    path: String,
    part: Part<'a>,
    /// The mesh's namespace, which the owner's label of its webhooks names.
    owner: &'a str,
}

enum Part<'a> {
    Tag {
        name: String,
        tag: &'a str,
    },
    /// A revision's own webhook, which becomes an alias of another revision and back: its name serves without a gap.
    Own {
        revision: RevisionName,
    },
    Validator,
    Label,
    Stamp,
}

impl<'a> Single<'a> {
    /// `None` for targets that are bundles.
    pub(super) async fn of(world: &'a MeshWorld, target: &'a Target) -> Result<Option<Self>, WorldError> {
        let (path, part) = match target {
            Target::Tag { tag, .. } => {
                if let Some(own) = own_webhook(world, target, tag).await? {
                    return Ok(Some(own));
                }
                let name = tag_object(tag, world.namespace());
                (format!("{MUTATING}/{name}"), Part::Tag { name, tag })
            }
            Target::Validator { .. } => (format!("{VALIDATING}/{VALIDATOR}"), Part::Validator),
            Target::NamespaceLabel { namespace, .. } => (format!("/api/v1/namespaces/{namespace}"), Part::Label),
            Target::Workload { workload, .. } => (workload_path(workload), Part::Stamp),
            _ => return Ok(None),
        };
        Ok(Some(Self { door: world.door(target)?, target, path, part, owner: world.namespace() }))
    }

    pub(super) async fn look(&self) -> Result<Seen, WorldError> {
        let object = self.door.get(&self.path).await?.filter(|object| self.is_ours(object));
        let value = object.as_ref().and_then(|object| self.part.value(object));
        Ok(Seen { value, mark: mark_of(object.as_ref()), settled: Settled::Yes, partial: false })
    }

    /// Namespaces and workloads are the users' own; only our label or stamp on them is ours.
    fn is_ours(&self, object: &Value) -> bool {
        match self.part {
            Part::Tag { .. } | Part::Own { .. } | Part::Validator => {
                object["metadata"]["labels"][OWNER_LABEL] == self.owner
            }
            Part::Label | Part::Stamp => true,
        }
    }

    /// The annotation moves the version and is taken off again: a cluster that was fenced looks as it did before.
    pub(super) async fn fence(&self, permit: &Permit) -> Result<Fence, WorldError> {
        let webhook = matches!(self.part, Part::Tag { .. } | Part::Own { .. } | Part::Validator);
        if webhook && !self.door.get(&self.path).await?.is_some_and(|object| self.is_ours(&object)) {
            return Ok(Fence::UntilLeaseEnds);
        }
        for value in [Some(format!("{}/{}", permit.operation, permit.epoch)), None] {
            let patch = json!({ "metadata": { "annotations": { FENCE: value } } });
            if !self.door.patch_if_there(&self.path, &patch, permit).await? {
                // Namespaces and workloads are never created by us.
                return Ok(if webhook { Fence::UntilLeaseEnds } else { Fence::Holds });
            }
        }
        Ok(Fence::Holds)
    }

    pub(super) async fn set(
        &self,
        world: &MeshWorld,
        to: Option<&str>,
        seen: &Mark,
        permit: &Permit,
    ) -> Result<(), WorldError> {
        let known = preconditions(seen);
        let mut patch = match (&self.part, to) {
            (Part::Tag { .. } | Part::Own { .. } | Part::Validator, None) => {
                let Some((uid, version)) = known else { return Ok(()) };
                return self
                    .door
                    .delete(&self.path, Some(json!({ "uid": uid, "resourceVersion": version })), Some(permit))
                    .await;
            }
            (Part::Own { revision: own }, Some(revision)) => self.own(world, own, revision).await?,
            (Part::Tag { name, tag }, Some(revision)) => self.tag(world, name, tag, revision).await?,
            (Part::Validator, Some(revision)) => self.validator(world, revision, known.is_some()).await?,
            (Part::Label, to) => {
                let labels = labels_of(to);
                json!({ "metadata": { "labels": { INJECTION_LABEL: labels.injection, REV_LABEL: labels.rev } } })
            }
            (Part::Stamp, to) => json!({ "spec": { "template": { "metadata": { "annotations": { STAMP: to } } } } }),
        };
        let Some((uid, version)) = known else {
            return match self.part {
                Part::Tag { .. } => self.create(MUTATING, &patch, permit).await,
                Part::Validator => self.create(VALIDATING, &patch, permit).await,
                // There is nothing to change: the next look says so.
                Part::Label | Part::Stamp | Part::Own { .. } => Ok(()),
            };
        };
        patch["metadata"]["uid"] = uid.into();
        patch["metadata"]["resourceVersion"] = version.into();
        let answer = self.door.patch(&self.path, &patch, Some(permit)).await?;
        if let Target::Workload { member, workload } = self.target {
            world.watches.answered(member, workload.kind, &answer);
        }
        Ok(())
    }

    /// Creates a webhook. A name that another mesh or another Istio holds is no race that another try would win.
    async fn create(&self, collection: &str, object: &Value, permit: &Permit) -> Result<(), WorldError> {
        match self.door.create(collection, object, Some(permit)).await {
            Ok(_) => Ok(()),
            Err(error @ WorldError::Changed { .. }) => match self.door.get(&self.path).await? {
                Some(there) if !self.is_ours(&there) => Err(WorldError::Refused {
                    place: self.door.place().to_owned(),
                    code: "foreign_istio",
                    cause: format!("{} is there, and it is not this mesh's", self.target),
                }),
                _ => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// A tag's object, copied from the canonical webhook of the revision that it is to point to. Seen by istioctl and by
    /// istiod as if `istioctl tag set` had made it.
    async fn tag(&self, world: &MeshWorld, name: &str, tag: &str, revision: &str) -> Result<Value, WorldError> {
        let canonical_name = own_name(world, revision);
        let canonical = self.door.get(&format!("{MUTATING}/{canonical_name}")).await?;
        let missing = || WorldError::Refused {
            place: self.door.place().to_owned(),
            code: "revision_missing",
            cause: format!("there is no webhook {canonical_name}"),
        };
        let canonical = canonical.ok_or_else(missing)?;
        let entry = canonical.pointer("/webhooks/0").cloned().ok_or_else(missing)?;
        let mut labels: Map<String, Value> = canonical["metadata"]["labels"].as_object().cloned().unwrap_or_default();
        labels.remove(BUNDLE_LABEL);
        labels.insert("istio.io/tag".into(), tag.into());
        labels.insert(REV_LABEL.into(), revision.into());
        labels.insert(OWNER_LABEL.into(), world.namespace().into());
        Ok(json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": { "name": name, "labels": labels },
            "webhooks": entries(&entry, tag),
        }))
    }

    /// The change that makes a revision's own webhook a name of another revision, or its own again. As an alias it belongs
    /// to no bundle, so the removal of its revision's objects leaves it alone.
    async fn own(&self, world: &MeshWorld, own: &RevisionName, revision: &str) -> Result<Value, WorldError> {
        let Target::Tag { member, .. } = self.target else {
            return Err(WorldError::Changed { place: own.to_string() });
        };
        if own.as_str() != revision {
            let mut alias = self.tag(world, "", own.as_str(), revision).await?;
            let labels = json!({ REV_LABEL: revision, "istio.io/tag": own.as_str(), BUNDLE_LABEL: null });
            return Ok(json!({ "metadata": { "labels": labels }, "webhooks": alias["webhooks"].take() }));
        }
        let bundle = Target::MemberObjects { member: member.clone(), revision: own.clone() };
        let release = world.look_at_bundle(&bundle).await?.value.unwrap_or_default();
        let objects = world.member_objects(world.member(member)?, own, &release).await?;
        let webhook = objects.into_iter().find(|object| object["kind"] == "MutatingWebhookConfiguration");
        let mut webhook = webhook.ok_or_else(|| WorldError::Changed { place: own.to_string() })?;
        let labels =
            json!({ REV_LABEL: revision, "istio.io/tag": null, BUNDLE_LABEL: MeshWorld::inventory_name(&bundle) });
        Ok(json!({ "metadata": { "labels": labels }, "webhooks": webhook["webhooks"].take() }))
    }

    /// A move changes the address and the label; `failurePolicy` and the bundle belong to istiod from then on.
    async fn validator(&self, world: &MeshWorld, revision: &str, exists: bool) -> Result<Value, WorldError> {
        let name: RevisionName = revision.parse().map_err(|_| WorldError::Changed { place: VALIDATOR.into() })?;
        let release =
            world.look_at_bundle(&Target::ControlPlane { revision: name.clone() }).await?.value.unwrap_or_default();
        let rendered = world.default_validator(&name, &release).await?;
        let mut object = rendered.ok_or_else(|| WorldError::Changed { place: VALIDATOR.into() })?;
        object["metadata"]["labels"][OWNER_LABEL] = world.namespace().into();
        if !exists {
            return Ok(object);
        }
        let mut webhooks = self.door.get(&self.path).await?.map(|known| known["webhooks"].clone()).unwrap_or_default();
        let url = object.pointer("/webhooks/0/clientConfig/url").cloned();
        if let (Some(list), Some(url)) = (webhooks.as_array_mut(), url) {
            for webhook in list {
                webhook["clientConfig"]["url"] = url.clone();
            }
        }
        Ok(json!({ "metadata": { "labels": { REV_LABEL: revision } }, "webhooks": webhooks }))
    }
}

/// A tag that is a revision's own name, while that revision's webhook exists.
async fn own_webhook<'a>(
    world: &'a MeshWorld,
    target: &'a Target,
    tag: &'a str,
) -> Result<Option<Single<'a>>, WorldError> {
    let Ok(revision) = tag.parse::<RevisionName>() else { return Ok(None) };
    if TAGS.contains(&tag) {
        return Ok(None);
    }
    let door = world.door(target)?;
    let path = format!("{MUTATING}/{}", own_name(world, tag));
    let known = door.get(&path).await?.is_some();
    Ok(known.then_some(Single { door, target, path, part: Part::Own { revision }, owner: world.namespace() }))
}

/// The name of the object of a tag.
pub(super) fn tag_object(tag: &str, namespace: &str) -> String {
    if tag == "default" { DEFAULT_TAG.to_owned() } else { format!("istio-revision-tag-{tag}-{namespace}") }
}

/// What Istio's charts call a revision's own webhook.
pub(super) fn own_name(world: &MeshWorld, revision: &str) -> String {
    format!("istio-sidecar-injector-{revision}-{}", world.namespace())
}

impl Part<'_> {
    fn value(&self, object: &Value) -> Option<String> {
        match self {
            Self::Tag { .. } | Self::Own { .. } | Self::Validator => {
                text(object, "/metadata/labels/istio.io~1rev").map(str::to_owned)
            }
            Self::Label => label_value(&super::survey::namespace_labels(object)),
            Self::Stamp => {
                text(object, "/spec/template/metadata/annotations/meshwright.dev~1restart").map(str::to_owned)
            }
        }
    }
}

/// The pod label by which a pod asks for a sidecar, or refuses one.
pub(super) const INJECT: &str = "sidecar.istio.io/inject";

/// A tag's webhook entries: by namespace and by pod; the tag `default` also answers to the older labels.
fn entries(canonical: &Value, tag: &str) -> Vec<Value> {
    let is = |key: &str, value: &str| json!({ "key": key, "operator": "In", "values": [value] });
    let not = |key: &str, value: &str| json!({ "key": key, "operator": "NotIn", "values": [value] });
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
        entry("rev.namespace", json!([is(REV_LABEL, tag), no(INJECTION_LABEL)]), json!([not(INJECT, "false")])),
        entry("rev.object", unlabelled.clone(), json!([not(INJECT, "false"), is(REV_LABEL, tag)])),
    ];
    if tag == "default" {
        all.push(entry("namespace", json!([is(INJECTION_LABEL, "enabled")]), json!([not(INJECT, "false")])));
        all.push(entry("object", unlabelled, json!([is(INJECT, "true"), no(REV_LABEL)])));
    }
    all
}

fn workload_path(workload: &WorkloadRef) -> String {
    let plural = match workload.kind {
        WorkloadKind::Deployment => "deployments",
        WorkloadKind::StatefulSet => "statefulsets",
        WorkloadKind::DaemonSet => "daemonsets",
    };
    format!("/apis/apps/v1/namespaces/{}/{plural}/{}", workload.namespace, workload.name)
}
