//! Builds the stages of an upgrade over small worlds: their plans, with the real planner, and the
//! steps that the stages before them have started.

use std::collections::BTreeMap;
use std::sync::Arc;

use meshwright_model::operation::OperationKind;
use meshwright_model::plan::{Plan, Stamp, Step, Target};
use meshwright_model::rollout::RolloutPolicy;
use meshwright_model::upgrade::LabelPolicy;
use meshwright_rollout::converge::WorkloadKey;
use meshwright_rollout::plan::rollback::{StartedStep, former_stamps, plan_rollback};
use meshwright_rollout::plan::{MeshTopology, NamespaceKey, canary, data_plane};
use meshwright_rollout::ports::{ClusterError, MeshClusters};

use super::cells::{
    MEMBERS, NAMESPACE, NEW, OLD, Value, control_plane, member_name, tag_name, workload,
};
use super::description::{Description, History};
use super::world::World;

/// Stage of an upgrade with the history that it begins with.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) kind: OperationKind,
    topology: MeshTopology,
    history: Vec<StartedStep>,
    /// Labels of the namespaces that were moved to the canary, from before.
    moved: BTreeMap<NamespaceKey, Option<String>>,
    /// Targets of the earlier operation's steps that were started and not done.
    pub(super) open_targets: Vec<Target>,
    pub(super) former_stamps: Arc<BTreeMap<WorkloadKey, Option<String>>>,
}

impl Stage {
    /// Builds the stage that a world describes.
    pub(super) fn of(world: &Description) -> Self {
        let topology = topology();
        let history = history_of(world, &topology);
        let moved = moved_labels(world);
        let open_targets = match world.history {
            History::PromotionCut => vec![cut_target()],
            _ => Vec::new(),
        };
        Self::with_history(world.stage.kind(), history, moved, open_targets)
    }

    /// Builds the stage that restores what a failed promotion has started.
    pub(super) fn restore(started: Vec<StartedStep>) -> Self {
        Self::with_history(OperationKind::Restore, started, BTreeMap::new(), Vec::new())
    }

    fn with_history(
        kind: OperationKind,
        history: Vec<StartedStep>,
        moved: BTreeMap<NamespaceKey, Option<String>>,
        open_targets: Vec<Target>,
    ) -> Self {
        let stamps = if kind == OperationKind::Rollback {
            former_stamps(&history)
        } else {
            BTreeMap::new()
        };
        Self {
            kind,
            topology: topology(),
            history,
            moved,
            open_targets,
            former_stamps: Arc::new(stamps),
        }
    }

    /// Builds the plan as the worker does.
    pub(super) async fn build_plan(&self, world: &World) -> Result<Plan, ClusterError> {
        let topology = &self.topology;
        let target = topology.target.as_ref().expect("an upgrade has a target");
        Ok(match self.kind {
            OperationKind::Deploy => canary::plan_deploy(topology, target),
            OperationKind::Promote => canary::plan_promote(topology, target),
            OperationKind::Restore => canary::plan_restore(topology, &self.history),
            OperationKind::Roll => {
                data_plane::plan_roll(topology, target, &world.observe_mesh().await?, &self.moved)
            }
            OperationKind::Retire => canary::plan_retire(topology),
            OperationKind::Rollback => plan_rollback(
                topology,
                target,
                &self.history,
                &world.observe_mesh().await?,
            ),
            kind => unreachable!("{kind:?} is no stage of a small world"),
        })
    }
}

/// Returns the topology of every small world.
fn topology() -> MeshTopology {
    MeshTopology {
        members: (0..MEMBERS).map(member_name).collect(),
        current: control_plane(OLD),
        target: Some(control_plane(NEW)),
        max_concurrent_restarts: 2,
        label_policy: LabelPolicy::Relabel,
        rollout: RolloutPolicy::default(),
    }
}

/// Target at which a promotion was cut off: the second tag of the first member.
fn cut_target() -> Target {
    Target::Tag {
        member: member_name(0),
        tag: tag_name(1).to_owned(),
    }
}

/// Returns the steps of a plan that write, as started from their first value.
fn started_steps(plan: &Plan) -> impl Iterator<Item = StartedStep> + '_ {
    let steps = plan.waves.iter().flat_map(|wave| &wave.steps);
    steps.filter_map(|step| match step {
        Step::Set { from, .. } => Some((step.clone(), from.clone())),
        _ => None,
    })
}

/// Returns the steps that the stages before the described one have started.
fn history_of(world: &Description, topology: &MeshTopology) -> Vec<StartedStep> {
    let target = topology.target.as_ref().expect("an upgrade has a target");
    let deployed = canary::plan_deploy(topology, target);
    let promoted = canary::plan_promote(topology, target);
    let promotion = started_steps(&promoted);
    // Two tags of each member come first, and validation last.
    let of_promotion = match world.history {
        History::None | History::LeftInMember | History::Moved | History::Deployed => 0,
        History::PromotionCut => 2,
        History::FirstMemberPromoted => 3,
        History::Promoted | History::Rolled => 5,
    };
    let mut steps: Vec<StartedStep> = match world.stage.kind() {
        OperationKind::Restore => promotion.take(of_promotion).collect(),
        _ => started_steps(&deployed)
            .chain(promotion.take(of_promotion))
            .collect(),
    };
    if world.history == History::Rolled {
        steps.extend((0..MEMBERS).flat_map(|member| rolled_steps(world, member)));
    }
    steps
}

/// Returns the steps that a roll-out has started in a member.
fn rolled_steps(world: &Description, member: usize) -> Vec<StartedStep> {
    let mut steps = Vec::new();
    if world.members[member].names_revision() {
        let from = Value::label_of(OLD).text();
        let step = Step::Set {
            target: label_target(member),
            from: from.clone(),
            to: Value::label_of(NEW).text(),
        };
        steps.push((step, from));
    }
    let restart = Step::Restart {
        member: member_name(member),
        workload: workload(),
        wanted: control_plane(NEW).sidecar(),
        stamp: Stamp::Fresh,
    };
    steps.push((restart, None));
    steps
}

fn label_target(member: usize) -> Target {
    Target::NamespaceLabel {
        member: member_name(member),
        namespace: NAMESPACE.to_owned(),
    }
}

/// Returns the labels from before the move of namespaces to the canary.
fn moved_labels(world: &Description) -> BTreeMap<NamespaceKey, Option<String>> {
    let mut labels = BTreeMap::new();
    if world.history == History::Moved {
        let label = world.members[0].label_before();
        labels.insert((member_name(0), NAMESPACE.to_owned()), label.text());
    }
    labels
}
