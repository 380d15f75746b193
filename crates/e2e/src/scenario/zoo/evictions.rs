//! Evicts random pods of the first member while other work runs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{anyhow, bail};
use serde_json::json;

use super::odd_workloads::{Expectation, ODD_WORKLOADS};
use super::pods::{PodState, list_pods};
use super::{ZOO_CLUSTER, workload_of};
use crate::Result;
use crate::assertions::MESHED_NAMESPACES;
use crate::lab::Lab;

/// Seed of the draws, so that each run draws the same numbers.
const SEED: u64 = 15;
const PAUSE_BETWEEN_EVICTIONS: Duration = Duration::from_millis(1200);
/// Most evictions of one run. A run of five minutes makes fewer.
const MAX_EVICTIONS: usize = 300;

/// Evictions that the API server accepted.
#[derive(Debug, Default)]
pub(super) struct EvictionLog {
    pub(super) accepted: usize,
    /// Namespaces whose workloads may be below their availability because of the evictions.
    pub(super) namespaces: BTreeSet<String>,
}

/// Chooses pods at random, and evicts them one at a time.
pub(super) struct Evictor<'a> {
    lab: &'a Lab,
    /// File with the request of the eviction that is being sent.
    request: PathBuf,
    /// Pods that are never evicted, by namespace and name.
    spared: BTreeSet<(String, String)>,
}

impl<'a> Evictor<'a> {
    /// Creates an evictor that spares one pod of each workload that a restart cannot move.
    pub(super) fn new(lab: &'a Lab, dir: &Path) -> Result<Self> {
        let pods = list_pods(lab, ZOO_CLUSTER)?;
        let cannot_move = ODD_WORKLOADS
            .iter()
            .filter(|odd| odd.evicted && matches!(odd.expected, Expectation::Left(_)));
        let spared = cannot_move.filter_map(|odd| {
            let mut owned = pods
                .iter()
                .filter(|pod| pod.namespace == odd.namespace && odd.owns_pod(&pod.name));
            owned.next().map(PodState::key)
        });
        Ok(Self {
            lab,
            request: dir.join("eviction.json"),
            spared: spared.collect(),
        })
    }

    /// Runs some work while pods are evicted.
    ///
    /// # Errors
    ///
    /// Returns the error of the work, or an error when no pod was evicted meanwhile.
    pub(super) fn run_while_evicting<T>(
        &self,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<(T, EvictionLog)> {
        let over = AtomicBool::new(false);
        let (done, log) = std::thread::scope(|scope| {
            let evictions = scope.spawn(|| self.evict_until(&over));
            let done = crate::named_tests::catch_panic(work);
            over.store(true, Ordering::Relaxed);
            (done, evictions.join())
        });
        let done = done?;
        let log = log.map_err(|_| anyhow!("the evictions panicked"))??;
        println!(
            "  {} pods were evicted in {} namespaces",
            log.accepted,
            log.namespaces.len()
        );
        if log.accepted == 0 {
            bail!("no pod was evicted, so nothing is proved about evictions");
        }
        Ok((done, log))
    }

    fn evict_until(&self, over: &AtomicBool) -> Result<EvictionLog> {
        let mut log = EvictionLog::default();
        let mut draws = RandomDraws(SEED);
        while !over.load(Ordering::Relaxed) && log.accepted < MAX_EVICTIONS {
            let pods = list_pods(self.lab, ZOO_CLUSTER)?;
            let all: Vec<&PodState> = pods.iter().filter(|pod| self.may_evict(pod)).collect();
            if let Some(pod) = draws.choose(&all) {
                // A refusal is no failure: a disruption budget may forbid the eviction, and the pod
                // may have ended since it was listed.
                if self.evict_pod(pod).is_ok() {
                    log.accepted += 1;
                    log.namespaces.insert(pod.namespace.clone());
                }
            }
            std::thread::sleep(PAUSE_BETWEEN_EVICTIONS);
        }
        Ok(log)
    }

    fn may_evict(&self, pod: &PodState) -> bool {
        let sample = MESHED_NAMESPACES.contains(&pod.namespace.as_str());
        let odd = workload_of(pod).is_some_and(|odd| odd.evicted);
        pod.live && (sample || odd) && !self.spared.contains(&pod.key())
    }

    fn evict_pod(&self, pod: &PodState) -> Result<()> {
        let eviction = json!({
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": { "name": pod.name, "namespace": pod.namespace },
        });
        std::fs::write(&self.request, eviction.to_string())?;
        let path = format!(
            "/api/v1/namespaces/{}/pods/{}/eviction",
            pod.namespace, pod.name
        );
        let file = self.request.display().to_string();
        self.lab
            .run_kubectl(ZOO_CLUSTER, &["create", "--raw", &path, "-f", &file])
            .map(drop)
    }
}

/// Numbers that depend on the seed only (`SplitMix64`).
struct RandomDraws(u64);

impl RandomDraws {
    fn next_number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn choose<'t, T>(&mut self, all: &[&'t T]) -> Option<&'t T> {
        let count = u64::try_from(all.len()).ok().filter(|count| *count > 0)?;
        let index = usize::try_from(self.next_number() % count).ok()?;
        all.get(index).copied()
    }
}
