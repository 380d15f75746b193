//! Adds and reads the signals for an operation, and records what a worker did. Every record of a
//! worker names the epoch of the claim.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use meshwright_model::ids::{ClusterId, MeshId, OperationId, UpgradeId};
use meshwright_model::operation::{OperationState, RequestedSignal, StepEvent};
use meshwright_model::plan::Step;
use meshwright_model::webhook::EventKind;

use crate::db::query_areas::OperationQueries;
use crate::db::statements::require_one_row;
use crate::error::{decode_column, to_json};
use crate::{Claim, NewEvent, StoreError};

/// Signals that the worker has not seen yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PendingSignals {
    /// Signals in the order in which people sent them.
    pub signals: Vec<RequestedSignal>,
    /// Number of the last signal of the operation.
    pub last_seq: i64,
}

impl PendingSignals {
    /// Returns the signals after a number, or all of them.
    pub fn after_seq(&self, seen: Option<i64>) -> impl Iterator<Item = RequestedSignal> {
        let fresh = seen.map_or(usize::MAX, |seen| {
            usize::try_from(self.last_seq - seen).unwrap_or(0)
        });
        self.signals
            .iter()
            .skip(self.signals.len().saturating_sub(fresh))
            .copied()
    }
}

/// A step that a worker adds to a plan which is stored already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewStep {
    /// Number of the step within the plan, the next one after the last.
    pub number: i32,
    /// Number of the step's wave within the plan, from 0.
    pub wave: i32,
    /// Step with its arguments.
    pub step: Step,
}

/// The changes of one operation that a worker writes in one transaction.
#[derive(Debug, Clone, Default)]
pub struct OperationUpdate {
    /// Steps that are added to the plan, before the events are written.
    pub new_steps: Vec<NewStep>,
    /// New step events, each with the number of its step.
    pub step_events: Vec<(i32, StepEvent)>,
    /// New state of the operation; `None` when it did not change.
    pub state: Option<OperationState>,
    /// Number of the last signal that the worker has seen; `None` when there was none.
    pub seen_signal_seq: Option<i64>,
    /// New condition that the operation waits for; `None` when it did not change, and `Some(None)`
    /// when it waits for nothing.
    pub waiting_for: Option<Option<String>>,
}

impl OperationQueries<'_, '_> {
    /// Adds a signal to an operation, or to one of its steps, and wakes a worker. Signals are how the API reaches a worker,
    /// because it never writes the columns of workers.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when the operation has ended or does not exist.
    pub async fn signal_operation(
        &mut self,
        id: OperationId,
        wish: impl Into<RequestedSignal>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let wish = wish.into();
        let seq = sqlx::query_scalar!(
            "UPDATE work_queue SET wish_seq = wish_seq + 1, due_at = now() WHERE operation_id = $1 AND tenant_id = $2 RETURNING wish_seq",
            id.0,
            self.tx.tenant.0
        )
        .fetch_optional(&mut *self.tx.inner)
        .await?
        .ok_or(StoreError::NotFound { what: "running operation" })?;
        sqlx::query!(
            "INSERT INTO wishes (tenant_id, operation_id, seq, wish, item_number, at) VALUES ($1, $2, $3, $4, $5, $6)",
            self.tx.tenant.0,
            id.0,
            seq,
            wish.signal.as_str(),
            wish.item,
            now.to_sqlx() as _
        )
        .execute(&mut *self.tx.inner)
        .await?;
        sqlx::query!("SELECT pg_notify('mw_work', '')")
            .fetch_one(&mut *self.tx.inner)
            .await?;
        Ok(())
    }

    /// Reads the signals that the worker has not seen yet.
    ///
    /// # Errors
    /// Returns [`StoreError::Fenced`] when another claim has taken over the operation.
    pub async fn read_pending_signals(
        &mut self,
        claim: &Claim,
    ) -> Result<PendingSignals, StoreError> {
        let row = sqlx::query!(
            "SELECT wish_seq, seen_seq FROM work_queue WHERE operation_id = $1 AND epoch = $2",
            claim.operation.0,
            claim.epoch
        )
        .fetch_optional(&mut *self.tx.inner)
        .await?
        .ok_or(StoreError::Fenced)?;
        if row.wish_seq == row.seen_seq {
            return Ok(PendingSignals {
                signals: Vec::new(),
                last_seq: row.wish_seq,
            });
        }
        let rows = sqlx::query!(
            "SELECT wish, item_number FROM wishes WHERE tenant_id = $1 AND operation_id = $2 AND seq > $3 AND seq <= $4 ORDER BY seq",
            self.tx.tenant.0,
            claim.operation.0,
            row.seen_seq,
            row.wish_seq
        )
        .fetch_all(&mut *self.tx.inner)
        .await?;
        let wishes = rows.into_iter().map(|row| {
            let signal = decode_column(
                serde_json::from_value(row.wish.into()),
                "wishes",
                "wish",
                claim.operation,
            )?;
            Ok(RequestedSignal {
                signal,
                item: row.item_number,
            })
        });
        Ok(PendingSignals {
            signals: wishes.collect::<Result<_, StoreError>>()?,
            last_seq: row.wish_seq,
        })
    }

    /// Writes step events and a state. This locks the queue row first, so that a record and a
    /// takeover cannot interleave. It also renews the lease, because renewals wait for that lock
    /// until the transaction ends.
    ///
    /// # Errors
    /// Returns [`StoreError::Fenced`] when another claim has taken over the operation; nothing was
    /// written then.
    pub async fn record_operation_update(
        &mut self,
        claim: &Claim,
        record: &OperationUpdate,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let held = sqlx::query!(
            // A step event is progress, and a signal comes from a person, so both restart the count
            // of claims. A wait for something else than before is progress too: a large workload
            // replaces its pods for hours without an event. An operation that stops its worker does
            // so before its next record.
            "UPDATE work_queue SET seen_seq = coalesce($3, seen_seq),
                 claims = CASE WHEN $4 THEN 0 ELSE claims END, errors = CASE WHEN $4 THEN 0 ELSE errors END,
                 lease_until = clock_timestamp() + make_interval(secs => $5)
             WHERE operation_id = $1 AND epoch = $2",
            claim.operation.0,
            claim.epoch,
            record.seen_signal_seq,
            !record.step_events.is_empty()
                || record.seen_signal_seq.is_some()
                || matches!(record.waiting_for, Some(Some(_))),
            claim.lease.as_secs_f64()
        )
        .execute(&mut *self.tx.inner)
        .await?;
        require_one_row(held.rows_affected(), StoreError::Fenced)?;
        self.insert_steps(claim.operation, &record.new_steps)
            .await?;
        if !record.step_events.is_empty() {
            let numbers: Vec<i32> = record
                .step_events
                .iter()
                .map(|(number, _)| *number)
                .collect();
            let facts: Vec<serde_json::Value> = record
                .step_events
                .iter()
                .map(|(_, fact)| to_json(fact))
                .collect();
            sqlx::query!(
                "INSERT INTO item_facts (tenant_id, operation_id, number, epoch, at, fact)
                 SELECT $1, $2, fact.number, $3, $4, fact.body FROM unnest($5::integer[], $6::jsonb[]) AS fact (number, body)",
                self.tx.tenant.0,
                claim.operation.0,
                claim.epoch,
                now.to_sqlx() as _,
                &numbers,
                &facts
            )
            .execute(&mut *self.tx.inner)
            .await?;
        }
        if let Some(waiting_for) = &record.waiting_for {
            sqlx::query!(
                "UPDATE operations SET waiting_for = $3 WHERE tenant_id = $1 AND operation_id = $2",
                self.tx.tenant.0,
                claim.operation.0,
                waiting_for.as_deref()
            )
            .execute(&mut *self.tx.inner)
            .await?;
        }
        if let Some(state) = &record.state {
            self.write_operation_state(claim.operation, state, now)
                .await?;
        }
        Ok(())
    }

    pub(crate) async fn write_operation_state(
        &mut self,
        id: OperationId,
        state: &OperationState,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let ended = state.is_terminal().then(|| now.to_sqlx());
        let unfenced = state.is_terminal() && *state != OperationState::Succeeded;
        let row = sqlx::query!(
            "UPDATE operations SET state = $3, state_body = $4, started_at = coalesce(started_at, $5), ended_at = $6, unfenced = $7
             WHERE tenant_id = $1 AND operation_id = $2 RETURNING kind, mesh_id, upgrade_id, cluster_id",
            self.tx.tenant.0,
            id.0,
            state.as_str(),
            to_json(state),
            now.to_sqlx() as _,
            ended as _,
            unfenced
        )
        .fetch_one(&mut *self.tx.inner)
        .await?;
        self.tx.push_event(NewEvent {
            at: now,
            kind: EventKind::OperationState,
            mesh: row.mesh_id.map(MeshId),
            upgrade: row.upgrade_id.map(UpgradeId),
            operation: Some(id),
            body: serde_json::json!({ "kind": row.kind, "state": state.as_str() }),
        });
        if !state.is_terminal() || row.upgrade_id.is_some() {
            return Ok(());
        }
        let kind = decode_column(
            serde_json::from_value(row.kind.into()),
            "operations",
            "kind",
            id,
        )?;
        match (row.mesh_id, row.cluster_id) {
            (Some(mesh), _) => {
                self.apply_end_to_mesh(id, kind, MeshId(mesh), state, now)
                    .await
            }
            (None, Some(cluster)) => {
                self.apply_end_to_cluster(id, kind, ClusterId(cluster), state, now)
                    .await
            }
            (None, None) => Ok(()),
        }
    }
}
