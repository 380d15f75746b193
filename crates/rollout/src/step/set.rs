//! Checks a step that moves a target from one value to another.

use meshwright_model::Version;
use meshwright_model::operation::Problem;
use meshwright_model::plan::Target;
use meshwright_model::problem::ProblemCode;

use super::{StepCheck, StepContext, check_from_readiness};
use crate::ports::{ClusterError, MeshClusters, Readiness};

/// Classifies the target as start, goal or foreign. A foreign value blocks the step and is never
/// overwritten.
pub(super) async fn check(
    place: &StepContext<'_>,
    world: &dyn MeshClusters,
    target: &Target,
    from: &Option<String>,
    to: &Option<String>,
) -> Result<StepCheck, ClusterError> {
    let seen = world.observe_target(target).await?;
    if seen.gone {
        // The owner removed the object, so no field of it has to be written.
        return Ok(StepCheck::Done);
    }
    if seen.partial {
        return Ok(match seen.readiness {
            Readiness::Pending(reason) => StepCheck::Waiting(reason),
            // The write continues from the present objects. Only we write inventories, so no other
            // party has made this state.
            _ => StepCheck::Ready {
                capture: from.clone(),
                version: seen.version,
            },
        });
    }
    // The address of the control plane is not part of the value, so stored plans and inventories
    // need not name it. A target with a former address is written once more. Only a step that
    // creates its target can find such a one, in a creation or in an upgrade that installs its
    // revision; all other steps are spared the reads. An undo removes the target, because the
    // control plane at the former address is gone.
    if from.is_none()
        && seen.value == *to
        && let Some(value) = to
        && world.names_former_address(target, value).await?
    {
        return Ok(StepCheck::Ready {
            capture: from.clone(),
            version: seen.version,
        });
    }
    if seen.value == *to || is_newer_crd(target, seen.value.as_deref(), to.as_deref()) {
        return Ok(check_from_readiness(seen.readiness));
    }
    let captured = place.progress.capture.as_ref() == Some(&seen.value);
    let at_start = seen.value == *from || captured;
    // A write that has not taken effect yet must not be repeated, and a target that is still being
    // removed must not be created again. A target at its start shows that the write was lost: an
    // istiod that is to be removed because it is broken would never take effect.
    if let Readiness::Pending(reason) = &seen.readiness
        && (seen.value.is_none() || (place.progress.is_started() && !at_start))
    {
        return Ok(StepCheck::Waiting(reason.clone()));
    }
    // Limits are computed when they are written, from the members' addresses at that time, so any
    // present value may be replaced.
    let only_forward = matches!(target, Target::Crds { .. } | Target::Limits);
    if at_start || only_forward {
        return Ok(StepCheck::Ready {
            capture: seen.value,
            version: seen.version,
        });
    }
    // A tag of ours that was removed by hand is created again with the value of this step, because
    // pods of its namespaces start without a sidecar meanwhile. An undo points it to its former
    // revision.
    if matches!(target, Target::Tag { .. }) && seen.value.is_none() && from.is_some() {
        return Ok(StepCheck::Ready {
            capture: from.clone(),
            version: seen.version,
        });
    }
    Ok(StepCheck::Blocked(foreign_change_problem(
        target,
        from,
        to,
        &seen.value,
    )))
}

/// Returns true for custom resource definitions of the wanted or a newer release. They belong to
/// the cluster and only move forward, because those of a newer release serve an older one too.
fn is_newer_crd(target: &Target, found: Option<&str>, to: Option<&str>) -> bool {
    let precedence = |text: Option<&str>| {
        text.and_then(|text| text.parse::<Version>().ok())
            .map(|version| version.precedence())
    };
    matches!(target, Target::Crds { .. }) && precedence(found) >= precedence(to)
}

/// Builds the problem of a target whose value is neither the start nor the goal.
fn foreign_change_problem(
    target: &Target,
    from: &Option<String>,
    to: &Option<String>,
    found: &Option<String>,
) -> Problem {
    let word = |value: &Option<String>| value.clone().unwrap_or_else(|| "absent".into());
    Problem::new(
        ProblemCode::ChangedBySomeoneElse,
        format!(
            "{target} is {} where {} or {} was expected; nothing was written.",
            word(found),
            word(from),
            word(to)
        ),
        format!("Set it back to {} and retry, or roll back.", word(from)),
    )
}

#[cfg(test)]
mod tests;
