//! Stores an observation: the reading itself, the sidecars that the revisions inject at that time,
//! and an event that lists the tags that were removed since the last observation.

use jiff::Timestamp;
use meshwright_model::ids::MeshId;
use meshwright_model::observation::Observation;
use meshwright_model::plan::{Sidecar, Step, Target};
use meshwright_model::upgrade::UpgradeState;
use meshwright_model::webhook::EventKind;
use meshwright_rollout::plan::MeshTopology;
use meshwright_store::{MeshState, NewEvent, Page, StoreError, Tx};
use serde_json::json;

use crate::planner::KnownTags;

/// Stores an observation of a mesh that began at `at`, unless a later one is stored already.
///
/// # Errors
/// Returns an error when the database does not answer or a row does not match the model.
pub(crate) async fn store_observation(
    tx: &mut Tx<'_>,
    mesh: MeshId,
    layout: &MeshTopology,
    mut survey: Observation,
    at: Timestamp,
) -> Result<(), StoreError> {
    survey.sidecars = injected_sidecars(tx, mesh, layout).await?;
    let gone = removed_tags(tx, mesh, &survey).await?;
    if tx.meshes().store_observation(mesh, &survey, at).await? && !gone.is_empty() {
        tracing::warn!(mesh.id = %mesh, tags = ?gone, "revision tags of the mesh were removed from its members");
        let tags: Vec<_> = gone
            .iter()
            .map(|(cluster, tag)| json!({ "cluster": cluster, "tag": tag }))
            .collect();
        let (kind, body) = (EventKind::MeshTagsRemoved, json!({ "tags": tags }));
        tx.push_event(NewEvent {
            at,
            kind,
            mesh: Some(mesh),
            upgrade: None,
            operation: None,
            body,
        });
    }
    Ok(())
}

/// Returns the tags that each member of a mesh was last known to have: those of the last
/// observation, changed by the upgrades that ended since or are under way. An upgrade that was
/// rolled back has restored the tags.
///
/// # Errors
/// Returns an error when the database does not answer or a row does not match the model.
pub(crate) async fn load_known_tags(
    tx: &mut Tx<'_>,
    mesh: MeshId,
) -> Result<KnownTags, StoreError> {
    let (mut known, mut seen_at) = (KnownTags::new(), None);
    if let Some((at, survey)) = tx.meshes().last_observation(mesh).await? {
        seen_at = Some(at);
        for member in survey.members {
            let tags = member.injectors.into_iter().map(|injector| injector.value);
            known.insert(member.member, tags.collect());
        }
    }
    let mut upgrades = tx.upgrades().list_upgrades(mesh, Page::ALL).await?;
    upgrades.reverse();
    for upgrade in upgrades {
        let was_observed =
            seen_at.is_some() && upgrade.ended_at.is_some_and(|end| Some(end) < seen_at);
        if was_observed || upgrade.state == UpgradeState::RolledBack {
            continue;
        }
        for (_, step, _) in tx.operations().list_started_steps(upgrade.id).await? {
            if let Step::Set {
                target: Target::Tag { member, tag },
                to,
                ..
            } = step
            {
                let tags = known.entry(member).or_default();
                match to {
                    Some(_) => tags.insert(tag),
                    None => tags.remove(&tag),
                };
            }
        }
    }
    Ok(known)
}

/// Returns the sidecar that each revision injects now. In an upgrade in place both control planes
/// have the same revision name: before the deployment the old one runs, after it the new one, and
/// in between either may run.
async fn injected_sidecars(
    tx: &mut Tx<'_>,
    mesh: MeshId,
    layout: &MeshTopology,
) -> Result<Vec<Sidecar>, StoreError> {
    let current = layout.current.sidecar();
    let Some(target) = layout
        .target
        .as_ref()
        .map(meshwright_rollout::plan::ControlPlane::sidecar)
    else {
        return Ok(vec![current]);
    };
    if target.revision != current.revision {
        return Ok(vec![current, target]);
    }
    Ok(match current_upgrade_state(tx, mesh).await? {
        stage if nothing_deployed(stage.as_ref()) => vec![current],
        Some(
            UpgradeState::Rolling | UpgradeState::Holding { .. } | UpgradeState::Retiring { .. },
        ) => vec![target],
        _ => vec![current, target],
    })
}

/// Returns true while the mesh has no upgrade, or an upgrade that has not deployed anything yet.
pub(crate) async fn target_is_only_planned(
    tx: &mut Tx<'_>,
    mesh: MeshId,
) -> Result<bool, StoreError> {
    Ok(nothing_deployed(
        current_upgrade_state(tx, mesh).await?.as_ref(),
    ))
}

/// Returns true for an upgrade that has not deployed anything yet, and when there is no upgrade.
fn nothing_deployed(stage: Option<&UpgradeState>) -> bool {
    matches!(
        stage,
        None | Some(
            UpgradeState::Planned | UpgradeState::Prechecking | UpgradeState::Blocked { .. }
        )
    )
}

/// Returns the stage of the mesh's current upgrade, if there is one. For a paused upgrade it is the
/// stage that the upgrade continues from.
async fn current_upgrade_state(
    tx: &mut Tx<'_>,
    mesh: MeshId,
) -> Result<Option<UpgradeState>, StoreError> {
    let mut upgrades = tx
        .upgrades()
        .list_upgrades(
            mesh,
            Page {
                after: None,
                limit: 1,
            },
        )
        .await?;
    let live = upgrades.pop().filter(|upgrade| upgrade.ended_at.is_none());
    Ok(live.map(|upgrade| match upgrade.state {
        UpgradeState::Paused { from, .. } => *from,
        state => state,
    }))
}

/// Returns the tags that a ready mesh lacks in a member, except those that the last observation
/// already reported as missing.
async fn removed_tags(
    tx: &mut Tx<'_>,
    mesh: MeshId,
    survey: &Observation,
) -> Result<Vec<(String, &'static str)>, StoreError> {
    let missing = |survey: &Observation| -> Vec<(String, &'static str)> {
        let members = survey.members.iter();
        members
            .flat_map(|member| {
                member
                    .missing_tags()
                    .map(|tag| (member.member.to_string(), tag.as_str()))
            })
            .collect()
    };
    let now = missing(survey);
    if now.is_empty() || tx.meshes().get_mesh(mesh).await?.state != MeshState::Ready {
        return Ok(Vec::new());
    }
    let known = tx
        .meshes()
        .last_observation(mesh)
        .await?
        .map(|(_, before)| missing(&before))
        .unwrap_or_default();
    Ok(now.into_iter().filter(|tag| !known.contains(tag)).collect())
}
