//! Which version may follow which (requirements A4, B1, B2), with numbers that are policy rows and not code.

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::Version;
use crate::release::{Release, ReleaseState};

/// How a mesh gets to another version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The revision's control plane is replaced; its name stays.
    InPlace,
    /// A second revision serves beside the first until everything has moved.
    Canary,
}

/// What a tenant's meshes may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Edition {
    /// In place only.
    #[default]
    Standard,
    /// Canary too.
    Enterprise,
    /// Canary too.
    Ultimate,
}

/// The numbers behind the rules; one row in the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradePolicy {
    /// How many minors an in-place upgrade may move, and how many a proxy may be behind the istiod that it is connected to.
    pub in_place_minors: u32,
    /// How many minors a canary may move: proxies keep their own istiod until they restart.
    pub canary_minors: u32,
    /// The lowest version that a canary may start from.
    pub canary_floor: Version,
    /// The lowest edition that may run a canary.
    pub canary_edition: Edition,
    /// Whether a target past its end of support is refused rather than warned of.
    pub refuse_unsupported: bool,
    /// Where the numbers come from.
    pub source: String,
}

/// Why a target is refused or warned of. `code` is stable and documented.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Stable identifier.
    pub code: ReasonCode,
    /// Whether it stands in the way.
    pub severity: Severity,
    /// What it means here.
    pub message: String,
}

/// The reasons that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasonCode {
    /// The target is not newer.
    NotNewer,
    /// Another major version.
    OtherMajor,
    /// More minors than the strategy may move.
    TooManyMinors,
    /// A canary between builds of one community version would need a name that exists.
    SameCommunityVersion,
    /// The edition does not include the strategy, or the release.
    Edition,
    /// The current version is below the canary floor.
    CanaryFloor,
    /// The release was withdrawn.
    Withdrawn,
    /// The release is deprecated.
    Deprecated,
    /// Past its end of support.
    EndOfSupport,
    /// A member's Kubernetes is below the release's minimum.
    KubernetesTooOld,
    /// A member's Kubernetes is above what was tested.
    KubernetesUntested,
}

/// Whether a reason stands in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Shown; there is nothing to decide.
    Note,
    /// Shown; the user may go on.
    Warn,
    /// Refused.
    Block,
}

/// What the rules look at besides the two versions.
#[derive(Debug, Clone)]
pub struct UpgradeContext<'a> {
    /// The numbers.
    pub policy: &'a UpgradePolicy,
    /// The mesh's edition.
    pub edition: Edition,
    /// Each member's name and Kubernetes version.
    pub members: &'a [(String, (u32, u32))],
    /// Today's date, for the end of support.
    pub today: Date,
}

/// Every reason for or against one step from `current` to `target`. Allowed when none of them blocks.
pub fn assess_upgrade(current: &Version, target: &Release, strategy: Strategy, around: &UpgradeContext<'_>) -> Vec<Reason> {
    let mut reasons = check_direction(current, &target.version);
    reasons.extend(check_distance(current, &target.version, strategy, around.policy));
    if strategy == Strategy::Canary {
        reasons.extend(check_canary_allowed(current, around));
    }
    reasons.extend(assess_release(target, around));
    reasons
}

/// Every reason for or against running a release at all, wherever a mesh comes from.
pub fn assess_release(target: &Release, around: &UpgradeContext<'_>) -> Vec<Reason> {
    let mut reasons = check_release_state(target, around);
    if around.edition < target.minimum_edition {
        let message = format!("{} is not for meshes of this edition", target.version);
        reasons.push(new_reason(Severity::Block, ReasonCode::Edition, message));
    }
    reasons.extend(around.members.iter().filter_map(|(member, version)| check_kubernetes(target, member, *version)));
    reasons
}

/// True when nothing blocks.
pub fn is_allowed(reasons: &[Reason]) -> bool {
    reasons.iter().all(|reason| reason.severity < Severity::Block)
}

fn new_reason(severity: Severity, code: ReasonCode, message: String) -> Reason {
    Reason { code, severity, message }
}

/// Never down, except by rollback.
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

fn check_distance(current: &Version, target: &Version, strategy: Strategy, policy: &UpgradePolicy) -> Option<Reason> {
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
        reasons.push(new_reason(Severity::Block, ReasonCode::Edition, "the mesh's edition has no canary upgrades".into()));
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
            reasons.push(new_reason(Severity::Warn, ReasonCode::Deprecated, format!("{version} is deprecated")));
        }
        ReleaseState::Withdrawn => {
            reasons.push(new_reason(Severity::Block, ReasonCode::Withdrawn, format!("{version} was withdrawn")));
        }
    }
    if target.supported_until.is_some_and(|until| until < around.today) {
        let severity = if around.policy.refuse_unsupported { Severity::Block } else { Severity::Warn };
        reasons.push(new_reason(severity, ReasonCode::EndOfSupport, format!("{version} is past its end of support")));
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
        return Some(new_reason(Severity::Block, ReasonCode::KubernetesTooOld, message));
    }
    (minor > range.tested_max).then(|| {
        let message = format!(
            "{member} runs Kubernetes {major}.{minor}; {version} was tested up to 1.{} ({})",
            range.tested_max, range.source
        );
        new_reason(Severity::Warn, ReasonCode::KubernetesUntested, message)
    })
}

/// The shortest way from `current` to `target` in allowed steps, newest stop first where several are as short.
/// `None` when there is no way.
pub fn find_upgrade_path<'a>(
    current: &Version,
    target: &Version,
    catalogue: &'a [Release],
    around: &UpgradeContext<'_>,
) -> Option<Vec<(&'a Release, Strategy)>> {
    let mut ways: Vec<Vec<(&Release, Strategy)>> = vec![Vec::new()];
    let mut reached: Vec<Version> = vec![current.clone()];
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in &ways {
            let at = way.last().map_or(current, |(release, _)| &release.version);
            for (release, strategy) in next_hops(at, catalogue, around) {
                if reached.contains(&release.version) || release.version.precedence() > target.precedence() {
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

fn next_hops<'a>(at: &Version, catalogue: &'a [Release], around: &UpgradeContext<'_>) -> Vec<(&'a Release, Strategy)> {
    let mut next: Vec<(&Release, Strategy)> = catalogue
        .iter()
        .filter_map(|release| {
            let fits = |strategy: &Strategy| is_allowed(&assess_upgrade(at, release, *strategy, around));
            [Strategy::Canary, Strategy::InPlace].into_iter().find(fits).map(|strategy| (release, strategy))
        })
        .collect();
    next.sort_by_key(|(release, _)| std::cmp::Reverse(release.version.precedence()));
    next
}

#[cfg(test)]
mod tests;
