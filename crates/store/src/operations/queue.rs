//! Claims operations from the work queue, renews leases, and records what workers did. Every write
//! names the epoch of the claim.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use meshwright_model::ids::{ClusterId, HostingClusterId, MeshId, OperationId, TenantId};
use meshwright_model::operation::{OperationState, Signal, StepEvent};
use sqlx::postgres::PgListener;
use uuid::Uuid;

use crate::db::statements::{require_one_row, retry_on_conflict};
use crate::error::{decode_column, to_json};
use crate::{NewEvent, Store, StoreError, Tx};

/// The right of a worker to run an operation until the lease ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Operation that is claimed.
    pub operation: OperationId,
    /// Tenant that the operation belongs to.
    pub tenant: TenantId,
    /// Number of this claim of the operation; every write names it.
    pub epoch: i64,
    /// Duration of the lease from each renewal. A recorded update also renews it.
    pub lease: Duration,
    /// True for kinds of operations that talk to a cluster which has not proved itself yet. They
    /// have a capacity of their own in each worker.
    pub costly: bool,
    /// Hosting cluster of the operation's mesh, if it has a mesh.
    pub hosting: Option<HostingClusterId>,
    /// Number of claims in a row, this one included, that recorded no step event and were not given
    /// back in order.
    pub claims: i32,
    /// Number of the earlier ones among these claims that ended in an error.
    pub errors: i32,
}

impl Claim {
    /// Returns the number of claims in a row, this one included, that neither recorded a step event
    /// nor ended in an error. Errors have limits of their own, which depend on the kind of error.
    pub fn claims_without_progress(&self) -> i32 {
        self.claims.saturating_sub(self.errors)
    }
}

/// A mesh that is due for an observation.
#[derive(Debug, Clone, Copy)]
pub struct DueObservation {
    /// Tenant that the mesh belongs to.
    pub tenant: TenantId,
    /// Mesh to be observed.
    pub mesh: MeshId,
    /// Number of observations in a row that failed.
    pub failures: i32,
}

/// The operations that a worker may claim now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClaimFilter {
    /// Operations that the worker runs already; they are not claimed again.
    pub running: Vec<OperationId>,
    /// Tenants that run something in this worker. Their operations are claimed only when none of
    /// another tenant is due.
    pub busy_tenants: Vec<TenantId>,
    /// Tenants that have used up their share of the worker's capacity. Their operations are claimed
    /// last.
    pub full_tenants: Vec<TenantId>,
    /// Whether operations of busy tenants may be claimed at all. False keeps the rest of the
    /// worker's capacity for tenants that run nothing.
    pub allow_busy_tenants: bool,
    /// Whether kinds of operations that may stall a worker may be claimed.
    pub allow_costly: bool,
    /// Tenants whose operations of such kinds are not claimed.
    pub costly_full_tenants: Vec<TenantId>,
    /// Hosting clusters whose operations use as much of the worker's capacity as one hosting
    /// cluster may. No more of them are claimed.
    pub full_hosting_clusters: Vec<HostingClusterId>,
}

impl ClaimFilter {
    /// Accepts any operation of any tenant.
    pub fn any_operation() -> Self {
        Self {
            allow_busy_tenants: true,
            allow_costly: true,
            ..Self::default()
        }
    }
}

pub(crate) fn to_uuids<T>(of: &[T], id: impl Fn(&T) -> Uuid) -> Vec<Uuid> {
    of.iter().map(id).collect()
}

/// Signals that the worker has not seen yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PendingSignals {
    /// Signals in the order in which people sent them.
    pub signals: Vec<Signal>,
    /// Number of the last signal of the operation.
    pub last_seq: i64,
}

impl PendingSignals {
    /// Returns the signals after a number, or all of them.
    pub fn after_seq(&self, seen: Option<i64>) -> impl Iterator<Item = Signal> {
        let fresh = seen.map_or(usize::MAX, |seen| {
            usize::try_from(self.last_seq - seen).unwrap_or(0)
        });
        self.signals
            .iter()
            .skip(self.signals.len().saturating_sub(fresh))
            .copied()
    }
}

/// The changes of one operation that a worker writes in one transaction.
#[derive(Debug, Clone, Default)]
pub struct OperationUpdate {
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

impl Store {
    /// Claims the operation that has been due the longest and passes the filter. It is free, or the
    /// lease of its last claim has ended.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn claim_operation(
        &self,
        owner: &str,
        lease: Duration,
        filter: &ClaimFilter,
    ) -> Result<Option<Claim>, StoreError> {
        let claim = || async { Ok(Self::claim_once(&self.pool, owner, lease, filter).await?) };
        retry_on_conflict(claim).await
    }

    async fn claim_once(
        pool: &sqlx::PgPool,
        owner: &str,
        lease: Duration,
        filter: &ClaimFilter,
    ) -> sqlx::Result<Option<Claim>> {
        let row = sqlx::query!(
            r#"UPDATE work_queue SET owner = $1, lease_until = now() + make_interval(secs => $2), epoch = epoch + 1, claims = claims + 1
               WHERE operation_id = coalesce(
                   -- Each part is asked only when the one before found nothing, and ends at the first row that fits.
                   (SELECT operation_id FROM work_queue
                    WHERE due_at <= now() AND (owner IS NULL OR lease_until < now()) AND operation_id <> ALL($3)
                        AND NOT (costly AND (NOT $7 OR tenant_id = ANY($8)))
                        AND (hosting_cluster_id IS NULL OR hosting_cluster_id <> ALL($11)) AND tenant_id <> ALL($4)
                    ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED),
                   (SELECT operation_id FROM work_queue
                    WHERE due_at <= now() AND (owner IS NULL OR lease_until < now()) AND operation_id <> ALL($3)
                        AND NOT (costly AND (NOT $7 OR tenant_id = ANY($8)))
                        AND (hosting_cluster_id IS NULL OR hosting_cluster_id <> ALL($11)) AND $6 AND $9 AND tenant_id <> ALL($5)
                    ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED),
                   (SELECT operation_id FROM work_queue
                    WHERE due_at <= now() AND (owner IS NULL OR lease_until < now()) AND operation_id <> ALL($3)
                        AND NOT (costly AND (NOT $7 OR tenant_id = ANY($8)))
                        AND (hosting_cluster_id IS NULL OR hosting_cluster_id <> ALL($11)) AND $6 AND $10
                    ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED))
               RETURNING operation_id, tenant_id, epoch, costly, hosting_cluster_id, claims, errors"#,
            owner,
            lease.as_secs_f64(),
            &to_uuids(&filter.running, |id| id.0),
            &to_uuids(&filter.busy_tenants, |id| id.0),
            &to_uuids(&filter.full_tenants, |id| id.0),
            filter.allow_busy_tenants,
            filter.allow_costly,
            &to_uuids(&filter.costly_full_tenants, |id| id.0),
            !filter.busy_tenants.is_empty(),
            !filter.full_tenants.is_empty(),
            &to_uuids(&filter.full_hosting_clusters, |id| id.0)
        )
        .fetch_optional(pool)
        .await?;
        Ok(row.map(|row| Claim {
            operation: OperationId(row.operation_id),
            tenant: TenantId(row.tenant_id),
            epoch: row.epoch,
            lease,
            costly: row.costly,
            hosting: row.hosting_cluster_id.map(HostingClusterId),
            claims: row.claims,
            errors: row.errors,
        }))
    }

    /// Renews the lease of a claim.
    ///
    /// # Errors
    /// Returns [`StoreError::Fenced`] when another claim has taken over the operation.
    pub async fn renew_lease(&self, claim: &Claim, lease: Duration) -> Result<(), StoreError> {
        let renew = || async {
            let done = sqlx::query!(
                "UPDATE work_queue SET lease_until = now() + make_interval(secs => $3) WHERE operation_id = $1 AND epoch = $2",
                claim.operation.0,
                claim.epoch,
                lease.as_secs_f64()
            )
            // This pool only renews leases, so that a renewal never waits for other transactions of
            // this process.
            .execute(&self.lease_pool)
            .await?;
            require_one_row(done.rows_affected(), StoreError::Fenced)
        };
        retry_on_conflict(renew).await
    }

    /// Claims the mesh whose observation has been due the longest. The caller finishes the
    /// observation within `held`, and no other observation of this mesh starts before that. Meshes
    /// of the tenants in `excluded` are left out.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn claim_observation(
        &self,
        held: Duration,
        excluded: &[TenantId],
    ) -> Result<Option<DueObservation>, StoreError> {
        let excluded = to_uuids(excluded, |id| id.0);
        let take = || async {
            let row = sqlx::query!(
                r#"UPDATE probes SET due_at = now() + make_interval(secs => $1)
                   WHERE mesh_id = (SELECT mesh_id FROM probes WHERE due_at <= now() AND tenant_id <> ALL($2)
                       ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
                   RETURNING mesh_id, tenant_id, failures"#,
                held.as_secs_f64(),
                &excluded
            )
            .fetch_optional(&self.pool)
            .await?;
            Ok(row.map(|row| DueObservation {
                tenant: TenantId(row.tenant_id),
                mesh: MeshId(row.mesh_id),
                failures: row.failures,
            }))
        };
        retry_on_conflict(take).await
    }

    /// Counts the operations that are due and that no worker runs, and returns how long the first
    /// of them has been due.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn backlog(&self) -> Result<(u32, Duration), StoreError> {
        let row = sqlx::query!(
            r#"SELECT count(*) AS "due!", coalesce(extract(epoch FROM now() - min(due_at)), 0)::float8 AS "longest!"
               FROM work_queue WHERE due_at <= now() AND (owner IS NULL OR lease_until < now())"#
        )
        .fetch_one(&self.pool)
        .await?;
        let longest = Duration::try_from_secs_f64(row.longest).unwrap_or_default();
        Ok((u32::try_from(row.due).unwrap_or(u32::MAX), longest))
    }

    /// Subscribes to work notifications. The LISTEN connection opens on the first `wait`.
    pub fn work_notifications(&self) -> WorkNotifications {
        WorkNotifications {
            pool: self.pool.clone(),
            listener: None,
        }
    }
}

/// A subscription to work notifications. One connection listens for as long as this value lives.
#[derive(Debug)]
pub struct WorkNotifications {
    pool: sqlx::PgPool,
    listener: Option<PgListener>,
}

impl WorkNotifications {
    /// Waits for a notification, at most this long. Notifications may be lost, so the caller polls
    /// the queue as well.
    pub async fn wait(&mut self, at_most: Duration) {
        // The caller polls the queue after an error or a timeout too, so neither is returned.
        if let Ok(Err(error)) = tokio::time::timeout(at_most, self.receive_notification()).await {
            tracing::debug!(error = %error, "could not listen for work notifications; polling the queue");
            self.listener = None;
            tokio::time::sleep(at_most).await;
        }
    }

    /// Waits for a notification. The listener buffers those that came earlier, and one poll of the
    /// queue serves all of them, so they are discarded.
    async fn receive_notification(&mut self) -> sqlx::Result<()> {
        let listener = match &mut self.listener {
            Some(listener) => listener,
            none => {
                let mut listener = PgListener::connect_with(&self.pool).await?;
                listener.listen("mw_work").await?;
                none.insert(listener)
            }
        };
        listener.recv().await?;
        while listener.next_buffered().is_some() {}
        Ok(())
    }
}

impl Tx<'_> {
    /// Commits, and renews the lease of a claim in the last statement. Returns an instant from
    /// before that statement was sent; the lease counted from it ends no later than the lease in
    /// the database.
    ///
    /// # Errors
    /// Returns the errors of [`Tx::commit`], and [`StoreError::Fenced`] when another claim has
    /// taken over the operation.
    pub async fn commit_and_renew_lease(mut self, claim: &Claim) -> Result<Instant, StoreError> {
        self.flush_events_and_audit().await?;
        let since = Instant::now();
        let done = sqlx::query!(
            "UPDATE work_queue SET lease_until = clock_timestamp() + make_interval(secs => $3) WHERE operation_id = $1 AND epoch = $2",
            claim.operation.0,
            claim.epoch,
            claim.lease.as_secs_f64()
        )
        .execute(&mut *self.inner)
        .await?;
        require_one_row(done.rows_affected(), StoreError::Fenced)?;
        self.inner.commit().await?;
        Ok(since)
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
        .fetch_optional(&mut *self.inner)
        .await?
        .ok_or(StoreError::Fenced)?;
        if row.wish_seq == row.seen_seq {
            return Ok(PendingSignals {
                signals: Vec::new(),
                last_seq: row.wish_seq,
            });
        }
        let rows = sqlx::query_scalar!(
            "SELECT wish FROM wishes WHERE tenant_id = $1 AND operation_id = $2 AND seq > $3 AND seq <= $4 ORDER BY seq",
            self.tenant.0,
            claim.operation.0,
            row.seen_seq,
            row.wish_seq
        )
        .fetch_all(&mut *self.inner)
        .await?;
        let wishes = rows.into_iter().map(|text| {
            decode_column(
                serde_json::from_value(text.into()),
                "wishes",
                "wish",
                claim.operation,
            )
        });
        Ok(PendingSignals {
            signals: wishes.collect::<Result<_, _>>()?,
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
            // of claims. Restarts are limited, because a plan has a finite number of step events.
            "UPDATE work_queue SET seen_seq = coalesce($3, seen_seq),
                 claims = CASE WHEN $4 THEN 0 ELSE claims END, errors = CASE WHEN $4 THEN 0 ELSE errors END,
                 lease_until = clock_timestamp() + make_interval(secs => $5)
             WHERE operation_id = $1 AND epoch = $2",
            claim.operation.0,
            claim.epoch,
            record.seen_signal_seq,
            !record.step_events.is_empty() || record.seen_signal_seq.is_some(),
            claim.lease.as_secs_f64()
        )
        .execute(&mut *self.inner)
        .await?;
        require_one_row(held.rows_affected(), StoreError::Fenced)?;
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
                self.tenant.0,
                claim.operation.0,
                claim.epoch,
                now.to_sqlx() as _,
                &numbers,
                &facts
            )
            .execute(&mut *self.inner)
            .await?;
        }
        if let Some(waiting_for) = &record.waiting_for {
            sqlx::query!(
                "UPDATE operations SET waiting_for = $3 WHERE tenant_id = $1 AND operation_id = $2",
                self.tenant.0,
                claim.operation.0,
                waiting_for.as_deref()
            )
            .execute(&mut *self.inner)
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
            self.tenant.0,
            id.0,
            state.as_str(),
            to_json(state),
            now.to_sqlx() as _,
            ended as _,
            unfenced
        )
        .fetch_one(&mut *self.inner)
        .await?;
        self.push_event(NewEvent {
            at: now,
            kind: "operation.state",
            mesh: row.mesh_id.map(MeshId),
            upgrade: row.upgrade_id.map(meshwright_model::ids::UpgradeId),
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

    /// Gives an operation back after this delay, or at once when a signal arrived meanwhile. `None`
    /// removes it from the queue, because it has ended.
    ///
    /// # Errors
    /// Returns [`StoreError::Fenced`] when another claim has taken over the operation.
    pub async fn end_claim(
        &mut self,
        claim: &Claim,
        due_in: Option<Duration>,
    ) -> Result<(), StoreError> {
        let done = match due_in {
            None => {
                sqlx::query!(
                    "DELETE FROM work_queue WHERE operation_id = $1 AND epoch = $2",
                    claim.operation.0,
                    claim.epoch
                )
                .execute(&mut *self.inner)
                .await?
            }
            Some(due_in) => {
                sqlx::query!(
                    "UPDATE work_queue SET owner = NULL, lease_until = NULL, claims = 0, errors = 0,
                         due_at = CASE WHEN wish_seq > seen_seq THEN now() ELSE now() + make_interval(secs => $3) END
                     WHERE operation_id = $1 AND epoch = $2",
                    claim.operation.0,
                    claim.epoch,
                    due_in.as_secs_f64()
                )
                .execute(&mut *self.inner)
                .await?
            }
        };
        require_one_row(done.rows_affected(), StoreError::Fenced)
    }
}
