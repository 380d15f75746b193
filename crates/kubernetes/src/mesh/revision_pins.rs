//! Finds resources whose own label names a revision. Only that revision reads them, and no tag can
//! move them to another one.

use meshwright_model::version::RevisionName;
use meshwright_rollout::plan::data_plane::REV_LABEL;
use meshwright_rollout::ports::{ClusterError, RevisionUser, UserKind};

use super::{KubernetesMesh, MemberCluster, label_query, text_at};

/// Istio's kinds and the Gateway API's Gateway, in the versions that every release of ours serves.
const REVISIONED_RESOURCES: [&str; 15] = [
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

impl KubernetesMesh {
    /// Lists the resources of all members that name a revision.
    pub(super) async fn find_pinned_resources(
        &self,
        revision: &RevisionName,
    ) -> Result<Vec<String>, ClusterError> {
        let mut found = Vec::new();
        for member in &self.config.members {
            let named = pinned_resources_in(member, revision).await?;
            found.extend(named.iter().map(RevisionUser::to_string));
        }
        Ok(found)
    }
}

/// Lists a member's resources that name a revision. A kind that the cluster does not know has no
/// objects.
pub(super) async fn pinned_resources_in(
    member: &MemberCluster,
    revision: &RevisionName,
) -> Result<Vec<RevisionUser>, ClusterError> {
    let selector = label_query(&[(REV_LABEL, revision.as_str())]);
    let lists = REVISIONED_RESOURCES.iter().map(|resource| {
        let selector = selector.as_str();
        async move {
            Ok((
                resource,
                member
                    .client
                    .list(&format!("/apis/{resource}"), selector)
                    .await?,
            ))
        }
    });
    let lists = futures::future::try_join_all(lists).await?;
    let named = lists.iter().flat_map(|(resource, objects)| {
        let plural = resource.rsplit('/').next().unwrap_or_default();
        objects.iter().map(move |object| {
            let part = |pointer: &str| text_at(object, pointer).unwrap_or_default();
            RevisionUser {
                member: member.name.to_string(),
                kind: UserKind::Resource,
                name: format!(
                    "{plural} {}/{}",
                    part("/metadata/namespace"),
                    part("/metadata/name")
                ),
                sidecar: None,
                workload: None,
                evictable: None,
            }
        })
    });
    Ok(named.collect())
}
