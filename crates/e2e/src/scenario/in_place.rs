//! Tests upgrades in place: istiod is replaced under a fixed revision, and a workload is restarted
//! only when its sidecar's image changes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{anyhow, bail};

use super::{LabRelease, plan_upgrade};
use crate::Result;
use crate::assertions::{MESHED_NAMESPACES, assert_sidecars, restarts_per_workload};
use crate::lab::{Lab, wait_until};
use crate::server::DevServer;

/// Replicas of istiod in a revision.
const ISTIOD_REPLICAS: usize = 2;

/// Moves the mesh in place. Every workload must be restarted this number of times, and no pod may
/// be refused meanwhile.
pub(crate) fn check_in_place_upgrade(
    lab: &Lab,
    server: &DevServer,
    to: LabRelease,
    restarts: usize,
) -> Result<()> {
    let before = restarts_per_sample(lab)?;
    let over = AtomicBool::new(false);
    let (asked, refused) = std::thread::scope(|scope| {
        let admissions = scope.spawn(|| admit_pods_until(lab, &over));
        let asked = plan_upgrade(server, to.0, "in_place", "0");
        over.store(true, Ordering::Relaxed);
        (asked, admissions.join())
    });
    asked?;
    refused.map_err(|_| anyhow!("the admissions panicked"))??;
    assert_sidecars(lab, to.1, to.2)?;
    let after = restarts_per_sample(lab)?;
    if after.is_empty() {
        bail!("nothing was ever restarted in this lab, so nothing is proved");
    }
    let odd = after.iter().find(|(workload, count)| {
        **count != before.get(*workload).copied().unwrap_or(0) + restarts
    });
    match odd {
        Some((workload, count)) => Err(anyhow!(
            "{workload} was restarted {} times, not {restarts}",
            count - before.get(workload).copied().unwrap_or(0)
        )),
        None => Ok(()),
    }
}

/// Returns how often we have restarted each sample workload. Other scenarios restart workloads that
/// are gone by now.
fn restarts_per_sample(lab: &Lab) -> Result<BTreeMap<String, usize>> {
    let mut restarts = restarts_per_workload(lab)?;
    restarts.retain(|workload, _| {
        MESHED_NAMESPACES
            .iter()
            .any(|namespace| workload.contains(&format!("/namespaces/{namespace}/")))
    });
    Ok(restarts)
}

/// Sends pods through admission until `over` is set: each must be accepted, as its controller would
/// create it.
///
/// An API server keeps its connections to a webhook and does not repeat a call. A request that is
/// under way when an old istiod closes the connection fails, and a controller would create the pod
/// again at once. Because this loop waits for each answer, that can happen once for each replica
/// that ends.
fn admit_pods_until(lab: &Lab, over: &AtomicBool) -> Result<()> {
    let mut lost = 0;
    while !over.load(Ordering::Relaxed) {
        match admit_pod(lab, "shop", &[]) {
            Err(said) if lost < ISTIOD_REPLICAS && is_connection_cut(&said.to_string()) => {
                println!("  a pod was made twice, because its webhook's connection had just ended");
                lost += 1;
                admit_pod(lab, "shop", &[])?;
            }
            other => drop(other?),
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    Ok(())
}

/// Returns whether the call failed because the connection to the webhook ended. The error does not
/// show whether the connection had worked before, so the second attempt decides.
fn is_connection_cut(said: &str) -> bool {
    let ends = [
        "write: broken pipe",
        "read: connection reset by peer",
        ": EOF",
    ];
    said.contains("failed to call webhook") && ends.iter().any(|end| said.contains(end))
}

/// Returns the revision that injects a pod which is created now in a namespace of c1.
fn admit_pod(lab: &Lab, namespace: &str, labels: &[&str]) -> Result<String> {
    let show = "jsonpath={.metadata.annotations.istio\\.io/rev}";
    let run = [
        "run",
        "probe",
        "--image=registry.example/probe:1",
        "--dry-run=server",
        "-n",
        namespace,
        "-o",
        show,
    ];
    lab.run_kubectl("c1", &[&run[..], labels].concat())
}

/// Checks that pods with each of these revision labels are injected by this revision: after a move
/// across a patch, the old name and the new one both work.
pub(crate) fn check_injection_labels(lab: &Lab, names: &[&str], revision: &str) -> Result<()> {
    for name in names {
        let label = format!("istio.io/rev={name}");
        let found = wait_until("the label is injected", Duration::from_secs(15), || {
            admit_pod(lab, "default", &["--labels", &label])
                .ok()
                .filter(|found| !found.is_empty())
        })?;
        if found != revision {
            bail!("a pod labelled {label} is injected by {found:?}, not by {revision}");
        }
    }
    Ok(())
}
