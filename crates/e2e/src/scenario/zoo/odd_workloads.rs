//! Lists the odd workloads of the zoo, and what an upgrade does with each of them.

use crate::scenario::LabRelease;

/// A workload of the zoo, in the first member only.
pub(super) struct OddWorkload {
    /// File in `tests/cases` that the workload is applied from. A file may hold several workloads.
    pub(super) manifest: &'static str,
    pub(super) namespace: &'static str,
    pub(super) name: &'static str,
    /// Live pods that the workload has before the upgrade.
    pub(super) pods: usize,
    /// Fewest live pods that the workload has after the rollback, while nothing is evicted.
    pub(super) pods_after: usize,
    pub(super) expected: Expectation,
    /// Whether the workload's pods are evicted at random. Of a workload that a restart cannot move,
    /// one pod is never evicted, so that the roll-out always has something to report.
    pub(super) evicted: bool,
}

/// What an upgrade does with a workload.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Expectation {
    /// The workload is not in the mesh: neither its template nor its pods may change.
    Untouched,
    /// Every pod has the new revision, with this image, after the roll-out.
    Moved(ProxyImage),
    /// The roll-out leaves the workload as it is, and names it with a reason that contains one of
    /// these texts. Upper and lower case are equal.
    Left(&'static [&'static str]),
    /// The pods have ended, so they use no revision.
    Finished,
}

/// Image of a workload's sidecar.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ProxyImage {
    /// The image of the release.
    Release,
    /// The distroless image of the release.
    Distroless,
    /// The image that the pod template names.
    Pinned,
}

impl ProxyImage {
    pub(super) fn of_release(self, release: LabRelease) -> String {
        match self {
            Self::Release => release.2.to_owned(),
            Self::Distroless => format!("{}-distroless", release.2),
            Self::Pinned => "registry.example/team-proxy:1.25.1".to_owned(),
        }
    }
}

impl OddWorkload {
    /// Returns the image of the workload's sidecars, or `None` if its pods have no sidecar.
    pub(super) fn proxy_image(&self) -> Option<ProxyImage> {
        match self.expected {
            Expectation::Untouched => None,
            Expectation::Moved(image) => Some(image),
            Expectation::Left(_) | Expectation::Finished => Some(ProxyImage::Release),
        }
    }

    /// Returns whether a pod of this name in the workload's namespace belongs to the workload.
    pub(super) fn owns_pod(&self, pod: &str) -> bool {
        pod.strip_prefix(self.name)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }
}

/// Returns a workload that is moved, and whose pods are evicted at random.
const fn moved(
    manifest: &'static str,
    (namespace, name): (&'static str, &'static str),
    pods: usize,
) -> OddWorkload {
    OddWorkload {
        manifest,
        namespace,
        name,
        pods,
        pods_after: pods,
        expected: Expectation::Moved(ProxyImage::Release),
        evicted: true,
    }
}

/// Returns a workload that no restart moves, with the texts of its reason.
const fn left(
    manifest: &'static str,
    place: (&'static str, &'static str),
    pods: usize,
    reason: &'static [&'static str],
) -> OddWorkload {
    OddWorkload {
        expected: Expectation::Left(reason),
        ..moved(manifest, place, pods)
    }
}

/// Returns a workload that may not change, and whose pods are not evicted.
const fn unchanged(
    manifest: &'static str,
    place: (&'static str, &'static str),
    pods: usize,
    expected: Expectation,
) -> OddWorkload {
    OddWorkload {
        expected,
        evicted: false,
        ..moved(manifest, place, pods)
    }
}

pub(super) const ODD_WORKLOADS: [OddWorkload; 18] = [
    unchanged(
        "annotation-optout",
        ("legacy", "importer"),
        2,
        Expectation::Untouched,
    ),
    unchanged(
        "hostnetwork",
        ("edge", "node-metrics"),
        3,
        Expectation::Untouched,
    ),
    unchanged(
        "finished-pods",
        ("batch", "backfill"),
        0,
        Expectation::Finished,
    ),
    unchanged(
        "finished-pods",
        ("batch", "one-off"),
        0,
        Expectation::Finished,
    ),
    OddWorkload {
        expected: Expectation::Moved(ProxyImage::Distroless),
        ..moved("proxyimage", ("pinned", "quotes"), 2)
    },
    OddWorkload {
        expected: Expectation::Moved(ProxyImage::Pinned),
        ..moved("proxyimage", ("pinned", "ledger"), 2)
    },
    moved("restart-not-neutral", ("fragile", "singleton"), 1),
    moved("restart-not-neutral", ("fragile", "queue"), 1),
    // The quota has room for no further pod, but a restart ends a pod first.
    moved("quota-taken", ("snug", "cache"), 2),
    // A roll-out of this workload takes 80 seconds, and each eviction would add 10 seconds.
    OddWorkload {
        evicted: false,
        ..moved("slow-statefulset", ("stream", "broker"), 8)
    },
    left(
        "on-delete",
        ("nodes", "collector"),
        3,
        &["on_delete", "OnDelete"],
    ),
    left("paused", ("halted", "pricing"), 2, &["paused"]),
    left("partition", ("data", "shards"), 3, &["partition"]),
    left(
        "operator-owned",
        ("argo-like", "frontend-6d4cf56db6"),
        12,
        &["ReplicaSet", "no workload owns"],
    ),
    // An eviction would remove this pod for good.
    OddWorkload {
        evicted: false,
        ..left(
            "bare-pod",
            ("lonely", "debug"),
            1,
            &["bare pod", "no workload owns"],
        )
    },
    // A pod that is evicted here is refused as well, so only the restart may take one.
    OddWorkload {
        evicted: false,
        pods_after: 1,
        ..left(
            "dead-foreign-webhook",
            ("scanned", "reports"),
            2,
            &["pods.scanner.example"],
        )
    },
    // An eviction would make room in the quota, and the workload would be moved.
    OddWorkload {
        evicted: false,
        ..left("quota", ("tight", "checkout"), 2, &["quota"])
    },
    OddWorkload {
        evicted: false,
        ..left(
            "broken-before",
            ("sandbox", "experiment"),
            1,
            &["progress deadline", "ProgressDeadlineExceeded"],
        )
    },
];
