//! What is kept of an observation: the survey itself, what the revisions inject at that time, and an event for each tag
//! that was removed since the last one.

use jiff::Timestamp;
use model::ids::MeshId;
use model::plan::Sidecar;
use model::survey::Survey;
use model::upgrade::UpgradeState;
use rollout::plan::Layout;
use serde_json::json;
use store::{MeshState, NewEvent, Page, StoreError, Tx};

/// Keeps an observation of a mesh that began at this time, unless a later one is kept already.
///
/// # Errors
/// The database failed, or a row does not fit.
pub(crate) async fn keep(
    tx: &mut Tx<'_>,
    mesh: MeshId,
    layout: &Layout,
    mut survey: Survey,
    at: Timestamp,
) -> Result<(), StoreError> {
    survey.sidecars = injected(tx, mesh, layout).await?;
    let gone = removed_tags(tx, mesh, &survey).await?;
    if tx.put_survey(mesh, &survey, at).await? && !gone.is_empty() {
        tracing::warn!(mesh.id = %mesh, tags = ?gone, "tags of a mesh were removed from its members");
        let tags: Vec<_> = gone.iter().map(|(cluster, tag)| json!({ "cluster": cluster, "tag": tag })).collect();
        let (kind, body) = ("mesh.tags_removed", json!({ "tags": tags }));
        tx.tell(NewEvent { at, kind, mesh: Some(mesh), upgrade: None, operation: None, body });
    }
    Ok(())
}

/// What each revision injects now. In place, both control planes have one name: before the deployment the old one runs,
/// after it the new one, and in between either may.
async fn injected(tx: &mut Tx<'_>, mesh: MeshId, layout: &Layout) -> Result<Vec<Sidecar>, StoreError> {
    let current = layout.current.sidecar();
    let Some(target) = layout.target.as_ref().map(rollout::plan::Line::sidecar) else { return Ok(vec![current]) };
    if target.revision != current.revision {
        return Ok(vec![current, target]);
    }
    Ok(match stage_of(tx, mesh).await? {
        stage if deployed_nothing(stage.as_ref()) => vec![current],
        Some(UpgradeState::Rolling | UpgradeState::Holding { .. } | UpgradeState::Retiring { .. }) => vec![target],
        _ => vec![current, target],
    })
}

/// True while the mesh has no upgrade, or one that has deployed nothing yet.
pub(crate) async fn target_is_only_planned(tx: &mut Tx<'_>, mesh: MeshId) -> Result<bool, StoreError> {
    Ok(deployed_nothing(stage_of(tx, mesh).await?.as_ref()))
}

fn deployed_nothing(stage: Option<&UpgradeState>) -> bool {
    matches!(stage, None | Some(UpgradeState::Planned | UpgradeState::Prechecking | UpgradeState::Blocked { .. }))
}

/// The stage of the mesh's upgrade, where one is under way; a paused one is in the stage that it goes on from.
async fn stage_of(tx: &mut Tx<'_>, mesh: MeshId) -> Result<Option<UpgradeState>, StoreError> {
    let mut upgrades = tx.upgrades(mesh, Page { after: None, limit: 1 }).await?;
    let live = upgrades.pop().filter(|upgrade| upgrade.ended_at.is_none());
    Ok(live.map(|upgrade| match upgrade.state {
        UpgradeState::Paused { from, .. } => *from,
        state => state,
    }))
}

/// Tags that a ready mesh lacks in a member and that the last observation still showed, or did not look for.
async fn removed_tags(
    tx: &mut Tx<'_>,
    mesh: MeshId,
    survey: &Survey,
) -> Result<Vec<(String, &'static str)>, StoreError> {
    let missing = |survey: &Survey| -> Vec<(String, &'static str)> {
        let members = survey.members.iter();
        members.flat_map(|member| member.missing_tags().map(|tag| (member.member.to_string(), tag))).collect()
    };
    let now = missing(survey);
    if now.is_empty() || tx.mesh(mesh).await?.state != MeshState::Ready {
        return Ok(Vec::new());
    }
    let known = tx.survey(mesh).await?.map(|(_, before)| missing(&before)).unwrap_or_default();
    Ok(now.into_iter().filter(|tag| !known.contains(tag)).collect())
}
