//! Converts objects of the service to their wire form.

use jiff::Timestamp;
use meshwright_model::credential::CredentialLifetime;
use meshwright_model::fleet::MemberRole;
use meshwright_model::leftover::Leftover;
use meshwright_model::operation::OperationState;
use meshwright_model::upgrade::{Finding, UpgradeState};
use meshwright_store::{ClusterState, MeshState};
use meshwright_wire::{
    EventKind, LeftoverKind, OperationProblem, Progress, Step, UpgradeVerb, Wave,
};

use crate::resources::rollouts::policy::policy_view;

mod data_plane;

pub(crate) use data_plane::data_plane;

/// Converts a problem of an operation or a cluster.
pub(crate) fn problem_view(problem: &meshwright_model::operation::Problem) -> OperationProblem {
    OperationProblem {
        code: problem.code.to_string(),
        message: problem.message.clone(),
        hint: problem.hint.clone(),
    }
}

/// Converts a leftover.
fn leftover(left: &Leftover) -> meshwright_wire::Leftover {
    meshwright_wire::Leftover {
        cluster: left.cluster.to_string(),
        kind: LeftoverKind::from_name(&left.kind),
        namespace: left.namespace.clone(),
        name: left.name.clone(),
        command: left.command.clone(),
    }
}

/// Converts the lifetime of a cluster's credential, with its state at the time `now`.
fn credential(life: &CredentialLifetime, now: Timestamp) -> meshwright_wire::HeldCredential {
    meshwright_wire::HeldCredential {
        serial: life.serial,
        state: life.status_at(now).into(),
        issued_at: life.issued_at,
        expires_at: life.expires_at,
        renews_at: life.renews_at(),
        previous_until: life.previous_until,
    }
}

/// Converts a cluster, with the state of its credential at the time `now`.
pub(crate) fn cluster(
    cluster: &meshwright_store::Cluster,
    now: Timestamp,
) -> meshwright_wire::Cluster {
    let problem = match &cluster.state {
        ClusterState::Unreachable(problem) | ClusterState::Refused(problem) => {
            Some(problem_view(problem))
        }
        ClusterState::Registering | ClusterState::Ready | ClusterState::Deregistering => None,
    };
    meshwright_wire::Cluster {
        id: cluster.id.to_string(),
        name: cluster.name.clone(),
        display_name: cluster.metadata.display_name.clone(),
        labels: cluster.metadata.labels.clone(),
        state: cluster.state.name().into(),
        problem,
        credential: cluster
            .credential_lifetime
            .map(|life| credential(&life, now)),
        findings: cluster.findings.iter().map(finding).collect(),
        server: cluster.server.clone(),
        kubernetes_version: cluster.kubernetes_version.clone(),
        created_at: cluster.created_at,
        observed_at: cluster.observed_at,
    }
}

/// Converts a finding.
fn finding(finding: &Finding) -> meshwright_wire::Finding {
    meshwright_wire::Finding {
        code: finding.code.to_string(),
        severity: finding.severity.into(),
        object: finding.object.clone(),
        message: finding.message.clone(),
        hint: finding.hint.clone(),
    }
}

/// Converts a revision. Switches are shown under the names of istiod's variables.
fn revision(revision: &meshwright_store::Revision) -> meshwright_wire::Revision {
    let switches = revision
        .switches
        .iter()
        .map(|(switch, value)| (switch.env_var().to_owned(), value.clone()));
    meshwright_wire::Revision {
        name: revision.name.to_string(),
        version: revision.version.to_string(),
        switches: switches.collect(),
    }
}

/// Converts a mesh. The first member is the config cluster.
pub(crate) fn mesh(mesh: &meshwright_store::Mesh) -> meshwright_wire::Mesh {
    let members =
        mesh.members
            .iter()
            .enumerate()
            .map(|(position, member)| meshwright_wire::Member {
                cluster_id: member.cluster.to_string(),
                name: member.name.clone(),
                role: if position == 0 {
                    MemberRole::Config.into()
                } else {
                    MemberRole::Remote.into()
                },
            });
    meshwright_wire::Mesh {
        id: mesh.id.to_string(),
        name: mesh.name.clone(),
        display_name: mesh.metadata.display_name.clone(),
        labels: mesh.metadata.labels.clone(),
        deletion_protection: mesh.deletion_protection,
        namespace: mesh.namespace(),
        edition: mesh.edition.into(),
        state: mesh.state.name().into(),
        problem: if let MeshState::Failed(problem) = &mesh.state {
            Some(problem_view(problem))
        } else {
            None
        },
        current: revision(&mesh.current),
        target: mesh.target.as_ref().map(revision),
        members: members.collect(),
        busy_with: mesh.lock_holder.clone(),
        created_at: mesh.created_at,
        deleted_at: mesh.deleted_at,
        leftovers: mesh.leftovers.iter().map(leftover).collect(),
    }
}

/// Converts an upgrade, with the verbs that its state allows.
pub(crate) fn upgrade(upgrade: &meshwright_store::Upgrade) -> meshwright_wire::Upgrade {
    let accepted = upgrade.acceptance.as_ref();
    meshwright_wire::Upgrade {
        id: upgrade.id.to_string(),
        mesh_id: upgrade.mesh.to_string(),
        from_version: upgrade.from.to_string(),
        to_version: upgrade.to.to_string(),
        strategy: upgrade.choice.strategy.into(),
        rollout: policy_view(&upgrade.rollout),
        state: upgrade.state.name().into(),
        allowed_verbs: upgrade
            .state
            .allowed_verbs()
            .into_iter()
            .map(|verb| UpgradeVerb::from_name(verb.as_str()))
            .collect(),
        findings: upgrade.findings.iter().map(finding).collect(),
        findings_accepted_by: accepted.map(|(by, _)| by.clone()),
        findings_accepted_at: accepted.map(|(_, at)| *at),
        problem: match &upgrade.state {
            UpgradeState::Paused { problem, .. }
            | UpgradeState::Restoring { problem }
            | UpgradeState::Verifying {
                problem: Some(problem),
                ..
            } => Some(problem_view(problem)),
            _ => None,
        },
        holding_until: if let UpgradeState::Holding { until } = upgrade.state {
            Some(until)
        } else {
            None
        },
        operation_id: upgrade.operation.map(|id| id.to_string()),
        done: upgrade.state.is_terminal(),
        created_at: upgrade.created_at,
        ended_at: upgrade.ended_at,
    }
}

/// Converts an operation without its steps, with the number of completed steps and of all steps.
pub(crate) fn operation(
    operation: &meshwright_store::Operation,
    (completed, total): (i64, i64),
) -> meshwright_wire::Operation {
    let problem = match &operation.state {
        OperationState::Paused { problem } | OperationState::Failed { problem } => {
            Some(problem_view(problem))
        }
        _ => None,
    };
    meshwright_wire::Operation {
        id: operation.id.to_string(),
        kind: operation.kind.into(),
        state: operation.state.name().into(),
        problem,
        done: operation.state.is_terminal(),
        mesh_id: operation.mesh.map(|id| id.to_string()),
        cluster_id: operation.cluster.map(|id| id.to_string()),
        upgrade_id: operation.upgrade.map(|id| id.to_string()),
        progress: Progress { completed, total },
        waiting_for: waiting_reason(operation),
        pending_verbs: operation
            .pending_signals
            .iter()
            .copied()
            .map(Into::into)
            .collect(),
        reason: operation.force_reason().map(str::to_owned),
        leftovers: operation.leftovers.iter().map(leftover).collect(),
        waves: Vec::new(),
        created_at: operation.created_at,
        ended_at: operation.ended_at,
    }
}

/// Returns what an operation waits for: the reason of its state if it rests, for example until a
/// silent cluster answers, or else the reason of the step that it waits for.
fn waiting_reason(operation: &meshwright_store::Operation) -> Option<String> {
    match &operation.state {
        OperationState::Waiting { reason, .. } => Some(reason.clone()),
        state if state.is_terminal() => None,
        _ => operation.waiting_for.clone(),
    }
}

/// Converts an operation together with its waves and steps.
pub(crate) fn operation_with_steps(
    found: &meshwright_store::Operation,
    items: &[meshwright_store::PlannedStep],
) -> meshwright_wire::Operation {
    let count = |length: usize| i64::try_from(length).unwrap_or(i64::MAX);
    let done = items.iter().filter(|item| item.progress.done).count();
    let heads = found.waves.as_deref().unwrap_or_default();
    let steps = |wave: usize| {
        items
            .iter()
            .filter(move |item| item.wave == wave)
            .map(step)
            .collect()
    };
    let waves = heads.iter().enumerate().map(|(index, head)| Wave {
        title: head.title.clone(),
        steps: steps(index),
    });
    meshwright_wire::Operation {
        waves: waves.collect(),
        ..operation(found, (count(done), count(items.len())))
    }
}

/// Converts a step with its state.
fn step(item: &meshwright_store::PlannedStep) -> Step {
    Step {
        number: item.number,
        title: item.step.to_string(),
        state: item.progress.state().into(),
        problem: item
            .progress
            .failed
            .as_ref()
            .or(item.progress.excluded.as_ref())
            .map(problem_view),
    }
}

/// Converts an event.
pub(crate) fn event(event: meshwright_store::Event) -> meshwright_wire::Event {
    meshwright_wire::Event {
        seq: event.seq,
        at: event.at,
        kind: EventKind::from_name(event.kind),
        mesh_id: event.mesh.map(|id| id.to_string()),
        upgrade_id: event.upgrade.map(|id| id.to_string()),
        operation_id: event.operation.map(|id| id.to_string()),
        body: event.body,
    }
}
