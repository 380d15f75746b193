//! Resources that name a revision by their own label: only that revision reads them, and no tag can carry them over.

use model::version::RevisionName;
use rollout::plan::data_plane::REV_LABEL;
use rollout::ports::WorldError;

use super::{MemberDoor, MeshWorld, selector, text};

/// Istio's kinds and the Gateway API's Gateway, with the version that every release that we run serves.
const RESOURCES: [&str; 15] = [
    "networking.istio.io/v1/virtualservices",
    "networking.istio.io/v1/destinationrules",
    "networking.istio.io/v1/gateways",
    "networking.istio.io/v1/serviceentries",
    "networking.istio.io/v1/sidecars",
    "networking.istio.io/v1/workloadentries",
    "networking.istio.io/v1/workloadgroups",
    "networking.istio.io/v1alpha3/envoyfilters",
    "networking.istio.io/v1beta1/proxyconfigs",
    "security.istio.io/v1/authorizationpolicies",
    "security.istio.io/v1/peerauthentications",
    "security.istio.io/v1/requestauthentications",
    "telemetry.istio.io/v1/telemetries",
    "extensions.istio.io/v1alpha1/wasmplugins",
    "gateway.networking.k8s.io/v1/gateways",
];
/// The API groups of [`RESOURCES`].
pub(crate) const GROUPS: [&str; 5] = [
    "networking.istio.io",
    "security.istio.io",
    "telemetry.istio.io",
    "extensions.istio.io",
    "gateway.networking.k8s.io",
];

impl MeshWorld {
    pub(super) async fn pinned_to(&self, revision: &RevisionName) -> Result<Vec<String>, WorldError> {
        let mut found = Vec::new();
        for member in &self.config.members {
            found.extend(pinned_in(member, revision).await?);
        }
        Ok(found)
    }
}

/// A kind that the cluster does not know has no objects.
pub(super) async fn pinned_in(member: &MemberDoor, revision: &RevisionName) -> Result<Vec<String>, WorldError> {
    let selector = selector(&[(REV_LABEL, revision.as_str())]);
    let lists = RESOURCES.iter().map(|resource| {
        let selector = selector.as_str();
        async move { Ok((resource, member.door.list(&format!("/apis/{resource}"), selector).await?)) }
    });
    let lists = futures::future::try_join_all(lists).await?;
    let named = lists.iter().flat_map(|(resource, objects)| {
        let plural = resource.rsplit('/').next().unwrap_or_default();
        objects.iter().map(move |object| {
            let part = |pointer: &str| text(object, pointer).unwrap_or_default();
            format!("{plural} {}/{} in {}", part("/metadata/namespace"), part("/metadata/name"), member.name)
        })
    });
    Ok(named.collect())
}
