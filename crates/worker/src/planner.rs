//! From an operation to its plan: reads what the pure functions need, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use model::Name;
use model::leftover::Leftover;
use model::operation::{OperationKind, Problem};
use model::plan::{Plan, Step, Target};
use model::survey::{Observation, foreign_istio_problem};
use rollout::plan::{MeshTopology, ControlPlane, NamespaceKey, canary, data_plane, in_place, life, rollback};
use rollout::ports::{MeshClusters, ClusterError};
use serde::Deserialize;
use store::Operation;

/// Why there is no plan.
#[derive(Debug)]
pub(crate) enum PlanError {
    /// A cluster did not answer.
    Cluster(ClusterError),
    /// A person has to act.
    Problem(Problem),
}

impl From<ClusterError> for PlanError {
    fn from(error: ClusterError) -> Self {
        Self::Cluster(error)
    }
}

/// Arguments of `move`: the namespaces of each member.
#[derive(Debug, Deserialize)]
struct MoveArguments {
    namespaces: Vec<NamespaceKey>,
}

/// Arguments of `set_injection`.
#[derive(Debug, Deserialize)]
struct SetInjectionArguments {
    member: Name,
    namespace: String,
    label: Option<String>,
}

/// What an upgrade's stages have started, oldest first.
pub(crate) type StepHistory = Vec<(OperationKind, Step, Option<String>)>;

/// Builds the plan from a fresh look. `given_up` says that an answer was waited for long enough. No transaction is open
/// meanwhile: clusters take their time.
pub(crate) async fn build_plan(
    operation: &Operation,
    layout: &MeshTopology,
    world: &dyn MeshClusters,
    (history, given_up): (StepHistory, bool),
) -> Result<Plan, PlanError> {
    use OperationKind as Kind;
    match operation.kind {
        Kind::CreateMesh => {
            check_no_foreign_istio(&world.observe_mesh().await?)?;
            Ok(life::plan_create(layout))
        }
        Kind::DeleteMesh => {
            let plan = life::plan_delete(layout, &check_member_reachability(operation, layout, world, given_up).await?);
            if layout.target.is_some() { with_current_values(plan, world).await } else { Ok(plan) }
        }
        Kind::Restart => Ok(data_plane::plan_restart(layout, &world.observe_mesh().await?)),
        Kind::SetInjection => plan_injection_change(operation, &world.observe_mesh().await?),
        Kind::Deploy => Ok(if is_canary(layout)? {
            canary::plan_deploy(layout, require_target(layout)?)
        } else {
            in_place::plan_deploy(layout, require_target(layout)?)
        }),
        Kind::Move => {
            let chosen: MoveArguments = parse_arguments(operation)?;
            Ok(data_plane::plan_namespace_move(layout, require_target(layout)?, &world.observe_mesh().await?, &chosen.namespaces))
        }
        Kind::Promote => Ok(canary::plan_promote(layout, require_target(layout)?)),
        Kind::Restore => {
            let promotions = history.into_iter().filter(|(kind, ..)| matches!(kind, Kind::Promote | Kind::Restore));
            let started: Vec<_> = promotions.map(|(_, step, capture)| (step, capture)).collect();
            Ok(canary::plan_restore(layout, &started))
        }
        Kind::Roll => Ok(data_plane::plan_roll(layout, require_target(layout)?, &world.observe_mesh().await?, &labels_before_move(&history))),
        // In place there is nothing left to remove.
        Kind::Retire => Ok(if is_canary(layout)? { canary::plan_retire(layout) } else { Plan::default() }),
        Kind::Rollback => {
            let started: Vec<_> = history.into_iter().map(|(_, step, capture)| (step, capture)).collect();
            Ok(rollback::plan_rollback(layout, require_target(layout)?, &started, &world.observe_mesh().await?))
        }
        Kind::RegisterCluster | Kind::RenewCredential | Kind::DeregisterCluster | Kind::Precheck => Ok(Plan::default()),
    }
}

/// A cluster may have got another Istio since it was registered. Nothing is written before that is gone.
fn check_no_foreign_istio(survey: &Observation) -> Result<(), PlanError> {
    match survey.members.iter().find(|member| !member.foreign.is_empty()) {
        Some(member) => Err(PlanError::Problem(foreign_istio_problem(member.member.as_str(), &member.foreign))),
        None => Ok(()),
    }
}

/// Looks at each member before a deletion. Only with force, and only a member that has been lost to us for some time, is one
/// left behind.
async fn check_member_reachability(
    operation: &Operation,
    layout: &MeshTopology,
    world: &dyn MeshClusters,
    given_up: bool,
) -> Result<life::MemberReachability, PlanError> {
    let leaves = operation.is_forced() && given_up;
    let mut seen = life::MemberReachability::default();
    for member in &layout.members {
        match world.list_injectors(member).await {
            Ok(injectors) => seen.answering.push((member.clone(), injectors)),
            Err(error) if leaves && error.is_lost() => seen.left_behind.push(member.clone()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(seen)
}

/// A plan that takes down what an abandoned upgrade has left: each target is removed from the value that it has now, which
/// may be that of either revision.
async fn with_current_values(mut plan: Plan, world: &dyn MeshClusters) -> Result<Plan, PlanError> {
    for wave in &mut plan.waves {
        for step in &mut wave.steps {
            if let Step::Set { target, from, to: None } = step
                && let Some(value) = world.observe_target(target).await?.value
            {
                *from = Some(value);
            }
        }
    }
    Ok(plan)
}

/// Objects that stay in the members after the deletion that a plan carries out.
pub(crate) async fn list_plan_leftovers(plan: &Plan, layout: &MeshTopology, world: &dyn MeshClusters) -> Result<Vec<Leftover>, ClusterError> {
    let behind = left_behind_members(plan);
    let mut left = Vec::new();
    for member in &layout.members {
        for line in layout.control_planes() {
            for object in world.list_leftovers(member, line, behind.contains(member)).await? {
                // Both control planes share some.
                if !left.contains(&object) {
                    left.push(object);
                }
            }
        }
    }
    Ok(left)
}

/// The members that a plan leaves behind.
pub(crate) fn left_behind_members<'a>(plan: &'a Plan) -> BTreeSet<&'a Name> {
    let member = |step: &'a Step| if let Step::LeaveBehind { member } = step { Some(member) } else { None };
    plan.waves.iter().flat_map(|wave| &wave.steps).filter_map(member).collect()
}

fn require_target(layout: &MeshTopology) -> Result<&ControlPlane, PlanError> {
    let missing = || Problem::new("no_target", "The mesh has no second revision.", "Plan the upgrade again.");
    layout.target.as_ref().ok_or_else(|| PlanError::Problem(missing()))
}

fn is_canary(layout: &MeshTopology) -> Result<bool, PlanError> {
    Ok(require_target(layout)?.revision != layout.current.revision)
}

fn parse_arguments<T: serde::de::DeserializeOwned>(operation: &Operation) -> Result<T, PlanError> {
    let unknown = |_| {
        Problem::new(
            "unknown_arguments",
            "The operation's arguments cannot be read.",
            "It was written by a newer server: upgrade this one.",
        )
    };
    serde_json::from_value(operation.arguments.clone()).map_err(|error| PlanError::Problem(unknown(error)))
}

/// The labels that namespaces had before they were moved to the canary.
fn labels_before_move(history: &StepHistory) -> BTreeMap<NamespaceKey, Option<String>> {
    let mut labels = BTreeMap::new();
    for (kind, step, capture) in history {
        if let (OperationKind::Move, Step::Set { target: Target::NamespaceLabel { member, namespace }, .. }) =
            (kind, step)
        {
            labels.entry((member.clone(), namespace.clone())).or_insert_with(|| capture.clone());
        }
    }
    labels
}

fn plan_injection_change(operation: &Operation, survey: &Observation) -> Result<Plan, PlanError> {
    let wanted: SetInjectionArguments = parse_arguments(operation)?;
    let namespace =
        survey.members.iter().filter(|member| member.member == wanted.member).flat_map(|member| &member.namespaces);
    let Some(found) = namespace.into_iter().find(|namespace| namespace.name == wanted.namespace) else {
        let message = format!("There is no namespace {} in {}.", wanted.namespace, wanted.member);
        return Err(PlanError::Problem(Problem::new("namespace_not_found", message, "Create it, then retry.")));
    };
    let target = Target::NamespaceLabel { member: wanted.member, namespace: wanted.namespace };
    let step = Step::Set { target, from: data_plane::label_value(&found.labels), to: wanted.label };
    Ok(Plan::default().with_wave("namespace label", [step]))
}
