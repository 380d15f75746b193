//! Shares the connections between tenants. A tenant with many requests waits for its own
//! transactions and does not delay other tenants. Write transactions of all tenants together have a
//! limit too, which leaves connections to reads.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use meshwright_model::ids::TenantId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Number of tenants above which those that hold no permit are dropped from the map.
const MAX_TRACKED_TENANTS: usize = 1000;

/// A set of permits for each tenant, of the same size for all.
#[derive(Debug)]
pub struct TenantPermits {
    permits_per_tenant: usize,
    tenants: Mutex<HashMap<TenantId, Arc<Semaphore>>>,
}

impl TenantPermits {
    /// Creates an empty set with `each` permits per tenant.
    pub fn new(each: usize) -> Self {
        Self {
            permits_per_tenant: each,
            tenants: Mutex::default(),
        }
    }

    /// Returns the permits of one tenant.
    pub fn for_tenant(&self, tenant: TenantId) -> Arc<Semaphore> {
        let mut tenants = self.tenants.lock().expect("no holder panics");
        if tenants.len() >= MAX_TRACKED_TENANTS {
            tenants.retain(|_, permits| Arc::strong_count(permits) > 1);
        }
        tenants
            .entry(tenant)
            .or_insert_with(|| Arc::new(Semaphore::new(self.permits_per_tenant)))
            .clone()
    }
}

/// Limits the transactions that each tenant may have at once, and the write transactions of all
/// tenants together. Further transactions wait, in order.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionQuota {
    tenant_permits: Arc<TenantPermits>,
    write_permits: Arc<Semaphore>,
}

/// Mode of a task's transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxMode {
    /// The task only reads.
    Read,
    /// The task writes in the end. Its reads before that count as well.
    Write,
}

/// The right to one transaction, held until it is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    _tenant_permit: OwnedSemaphorePermit,
    _write_permit: Option<OwnedSemaphorePermit>,
}

impl ConnectionQuota {
    pub(crate) fn new(each: usize, changes: usize) -> Self {
        Self {
            tenant_permits: Arc::new(TenantPermits::new(each)),
            write_permits: Arc::new(Semaphore::new(changes)),
        }
    }

    /// Creates the quota for a pool of at least 4 connections on a machine with this number of
    /// processors.
    pub(crate) fn for_pool(connections: usize, processors: usize) -> Self {
        let each = connections / 4;
        // A write keeps a processor busy, here or in the database. More writes at once than there
        // are processors do not end sooner, and they delay reads. One write more than a tenant can
        // have leaves a permit for others while its writes wait for each other.
        let changes = processors.clamp(each + 1, connections / 2);
        Self::new(each, changes)
    }

    /// Waits for the right to one transaction of this tenant.
    pub(crate) async fn acquire_permit(&self, tenant: TenantId, mode: TxMode) -> ConnectionPermit {
        // The tenant's own permit comes first, so that a tenant with many writes holds no more of
        // the write permits than it may have transactions.
        let tenant = self
            .tenant_permits
            .for_tenant(tenant)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let change = match mode {
            TxMode::Read => None,
            TxMode::Write => Some(
                self.write_permits
                    .clone()
                    .acquire_owned()
                    .await
                    .expect("the semaphore is never closed"),
            ),
        };
        ConnectionPermit {
            _tenant_permit: tenant,
            _write_permit: change,
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn tenant_at_its_limit_does_not_delay_other_tenants() {
        let turns = ConnectionQuota::new(2, 4);
        let (loud, quiet) = (TenantId(Uuid::from_u128(1)), TenantId(Uuid::from_u128(2)));
        let held = [
            turns.acquire_permit(loud, TxMode::Read).await,
            turns.acquire_permit(loud, TxMode::Read).await,
        ];
        let third = tokio::spawn({
            let turns = turns.clone();
            async move { turns.acquire_permit(loud, TxMode::Read).await }
        });
        tokio::task::yield_now().await;
        assert!(!third.is_finished());
        drop(turns.acquire_permit(quiet, TxMode::Read).await);
        drop(held);
        drop(third.await.expect("its turn comes"));
    }

    #[tokio::test]
    async fn changes_of_many_tenants_leave_connections_to_those_who_only_look() {
        let turns = ConnectionQuota::new(2, 2);
        let tenant = |number| TenantId(Uuid::from_u128(number));
        let held = [
            turns.acquire_permit(tenant(1), TxMode::Write).await,
            turns.acquire_permit(tenant(2), TxMode::Write).await,
        ];
        let third = tokio::spawn({
            let turns = turns.clone();
            async move { turns.acquire_permit(tenant(3), TxMode::Write).await }
        });
        tokio::task::yield_now().await;
        assert!(!third.is_finished());
        drop(turns.acquire_permit(tenant(4), TxMode::Read).await);
        drop(held);
        drop(third.await.expect("its turn comes"));
    }

    #[tokio::test]
    async fn writes_of_one_tenant_leave_a_permit_for_another_on_one_processor() {
        let turns = ConnectionQuota::for_pool(10, 1);
        let (loud, quiet) = (TenantId(Uuid::from_u128(1)), TenantId(Uuid::from_u128(2)));
        let _held = [
            turns.acquire_permit(loud, TxMode::Write).await,
            turns.acquire_permit(loud, TxMode::Write).await,
        ];
        let other = turns.acquire_permit(quiet, TxMode::Write);
        let other = tokio::time::timeout(std::time::Duration::from_secs(5), other).await;
        assert!(
            other.is_ok(),
            "the other tenant waits for no change of the first one"
        );
    }

    #[tokio::test]
    async fn tenants_without_a_transaction_are_forgotten() {
        let turns = ConnectionQuota::new(2, 4);
        let held = turns
            .acquire_permit(TenantId(Uuid::from_u128(0)), TxMode::Read)
            .await;
        for tenant in 1..=3 * MAX_TRACKED_TENANTS as u128 {
            drop(
                turns
                    .acquire_permit(TenantId(Uuid::from_u128(tenant)), TxMode::Read)
                    .await,
            );
        }
        let known = turns.tenant_permits.tenants.lock().expect("no panic");
        assert!(
            known.len() <= MAX_TRACKED_TENANTS && known.contains_key(&TenantId(Uuid::from_u128(0)))
        );
        drop(held);
    }
}
