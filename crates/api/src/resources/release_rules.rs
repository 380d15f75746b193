//! Prepares what the rules about releases need: the release, and the Kubernetes versions of members.

use meshwright_model::Version;
use meshwright_model::problem::ProblemCode;
use meshwright_model::release::Release;
use meshwright_model::rules::{Reason, Severity};
use meshwright_store::Tx;

use crate::error::{ApiError, Result};

/// Reads the release with this version from the catalogue.
pub(crate) async fn find_release(tx: &mut Tx<'_>, version: &Version) -> Result<Release> {
    let releases = tx.catalogue().list_releases().await?;
    let absent = || {
        ApiError::invalid_field("/version", format!("{version} is not in the catalogue"))
            .with_code(ProblemCode::VersionNotInCatalogue)
    };
    releases
        .into_iter()
        .find(|release| release.version == *version)
        .ok_or_else(absent)
}

/// Returns the name and the Kubernetes version of each member.
pub(crate) fn member_kubernetes_versions(
    mesh: &meshwright_store::Mesh,
) -> Vec<(String, (u32, u32))> {
    mesh.members
        .iter()
        .map(|member| {
            (
                member.name.clone(),
                parse_kubernetes_version(member.kubernetes_version.as_deref()),
            )
        })
        .collect()
}

/// Parses the major and minor version of Kubernetes. An unknown version counts as older than all
/// others, so that each rule about a minimum version refuses it.
pub(crate) fn parse_kubernetes_version(version: Option<&str>) -> (u32, u32) {
    let mut parts = version
        .unwrap_or_default()
        .trim_start_matches('v')
        .split('.')
        .map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// Joins the messages of all blocking reasons into one sentence.
pub(crate) fn blocking_messages(reasons: &[Reason]) -> String {
    let blocking = reasons
        .iter()
        .filter(|reason| reason.severity == Severity::Block);
    blocking
        .map(|reason| reason.message.as_str())
        .collect::<Vec<_>>()
        .join("; ")
}
