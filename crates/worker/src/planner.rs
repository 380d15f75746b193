//! Builds the plan of an operation: reads what the pure functions of `rollout` need, and calls the
//! function for the operation's kind.

use std::collections::{BTreeMap, BTreeSet};

use meshwright_model::Name;
use meshwright_model::leftover::Leftover;
use meshwright_model::observation::{Observation, foreign_istio_problem};
use meshwright_model::operation::{OperationKind, Problem};
use meshwright_model::plan::{Plan, Step, Target};
use meshwright_model::problem::ProblemCode;
use meshwright_rollout::plan::{
    ControlPlane, MeshTopology, NamespaceKey, canary, data_plane, in_place, lifecycle, rollback,
};
use meshwright_rollout::ports::{ClusterError, MeshClusters};
use meshwright_store::Operation;
use serde::Deserialize;

/// Reason why no plan could be built.
#[derive(Debug)]
pub(crate) enum PlanError {
    /// A cluster did not answer or refused a call.
    Cluster(ClusterError),
    /// A member of a forced deletion is lost to us, but not yet for long enough to leave it behind.
    /// The deletion waits, even if the member refuses us: an authenticator can fail for a moment.
    Lost(ClusterError),
    /// A problem that a person has to solve.
    Problem(Problem),
}

impl From<Problem> for PlanError {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<ClusterError> for PlanError {
    fn from(error: ClusterError) -> Self {
        Self::Cluster(error)
    }
}

/// Arguments of an operation of the kind `move`: the namespaces of each member.
#[derive(Debug, Deserialize)]
struct MoveArguments {
    namespaces: Vec<NamespaceKey>,
}

/// Arguments of an operation of the kind `set_injection`.
#[derive(Debug, Deserialize)]
struct SetInjectionArguments {
    member: Name,
    namespace: String,
    label: Option<String>,
}

/// Steps that the stages of an upgrade have started, with their captures, oldest first.
pub(crate) type StepHistory = Vec<(OperationKind, Step, Option<String>)>;

/// Builds the plan of an operation from a fresh observation of the clusters. `given_up` returns true
/// when the operation has waited for an answer longer than the timeout; it is called after a member
/// did not answer, because that look takes time too. No database transaction is open meanwhile,
/// because clusters can be slow to answer.
pub(crate) async fn build_plan(
    operation: &Operation,
    layout: &MeshTopology,
    world: &dyn MeshClusters,
    (history, given_up): (StepHistory, &(dyn Fn() -> bool + Sync)),
) -> Result<Plan, PlanError> {
    use OperationKind as Kind;
    match operation.kind {
        Kind::CreateMesh => {
            check_no_foreign_istio(&world.observe_mesh().await?)?;
            with_current_values(lifecycle::plan_create(layout), world, is_left_in_member).await
        }
        Kind::DeleteMesh => {
            let seen = check_member_reachability(operation, layout, world, given_up).await?;
            let plan = lifecycle::plan_delete(layout, &seen);
            let chosen = if layout.target.is_some() {
                is_removal
            } else {
                is_removal_of_member_objects
            };
            with_current_values(plan, world, chosen).await
        }
        Kind::Restart => Ok(data_plane::plan_restart(
            layout,
            &world.observe_mesh().await?,
        )),
        Kind::SetInjection => plan_injection_change(operation, &world.observe_mesh().await?),
        Kind::Deploy => Ok(if is_canary(layout)? {
            canary::plan_deploy(layout, require_target(layout)?)
        } else {
            in_place::plan_deploy(layout, require_target(layout)?)
        }),
        Kind::Move => {
            let chosen: MoveArguments = parse_arguments(operation)?;
            Ok(data_plane::plan_namespace_move(
                layout,
                require_target(layout)?,
                &world.observe_mesh().await?,
                &chosen.namespaces,
            ))
        }
        Kind::Promote => Ok(canary::plan_promote(layout, require_target(layout)?)),
        Kind::Restore => {
            let promotions = history
                .into_iter()
                .filter(|(kind, ..)| matches!(kind, Kind::Promote | Kind::Restore));
            let started: Vec<_> = promotions
                .map(|(_, step, capture)| (step, capture))
                .collect();
            Ok(canary::plan_restore(layout, &started))
        }
        Kind::Roll => Ok(data_plane::plan_roll(
            layout,
            require_target(layout)?,
            &world.observe_mesh().await?,
            &labels_before_move(&history),
        )),
        // An upgrade in place leaves no second revision to remove.
        Kind::Retire => Ok(if is_canary(layout)? {
            canary::plan_retire(layout)
        } else {
            Plan::default()
        }),
        Kind::Rollback => {
            let started: Vec<_> = history
                .into_iter()
                .map(|(_, step, capture)| (step, capture))
                .collect();
            Ok(rollback::plan_rollback(
                layout,
                require_target(layout)?,
                &started,
                &world.observe_mesh().await?,
            ))
        }
        Kind::RegisterCluster
        | Kind::RenewCredential
        | Kind::DeregisterCluster
        | Kind::Precheck => Ok(Plan::default()),
    }
}

/// Refuses to plan while a member has a foreign Istio, which may have been installed since the
/// cluster was registered. The mesh is only written after that Istio is removed.
fn check_no_foreign_istio(survey: &Observation) -> Result<(), PlanError> {
    match survey
        .members
        .iter()
        .find(|member| !member.foreign.is_empty())
    {
        Some(member) => Err(PlanError::Problem(foreign_istio_problem(
            member.member.as_str(),
            &member.foreign,
        ))),
        None => Ok(()),
    }
}

/// Checks each member before a deletion. A member is left behind only if the deletion is forced and
/// the cluster has been lost to us for longer than the timeout.
async fn check_member_reachability(
    operation: &Operation,
    layout: &MeshTopology,
    world: &dyn MeshClusters,
    given_up: &(dyn Fn() -> bool + Sync),
) -> Result<lifecycle::MemberReachability, PlanError> {
    let mut seen = lifecycle::MemberReachability::default();
    for member in &layout.members {
        match world.list_injectors(member).await {
            Ok(injectors) => seen.answering.push((member.clone(), injectors)),
            Err(error) if operation.is_forced() && error.is_lost() => {
                if !given_up() {
                    return Err(PlanError::Lost(error));
                }
                seen.left_behind.push(member.clone());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(seen)
}

/// Makes the chosen steps of a plan start from the present values of their targets. An abandoned
/// upgrade may have left the value of either revision. A step whose target has its goal already
/// keeps its start, so that a target with a former address is still written once more.
async fn with_current_values(
    mut plan: Plan,
    world: &dyn MeshClusters,
    chosen: fn(&Target, Option<&str>) -> bool,
) -> Result<Plan, PlanError> {
    for wave in &mut plan.waves {
        for step in &mut wave.steps {
            if let Step::Set { target, from, to } = step
                && chosen(target, to.as_deref())
                && let Some(value) = world.observe_target(target).await?.value
                && to.as_ref() != Some(&value)
            {
                *from = Some(value);
            }
        }
    }
    Ok(plan)
}

/// Returns true for a step that removes its target.
fn is_removal(_: &Target, to: Option<&str>) -> bool {
    to.is_none()
}

/// Returns true for a step that removes the objects of a revision from a member. A deletion also
/// removes revisions that the mesh no longer has, and their release is not recorded.
fn is_removal_of_member_objects(target: &Target, to: Option<&str>) -> bool {
    to.is_none() && matches!(target, Target::MemberObjects { .. })
}

/// Returns true for the targets of a creation that can have a value of another revision or release,
/// in a member that an earlier deletion of the mesh left behind. Objects of others count as absent.
fn is_left_in_member(target: &Target, _: Option<&str>) -> bool {
    matches!(
        target,
        Target::MemberObjects { .. } | Target::Tag { .. } | Target::Validator { .. }
    )
}

/// Tags that each member was last known to have. They name the objects in a member that cannot be
/// asked.
pub(crate) type KnownTags = BTreeMap<Name, BTreeSet<String>>;

/// Lists the objects that stay in the members after the deletion that a plan carries out.
pub(crate) async fn list_plan_leftovers(
    plan: &Plan,
    layout: &MeshTopology,
    world: &dyn MeshClusters,
    known_tags: &KnownTags,
) -> Result<Vec<Leftover>, ClusterError> {
    let behind = left_behind_members(plan);
    let (mut left, none) = (Vec::new(), BTreeSet::new());
    for member in &layout.members {
        let tags = known_tags.get(member).unwrap_or(&none);
        let tags = behind.contains(member).then_some(tags);
        for line in layout.control_planes() {
            for object in world.list_leftovers(member, line, tags).await? {
                // Some objects belong to both control planes and are listed once.
                if !left.contains(&object) {
                    left.push(object);
                }
            }
        }
    }
    Ok(left)
}

/// Returns the members that a plan leaves behind.
pub(crate) fn left_behind_members<'a>(plan: &'a Plan) -> BTreeSet<&'a Name> {
    let member = |step: &'a Step| {
        if let Step::LeaveBehind { member } = step {
            Some(member)
        } else {
            None
        }
    };
    plan.waves
        .iter()
        .flat_map(|wave| &wave.steps)
        .filter_map(member)
        .collect()
}

/// Returns the second control plane of the mesh, or a problem if the mesh has none.
fn require_target(layout: &MeshTopology) -> Result<&ControlPlane, PlanError> {
    let missing = || {
        Problem::new(
            ProblemCode::NoTarget,
            "The mesh has no second revision.",
            "Plan the upgrade again.",
        )
    };
    layout
        .target
        .as_ref()
        .ok_or_else(|| PlanError::Problem(missing()))
}

/// Returns true if the target has a revision of its own, and false for an upgrade in place.
fn is_canary(layout: &MeshTopology) -> Result<bool, PlanError> {
    Ok(require_target(layout)?.revision != layout.current.revision)
}

/// Parses the arguments of an operation.
fn parse_arguments<T: serde::de::DeserializeOwned>(operation: &Operation) -> Result<T, Problem> {
    let unknown = |_| {
        Problem::new(
            ProblemCode::UnknownArguments,
            "The operation's arguments cannot be read.",
            "It was written by a newer server: upgrade this one.",
        )
    };
    serde_json::from_value(operation.arguments.clone()).map_err(unknown)
}

/// Returns the labels that namespaces had before they were moved to the canary.
fn labels_before_move(history: &StepHistory) -> BTreeMap<NamespaceKey, Option<String>> {
    let mut labels = BTreeMap::new();
    for (kind, step, capture) in history {
        if let (
            OperationKind::Move,
            Step::Set {
                target: Target::NamespaceLabel { member, namespace },
                ..
            },
        ) = (kind, step)
        {
            labels
                .entry((member.clone(), namespace.clone()))
                .or_insert_with(|| capture.clone());
        }
    }
    labels
}

/// Builds the plan that changes the injection label of one namespace.
fn plan_injection_change(operation: &Operation, survey: &Observation) -> Result<Plan, PlanError> {
    let wanted: SetInjectionArguments = parse_arguments(operation)?;
    let namespace = survey
        .members
        .iter()
        .filter(|member| member.member == wanted.member)
        .flat_map(|member| &member.namespaces);
    let Some(found) = namespace
        .into_iter()
        .find(|namespace| namespace.name == wanted.namespace)
    else {
        let message = format!(
            "There is no namespace {} in {}.",
            wanted.namespace, wanted.member
        );
        return Err(PlanError::Problem(Problem::new(
            ProblemCode::NamespaceNotFound,
            message,
            "Create it, then retry.",
        )));
    };
    let target = Target::NamespaceLabel {
        member: wanted.member,
        namespace: wanted.namespace,
    };
    let step = Step::Set {
        target,
        from: data_plane::label_value(&found.labels),
        to: wanted.label,
    };
    Ok(Plan::default().with_wave("namespace label", [step]))
}
