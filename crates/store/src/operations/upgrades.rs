//! Stores upgrades.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use meshwright_model::ids::{MeshId, OperationId, UpgradeId};
use meshwright_model::rollout::RolloutPolicy;
use meshwright_model::rules::Strategy;
use meshwright_model::upgrade::{Finding, UpgradePolicyChoice, UpgradeState};
use meshwright_model::version::{RevisionName, Version};
use meshwright_model::webhook::EventKind;

use crate::db::query_areas::UpgradeQueries;
use crate::db::statements::id_bounds;
use crate::error::{decode_column, to_json};
use crate::{NewEvent, Page, StoreError};

/// An upgrade to be planned.
#[derive(Debug, Clone)]
pub struct NewUpgrade {
    /// Identifier of the upgrade.
    pub id: UpgradeId,
    /// Mesh that is upgraded.
    pub mesh: MeshId,
    /// Version that the mesh runs before the upgrade.
    pub from: Version,
    /// Version that the upgrade leads to.
    pub to: Version,
    /// Revision that runs the target version.
    pub revision: RevisionName,
    /// Choices that the caller made for the upgrade, such as the strategy.
    pub choice: UpgradePolicyChoice,
    /// Waves and limits of the roll-out.
    pub rollout: RolloutPolicy,
}

/// An upgrade as the service knows it.
#[derive(Debug, Clone)]
pub struct Upgrade {
    /// Identifier of the upgrade.
    pub id: UpgradeId,
    /// Mesh that is upgraded.
    pub mesh: MeshId,
    /// Version that the mesh runs before the upgrade.
    pub from: Version,
    /// Version that the upgrade leads to.
    pub to: Version,
    /// Choices that the caller made for the upgrade, such as the strategy.
    pub choice: UpgradePolicyChoice,
    /// Waves and limits of the roll-out, the stage that restarts the workloads.
    pub rollout: RolloutPolicy,
    /// State of the upgrade; see [`UpgradeState`].
    pub state: UpgradeState,
    /// Number of state changes so far, which serves as the version of the upgrade.
    pub transitions: i64,
    /// Operation of the current stage, or of the last one; `None` before the first.
    pub operation: Option<OperationId>,
    /// Findings of the last precheck, whether or not it stopped the upgrade.
    pub findings: Vec<Finding>,
    /// Caller that accepted the findings, as the audit log names it, and the time; the caller is
    /// `policy` when the upgrade's own `accept_warnings` did.
    pub acceptance: Option<(String, Timestamp)>,
    /// Time when the upgrade was requested.
    pub created_at: Timestamp,
    /// Time when the upgrade ended.
    pub ended_at: Option<Timestamp>,
}

impl UpgradeQueries<'_, '_> {
    /// Adds an upgrade in state `planned`, and acquires the mesh lock for it.
    ///
    /// # Errors
    /// Returns [`StoreError::MeshLocked`] when another upgrade or operation is changing the mesh.
    pub async fn create_upgrade(
        &mut self,
        new: &NewUpgrade,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.tx
            .meshes()
            .acquire_mesh_lock(new.mesh, &new.id.to_string())
            .await?;
        self.tx
            .meshes()
            .set_target_revision(new.mesh, &new.revision, &new.to)
            .await?;
        let state = UpgradeState::Planned;
        sqlx::query!(
            "INSERT INTO upgrades (tenant_id, upgrade_id, mesh_id, from_version, to_version, choice, rollout, state, state_body, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            self.tx.tenant.0,
            new.id.0,
            new.mesh.0,
            new.from.to_string(),
            new.to.to_string(),
            to_json(&new.choice),
            to_json(&new.rollout),
            state.as_str(),
            to_json(&state),
            now.to_sqlx() as _
        )
        .execute(&mut *self.tx.inner)
        .await?;
        self.push_upgrade_event(new.id, new.mesh, &state, now);
        Ok(())
    }

    pub(super) fn push_upgrade_event(
        &mut self,
        id: UpgradeId,
        mesh: MeshId,
        state: &UpgradeState,
        now: Timestamp,
    ) {
        self.tx.push_event(NewEvent {
            at: now,
            kind: EventKind::UpgradeState,
            mesh: Some(mesh),
            upgrade: Some(id),
            operation: None,
            body: to_json(state),
        });
    }

    /// Reads one upgrade.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when this tenant has no such upgrade.
    pub async fn get_upgrade(&mut self, id: UpgradeId) -> Result<Upgrade, StoreError> {
        self.read_upgrade(id, false).await
    }

    /// Reads one upgrade and locks it. Callers lock the upgrade before anything else, so that verbs
    /// and outcomes cannot deadlock.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when this tenant has no such upgrade.
    pub async fn lock_upgrade(&mut self, id: UpgradeId) -> Result<Upgrade, StoreError> {
        self.read_upgrade(id, true).await
    }

    pub(super) async fn read_upgrade(
        &mut self,
        id: UpgradeId,
        locked: bool,
    ) -> Result<Upgrade, StoreError> {
        if locked {
            // Verbs and outcomes of one upgrade run one after the other.
            sqlx::query!(
                "SELECT 1 AS one FROM upgrades WHERE tenant_id = $1 AND upgrade_id = $2 FOR UPDATE",
                self.tx.tenant.0,
                id.0
            )
            .fetch_optional(&mut *self.tx.inner)
            .await?;
        }
        self.read_upgrades(Some(id), None, Page::ALL)
            .await?
            .pop()
            .ok_or(StoreError::NotFound { what: "upgrade" })
    }

    async fn read_upgrades(
        &mut self,
        only: Option<UpgradeId>,
        mesh: Option<MeshId>,
        page: Page,
    ) -> Result<Vec<Upgrade>, StoreError> {
        let (from, to) = id_bounds(only.map(|id| id.0));
        let rows = sqlx::query!(
            "SELECT upgrade_id, mesh_id, from_version, to_version, choice, rollout, state_body, transitions, operation_id, created_at, ended_at,
                 findings, findings_accepted_by, findings_accepted_at
             FROM upgrades WHERE tenant_id = $1 AND upgrade_id BETWEEN $2 AND $6
                 AND ($3::uuid IS NULL OR (mesh_id = $3 AND EXISTS (
                     SELECT FROM meshes m WHERE m.tenant_id = $1 AND m.mesh_id = $3 AND m.state <> 'deleted')))
                 AND ($4::uuid IS NULL OR upgrade_id < $4)
             ORDER BY upgrade_id DESC LIMIT $5",
            self.tx.tenant.0,
            from,
            mesh.map(|id| id.0),
            page.after,
            page.limit,
            to
        )
        .fetch_all(&mut *self.tx.inner)
        .await?;
        let read = rows.into_iter().map(|row| {
            let id = UpgradeId(row.upgrade_id);
            Ok(Upgrade {
                id,
                mesh: MeshId(row.mesh_id),
                from: decode_column(row.from_version.parse(), "upgrades", "from_version", id)?,
                to: decode_column(row.to_version.parse(), "upgrades", "to_version", id)?,
                choice: decode_column(
                    serde_json::from_value(row.choice),
                    "upgrades",
                    "choice",
                    id,
                )?,
                rollout: decode_column(
                    serde_json::from_value(row.rollout),
                    "upgrades",
                    "rollout",
                    id,
                )?,
                state: decode_column(
                    serde_json::from_value(row.state_body),
                    "upgrades",
                    "state_body",
                    id,
                )?,
                transitions: row.transitions,
                operation: row.operation_id.map(OperationId),
                findings: decode_column(
                    serde_json::from_value(row.findings),
                    "upgrades",
                    "findings",
                    id,
                )?,
                acceptance: row
                    .findings_accepted_by
                    .zip(row.findings_accepted_at.map(jiff_sqlx::Timestamp::to_jiff)),
                created_at: row.created_at.to_jiff(),
                ended_at: row.ended_at.map(jiff_sqlx::Timestamp::to_jiff),
            })
        });
        read.collect()
    }

    /// Lists the upgrades of a mesh, newest first. The list is empty for a mesh that is deleted or
    /// does not exist.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer, and
    /// [`StoreError::Corrupt`] when a row does not fit [`Upgrade`].
    pub async fn list_upgrades(
        &mut self,
        mesh: MeshId,
        page: Page,
    ) -> Result<Vec<Upgrade>, StoreError> {
        self.read_upgrades(None, Some(mesh), page).await
    }
}

impl Upgrade {
    /// Returns true when the target version runs in a revision of its own.
    pub fn is_canary(&self) -> bool {
        self.choice.strategy == Strategy::Canary
    }
}
