//! Decides the next restarts of a roll-out from a fresh look at the workloads: a pure function. The
//! data plane is moved by looking, not by a list, because pods, workloads and namespaces come and
//! go while a roll-out runs.
//!
//! A workload that cannot be moved stands aside and stops no other one. At the end it is named with
//! its reason.

use std::collections::BTreeMap;

use meshwright_model::Name;
use meshwright_model::observation::RestartBlocker;
use meshwright_model::operation::{Problem, Progress};
use meshwright_model::plan::{FormerPods, Sidecar, Stamp, Step, WorkloadRef};

use crate::ports::NextPod;

mod evictions;
mod problems;

pub use evictions::OtherPod;
use evictions::new_evictions;

use problems::{
    blocker_problem, comes_back_problem, describe_pods, not_injected_problem, partial_problem,
    refused_problem, same_revision_problem,
};

/// Number of restarts after which a workload whose pods still come back wrong stands aside.
const MAX_RESTARTS_PER_WORKLOAD: usize = 5;

/// Member and name of a workload.
pub type WorkloadKey = (Name, WorkloadRef);

/// Pods that a roll-out replaces, and its limit.
#[derive(Debug, Clone, Copy)]
pub struct Goal<'a> {
    /// Pods of which none may be left at the end.
    pub off: Option<&'a FormerPods>,
    /// True if every pod is replaced that differs from the pod that its workload would create now.
    pub outdated: bool,
    /// True if pods are evicted that a changed template does not replace. A rollback evicts them,
    /// because it has to end.
    pub evict: bool,
    /// Number of workloads whose restart may fail before no further restart begins.
    pub max_failures: usize,
    /// Number of restarts that have failed so far and that no person has asked to try again.
    pub failures: usize,
}

impl Goal<'_> {
    pub(crate) fn has_too_many_failures(&self) -> bool {
        self.failures >= self.max_failures
    }
}

/// Workload that may need a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Member that holds the workload, and the workload.
    pub key: WorkloadKey,
    /// Sidecar of each live pod.
    pub live: Vec<Option<Sidecar>>,
    /// Reason why a changed template would not replace the pods.
    pub blocker: Option<RestartBlocker>,
    /// True for a workload in the mesh's own namespace, such as a gateway. These come last.
    pub of_mesh: bool,
    /// Restart stamp from before the upgrade, for a workload that still carries a stamp of the
    /// upgrade.
    pub former_stamp: Option<Option<String>>,
    /// Admission's answer to a new pod of the workload.
    pub next: NextPod,
}

/// Restarts of one workload that the operation has planned so far.
#[derive(Debug, Clone, Default)]
pub struct RestartHistory {
    /// Number of restarts in the plan.
    pub count: usize,
    /// Progress of the newest one.
    pub last: Progress,
    /// True if one of them evicts the pods.
    pub evicted: bool,
}

impl RestartHistory {
    fn is_open(&self) -> bool {
        self.count > 0 && !self.last.is_closed() && self.last.failed.is_none()
    }

    /// Returns the problem of the newest restart, unless a person went on without the workload.
    fn open_failure(&self) -> Option<&Problem> {
        self.last.failed.as_ref().filter(|_| !self.last.is_closed())
    }
}

/// Restart to add to the plan. An excluded one is listed with its reason and writes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRestart {
    /// Step that restarts the workload.
    pub step: Step,
    /// Reason why no restart of ours can replace the pods now.
    pub excluded: Option<Problem>,
}

/// Next action of a roll-out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextMove {
    /// Add these restarts to the plan.
    Restart(Vec<NewRestart>),
    /// Look again later, for this reason.
    Wait(String),
    /// No pod is left that has to be replaced.
    Done,
    /// Only workloads and pods are left that no restart of ours moves, as the problem says.
    Partial(Problem),
}

/// Answer for one workload.
enum Verdict {
    /// Its pods are as they should be, or are not in the mesh.
    Fine,
    /// A restart of it is under way.
    UnderWay,
    /// Its pods are replaced without us.
    RollsItself,
    /// A person decided to go on without it.
    Skipped,
    /// It needs a restart.
    Restart { wanted: Sidecar, stamp: Stamp },
    /// It cannot be moved, for this reason.
    Left { problem: Problem, failed: bool },
}

/// Decides the next action of a roll-out. `others` are live pods that no restart of ours reaches.
/// While a restart is under way the others and the failures wait.
pub fn next_move(
    goal: &Goal<'_>,
    candidates: &[Candidate],
    histories: &BTreeMap<WorkloadKey, RestartHistory>,
    others: &[OtherPod],
) -> NextMove {
    let judged: Vec<(&Candidate, RestartHistory, Verdict)> = candidates
        .iter()
        .map(|candidate| {
            let past = histories.get(&candidate.key).cloned().unwrap_or_default();
            let verdict = judge(goal, candidate, &past);
            (candidate, past, verdict)
        })
        .collect();
    let restarting = judged
        .iter()
        .filter(|(.., verdict)| matches!(verdict, Verdict::UnderWay))
        .count();
    let others: Vec<OtherPod> = others
        .iter()
        .filter(|other| !other.is_skipped())
        .cloned()
        .collect();
    let mut added = new_restarts(&judged);
    if goal.has_too_many_failures() {
        // In a rollback, the eviction that follows a failed restart is the way out of the failure.
        added.retain(|new| !goal.outdated && new.step.evicts_pods());
    }
    added.extend(new_exclusions(&judged));
    if goal.evict && restarting == 0 && added.is_empty() {
        added.extend(new_evictions(&others));
    }
    if !added.is_empty() {
        return NextMove::Restart(added);
    }
    if let Some(reason) = describe_progress(&judged, &others) {
        return NextMove::Wait(reason);
    }
    let left: Vec<String> = judged
        .iter()
        .filter_map(|(candidate, _, verdict)| left_text(candidate, verdict))
        .chain(describe_pods(&others))
        .collect();
    let not_begun = judged
        .iter()
        .filter(|(.., verdict)| matches!(verdict, Verdict::Restart { .. }))
        .count();
    if left.is_empty() && not_begun == 0 {
        NextMove::Done
    } else {
        NextMove::Partial(partial_problem(goal, &left, not_begun))
    }
}

/// Names the first workload or pod that is being replaced, and counts the others. Returns `None` if
/// there is none.
fn describe_progress(
    judged: &[(&Candidate, RestartHistory, Verdict)],
    others: &[OtherPod],
) -> Option<String> {
    let replaced = |verdict: &Verdict| matches!(verdict, Verdict::UnderWay | Verdict::RollsItself);
    let mut names = judged
        .iter()
        .filter(|(.., verdict)| replaced(verdict))
        .map(|(candidate, ..)| format!("{} in {}", candidate.key.1, candidate.key.0))
        .chain(
            others
                .iter()
                .filter(|other| other.is_under_way())
                .map(|other| other.user.to_string()),
        );
    let first = names.next()?;
    Some(match names.count() {
        0 => format!("{first} is being replaced"),
        more => format!("{first} and {more} more are being replaced"),
    })
}

/// Judges one workload.
fn judge(goal: &Goal<'_>, candidate: &Candidate, past: &RestartHistory) -> Verdict {
    if past.is_open() {
        return Verdict::UnderWay;
    }
    if past.last.skipped {
        return Verdict::Skipped;
    }
    let former = |pod: &Sidecar| goal.off.is_some_and(|off| off.include(pod));
    let used = candidate.live.iter().flatten().any(former);
    let left = |problem: Problem| Verdict::Left {
        problem,
        failed: false,
    };
    // In a roll-out, pods that do not serve are worse than old ones, so a failed restart is named even
    // if no old pod is left. A rollback only has to leave the new revision.
    if let (Some(problem), true) = (past.open_failure(), goal.outdated) {
        return Verdict::Left {
            problem: problem.clone(),
            failed: true,
        };
    }
    let wanted = match &candidate.next {
        NextPod::Injected(sidecar) => sidecar,
        NextPod::NotInjected if used => return left(not_injected_problem(candidate)),
        NextPod::Refused(reason) if used || goal.off.is_none() => {
            return left(refused_problem(candidate, reason));
        }
        NextPod::NotInjected | NextPod::Refused(_) => return Verdict::Fine,
    };
    let differs = goal.outdated
        && candidate
            .live
            .iter()
            .any(|pod| pod.as_ref() != Some(wanted));
    // A former stamp is restored once. The workload may have got another stamp since.
    let former_stamp = candidate.former_stamp.as_ref().filter(|_| past.count == 0);
    if !used && !differs && former_stamp.is_none() {
        return Verdict::Fine;
    }
    let may_evict = goal.evict && (used || differs) && !past.evicted;
    let evict = || Verdict::Restart {
        wanted: wanted.clone(),
        stamp: Stamp::Evict,
    };
    if candidate.blocker == Some(RestartBlocker::SelfRolling) {
        return Verdict::RollsItself;
    }
    if let Some(problem) = past.open_failure() {
        if may_evict && !goal.outdated && !former(wanted) {
            return evict();
        }
        return Verdict::Left {
            problem: problem.clone(),
            failed: true,
        };
    }
    if former(wanted) {
        return left(same_revision_problem(candidate, wanted));
    }
    if let Some(blocker) = candidate.blocker {
        return if may_evict {
            evict()
        } else {
            left(blocker_problem(candidate, blocker))
        };
    }
    if past.count >= MAX_RESTARTS_PER_WORKLOAD {
        return left(comes_back_problem(candidate));
    }
    Verdict::Restart {
        wanted: wanted.clone(),
        stamp: former_stamp.map_or(Stamp::Fresh, |value| Stamp::Former {
            value: value.clone(),
        }),
    }
}

/// Returns the restarts to begin. Workloads of the mesh's own namespace wait until no other one
/// needs a restart or is being restarted, because traffic enters through them.
fn new_restarts(judged: &[(&Candidate, RestartHistory, Verdict)]) -> Vec<NewRestart> {
    let is_open =
        |verdict: &Verdict| matches!(verdict, Verdict::Restart { .. } | Verdict::UnderWay);
    let others_first = judged
        .iter()
        .any(|(candidate, _, verdict)| !candidate.of_mesh && is_open(verdict));
    judged
        .iter()
        .filter(|(candidate, ..)| !(candidate.of_mesh && others_first))
        .filter_map(|(candidate, _, verdict)| match verdict {
            Verdict::Restart { wanted, stamp } => Some(NewRestart {
                step: restart_step(candidate, wanted.clone(), stamp.clone()),
                excluded: None,
            }),
            _ => None,
        })
        .collect()
}

/// Returns the entries of workloads that cannot be restarted and that the plan does not list yet.
fn new_exclusions(judged: &[(&Candidate, RestartHistory, Verdict)]) -> Vec<NewRestart> {
    let entry = |candidate: &Candidate, problem: &Problem| {
        let wanted = match &candidate.next {
            NextPod::Injected(sidecar) => sidecar.clone(),
            NextPod::NotInjected | NextPod::Refused(_) => {
                candidate.live.iter().flatten().next()?.clone()
            }
        };
        Some(NewRestart {
            step: restart_step(candidate, wanted, Stamp::Fresh),
            excluded: Some(problem.clone()),
        })
    };
    judged
        .iter()
        .filter_map(|(candidate, past, verdict)| match verdict {
            Verdict::Left {
                problem,
                failed: false,
            } if past.last.excluded.as_ref().map(|known| &known.code) != Some(&problem.code) => {
                entry(candidate, problem)
            }
            _ => None,
        })
        .collect()
}

fn restart_step(candidate: &Candidate, wanted: Sidecar, stamp: Stamp) -> Step {
    let (member, workload) = candidate.key.clone();
    Step::Restart {
        member,
        workload,
        wanted,
        stamp,
    }
}

fn left_text(candidate: &Candidate, verdict: &Verdict) -> Option<String> {
    match verdict {
        Verdict::Left { problem, .. } => Some(format!(
            "{} in {} ({})",
            candidate.key.1,
            candidate.key.0,
            problem.message.trim_end_matches('.')
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
