//! Builds the problems of workloads and pods that a roll-out leaves.

use std::collections::BTreeMap;

use meshwright_model::observation::RestartBlocker;
use meshwright_model::operation::{Problem, ROLLBACK_ADVICE, SKIP_ADVICE};
use meshwright_model::plan::Sidecar;
use meshwright_model::problem::ProblemCode;

use super::{Candidate, Goal, MAX_RESTARTS_PER_WORKLOAD, OtherPod};

/// Maximum number of workloads and pods that one message names.
const MAX_NAMED: usize = 20;

/// Names the pods that are left. Several pods of one namespace are named together.
pub(super) fn describe_pods(others: &[OtherPod]) -> Vec<String> {
    let mut by_place: BTreeMap<(&str, &str), Vec<&OtherPod>> = BTreeMap::new();
    for other in others {
        by_place.entry(other.place()).or_default().push(other);
    }
    let name = |((member, namespace), pods): ((&str, &str), Vec<&OtherPod>)| {
        let first = &pods[0].user;
        match pods.len() {
            1 => format!("{first} (no workload owns it that we can restart)"),
            count => format!(
                "{count} pods of namespace {namespace} in {member}, such as {} (no workload owns them that we can restart)",
                first.name
            ),
        }
    };
    by_place.into_iter().map(name).collect()
}

/// Builds the problem of a roll-out that restarted all workloads except those that it names.
pub(super) fn partial_problem(goal: &Goal<'_>, left: &[String], not_begun: usize) -> Problem {
    let pods = goal.off.map_or_else(
        || "outdated pods".to_owned(),
        |former| format!("pods of {former}"),
    );
    let mut named = left[..left.len().min(MAX_NAMED)].join("; ");
    if left.len() > MAX_NAMED {
        named = format!("{named}; and {} more", left.len() - MAX_NAMED);
    }
    if not_begun > 0 {
        named = format!(
            "{named}. {not_begun} restarts were not begun after {} had failed",
            goal.failures
        );
    }
    Problem::new(
        ProblemCode::RolloutPartial,
        format!("These still have {pods} or do not serve: {named}."),
        format!("Solve what is listed and retry{SKIP_ADVICE}{ROLLBACK_ADVICE}."),
    )
}

pub(super) fn not_injected_problem(candidate: &Candidate) -> Problem {
    Problem::new(
        ProblemCode::NotInjected,
        format!(
            "A new pod of {} would start without a sidecar.",
            candidate.key.1
        ),
        "Restart it yourself if it is to leave the mesh, or label it to keep its sidecar; then retry.",
    )
}

pub(super) fn refused_problem(candidate: &Candidate, reason: &str) -> Problem {
    Problem::new(
        ProblemCode::NextPodRefused,
        format!(
            "A new pod of {} would be refused: {reason}.",
            candidate.key.1
        ),
        "Remove what refuses the pod, then retry.",
    )
}

pub(super) fn same_revision_problem(candidate: &Candidate, wanted: &Sidecar) -> Problem {
    Problem::new(
        ProblemCode::TemplateNamesRevision,
        format!(
            "The labels of {} still ask for {}.",
            candidate.key.1, wanted.revision
        ),
        "Let the pod template or the namespace name stable, or no revision at all; then retry.",
    )
}

pub(super) fn comes_back_problem(candidate: &Candidate) -> Problem {
    Problem::new(
        ProblemCode::InjectedByAnotherRevision,
        format!(
            "{} was restarted {MAX_RESTARTS_PER_WORKLOAD} times, and a pod with another sidecar appeared each time.",
            candidate.key.1
        ),
        "Look at what creates its pods, then retry.",
    )
}

pub(super) fn blocker_problem(candidate: &Candidate, blocker: RestartBlocker) -> Problem {
    let why = match blocker {
        RestartBlocker::Paused => "is paused",
        RestartBlocker::OnDelete => "has the update strategy OnDelete",
        RestartBlocker::Partition => "keeps some of its pods by a partition",
        RestartBlocker::SelfRolling => "is rolled by its Gateway",
        RestartBlocker::Owned => "is owned by another controller, which would take a restart back",
    };
    Problem::new(
        ProblemCode::CannotRestart,
        format!("{} {why}.", candidate.key.1),
        "Restart it yourself, then retry.",
    )
}
