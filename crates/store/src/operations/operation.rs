//! Stores operations.

use std::time::Duration;

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use meshwright_model::ids::{ClusterId, MeshId, OperationId, UpgradeId};
use meshwright_model::leftover::Leftover;
use meshwright_model::operation::{OperationKind, OperationState, Signal};
use meshwright_model::webhook::EventKind;
use serde_json::Value;

use crate::db::query_areas::OperationQueries;
use crate::db::statements::id_bounds;
use crate::error::{decode_column, to_json};
use crate::operations::operation_row::{OperationColumns, OperationRow};
use crate::operations::plans::WaveSummary;
use crate::{AccessFilter, NewEvent, Page, StoreError};

/// An operation to be queued.
#[derive(Debug, Clone)]
pub struct NewOperation {
    /// Identifier of the operation.
    pub id: OperationId,
    /// Kind of the operation, which decides its plan.
    pub kind: OperationKind,
    /// Mesh that the operation changes, if any.
    pub mesh: Option<MeshId>,
    /// Cluster that the operation works with, if it is about a single cluster.
    pub cluster: Option<ClusterId>,
    /// Upgrade that the operation is a stage of, if any.
    pub upgrade: Option<UpgradeId>,
    /// Further arguments, which depend on the kind.
    pub arguments: Value,
    /// Delay before a worker may claim the operation, by the database's clock.
    pub due_in: Duration,
}

/// Number of steps that are done, and number of all steps; both are 0 without a plan.
pub type StepCounts = (i64, i64);

/// An operation as the service knows it.
#[derive(Debug, Clone)]
pub struct Operation {
    /// Identifier of the operation.
    pub id: OperationId,
    /// Kind of the operation, which decides its plan.
    pub kind: OperationKind,
    /// Mesh that the operation changes, if any.
    pub mesh: Option<MeshId>,
    /// Cluster that the operation works with, if it is about a single cluster.
    pub cluster: Option<ClusterId>,
    /// Upgrade that the operation is a stage of, if any.
    pub upgrade: Option<UpgradeId>,
    /// Further arguments, which depend on the kind.
    pub arguments: Value,
    /// State of the operation; see [`OperationState`].
    pub state: OperationState,
    /// Waves of the plan; `None` until a worker has built the plan.
    pub waves: Option<Vec<WaveSummary>>,
    /// Condition that the operation waits for, as the worker last saw it, in words for the user.
    pub waiting_for: Option<String>,
    /// Signals of people that no worker has processed yet, in order. Until one does, `state` does
    /// not reflect them.
    pub pending_signals: Vec<Signal>,
    /// Objects that stay in clusters after the operation.
    pub leftovers: Vec<Leftover>,
    /// Time when the operation was requested.
    pub created_at: Timestamp,
    /// Time when a worker first started the operation.
    pub started_at: Option<Timestamp>,
    /// Time when the operation ended.
    pub ended_at: Option<Timestamp>,
}

/// Choice of the operations that a query reads. A field that is `None` excludes none.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct OperationChoice {
    /// Single operation to read.
    pub(super) only: Option<OperationId>,
    /// Upgrade whose stages are read.
    pub(super) upgrade: Option<UpgradeId>,
    /// Mesh, which is not deleted, whose roll-outs are read.
    pub(super) rollouts_of: Option<MeshId>,
}

impl OperationQueries<'_, '_> {
    /// Queues an operation.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn create_operation(
        &mut self,
        new: &NewOperation,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let state = OperationState::Queued;
        sqlx::query!(
            "INSERT INTO operations (tenant_id, operation_id, kind, mesh_id, cluster_id, upgrade_id, arguments, state, state_body, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            self.tx.tenant.0,
            new.id.0,
            new.kind.as_str(),
            new.mesh.map(|id| id.0),
            new.cluster.map(|id| id.0),
            new.upgrade.map(|id| id.0),
            new.arguments,
            state.as_str(),
            to_json(&state),
            now.to_sqlx() as _
        )
        .execute(&mut *self.tx.inner)
        .await?;
        sqlx::query!(
            "INSERT INTO work_queue (operation_id, tenant_id, due_at, costly, hosting_cluster_id)
             VALUES ($1, $2, now() + make_interval(secs => $3), $4, (SELECT hosting_cluster_id FROM meshes WHERE tenant_id = $2 AND mesh_id = $5))",
            new.id.0,
            self.tx.tenant.0,
            new.due_in.as_secs_f64(),
            new.kind.may_stall_worker(),
            new.mesh.map(|id| id.0)
        )
        .execute(&mut *self.tx.inner)
        .await?;
        // The notification may be lost, so workers also poll the queue.
        sqlx::query!("SELECT pg_notify('mw_work', '')")
            .fetch_one(&mut *self.tx.inner)
            .await?;
        self.tx.push_event(NewEvent {
            at: now,
            kind: EventKind::OperationState,
            mesh: new.mesh,
            upgrade: new.upgrade,
            operation: Some(new.id),
            body: serde_json::json!({ "kind": new.kind, "state": state.as_str() }),
        });
        Ok(())
    }

    /// Lists the operations that the caller may see, newest first; with `upgrade`, only its stages.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer, and
    /// [`StoreError::Corrupt`] when a row does not fit [`Operation`].
    pub async fn list_operations(
        &mut self,
        access: &AccessFilter,
        upgrade: Option<UpgradeId>,
        page: Page,
    ) -> Result<Vec<Operation>, StoreError> {
        let found = self
            .list_operations_with_counts(access, upgrade, page)
            .await?;
        Ok(found.into_iter().map(|(operation, _)| operation).collect())
    }

    /// Lists the same operations as [`OperationQueries::list_operations`] with their step counts, in one round
    /// trip.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer, and
    /// [`StoreError::Corrupt`] when a row does not fit [`Operation`].
    pub async fn list_operations_with_counts(
        &mut self,
        access: &AccessFilter,
        upgrade: Option<UpgradeId>,
        page: Page,
    ) -> Result<Vec<(Operation, StepCounts)>, StoreError> {
        let chosen = OperationChoice {
            upgrade,
            ..OperationChoice::default()
        };
        let found = self.read_operations(chosen, access, page).await?;
        Ok(found
            .into_iter()
            .map(|row| (row.operation, row.counts))
            .collect())
    }

    /// Reads one operation.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when this tenant has no such operation.
    pub async fn get_operation(&mut self, id: OperationId) -> Result<Operation, StoreError> {
        let chosen = OperationChoice {
            only: Some(id),
            ..OperationChoice::default()
        };
        let found = self
            .read_operations(chosen, &AccessFilter::ALL, Page::ALL)
            .await?
            .pop();
        let found = found.ok_or(StoreError::NotFound { what: "operation" })?;
        Ok(found.operation)
    }

    /// Reads one operation or a list. Only lists count the steps, and only roll-outs have a policy
    /// and states.
    pub(super) async fn read_operations(
        &mut self,
        chosen: OperationChoice,
        access: &AccessFilter,
        page: Page,
    ) -> Result<Vec<OperationRow>, StoreError> {
        let (from, to) = id_bounds(chosen.only.map(|id| id.0));
        let kinds = OperationKind::ROLLOUTS.map(|kind| kind.as_str().to_owned());
        let rows = sqlx::query_as!(
            OperationColumns,
            r#"SELECT operation_id, kind, mesh_id, cluster_id, upgrade_id, arguments, state_body, waves, waiting_for, leftovers, created_at, started_at, ended_at,
                   ARRAY(SELECT w.wish FROM work_queue q JOIN wishes w ON w.tenant_id = q.tenant_id AND w.operation_id = q.operation_id AND w.seq > q.seen_seq
                       WHERE q.tenant_id = $1 AND q.operation_id = o.operation_id ORDER BY w.seq) AS "pending!",
                   CASE WHEN $7::uuid < $8::uuid THEN (SELECT count(*) FROM operation_items i
                       WHERE i.tenant_id = $1 AND i.operation_id = o.operation_id) ELSE 0 END AS "total!",
                   CASE WHEN $7::uuid < $8::uuid THEN (SELECT count(DISTINCT f.number) FROM item_facts f
                       WHERE f.tenant_id = $1 AND f.operation_id = o.operation_id AND f.fact ->> 'fact' = 'done') ELSE 0 END AS "done!",
                   CASE WHEN $9::uuid IS NOT NULL THEN (SELECT u.rollout FROM upgrades u
                       WHERE u.tenant_id = $1 AND u.upgrade_id = o.upgrade_id) END AS upgrade_policy,
                   CASE WHEN $9::uuid IS NOT NULL THEN (
                       WITH progress AS (
                           SELECT number, bool_or(fact ->> 'fact' = 'done') AS done, bool_or(fact ->> 'fact' = 'skipped') AS skipped,
                               bool_or(fact ->> 'fact' = 'started') AS started, coalesce(max(ordinal) FILTER (WHERE fact ->> 'fact' = 'retried'), 0) AS retried,
                               coalesce(max(ordinal) FILTER (WHERE fact ->> 'fact' = 'excluded'), 0) AS excluded,
                               coalesce(max(ordinal) FILTER (WHERE fact ->> 'fact' = 'failed'), 0) AS failed
                           FROM item_facts WHERE tenant_id = $1 AND item_facts.operation_id = o.operation_id GROUP BY number),
                       newest AS (
                           -- A workload has a further step for each restart, and every search for workloads has one of its own.
                           SELECT DISTINCT ON (step -> 'member', step -> 'workload', step -> 'namespace', step -> 'pod',
                                   CASE WHEN step ->> 'step' = 'converge' THEN number END) number, wave, step ->> 'step' = 'converge' AS looks
                           FROM operation_items i WHERE i.tenant_id = $1 AND i.operation_id = o.operation_id AND step ->> 'step' IN ('restart', 'evict', 'converge')
                           ORDER BY step -> 'member', step -> 'workload', step -> 'namespace', step -> 'pod',
                               CASE WHEN step ->> 'step' = 'converge' THEN number END, number DESC),
                       counted AS (
                           SELECT wave, CASE WHEN looks THEN 'looks' WHEN done THEN 'done' WHEN skipped THEN 'skipped' WHEN excluded > retried THEN 'excluded'
                               WHEN failed > retried THEN 'failed' WHEN started THEN 'started' ELSE 'pending' END AS state, count(*) AS number
                           FROM newest LEFT JOIN progress USING (number) GROUP BY 1, 2)
                       SELECT jsonb_agg(jsonb_build_object('wave', wave, 'state', state, 'count', number)) FROM counted) END AS states
               FROM operations o WHERE tenant_id = $1 AND operation_id BETWEEN $7 AND $8 AND ($2::uuid IS NULL OR upgrade_id = $2)
                   AND ($3::uuid[] IS NULL OR mesh_id = ANY($3) OR cluster_id = ANY($4)) AND ($5::uuid IS NULL OR operation_id < $5)
                   AND ($9::uuid IS NULL OR (mesh_id = $9 AND kind = ANY($10)
                       AND EXISTS (SELECT FROM meshes m WHERE m.tenant_id = $1 AND m.mesh_id = $9 AND m.state <> 'deleted')))
               ORDER BY operation_id DESC LIMIT $6"#,
            self.tx.tenant.0,
            chosen.upgrade.map(|id| id.0),
            access.meshes.as_deref(),
            access.clusters.as_deref(),
            page.after,
            page.limit,
            from,
            to,
            chosen.rollouts_of.map(|id| id.0),
            &kinds
        )
        .fetch_all(&mut *self.tx.inner)
        .await?;
        rows.into_iter().map(OperationColumns::decode).collect()
    }

    /// Makes an operation due now that still waits for its time.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn make_operation_due(&mut self, id: OperationId) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE work_queue SET due_at = now() WHERE operation_id = $1 AND tenant_id = $2",
            id.0,
            self.tx.tenant.0
        )
        .execute(&mut *self.tx.inner)
        .await?;
        Ok(())
    }

    /// Ends an operation from outside. Its worker is fenced because the queue row is gone, so it
    /// records nothing more. Steps that the worker had started are fenced by the next operation of
    /// the mesh; see [`OperationQueries::list_unfenced_operations`].
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn supersede_operation(
        &mut self,
        id: OperationId,
        state: &OperationState,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let held = sqlx::query!(
            "DELETE FROM work_queue WHERE operation_id = $1 AND tenant_id = $2 RETURNING epoch, lease_until",
            id.0,
            self.tx.tenant.0
        )
        .fetch_optional(&mut *self.tx.inner)
        .await?;
        // A worker that holds the lease does not know of the end yet. Its last writes may still
        // reach a cluster, so its epoch and lease are recorded.
        let writer = held.and_then(|row| Some((row.epoch, row.lease_until?)));
        let ended = sqlx::query!(
            "UPDATE operations SET state = $3, state_body = $4, ended_at = $5, unfenced = $6, writer_epoch = $7, writer_until = $8
             WHERE tenant_id = $1 AND operation_id = $2 AND ended_at IS NULL RETURNING kind, cluster_id",
            self.tx.tenant.0,
            id.0,
            state.as_str(),
            to_json(state),
            now.to_sqlx() as _,
            *state != OperationState::Succeeded,
            writer.map(|(epoch, _)| epoch),
            writer.map(|(_, until)| until) as _
        )
        .fetch_optional(&mut *self.tx.inner)
        .await?;
        let Some((kind, cluster)) = ended.and_then(|row| Some((row.kind, row.cluster_id?))) else {
            return Ok(());
        };
        let kind = decode_column(
            serde_json::from_value(kind.into()),
            "operations",
            "kind",
            id,
        )?;
        self.apply_end_to_cluster(id, kind, ClusterId(cluster), state, now)
            .await
    }
}
