//! Finds proxies that are too far behind the istiod that they are connected to (issue 13, D8).
//! Workloads that an upgrade in place left behind would be two minor versions behind after the next
//! one, and Istio supports one.

use std::collections::BTreeMap;

use meshwright_model::Version;
use meshwright_model::observation::{MemberObservation, Observation};
use meshwright_model::plan::Sidecar;
use meshwright_model::problem::ProblemCode;
use meshwright_model::rules::Severity;
use meshwright_model::upgrade::Finding;
use meshwright_model::version::RevisionName;

use super::new_finding;
use crate::plan::MeshTopology;

/// Rule that decides whether a proxy is too far behind.
#[derive(Debug, Clone, Default)]
pub struct SkewRule {
    /// Maximum number of minor versions that a proxy may be behind its istiod.
    pub max_minors_behind: u32,
    /// Istio version of each proxy image in the catalogue, by image.
    pub image_versions: BTreeMap<String, Version>,
}

/// Major and minor number of an Istio version.
type MinorVersion = (u32, u32);

/// Returns one finding for each workload, each pod without a workload and each proxy without a pod
/// that is too far behind.
pub(super) fn collect_skew_findings(
    layout: &MeshTopology,
    survey: &Observation,
    rule: &SkewRule,
) -> Vec<Finding> {
    let mut found = Vec::new();
    for member in &survey.members {
        for workload in member
            .namespaces
            .iter()
            .flat_map(|namespace| &namespace.workloads)
        {
            let behind = workload
                .live
                .iter()
                .flatten()
                .find_map(|carried| rule.excessive_skew(layout, carried));
            let object = format!("{}: {}", member.member, workload.workload);
            found
                .extend(behind.map(|(proxy, istiod)| proxy_too_old_finding(object, proxy, istiod)));
        }
    }
    for proxy in &survey.proxies {
        let bare = survey
            .members
            .iter()
            .any(|member| owns_no_workload(member, &proxy.member, &proxy.proxy));
        let (Some(version), Some(istiod)) = (
            parse_minor(&proxy.version),
            istiod_minor(layout, &proxy.revision),
        ) else {
            continue;
        };
        if (bare || proxy.ghost) && rule.exceeds_limit(version, istiod) {
            found.push(proxy_too_old_finding(
                format!("{}: proxy {}", proxy.member, proxy.proxy),
                version,
                istiod,
            ));
        }
    }
    found
}

/// Returns true for a proxy of a pod that no workload owns, which the findings of workloads do not
/// cover.
fn owns_no_workload(member: &MemberObservation, claimed: &str, proxy: &str) -> bool {
    let named = |namespace: &str, pod: &String| proxy == format!("{pod}.{namespace}");
    member.member.as_str() == claimed
        && member
            .namespaces
            .iter()
            .any(|known| known.unreachable.iter().any(|pod| named(&known.name, pod)))
}

/// Returns the version of the istiod that the proxies of a revision are connected to during the
/// upgrade; in place it is the target's version.
fn istiod_minor(layout: &MeshTopology, revision: &RevisionName) -> Option<MinorVersion> {
    let lines = layout.target.iter().chain([&layout.current]);
    lines
        .into_iter()
        .find(|line| line.revision == *revision)
        .map(|line| (line.release.major, line.release.minor))
}

impl SkewRule {
    /// Returns the versions of a sidecar and of its istiod, if the sidecar is too far behind.
    fn excessive_skew(
        &self,
        layout: &MeshTopology,
        carried: &Sidecar,
    ) -> Option<(MinorVersion, MinorVersion)> {
        let (proxy, istiod) = (
            self.image_minor(&carried.image)?,
            istiod_minor(layout, &carried.revision)?,
        );
        self.exceeds_limit(proxy, istiod).then_some((proxy, istiod))
    }

    /// Returns true if a proxy is too far behind its istiod. Different major versions always are.
    fn exceeds_limit(&self, proxy: MinorVersion, istiod: MinorVersion) -> bool {
        proxy.0 != istiod.0 || istiod.1.saturating_sub(proxy.1) > self.max_minors_behind
    }

    /// Returns the version of a proxy image: from the catalogue if the image is in it, otherwise
    /// from its image tag.
    fn image_minor(&self, image: &str) -> Option<MinorVersion> {
        let known = self
            .image_versions
            .get(image)
            .map(|version| (version.major, version.minor));
        known.or_else(|| parse_minor(image.rsplit_once(':')?.1))
    }
}

/// Parses `1.25` from texts such as `1.25.1` and `1.25.1-distroless`.
fn parse_minor(text: &str) -> Option<MinorVersion> {
    let mut parts = text.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn proxy_too_old_finding(object: String, proxy: MinorVersion, istiod: MinorVersion) -> Finding {
    let message = format!(
        "Its sidecar is {}.{}, which is too old for the istiod {}.{} that it would be connected to.",
        proxy.0, proxy.1, istiod.0, istiod.1
    );
    let hint = "Restart it with `meshwright mesh restart`, or by hand, so that it takes the present sidecar; then start again.";
    new_finding(
        Severity::Block,
        ProblemCode::ProxyTooOld,
        object,
        &message,
        hint,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_off_what_images_and_proxies_say() {
        let rule = SkewRule {
            max_minors_behind: 1,
            image_versions: BTreeMap::from([(
                "hub/proxyv2:blue".into(),
                "1.26.3.1".parse().expect("a version"),
            )]),
        };
        assert_eq!(rule.image_minor("hub/proxyv2:blue"), Some((1, 26)));
        assert_eq!(
            rule.image_minor("registry:5000/proxyv2:1.25.1-distroless"),
            Some((1, 25))
        );
        assert_eq!(rule.image_minor("hub/proxyv2"), None);
        assert_eq!(rule.image_minor("hub/proxyv2:green"), None);
    }
}
