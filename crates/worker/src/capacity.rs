//! Limits how many operations a worker runs at once, and shares this capacity among tenants.
//!
//! Tenants that run nothing come first, then tenants below their share, then any tenant while more
//! capacity is free than the reserve. One tenant alone can therefore use the whole capacity except
//! the reserves, and a tenant that comes later is served at once. Expensive kinds of operations
//! have a quarter of the capacity, with a reserve within it. Operations on one hosting cluster use
//! at most three quarters, so that a hosting cluster that does not answer leaves capacity for the
//! tenants of the others. A reserve within these three quarters is kept for tenants that run
//! nothing on that hosting cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use meshwright_model::ids::{HostingClusterId, OperationId, TenantId};
use meshwright_store::{Claim, ClaimFilter};
use tokio::sync::Notify;

/// Divisor of the capacity: the share of a tenant, the reserve and the part for expensive kinds are
/// each a quarter.
const SHARE_DIVISOR: usize = 4;

/// The operations that a worker runs now. All clones share one state.
#[derive(Debug, Clone, Default)]
pub(crate) struct WorkerCapacity(Arc<CapacityState>);

#[derive(Debug, Default)]
struct CapacityState {
    occupied: Mutex<BTreeMap<OperationId, Running>>,
    freed: Notify,
}

/// An operation that occupies capacity.
#[derive(Debug, Clone, Copy)]
struct Running {
    tenant: TenantId,
    costly: bool,
    hosting: Option<HostingClusterId>,
}

/// Guard of the capacity for one operation, which is freed when the guard is dropped.
#[derive(Debug)]
pub(crate) struct CapacityGuard {
    capacity: WorkerCapacity,
    operation: OperationId,
}

impl Drop for CapacityGuard {
    fn drop(&mut self) {
        self.capacity
            .0
            .occupied
            .lock()
            .expect("no holder panics")
            .remove(&self.operation);
        self.capacity.0.freed.notify_one();
    }
}

impl WorkerCapacity {
    /// Returns which operations may be claimed next, or `None` while the whole capacity is in use.
    pub(crate) fn claim_filter(&self, width: usize) -> Option<ClaimFilter> {
        let held = self.0.occupied.lock().expect("no holder panics");
        let running: Vec<Running> = held.values().copied().collect();
        let wanted = compute_claim_filter(&running, width)?;
        Some(ClaimFilter {
            running: held.keys().copied().collect(),
            ..wanted
        })
    }

    /// Occupies capacity for a claim. Returns `None` when this process already runs the operation.
    pub(crate) fn try_acquire(&self, claim: &Claim) -> Option<CapacityGuard> {
        let mut held = self.0.occupied.lock().expect("no holder panics");
        if held.contains_key(&claim.operation) {
            return None;
        }
        let Claim {
            tenant,
            costly,
            hosting,
            ..
        } = *claim;
        held.insert(
            claim.operation,
            Running {
                tenant,
                costly,
                hosting,
            },
        );
        Some(CapacityGuard {
            capacity: self.clone(),
            operation: claim.operation,
        })
    }

    /// Waits until capacity is freed.
    pub(crate) async fn wait_for_capacity(&self) {
        self.0.freed.notified().await;
    }
}

/// Computes which operations may be claimed next from those that run now. Returns `None` while the
/// whole capacity is in use.
fn compute_claim_filter(running: &[Running], width: usize) -> Option<ClaimFilter> {
    let free = width.checked_sub(running.len()).filter(|free| *free > 0)?;
    let all: Vec<TenantId> = running.iter().map(|of| of.tenant).collect();
    let costly: Vec<TenantId> = running
        .iter()
        .filter(|of| of.costly)
        .map(|of| of.tenant)
        .collect();
    let spare = free > reserved_capacity(width);
    let for_costly = (width / SHARE_DIVISOR).max(1);
    let costly_free = for_costly.saturating_sub(costly.len());
    let costly_full = if costly_free > reserved_capacity(for_costly) {
        Vec::new()
    } else {
        values_occurring_at_least(&costly, 1)
    };
    let (full_hosting_clusters, hosting_full_tenants) = limit_hosting_clusters(running, width);
    Some(ClaimFilter {
        running: Vec::new(),
        busy_tenants: values_occurring_at_least(&all, 1),
        full_tenants: values_occurring_at_least(&all, tenant_share(width)),
        allow_busy_tenants: spare,
        allow_costly: costly_free > 0,
        costly_full_tenants: costly_full,
        full_hosting_clusters,
        hosting_full_tenants,
    })
}

/// Returns the hosting clusters that no more operations are claimed for, and the tenants with
/// operations on a hosting cluster whose free share is only its reserve.
fn limit_hosting_clusters(
    running: &[Running],
    width: usize,
) -> (
    Vec<HostingClusterId>,
    BTreeSet<(HostingClusterId, TenantId)>,
) {
    let share = (width - reserved_capacity(width)).max(1);
    let hosting: Vec<HostingClusterId> = running.iter().filter_map(|of| of.hosting).collect();
    let on_reserve = values_occurring_at_least(&hosting, share - reserved_capacity(share));
    let tenants = running
        .iter()
        .filter_map(|of| of.hosting.map(|cluster| (cluster, of.tenant)))
        .filter(|(cluster, _)| on_reserve.contains(cluster))
        .collect();
    (values_occurring_at_least(&hosting, share), tenants)
}

/// Returns the number of operations that a tenant may run before other waiting tenants come first.
fn tenant_share(places: usize) -> usize {
    (places / SHARE_DIVISOR).max(1)
}

/// Returns the capacity that is kept for tenants that run nothing. A capacity of one has no
/// reserve.
fn reserved_capacity(places: usize) -> usize {
    if places > 1 {
        (places / SHARE_DIVISOR).max(1)
    } else {
        0
    }
}

/// Returns the values that occur at least `count` times, each once.
fn values_occurring_at_least<T: Copy + Ord>(running: &[T], count: usize) -> Vec<T> {
    let distinct: BTreeSet<T> = running.iter().copied().collect();
    let counted = |one: &T| running.iter().filter(|of| *of == one).count();
    distinct
        .into_iter()
        .filter(|one| counted(one) >= count)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(number: u128) -> TenantId {
        TenantId(uuid::Uuid::from_u128(number))
    }

    /// Builds `count` running operations of a tenant, all of expensive kinds or none.
    fn running_operations(number: u128, count: usize, costly: bool) -> Vec<Running> {
        vec![
            Running {
                tenant: tenant(number),
                costly,
                hosting: None
            };
            count
        ]
    }

    /// Builds running operations on one hosting cluster, one for each of these tenants.
    fn running_on(hosting: HostingClusterId, tenants: &[u128]) -> Vec<Running> {
        let operation = |number: &u128| Running {
            tenant: tenant(*number),
            costly: false,
            hosting: Some(hosting),
        };
        tenants.iter().map(operation).collect()
    }

    #[test]
    fn one_hosting_cluster_leaves_a_quarter_of_the_places_to_others() {
        let hosting = HostingClusterId(uuid::Uuid::from_u128(9));
        let tenants: Vec<u128> = (0..24).collect();
        let below = compute_claim_filter(&running_on(hosting, &tenants[..23]), 32);
        assert_eq!(below.expect("a place").full_hosting_clusters, []);
        let full = compute_claim_filter(&running_on(hosting, &tenants), 32);
        assert_eq!(full.expect("a place").full_hosting_clusters, [hosting]);
    }

    #[test]
    fn a_greedy_tenant_leaves_places_on_a_hosting_cluster_to_tenants_that_run_nothing_there() {
        let hosting = HostingClusterId(uuid::Uuid::from_u128(9));
        let below = compute_claim_filter(&running_on(hosting, &[1; 17]), 32).expect("a place");
        assert_eq!(below.hosting_full_tenants, BTreeSet::new());
        let hog = compute_claim_filter(
            &[
                running_on(hosting, &[1; 18]),
                running_operations(2, 1, false),
            ]
            .concat(),
            32,
        )
        .expect("a place");
        assert_eq!(
            (hog.full_hosting_clusters, hog.hosting_full_tenants),
            (Vec::new(), BTreeSet::from([(hosting, tenant(1))])),
            "the tenant that runs something elsewhere is still served"
        );
        assert!(hog.allow_busy_tenants);
    }

    #[test]
    fn few_places_serve_one_hosting_cluster_too() {
        let hosting = HostingClusterId(uuid::Uuid::from_u128(9));
        for (width, unlimited) in [(1, 0), (2, 0), (3, 0), (4, 1), (8, 4)] {
            let running = running_on(hosting, &vec![1; unlimited]);
            let filter = compute_claim_filter(&running, width).expect("a place");
            assert_eq!(
                (filter.full_hosting_clusters, filter.hosting_full_tenants),
                (Vec::new(), BTreeSet::new()),
                "{unlimited} of {width}"
            );
        }
    }

    #[test]
    fn a_tenant_alone_may_take_all_places_but_the_reserve() {
        assert!(
            compute_claim_filter(&running_operations(1, 23, false), 32)
                .expect("a place")
                .allow_busy_tenants
        );
        assert!(
            !compute_claim_filter(&running_operations(1, 24, false), 32)
                .expect("a place")
                .allow_busy_tenants
        );
    }

    #[test]
    fn a_tenant_that_runs_nothing_finds_a_place_until_every_place_is_taken() {
        let hog = compute_claim_filter(&running_operations(1, 31, false), 32).expect("a place");
        assert_eq!(
            (hog.busy_tenants, hog.allow_busy_tenants),
            (vec![tenant(1)], false)
        );
        assert_eq!(
            compute_claim_filter(&running_operations(1, 32, false), 32),
            None
        );
    }

    #[test]
    fn a_tenant_above_its_share_comes_after_those_below_it() {
        let both = compute_claim_filter(
            &[
                running_operations(1, 8, false),
                running_operations(2, 3, false),
            ]
            .concat(),
            32,
        )
        .expect("a place");
        assert_eq!(both.busy_tenants, [tenant(1), tenant(2)]);
        assert_eq!(both.full_tenants, [tenant(1)]);
    }

    #[test]
    fn hanging_registrations_of_one_tenant_leave_places_for_other_registrations_and_for_all_else() {
        let six = compute_claim_filter(&running_operations(1, 6, true), 32).expect("a place");
        assert_eq!(
            (six.allow_costly, six.costly_full_tenants),
            (true, vec![tenant(1)])
        );
        let eight = compute_claim_filter(
            &[
                running_operations(1, 6, true),
                running_operations(2, 1, true),
                running_operations(3, 1, true),
            ]
            .concat(),
            32,
        )
        .expect("a place");
        assert!(
            !eight.allow_costly,
            "registrations have no more places than a quarter"
        );
        assert!(
            eight.allow_busy_tenants,
            "and everything else has the others"
        );
    }

    #[test]
    fn a_worker_with_one_place_uses_it_for_any_kind_of_any_tenant() {
        let one = compute_claim_filter(&[], 1).expect("a place");
        assert_eq!(
            (
                one.allow_busy_tenants,
                one.allow_costly,
                one.costly_full_tenants
            ),
            (true, true, Vec::new())
        );
    }
}
