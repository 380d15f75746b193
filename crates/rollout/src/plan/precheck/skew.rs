//! How far a proxy is behind the istiod that it is connected to (issue 13, D8). Workloads that an upgrade in place left
//! behind would be two minors behind after the next one, and Istio supports one.

use std::collections::BTreeMap;

use model::Version;
use model::plan::Sidecar;
use model::rules::Severity;
use model::survey::{MemberSurvey, Survey};
use model::upgrade::Finding;
use model::version::RevisionName;

use super::finding;
use crate::plan::Layout;

/// What decides whether a proxy is too far behind.
#[derive(Debug, Clone, Default)]
pub struct SkewRule {
    /// How many minors a proxy may be behind its istiod.
    pub minors: u32,
    /// The version behind each proxy image of the catalogue.
    pub images: BTreeMap<String, Version>,
}

/// Major and minor of an Istio version.
type Minor = (u32, u32);

/// One finding for each workload, each pod without a workload and each proxy without a pod that is too far behind.
pub(super) fn findings(layout: &Layout, survey: &Survey, rule: &SkewRule) -> Vec<Finding> {
    let mut found = Vec::new();
    for member in &survey.members {
        for workload in member.namespaces.iter().flat_map(|namespace| &namespace.workloads) {
            let behind = workload.live.iter().flatten().find_map(|carried| rule.behind(layout, carried));
            let object = format!("{}: {}", member.member, workload.workload);
            found.extend(behind.map(|(proxy, istiod)| too_old(object, proxy, istiod)));
        }
    }
    for proxy in &survey.proxies {
        let bare = survey.members.iter().any(|member| owns_no_workload(member, &proxy.member, &proxy.proxy));
        let (Some(version), Some(istiod)) = (minor(&proxy.version), istiod(layout, &proxy.revision)) else { continue };
        if (bare || proxy.ghost) && rule.too_far(version, istiod) {
            found.push(too_old(format!("{}: proxy {}", proxy.member, proxy.proxy), version, istiod));
        }
    }
    found
}

/// Whether a proxy belongs to a pod that no workload owns: the workloads above do not speak for it.
fn owns_no_workload(member: &MemberSurvey, claimed: &str, proxy: &str) -> bool {
    let named = |namespace: &str, pod: &String| proxy == format!("{pod}.{namespace}");
    member.member.as_str() == claimed
        && member.namespaces.iter().any(|known| known.unreachable.iter().any(|pod| named(&known.name, pod)))
}

/// The istiod that the proxies of a revision are connected to while the upgrade goes on: in place, the target's.
fn istiod(layout: &Layout, revision: &RevisionName) -> Option<Minor> {
    let lines = layout.target.iter().chain([&layout.current]);
    lines.into_iter().find(|line| line.revision == *revision).map(|line| (line.release.major, line.release.minor))
}

impl SkewRule {
    fn behind(&self, layout: &Layout, carried: &Sidecar) -> Option<(Minor, Minor)> {
        let (proxy, istiod) = (self.of_image(&carried.image)?, istiod(layout, &carried.revision)?);
        self.too_far(proxy, istiod).then_some((proxy, istiod))
    }

    fn too_far(&self, proxy: Minor, istiod: Minor) -> bool {
        proxy.0 != istiod.0 || istiod.1.saturating_sub(proxy.1) > self.minors
    }

    /// The catalogue knows its own images; of another one, its tag speaks.
    fn of_image(&self, image: &str) -> Option<Minor> {
        let known = self.images.get(image).map(|version| (version.major, version.minor));
        known.or_else(|| minor(image.rsplit_once(':')?.1))
    }
}

/// Reads `1.25` off `1.25.1` and `1.25.1-distroless`.
fn minor(text: &str) -> Option<Minor> {
    let mut parts = text.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn too_old(object: String, proxy: Minor, istiod: Minor) -> Finding {
    let message = format!(
        "Its sidecar is {}.{}, which is too old for the istiod {}.{} that it would be connected to.",
        proxy.0, proxy.1, istiod.0, istiod.1
    );
    let hint = "Restart it with `meshwright mesh restart`, or by hand, so that it takes the present sidecar; then start again.";
    finding(Severity::Block, "proxy_too_old", object, &message, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_off_what_images_and_proxies_say() {
        let rule = SkewRule {
            minors: 1,
            images: BTreeMap::from([("hub/proxyv2:blue".into(), "1.26.3.1".parse().expect("a version"))]),
        };
        assert_eq!(rule.of_image("hub/proxyv2:blue"), Some((1, 26)));
        assert_eq!(rule.of_image("registry:5000/proxyv2:1.25.1-distroless"), Some((1, 25)));
        assert_eq!(rule.of_image("hub/proxyv2"), None);
        assert_eq!(rule.of_image("hub/proxyv2:green"), None);
    }
}
