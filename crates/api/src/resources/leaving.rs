//! Checks the reason of a request with `force`. A cluster that does not answer is left behind only
//! for a reason, which the audit log keeps. A forced deletion that an upgrade blocks names the way
//! to end that upgrade.

use axum::http::StatusCode;
use meshwright_model::ids::{MeshId, UpgradeId};
use meshwright_model::problem::ProblemCode;
use meshwright_model::upgrade::{UpgradeState, Verb};
use meshwright_store::Tx;
use meshwright_wire::DeleteOptions;

use crate::error::{ApiError, Result};

/// Maximum length of a reason, in characters.
const MAX_REASON_CHARS: usize = 500;

/// Returns the reason of a request with `force`; `None` without `force`.
pub(crate) fn force_reason(options: &DeleteOptions) -> Result<Option<&str>> {
    if !options.force {
        return match &options.reason {
            Some(_) => Err(ApiError::invalid_field(
                "/reason",
                "a reason goes with force",
            )),
            None => Ok(None),
        };
    }
    let reason = options.reason.as_deref().map(str::trim).unwrap_or_default();
    if reason.is_empty() {
        return Err(ApiError::invalid_field("/reason", "force needs a reason")
            .with_code(ProblemCode::ReasonMissing));
    }
    if reason.chars().count() > MAX_REASON_CHARS || reason.chars().any(char::is_control) {
        let rule = format!("1 to {MAX_REASON_CHARS} characters in one line");
        return Err(ApiError::invalid_field("/reason", rule));
    }
    Ok(Some(reason))
}

/// Refuses a forced deletion while an upgrade holds the mesh, which force has not abandoned.
pub(crate) async fn check_no_upgrade_under_way(tx: &mut Tx<'_>, mesh: MeshId) -> Result<()> {
    let holder = tx.meshes().mesh_lock_holder(mesh).await?;
    let Some(upgrade) = holder.and_then(|holder| holder.parse::<UpgradeId>().ok()) else {
        return Ok(());
    };
    let state = tx.upgrades().get_upgrade(upgrade).await?.state;
    Err(ApiError::new(
        StatusCode::CONFLICT,
        ProblemCode::MeshBusy,
        format!(
            "The mesh is being changed by {upgrade}, which is {}.",
            state.as_str()
        ),
        end_of_upgrade_hint(upgrade, &state),
    ))
}

/// Returns how a person ends an upgrade, so that its mesh can be deleted by force.
fn end_of_upgrade_hint(upgrade: UpgradeId, state: &UpgradeState) -> String {
    let abandon = "once it is paused and a member is shown as `unreachable`, delete the mesh with `--force` again.";
    let allowed = state.allowed_verbs();
    if allowed.contains(&Verb::Rollback) {
        return format!(
            "End the upgrade with `meshwright upgrade rollback {upgrade}`. A member that does not answer pauses it: {abandon}"
        );
    }
    if allowed.contains(&Verb::Cancel) {
        return format!(
            "End the upgrade with `meshwright upgrade cancel {upgrade}`, then delete the mesh."
        );
    }
    if allowed.contains(&Verb::Pause) {
        return format!("Pause the upgrade with `meshwright upgrade pause {upgrade}`: {abandon}");
    }
    format!("`meshwright upgrade get {upgrade}` shows how it goes on: {abandon}")
}
