//! Connections are shared by tenants: one that has many questions waits for its own answers, and nobody else does. Changes by
//! many tenants at once wait for each other, and leave connections to those who only look.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use model::ids::TenantId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Above so many tenants, those that have no permit are forgotten.
const MANY: usize = 1000;

/// So many permits for each tenant.
#[derive(Debug)]
pub struct TenantPermits {
    each: usize,
    tenants: Mutex<HashMap<TenantId, Arc<Semaphore>>>,
}

impl TenantPermits {
    /// No tenant has one yet.
    pub fn new(each: usize) -> Self {
        Self { each, tenants: Mutex::default() }
    }

    /// The permits of one tenant.
    pub fn of(&self, tenant: TenantId) -> Arc<Semaphore> {
        let mut tenants = self.tenants.lock().expect("no holder panics");
        if tenants.len() >= MANY {
            tenants.retain(|_, permits| Arc::strong_count(permits) > 1);
        }
        tenants.entry(tenant).or_insert_with(|| Arc::new(Semaphore::new(self.each))).clone()
    }
}

/// How many transactions each tenant may have at once, and how many of all of them may belong to changes. The rest waits, in
/// order.
#[derive(Debug, Clone)]
pub(crate) struct Turns {
    tenants: Arc<TenantPermits>,
    changes: Arc<Semaphore>,
}

/// What a task is going to do with its transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// Only to look.
    Read,
    /// To change something in the end; its looks on the way there count as well.
    Change,
}

/// The right to one transaction, until this is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _tenant: OwnedSemaphorePermit,
    _change: Option<OwnedSemaphorePermit>,
}

impl Turns {
    pub(crate) fn new(each: usize, changes: usize) -> Self {
        Self { tenants: Arc::new(TenantPermits::new(each)), changes: Arc::new(Semaphore::new(changes)) }
    }

    /// A turn of this tenant, which ends with what is answered.
    pub(crate) async fn of(&self, tenant: TenantId, aim: Aim) -> Turn {
        // In this order, so that a tenant with many changes does not keep the turns of all of them from others.
        let tenant = self.tenants.of(tenant).acquire_owned().await.expect("nobody closes it");
        let change = match aim {
            Aim::Read => None,
            Aim::Change => Some(self.changes.clone().acquire_owned().await.expect("nobody closes it")),
        };
        Turn { _tenant: tenant, _change: change }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn one_tenants_many_transactions_keep_nobody_else_waiting() {
        let turns = Turns::new(2, 4);
        let (loud, quiet) = (TenantId(Uuid::from_u128(1)), TenantId(Uuid::from_u128(2)));
        let held = [turns.of(loud, Aim::Read).await, turns.of(loud, Aim::Read).await];
        let third = tokio::spawn({
            let turns = turns.clone();
            async move { turns.of(loud, Aim::Read).await }
        });
        tokio::task::yield_now().await;
        assert!(!third.is_finished());
        drop(turns.of(quiet, Aim::Read).await);
        drop(held);
        drop(third.await.expect("its turn comes"));
    }

    #[tokio::test]
    async fn changes_of_many_tenants_leave_connections_to_those_who_only_look() {
        let turns = Turns::new(2, 2);
        let tenant = |number| TenantId(Uuid::from_u128(number));
        let held = [turns.of(tenant(1), Aim::Change).await, turns.of(tenant(2), Aim::Change).await];
        let third = tokio::spawn({
            let turns = turns.clone();
            async move { turns.of(tenant(3), Aim::Change).await }
        });
        tokio::task::yield_now().await;
        assert!(!third.is_finished());
        drop(turns.of(tenant(4), Aim::Read).await);
        drop(held);
        drop(third.await.expect("its turn comes"));
    }

    #[tokio::test]
    async fn tenants_without_a_transaction_are_forgotten() {
        let turns = Turns::new(2, 4);
        let held = turns.of(TenantId(Uuid::from_u128(0)), Aim::Read).await;
        for tenant in 1..=3 * MANY as u128 {
            drop(turns.of(TenantId(Uuid::from_u128(tenant)), Aim::Read).await);
        }
        let known = turns.tenants.tenants.lock().expect("no panic");
        assert!(known.len() <= MANY && known.contains_key(&TenantId(Uuid::from_u128(0))));
        drop(held);
    }
}
