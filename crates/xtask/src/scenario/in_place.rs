//! Upgrades in place: istiod is replaced under a fixed revision, and a sidecar is restarted only when its image changes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{LabRelease, plan_upgrade};
use crate::Result;
use crate::lab::{Lab, until};
use crate::server::Server;
use crate::story::{carries, stamps};

/// How many istiods a revision has.
const REPLICAS: usize = 2;

/// Moves the mesh in place; every workload must have been restarted so often, and no pod may have been refused meanwhile.
pub(crate) fn moves(lab: &Lab, server: &Server, to: LabRelease, restarts: usize) -> Result<()> {
    let before = stamps(lab)?;
    let over = AtomicBool::new(false);
    let (asked, refused) = std::thread::scope(|scope| {
        let admissions = scope.spawn(|| admit_until(lab, &over));
        let asked = plan_upgrade(server, to.0, "in_place", "0");
        over.store(true, Ordering::Relaxed);
        (asked, admissions.join())
    });
    asked?;
    refused.map_err(|_| "the admissions panicked".to_owned())??;
    carries(lab, to.1, to.2)?;
    let after = stamps(lab)?;
    if after.is_empty() {
        return Err("nothing was ever restarted in this lab, so nothing is proved".into());
    }
    let odd = after.iter().find(|(workload, count)| **count != before.get(*workload).copied().unwrap_or(0) + restarts);
    match odd {
        Some((workload, count)) => Err(format!(
            "{workload} was restarted {} times, not {restarts}",
            count - before.get(workload).copied().unwrap_or(0)
        )),
        None => Ok(()),
    }
}

/// Sends pods through admission until told to stop: each must be taken, as its controller makes it.
///
/// An API server keeps its connections to a webhook and asks no webhook twice. The request that is under way at the very
/// moment at which an old istiod closes the connection is lost, and the controller makes its pod again at once. To an asker
/// who waits for each answer that can happen once for each replica that ends.
fn admit_until(lab: &Lab, over: &AtomicBool) -> Result<()> {
    let mut lost = 0;
    while !over.load(Ordering::Relaxed) {
        match admitted(lab, "shop", &[]) {
            Err(said) if lost < REPLICAS && cut_off(&said) => {
                println!("  a pod was made twice, because its webhook's connection had just ended");
                lost += 1;
                admitted(lab, "shop", &[])?;
            }
            other => drop(other?),
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    Ok(())
}

/// Whether a connection ended under the question. Nobody can tell whether it had been of use before: the second answer decides.
fn cut_off(said: &str) -> bool {
    let ends = ["write: broken pipe", "read: connection reset by peer", ": EOF"];
    said.contains("failed to call webhook") && ends.iter().any(|end| said.contains(end))
}

/// What a pod made now in a namespace of c1 is injected by.
fn admitted(lab: &Lab, namespace: &str, labels: &[&str]) -> Result<String> {
    let show = "jsonpath={.metadata.annotations.istio\\.io/rev}";
    let run = ["run", "probe", "--image=registry.example/probe:1", "--dry-run=server", "-n", namespace, "-o", show];
    lab.run_kubectl("c1", &[&run[..], labels].concat())
}

/// After a move across a patch the mesh answers to its old name and to its new one.
pub(crate) fn answers_to(lab: &Lab, names: &[&str], revision: &str) -> Result<()> {
    for name in names {
        let label = format!("istio.io/rev={name}");
        let found = until("the label is injected", Duration::from_secs(15), || {
            admitted(lab, "default", &["--labels", &label]).ok().filter(|found| !found.is_empty())
        })?;
        if found != revision {
            return Err(format!("a pod labelled {label} is injected by {found:?}, not by {revision}"));
        }
    }
    Ok(())
}
