//! Claims operations from the work queue, renews their leases, and gives them back. Every write
//! names the epoch of the claim.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use meshwright_model::ids::{HostingClusterId, OperationId, TenantId};

use crate::db::query_areas::OperationQueries;
use crate::db::statements::{require_one_row, retry_on_conflict, to_uuids};
use crate::{Store, StoreError, Tx};

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
    /// Number of claims in a row, this one included, that recorded neither a step event nor a new
    /// reason to wait, and were not given back in order.
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
    /// Hosting clusters of which only the reserve is free, each with a tenant that runs something
    /// on it. Operations of this tenant on this hosting cluster are not claimed.
    pub hosting_full_tenants: BTreeSet<(HostingClusterId, TenantId)>,
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
        let (reserved, holding): (Vec<_>, Vec<_>) = filter
            .hosting_full_tenants
            .iter()
            .map(|(cluster, tenant)| (cluster.0, tenant.0))
            .unzip();
        let row = sqlx::query!(
            r#"UPDATE work_queue SET owner = $1, lease_until = now() + make_interval(secs => $2), epoch = epoch + 1, claims = claims + 1
               WHERE operation_id = coalesce(
                   -- Each part is asked only when the one before found nothing, and ends at the first row that fits.
                   (SELECT operation_id FROM work_queue
                    WHERE due_at <= now() AND (owner IS NULL OR lease_until < now()) AND operation_id <> ALL($3)
                        AND NOT (costly AND (NOT $7 OR tenant_id = ANY($8)))
                        AND (hosting_cluster_id IS NULL OR hosting_cluster_id <> ALL($11)
                            AND (hosting_cluster_id, tenant_id) NOT IN (SELECT * FROM unnest($12::uuid[], $13::uuid[]))) AND tenant_id <> ALL($4)
                    ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED),
                   (SELECT operation_id FROM work_queue
                    WHERE due_at <= now() AND (owner IS NULL OR lease_until < now()) AND operation_id <> ALL($3)
                        AND NOT (costly AND (NOT $7 OR tenant_id = ANY($8)))
                        AND (hosting_cluster_id IS NULL OR hosting_cluster_id <> ALL($11)
                            AND (hosting_cluster_id, tenant_id) NOT IN (SELECT * FROM unnest($12::uuid[], $13::uuid[]))) AND $6 AND $9 AND tenant_id <> ALL($5)
                    ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED),
                   (SELECT operation_id FROM work_queue
                    WHERE due_at <= now() AND (owner IS NULL OR lease_until < now()) AND operation_id <> ALL($3)
                        AND NOT (costly AND (NOT $7 OR tenant_id = ANY($8)))
                        AND (hosting_cluster_id IS NULL OR hosting_cluster_id <> ALL($11)
                            AND (hosting_cluster_id, tenant_id) NOT IN (SELECT * FROM unnest($12::uuid[], $13::uuid[]))) AND $6 AND $10
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
            &to_uuids(&filter.full_hosting_clusters, |id| id.0),
            &reserved,
            &holding
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
}

impl OperationQueries<'_, '_> {
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
                .execute(&mut *self.tx.inner)
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
                .execute(&mut *self.tx.inner)
                .await?
            }
        };
        require_one_row(done.rows_affected(), StoreError::Fenced)
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
        self.events().flush_events_and_audit().await?;
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
}
