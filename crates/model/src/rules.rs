//! Decides which version may follow which (requirements A4, B1, B2). The numbers come from policy
//! rows in the database and not from code.

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::edition::Edition;
use crate::release::{Release, ReleaseState};
use crate::{Version, closed_set};

/// Way in which a mesh gets to another version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Replaces the control plane of the revision; the revision keeps its name.
    InPlace,
    /// Lets a second revision serve beside the first one until every proxy has moved.
    Canary,
}

closed_set!(Strategy {
    InPlace = "in_place",
    Canary = "canary",
});

/// Numbers that the rules use; one row in the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradePolicy {
    /// Most minors that an upgrade in place may move, and most minors that a proxy may be behind
    /// the istiod that it is connected to.
    pub in_place_minors: u32,
    /// Most minors that a canary may move. It can be higher, because proxies keep their own istiod
    /// until they restart.
    pub canary_minors: u32,
    /// Lowest version that a canary may start from.
    pub canary_floor: Version,
    /// Lowest edition that may run a canary.
    pub canary_edition: Edition,
    /// True if a target past its end of support is refused; false if it only gets a warning.
    pub refuse_unsupported: bool,
    /// Source of the numbers, for people.
    pub source: String,
}

/// Reason for which a target is refused, or gets a warning. `code` is stable and documented.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Stable identifier of the kind of reason.
    pub code: ReasonCode,
    /// Severity of the reason; `block` forbids the upgrade.
    pub severity: Severity,
    /// Description of the reason in this case.
    pub message: String,
}

/// Kinds of reasons against a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasonCode {
    /// The target is not newer than the current version.
    NotNewer,
    /// The target has another major version.
    OtherMajor,
    /// The target is more minors away than the strategy may move.
    TooManyMinors,
    /// Both versions are builds of one community version, so a canary's revision would need a name
    /// that exists already.
    SameCommunityVersion,
    /// The mesh's edition does not include the strategy, or the release.
    Edition,
    /// The current version is below the lowest version for canaries.
    CanaryFloor,
    /// The release was withdrawn from the catalogue.
    Withdrawn,
    /// The release is deprecated in the catalogue.
    Deprecated,
    /// The release is past its end of support.
    EndOfSupport,
    /// The Kubernetes version of a member is below the minimum of the release.
    KubernetesTooOld,
    /// The Kubernetes version of a member is above the versions that the release was tested on.
    KubernetesUntested,
}

closed_set!(ReasonCode {
    NotNewer = "not_newer",
    OtherMajor = "other_major",
    TooManyMinors = "too_many_minors",
    SameCommunityVersion = "same_community_version",
    Edition = "edition",
    CanaryFloor = "canary_floor",
    Withdrawn = "withdrawn",
    Deprecated = "deprecated",
    EndOfSupport = "end_of_support",
    KubernetesTooOld = "kubernetes_too_old",
    KubernetesUntested = "kubernetes_untested",
});

/// Severity of a reason or of a finding, from the least to the gravest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Shown to the user, who has nothing to decide.
    Note,
    /// Shown to the user, who may go on.
    Warn,
    /// Forbids the upgrade, or stops it until its cause is removed.
    Block,
}

closed_set!(Severity {
    Note = "note",
    Warn = "warn",
    Block = "block",
});

/// Facts that the rules look at besides the two versions.
#[derive(Debug, Clone)]
pub struct UpgradeContext<'a> {
    /// Numbers that the rules use.
    pub policy: &'a UpgradePolicy,
    /// Edition of the mesh.
    pub edition: Edition,
    /// Name and Kubernetes version, major and minor, of each member.
    pub members: &'a [(String, (u32, u32))],
    /// Date of today, which is compared with the end of support.
    pub today: Date,
}

/// Returns every reason for or against one upgrade from `current` to `target`. The upgrade is
/// allowed if no reason blocks it.
pub fn assess_upgrade(
    current: &Version,
    target: &Release,
    strategy: Strategy,
    around: &UpgradeContext<'_>,
) -> Vec<Reason> {
    let mut reasons = check_direction(current, &target.version);
    reasons.extend(check_distance(
        current,
        &target.version,
        strategy,
        around.policy,
    ));
    if strategy == Strategy::Canary {
        reasons.extend(check_canary_allowed(current, around));
    }
    reasons.extend(assess_release(target, around));
    reasons
}

/// Returns every reason for or against running a release, independent of the version that the mesh
/// comes from.
pub fn assess_release(target: &Release, around: &UpgradeContext<'_>) -> Vec<Reason> {
    let mut reasons = check_release_state(target, around);
    if around.edition < target.minimum_edition {
        let message = format!("{} is not for meshes of this edition", target.version);
        reasons.push(new_reason(Severity::Block, ReasonCode::Edition, message));
    }
    reasons.extend(
        around
            .members
            .iter()
            .filter_map(|(member, version)| check_kubernetes(target, member, *version)),
    );
    reasons
}

/// Returns true if no reason blocks the upgrade.
pub fn is_allowed(reasons: &[Reason]) -> bool {
    reasons
        .iter()
        .all(|reason| reason.severity < Severity::Block)
}

fn new_reason(severity: Severity, code: ReasonCode, message: String) -> Reason {
    Reason {
        code,
        severity,
        message,
    }
}

/// Refuses a target that is not newer. Only a rollback goes back to an older version.
fn check_direction(current: &Version, target: &Version) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if target.precedence() <= current.precedence() {
        reasons.push(new_reason(
            Severity::Block,
            ReasonCode::NotNewer,
            format!("{target} is not newer than {current}; to go back, roll an upgrade back"),
        ));
    }
    if target.major != current.major {
        reasons.push(new_reason(
            Severity::Block,
            ReasonCode::OtherMajor,
            format!("{target} is another major version than {current}"),
        ));
    }
    reasons
}

fn check_distance(
    current: &Version,
    target: &Version,
    strategy: Strategy,
    policy: &UpgradePolicy,
) -> Option<Reason> {
    let minors = target.minor.saturating_sub(current.minor);
    let (limit, word) = match strategy {
        Strategy::InPlace => (policy.in_place_minors, "in place"),
        Strategy::Canary => (policy.canary_minors, "by canary"),
    };
    if target.major == current.major && minors > limit {
        return Some(new_reason(
            Severity::Block,
            ReasonCode::TooManyMinors,
            format!("{current} to {target} is {minors} minors; {word} at most {limit}"),
        ));
    }
    (strategy == Strategy::Canary && target.is_same_community_version(current)).then(|| {
        new_reason(
            Severity::Block,
            ReasonCode::SameCommunityVersion,
            format!("{current} and {target} are builds of one community version: upgrade in place"),
        )
    })
}

fn check_canary_allowed(current: &Version, around: &UpgradeContext<'_>) -> Vec<Reason> {
    let policy = around.policy;
    let mut reasons = Vec::new();
    if around.edition < policy.canary_edition {
        reasons.push(new_reason(
            Severity::Block,
            ReasonCode::Edition,
            "the mesh's edition has no canary upgrades".into(),
        ));
    }
    if current.precedence() < policy.canary_floor.precedence() {
        reasons.push(new_reason(
            Severity::Block,
            ReasonCode::CanaryFloor,
            format!("a canary starts from {} or newer", policy.canary_floor),
        ));
    }
    reasons
}

fn check_release_state(target: &Release, around: &UpgradeContext<'_>) -> Vec<Reason> {
    let version = &target.version;
    let mut reasons = Vec::new();
    match target.state {
        ReleaseState::Available => {}
        ReleaseState::Deprecated => {
            reasons.push(new_reason(
                Severity::Warn,
                ReasonCode::Deprecated,
                format!("{version} is deprecated"),
            ));
        }
        ReleaseState::Withdrawn => {
            reasons.push(new_reason(
                Severity::Block,
                ReasonCode::Withdrawn,
                format!("{version} was withdrawn"),
            ));
        }
    }
    if target
        .supported_until
        .is_some_and(|until| until < around.today)
    {
        let severity = if around.policy.refuse_unsupported {
            Severity::Block
        } else {
            Severity::Warn
        };
        reasons.push(new_reason(
            severity,
            ReasonCode::EndOfSupport,
            format!("{version} is past its end of support"),
        ));
    }
    reasons
}

fn check_kubernetes(target: &Release, member: &str, (major, minor): (u32, u32)) -> Option<Reason> {
    let range = &target.kubernetes;
    let version = &target.version;
    if major != 1 || minor < range.min {
        let message = format!(
            "{member} runs Kubernetes {major}.{minor}; {version} needs 1.{} or newer ({})",
            range.min, range.source
        );
        return Some(new_reason(
            Severity::Block,
            ReasonCode::KubernetesTooOld,
            message,
        ));
    }
    (minor > range.tested_max).then(|| {
        let message = format!(
            "{member} runs Kubernetes {major}.{minor}; {version} was tested up to 1.{} ({})",
            range.tested_max, range.source
        );
        new_reason(Severity::Warn, ReasonCode::KubernetesUntested, message)
    })
}

/// Returns the shortest path from `current` to `target` in allowed upgrades, or `None` if there is
/// no path. If several paths are equally short, the path with the newest intermediate version is
/// chosen.
pub fn find_upgrade_path<'a>(
    current: &Version,
    target: &Version,
    catalogue: &'a [Release],
    around: &UpgradeContext<'_>,
) -> Option<Vec<(&'a Release, Strategy)>> {
    // A breadth-first search by the number of upgrades: the first path that ends at the target is a
    // shortest one.
    let mut ways: Vec<Vec<(&Release, Strategy)>> = vec![Vec::new()];
    let mut reached: Vec<Version> = vec![current.clone()];
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in &ways {
            let at = way.last().map_or(current, |(release, _)| &release.version);
            for (release, strategy) in next_hops(at, catalogue, around) {
                // Another path leads to this release with no more upgrades, or the release is newer
                // than the target.
                if reached.contains(&release.version)
                    || release.version.precedence() > target.precedence()
                {
                    continue;
                }
                let next: Vec<_> = way.iter().copied().chain([(release, strategy)]).collect();
                if release.version == *target {
                    return Some(next);
                }
                reached.push(release.version.clone());
                longer.push(next);
            }
        }
        ways = longer;
    }
    None
}

fn next_hops<'a>(
    at: &Version,
    catalogue: &'a [Release],
    around: &UpgradeContext<'_>,
) -> Vec<(&'a Release, Strategy)> {
    let mut next: Vec<(&Release, Strategy)> = catalogue
        .iter()
        .filter_map(|release| {
            let fits =
                |strategy: &Strategy| is_allowed(&assess_upgrade(at, release, *strategy, around));
            // A canary is preferred where both strategies are allowed.
            [Strategy::Canary, Strategy::InPlace]
                .into_iter()
                .find(fits)
                .map(|strategy| (release, strategy))
        })
        .collect();
    next.sort_by_key(|(release, _)| std::cmp::Reverse(release.version.precedence()));
    next
}

#[cfg(test)]
mod tests;
