//! Decodes the rows of operations.

use meshwright_model::ids::{ClusterId, MeshId, OperationId, UpgradeId};
use serde_json::Value;
use uuid::Uuid;

use crate::error::decode_column;
use crate::{Operation, StepCounts, StoreError};

/// Operation as a query reads it.
#[derive(Debug)]
pub(super) struct OperationRow {
    pub(super) operation: Operation,
    pub(super) counts: StepCounts,
    /// Policy of the upgrade whose roll-out the operation is.
    pub(super) upgrade_policy: Option<Value>,
    /// Numbers of the roll-out's workloads by wave and state, as objects.
    pub(super) states: Option<Value>,
}

/// Columns of an operation, as the database returns them.
#[derive(Debug)]
pub(super) struct OperationColumns {
    pub(super) operation_id: Uuid,
    pub(super) kind: String,
    pub(super) mesh_id: Option<Uuid>,
    pub(super) cluster_id: Option<Uuid>,
    pub(super) upgrade_id: Option<Uuid>,
    pub(super) arguments: Value,
    pub(super) state_body: Value,
    pub(super) waves: Option<Value>,
    pub(super) waiting_for: Option<String>,
    pub(super) leftovers: Value,
    pub(super) created_at: jiff_sqlx::Timestamp,
    pub(super) started_at: Option<jiff_sqlx::Timestamp>,
    pub(super) ended_at: Option<jiff_sqlx::Timestamp>,
    /// Signals that no worker has processed yet.
    pub(super) pending: Vec<String>,
    pub(super) total: i64,
    pub(super) done: i64,
    pub(super) upgrade_policy: Option<Value>,
    pub(super) states: Option<Value>,
}

impl OperationColumns {
    /// Reads the values of the columns.
    pub(super) fn decode(self) -> Result<OperationRow, StoreError> {
        let id = OperationId(self.operation_id);
        let waves = self
            .waves
            .map(|waves| decode_column(serde_json::from_value(waves), "operations", "waves", id));
        let pending = self
            .pending
            .into_iter()
            .map(|wish| decode_column(serde_json::from_value(wish.into()), "wishes", "wish", id));
        let operation = Operation {
            id,
            kind: decode_column(
                serde_json::from_value(self.kind.into()),
                "operations",
                "kind",
                id,
            )?,
            mesh: self.mesh_id.map(MeshId),
            cluster: self.cluster_id.map(ClusterId),
            upgrade: self.upgrade_id.map(UpgradeId),
            arguments: self.arguments,
            state: decode_column(
                serde_json::from_value(self.state_body),
                "operations",
                "state_body",
                id,
            )?,
            waves: waves.transpose()?,
            waiting_for: self.waiting_for,
            pending_signals: pending.collect::<Result<_, _>>()?,
            leftovers: decode_column(
                serde_json::from_value(self.leftovers),
                "operations",
                "leftovers",
                id,
            )?,
            created_at: self.created_at.to_jiff(),
            started_at: self.started_at.map(jiff_sqlx::Timestamp::to_jiff),
            ended_at: self.ended_at.map(jiff_sqlx::Timestamp::to_jiff),
        };
        Ok(OperationRow {
            operation,
            counts: (self.done, self.total),
            upgrade_policy: self.upgrade_policy,
            states: self.states,
        })
    }
}
