//! Evicts random pods of the first member while other work runs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use super::background::RandomDraws;
use super::odd_workloads::{Expectation, ODD_WORKLOADS};
use super::pods::{PodState, list_pods};
use super::{ZOO_CLUSTER, workload_of};
use crate::Result;
use crate::assertions::MESHED_NAMESPACES;
use crate::lab::Lab;

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
    seed: u64,
}

impl<'a> Evictor<'a> {
    /// Creates an evictor that spares one pod of each workload that a restart cannot move.
    pub(super) fn new(lab: &'a Lab, dir: &Path, seed: u64) -> Result<Self> {
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
            seed,
        })
    }

    /// Evicts pods until `over` is set.
    pub(super) fn evict_until(&self, over: &AtomicBool) -> Result<EvictionLog> {
        let mut log = EvictionLog::default();
        let mut draws = RandomDraws::new(self.seed);
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
