//! Connections are shared by tenants: one that has many questions waits for its own answers, and nobody else does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use model::ids::TenantId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Above so many tenants, those that have no transaction are forgotten.
const MANY: usize = 1000;

/// How many transactions each tenant may have at once. The rest waits, in order.
#[derive(Debug, Clone)]
pub(crate) struct Turns {
    each: usize,
    tenants: Arc<Mutex<HashMap<TenantId, Arc<Semaphore>>>>,
}

impl Turns {
    pub(crate) fn new(each: usize) -> Self {
        Self { each, tenants: Arc::default() }
    }

    /// A turn of this tenant, which ends with what is answered.
    pub(crate) async fn of(&self, tenant: TenantId) -> OwnedSemaphorePermit {
        let turns = {
            let mut tenants = self.tenants.lock().expect("no holder panics");
            if tenants.len() >= MANY {
                tenants.retain(|_, turns| Arc::strong_count(turns) > 1);
            }
            tenants.entry(tenant).or_insert_with(|| Arc::new(Semaphore::new(self.each))).clone()
        };
        turns.acquire_owned().await.expect("nobody closes it")
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn one_tenants_many_transactions_keep_nobody_else_waiting() {
        let turns = Turns::new(2);
        let (loud, quiet) = (TenantId(Uuid::from_u128(1)), TenantId(Uuid::from_u128(2)));
        let held = [turns.of(loud).await, turns.of(loud).await];
        let third = tokio::spawn({
            let turns = turns.clone();
            async move { turns.of(loud).await }
        });
        tokio::task::yield_now().await;
        assert!(!third.is_finished());
        drop(turns.of(quiet).await);
        drop(held);
        drop(third.await.expect("its turn comes"));
    }

    #[tokio::test]
    async fn tenants_without_a_transaction_are_forgotten() {
        let turns = Turns::new(2);
        let held = turns.of(TenantId(Uuid::from_u128(0))).await;
        for tenant in 1..=3 * MANY as u128 {
            drop(turns.of(TenantId(Uuid::from_u128(tenant))).await);
        }
        let known = turns.tenants.lock().expect("no panic");
        assert!(known.len() <= MANY && known.contains_key(&TenantId(Uuid::from_u128(0))));
        drop(held);
    }
}
