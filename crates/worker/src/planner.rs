//! From an operation to its plan: reads what the pure functions need, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use model::Name;
use model::leftover::Leftover;
use model::operation::{OperationKind, Problem};
use model::plan::{Plan, Step, Target};
use model::survey::{Survey, foreign_istio};
use rollout::plan::{Layout, Line, NamespaceKey, canary, data_plane, in_place, life, rollback};
use rollout::ports::{World, WorldError};
use serde::Deserialize;
use store::Operation;

/// Why there is no plan.
#[derive(Debug)]
pub(crate) enum NoPlan {
    /// A cluster did not answer.
    World(WorldError),
    /// A person has to act.
    Problem(Problem),
}

impl From<WorldError> for NoPlan {
    fn from(error: WorldError) -> Self {
        Self::World(error)
    }
}

/// Arguments of `move`: the namespaces of each member.
#[derive(Debug, Deserialize)]
struct MoveArguments {
    namespaces: Vec<NamespaceKey>,
}

/// Arguments of `set_injection`.
#[derive(Debug, Deserialize)]
struct LabelArguments {
    member: Name,
    namespace: String,
    label: Option<String>,
}

/// What an upgrade's stages have started, oldest first.
pub(crate) type History = Vec<(OperationKind, Step, Option<String>)>;

/// Builds the plan from a fresh look. `given_up` says that an answer was waited for long enough. No transaction is open
/// meanwhile: clusters take their time.
pub(crate) async fn plan(
    operation: &Operation,
    layout: &Layout,
    world: &dyn World,
    (history, given_up): (History, bool),
) -> Result<Plan, NoPlan> {
    use OperationKind as Kind;
    match operation.kind {
        Kind::CreateMesh => {
            no_foreign_istio(&world.survey().await?)?;
            Ok(life::create(layout))
        }
        Kind::DeleteMesh => {
            let plan = life::delete(layout, &farewell(operation, layout, world, given_up).await?);
            if layout.target.is_some() { as_found(plan, world).await } else { Ok(plan) }
        }
        Kind::Restart => Ok(data_plane::restart(layout, &world.survey().await?)),
        Kind::SetInjection => set_injection(operation, &world.survey().await?),
        Kind::Deploy => Ok(if is_canary(layout)? {
            canary::deploy(layout, target(layout)?)
        } else {
            in_place::deploy(layout, target(layout)?)
        }),
        Kind::Move => {
            let chosen: MoveArguments = arguments(operation)?;
            Ok(data_plane::move_namespaces(layout, target(layout)?, &world.survey().await?, &chosen.namespaces))
        }
        Kind::Promote => Ok(canary::promote(layout, target(layout)?)),
        Kind::Restore => {
            let promotions = history.into_iter().filter(|(kind, ..)| matches!(kind, Kind::Promote | Kind::Restore));
            let started: Vec<_> = promotions.map(|(_, step, capture)| (step, capture)).collect();
            Ok(canary::restore(layout, &started))
        }
        Kind::Roll => Ok(data_plane::roll(layout, target(layout)?, &world.survey().await?, &moved(&history))),
        // In place there is nothing left to remove.
        Kind::Retire => Ok(if is_canary(layout)? { canary::retire(layout) } else { Plan::default() }),
        Kind::Rollback => {
            let started: Vec<_> = history.into_iter().map(|(_, step, capture)| (step, capture)).collect();
            Ok(rollback::rollback(layout, target(layout)?, &started, &world.survey().await?))
        }
        Kind::RegisterCluster | Kind::RenewCredential | Kind::DeregisterCluster | Kind::Precheck => Ok(Plan::default()),
    }
}

/// A cluster may have got another Istio since it was registered. Nothing is written before that is gone.
fn no_foreign_istio(survey: &Survey) -> Result<(), NoPlan> {
    match survey.members.iter().find(|member| !member.foreign.is_empty()) {
        Some(member) => Err(NoPlan::Problem(foreign_istio(member.member.as_str(), &member.foreign))),
        None => Ok(()),
    }
}

/// Looks at each member before a deletion. Only with force, and only a member that has been lost to us for some time, is one
/// left behind.
async fn farewell(
    operation: &Operation,
    layout: &Layout,
    world: &dyn World,
    given_up: bool,
) -> Result<life::Farewell, NoPlan> {
    let leaves = operation.forced() && given_up;
    let mut seen = life::Farewell::default();
    for member in &layout.members {
        match world.injectors(member).await {
            Ok(injectors) => seen.answering.push((member.clone(), injectors)),
            Err(error) if leaves && error.is_lost() => seen.left_behind.push(member.clone()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(seen)
}

/// A plan that takes down what an abandoned upgrade has left: each target is removed from the value that it has now, which
/// may be that of either revision.
async fn as_found(mut plan: Plan, world: &dyn World) -> Result<Plan, NoPlan> {
    for wave in &mut plan.waves {
        for step in &mut wave.steps {
            if let Step::Set { target, from, to: None } = step
                && let Some(value) = world.look(target).await?.value
            {
                *from = Some(value);
            }
        }
    }
    Ok(plan)
}

/// Objects that stay in the members after the deletion that a plan carries out.
pub(crate) async fn leftovers(plan: &Plan, layout: &Layout, world: &dyn World) -> Result<Vec<Leftover>, WorldError> {
    let behind = left_behind(plan);
    let mut left = Vec::new();
    for member in &layout.members {
        for line in layout.lines() {
            for object in world.stays(member, line, behind.contains(member)).await? {
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
pub(crate) fn left_behind<'a>(plan: &'a Plan) -> BTreeSet<&'a Name> {
    let member = |step: &'a Step| if let Step::LeaveBehind { member } = step { Some(member) } else { None };
    plan.waves.iter().flat_map(|wave| &wave.steps).filter_map(member).collect()
}

fn target(layout: &Layout) -> Result<&Line, NoPlan> {
    let missing = || Problem::new("no_target", "The mesh has no second revision.", "Plan the upgrade again.");
    layout.target.as_ref().ok_or_else(|| NoPlan::Problem(missing()))
}

fn is_canary(layout: &Layout) -> Result<bool, NoPlan> {
    Ok(target(layout)?.revision != layout.current.revision)
}

fn arguments<T: serde::de::DeserializeOwned>(operation: &Operation) -> Result<T, NoPlan> {
    let unknown = |_| {
        Problem::new(
            "unknown_arguments",
            "The operation's arguments cannot be read.",
            "It was written by a newer server: upgrade this one.",
        )
    };
    serde_json::from_value(operation.arguments.clone()).map_err(|error| NoPlan::Problem(unknown(error)))
}

/// The labels that namespaces had before they were moved to the canary.
fn moved(history: &History) -> BTreeMap<NamespaceKey, Option<String>> {
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

fn set_injection(operation: &Operation, survey: &Survey) -> Result<Plan, NoPlan> {
    let wanted: LabelArguments = arguments(operation)?;
    let namespace =
        survey.members.iter().filter(|member| member.member == wanted.member).flat_map(|member| &member.namespaces);
    let Some(found) = namespace.into_iter().find(|namespace| namespace.name == wanted.namespace) else {
        let message = format!("There is no namespace {} in {}.", wanted.namespace, wanted.member);
        return Err(NoPlan::Problem(Problem::new("namespace_not_found", message, "Create it, then retry.")));
    };
    let target = Target::NamespaceLabel { member: wanted.member, namespace: wanted.namespace };
    let step = Step::Set { target, from: data_plane::label_value(&found.labels), to: wanted.label };
    Ok(Plan::default().wave("namespace label", [step]))
}
