//! Moving a target from one value to another.

use model::Version;
use model::operation::Problem;
use model::plan::Target;

use super::{Check, Place, settled};
use crate::ports::{Settled, World, WorldError};

pub(super) async fn check(
    place: &Place<'_>,
    world: &dyn World,
    target: &Target,
    from: &Option<String>,
    to: &Option<String>,
) -> Result<Check, WorldError> {
    let seen = world.look(target).await?;
    if seen.partial {
        return Ok(match seen.settled {
            Settled::NotYet(reason) => Check::Waiting(reason),
            // The push goes on from what is there, and from nothing that another party made: only we write inventories.
            _ => Check::Ready { capture: from.clone(), mark: seen.mark },
        });
    }
    if seen.value == *to || outgrown(target, seen.value.as_deref(), to.as_deref()) {
        return Ok(settled(seen.settled));
    }
    // A push that has not come true yet must not be pushed again, and what is still being removed is not made again.
    if let Settled::NotYet(reason) = &seen.settled
        && (place.progress.started() || seen.value.is_none())
    {
        return Ok(Check::Waiting(reason.clone()));
    }
    let captured = place.progress.capture.as_ref() == Some(&seen.value);
    // Limits are worked out when they are written, from whatever the members' addresses are then.
    let only_forward = matches!(target, Target::Crds { .. } | Target::Limits);
    if seen.value == *from || captured || only_forward {
        return Ok(Check::Ready { capture: seen.value, mark: seen.mark });
    }
    // A tag of ours that was removed by hand is put back where it leads to now, and an undo leads it to where it was: pods of
    // its namespaces start without a sidecar meanwhile.
    if matches!(target, Target::Tag { .. }) && seen.value.is_none() && from.is_some() {
        return Ok(Check::Ready { capture: from.clone(), mark: seen.mark });
    }
    Ok(Check::Blocked(foreign(target, from, to, &seen.value)))
}

/// Definitions belong to the cluster and only move forward: a newer release's serve an older one too.
fn outgrown(target: &Target, found: Option<&str>, to: Option<&str>) -> bool {
    let precedence =
        |text: Option<&str>| text.and_then(|text| text.parse::<Version>().ok()).map(|version| version.precedence());
    matches!(target, Target::Crds { .. }) && precedence(found) >= precedence(to)
}

fn foreign(target: &Target, from: &Option<String>, to: &Option<String>, found: &Option<String>) -> Problem {
    let word = |value: &Option<String>| value.clone().unwrap_or_else(|| "absent".into());
    Problem::new(
        "changed_by_someone_else",
        format!("{target} is {} where {} or {} was expected; nothing was written.", word(found), word(from), word(to)),
        format!("Set it back to {} and retry, or roll back.", word(from)),
    )
}
