//! Ends operations that a worker cannot run. Failed claims are counted and retried after growing
//! delays; after too many of them, the operation fails.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use meshwright_model::Clock;
use meshwright_model::ids::{MeshId, OperationId, UpgradeId};
use meshwright_model::operation::{OperationKind, OperationState, Problem};
use meshwright_model::upgrade::{StageOutcome, UpgradeState};
use meshwright_model::webhook::EventKind;

use crate::db::query_areas::OperationQueries;
use crate::db::statements::{require_one_row, retry_on_conflict};
use crate::error::{decode_column, to_json};
use crate::{Claim, NewEvent, NewOperation, Store, StoreError};

/// The parts of an operation's row that its end needs. They are plain identifiers, so that a
/// damaged row can still be read this far.
struct OperationRefs {
    mesh: Option<MeshId>,
    upgrade: Option<UpgradeId>,
}

impl Store {
    /// Gives back a claim that could not be worked on: the operation becomes due again after
    /// `rest`. With `failed`, the claim counts as one that ended in an error.
    ///
    /// # Errors
    /// Returns [`StoreError::Fenced`] when another claim has taken over the operation.
    pub async fn back_off_claim(
        &self,
        claim: &Claim,
        failed: bool,
        rest: Duration,
    ) -> Result<(), StoreError> {
        let back_off = || async {
            let done = sqlx::query!(
                "UPDATE work_queue SET owner = NULL, lease_until = NULL, errors = errors + $3::integer,
                     due_at = now() + make_interval(secs => $4)
                 WHERE operation_id = $1 AND epoch = $2",
                claim.operation.0,
                claim.epoch,
                i32::from(failed),
                rest.as_secs_f64()
            )
            .execute(&self.pool)
            .await?;
            require_one_row(done.rows_affected(), StoreError::Fenced)
        };
        retry_on_conflict(back_off).await
    }

    /// Ends an operation as failed, and applies the consequences to its upgrade, mesh or cluster.
    /// This reads no stored text and opens no secret, so that a row that cannot be read cannot keep
    /// the operation from ending.
    ///
    /// # Errors
    /// Returns [`StoreError::Fenced`] when another claim has taken over the operation, and
    /// [`StoreError::Database`] when the database does not answer.
    pub async fn fail_operation(
        &self,
        claim: &Claim,
        problem: &Problem,
        clock: &dyn Clock,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin_with_keys(claim.tenant, Arc::default()).await?;
        tx.operations()
            .fail_operation(claim, problem, clock)
            .await?;
        tx.commit().await
    }
}

impl OperationQueries<'_, '_> {
    async fn fail_operation(
        &mut self,
        claim: &Claim,
        problem: &Problem,
        clock: &dyn Clock,
    ) -> Result<(), StoreError> {
        let (id, now) = (claim.operation, clock.now());
        let Some(ending) = self.read_operation_refs(id).await? else {
            return self.end_claim(claim, None).await;
        };
        // Every code path locks the upgrade before the queue row. Otherwise a worker and a user's
        // verb could deadlock.
        let upgrade = match ending.upgrade {
            Some(upgrade) => Some((upgrade, self.tx.upgrades().lock_upgrade(upgrade).await)),
            None => None,
        };
        self.end_claim(claim, None).await?;
        self.write_operation_state(
            id,
            &OperationState::Failed {
                problem: problem.clone(),
            },
            now,
        )
        .await?;
        match (upgrade, ending.mesh) {
            (Some((upgrade, Ok(_))), _) => {
                self.tx
                    .upgrades()
                    .apply_outcome(upgrade, StageOutcome::Failed(problem.clone()), clock)
                    .await?;
            }
            (Some((upgrade, Err(StoreError::Corrupt { .. }))), Some(mesh)) => {
                self.abandon_corrupt_upgrade(upgrade, mesh, now).await?;
            }
            (Some((upgrade, Err(StoreError::NotFound { .. }))), Some(mesh)) => {
                self.tx
                    .meshes()
                    .free_mesh_lock(mesh, &upgrade.to_string())
                    .await?;
            }
            (Some((_, Err(error))), _) => return Err(error),
            // `write_operation_state` has already moved the mesh or cluster of an operation without
            // an upgrade.
            (None, _) => {}
        }
        Ok(())
    }

    async fn read_operation_refs(
        &mut self,
        id: OperationId,
    ) -> Result<Option<OperationRefs>, StoreError> {
        let row = sqlx::query!(
            "SELECT mesh_id, upgrade_id FROM operations WHERE tenant_id = $1 AND operation_id = $2",
            self.tx.tenant.0,
            id.0
        )
        .fetch_optional(&mut *self.tx.inner)
        .await?;
        Ok(row.map(|row| OperationRefs {
            mesh: row.mesh_id.map(MeshId),
            upgrade: row.upgrade_id.map(UpgradeId),
        }))
    }

    /// Abandons an upgrade whose own row cannot be read. Without its state there is nothing to
    /// continue from, so the upgrade ends and the mesh keeps both revisions.
    async fn abandon_corrupt_upgrade(
        &mut self,
        id: UpgradeId,
        mesh: MeshId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let leftovers = vec!["The record of this upgrade is damaged: compare the mesh's control planes and tags with what it should have.".into()];
        let state = UpgradeState::Abandoned { leftovers };
        sqlx::query!(
            "UPDATE upgrades SET state = $3, state_body = $4, transitions = transitions + 1, ended_at = $5
             WHERE tenant_id = $1 AND upgrade_id = $2",
            self.tx.tenant.0,
            id.0,
            state.as_str(),
            to_json(&state),
            now.to_sqlx() as _
        )
        .execute(&mut *self.tx.inner)
        .await?;
        self.tx
            .meshes()
            .free_mesh_lock(mesh, &id.to_string())
            .await?;
        self.tx
            .meshes()
            .resolve_target_revision(mesh, false)
            .await?;
        self.tx.push_event(NewEvent {
            at: now,
            kind: EventKind::UpgradeState,
            mesh: Some(mesh),
            upgrade: Some(id),
            operation: None,
            body: to_json(&state),
        });
        Ok(())
    }

    /// Reads the kind and arguments of a stage that has ended although its upgrade continues from
    /// it, so that the caller can start the stage again as a new operation. Returns `None` while
    /// the stage has not ended.
    pub(crate) async fn read_ended_stage(
        &mut self,
        id: OperationId,
    ) -> Result<Option<NewOperation>, StoreError> {
        let row = sqlx::query!(
            "SELECT kind, arguments FROM operations WHERE tenant_id = $1 AND operation_id = $2 AND ended_at IS NOT NULL",
            self.tx.tenant.0,
            id.0
        )
        .fetch_optional(&mut *self.tx.inner)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let kind = OperationKind::ALL
            .into_iter()
            .find(|kind| kind.as_str() == row.kind);
        Ok(Some(NewOperation {
            id,
            kind: decode_column(kind.ok_or(()), "operations", "kind", id)?,
            mesh: None,
            cluster: None,
            upgrade: None,
            arguments: row.arguments,
            due_in: Duration::ZERO,
        }))
    }
}
