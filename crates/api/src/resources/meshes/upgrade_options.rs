//! Lists the releases to which a mesh can be upgraded.

use axum::Json;
use axum::extract::Path;
use meshwright_model::access::Action;
use meshwright_model::rules::{
    Strategy, UpgradeContext, assess_upgrade, find_upgrade_path, is_allowed,
};
use meshwright_wire::{StrategyOption, UpgradeOption, UpgradeOptionList};

use crate::error::Result;
use crate::request::caller::Authenticated;
use crate::resources::catalogue::reason_views;
use crate::resources::meshes::authorized_mesh;
use crate::resources::release_rules::member_kubernetes_versions;

/// List a mesh's upgrade options
///
/// Returns each release of the catalogue and, for each strategy, whether the mesh can be upgraded
/// to it, with all reasons.
#[utoipa::path(get, path = "/v1/meshes/{mesh_id}/upgrade-options", operation_id = "listUpgradeOptions", tag = "upgrades",
    params(("mesh_id" = String, Path)), responses((status = 200, body = UpgradeOptionList)))]
pub(crate) async fn list_upgrade_options(
    Authenticated(caller, database): Authenticated,
    Path(mesh): Path<String>,
) -> Result<Json<UpgradeOptionList>> {
    let mut tx = database.begin_read().await?;
    let mesh = authorized_mesh(&caller, &mut tx, &mesh, Action::Read).await?;
    let (releases, policy) = (
        tx.catalogue().list_releases().await?,
        tx.catalogue().upgrade_policy().await?,
    );
    drop(tx);
    let members = member_kubernetes_versions(&mesh);
    let today = caller
        .app
        .clock
        .now()
        .to_zoned(jiff::tz::TimeZone::UTC)
        .date();
    let around = UpgradeContext {
        policy: &policy,
        edition: mesh.edition,
        members: &members,
        today,
    };
    let current = &mesh.current.version;
    let items = releases.iter().map(|release| {
        let judged = [Strategy::InPlace, Strategy::Canary].map(|strategy| {
            (
                strategy,
                assess_upgrade(current, release, strategy, &around),
            )
        });
        let direct = judged.iter().any(|(_, reasons)| is_allowed(reasons));
        let way = if direct {
            None
        } else {
            find_upgrade_path(current, &release.version, &releases, &around)
        };
        UpgradeOption {
            version: release.version.to_string(),
            strategies: judged
                .iter()
                .map(|(strategy, judged)| StrategyOption {
                    strategy: (*strategy).into(),
                    allowed: is_allowed(judged),
                    reasons: reason_views(judged),
                })
                .collect(),
            path: way
                .unwrap_or_default()
                .iter()
                .map(|(release, _)| release.version.to_string())
                .collect(),
        }
    });
    Ok(Json(UpgradeOptionList {
        items: items.collect(),
        next_page_token: None,
    }))
}
