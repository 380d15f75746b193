//! Tests that an old revision is kept as long as anything uses it: each use is named, and the revision is removed only when the last one is gone.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::{OLD_RELEASE, mesh_namespace, text_field};
use crate::Result;
use crate::lab::{Lab, wait_until};
use crate::server::DevServer;

const NAMED_TIMEOUT: Duration = Duration::from_mins(1);

/// Templates and a namespace that name the old revision and have no pod.
const USES: &str = r#"{"apiVersion":"v1","kind":"List","items":[
{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"later","namespace":"billing"},"spec":{"suspend":true,
 "template":{"metadata":{"labels":{"istio.io/rev":"REVISION"}},"spec":{"restartPolicy":"Never","containers":[{"name":"app","image":"registry.example/later:1"}]}}}},
{"apiVersion":"batch/v1","kind":"CronJob","metadata":{"name":"nightly","namespace":"billing"},"spec":{"schedule":"0 3 31 12 *","suspend":true,
 "jobTemplate":{"spec":{"template":{"metadata":{"labels":{"istio.io/rev":"REVISION"}},"spec":{"restartPolicy":"Never","containers":[{"name":"app","image":"registry.example/nightly:1"}]}}}}}}]}"#;
const LATE_NAMESPACE: &str = "late";
/// Tag that is moved back. No namespace of the lab has it.
const MOVED_TAG: &str = "canary";

/// An upgrade whose retirement has begun and waits for a user of the old revision.
pub(super) struct WaitingRetirement<'a> {
    pub(super) lab: &'a Lab,
    pub(super) server: &'a DevServer,
    pub(super) dir: &'a Path,
    pub(super) upgrade: &'a str,
    /// Name of the revision that the upgrade leads to.
    pub(super) new_revision: &'a str,
}

impl WaitingRetirement<'_> {
    /// Adds uses of every kind, removes the one that the retirement waited for, and then removes the
    /// others one by one. The last one is a replica that does not answer. The retirement ends by
    /// itself afterwards.
    pub(super) fn check_each_use(&self, remove_first: impl FnOnce() -> Result<()>) -> Result<()> {
        let manifest = self.dir.join("uses.json");
        std::fs::write(&manifest, USES.replace("REVISION", OLD_RELEASE.1))?;
        let manifest = manifest.display().to_string();
        self.kubectl(&["apply", "-f", &manifest])?;
        self.point_tag(OLD_RELEASE.1)?;
        remove_first()?;
        let named = [
            "pod template of billing/job/later in c1",
            "pod template of billing/cronjob/nightly in c1",
            "tag canary in c1",
        ];
        self.wait_until_named(&named, &["legacy"])?;
        self.kubectl(&["delete", "job", "-n", "billing", "later"])?;
        self.wait_until_named(&named[1..], &["later"])?;
        self.kubectl(&["delete", "cronjob", "-n", "billing", "nightly"])?;
        self.wait_until_named(&named[2..], &["nightly"])?;
        self.add_namespace_during_pause()?;
        self.point_tag(self.new_revision)?;
        self.wait_until_named(&["namespace late in c1"], &["tag canary"])?;
        let process = self.old_replica()?;
        let replica = self.lab.stop_process(&process)?;
        self.kubectl(&["delete", "namespace", LATE_NAMESPACE, "--wait=false"])?;
        self.wait_until_named(&["unknown counts as used: replica"], &["namespace late"])?;
        drop(replica);
        Ok(())
    }

    /// Pauses the retirement, and creates a namespace with the old label meanwhile.
    fn add_namespace_during_pause(&self) -> Result<()> {
        self.server.run_cli(&["upgrade", "pause", self.upgrade])?;
        self.server
            .wait_for_state(self.upgrade, "paused", NAMED_TIMEOUT)?;
        self.kubectl(&["create", "namespace", LATE_NAMESPACE])?;
        let label = format!("istio.io/rev={}", OLD_RELEASE.1);
        self.kubectl(&["label", "namespace", LATE_NAMESPACE, &label])?;
        self.server.run_cli(&["upgrade", "resume", self.upgrade])?;
        self.wait_until_named(&["namespace late in c1"], &[])
    }

    /// Returns the process of a replica of the old revision.
    fn old_replica(&self) -> Result<String> {
        let namespace = mesh_namespace(self.server)?;
        let label = format!("istio.io/rev={}", OLD_RELEASE.1);
        let what = ["pods", "-n", &namespace, "-l", &label];
        let pods = self.lab.list_objects("hosting", &what)?;
        let pod = pods.first().context("the old revision has no replica")?;
        let name = text_field(&pod["metadata"], "name")?;
        Ok(format!("hosting/pod/{namespace}/{name}"))
    }

    /// Makes the webhook of a tag of ours name another revision, as a person could.
    fn point_tag(&self, revision: &str) -> Result<()> {
        let selector = format!("istio.io/tag={MOVED_TAG}");
        let webhooks = [
            "get",
            "mutatingwebhookconfigurations",
            "-l",
            &selector,
            "-o",
            "name",
        ];
        let name = self.kubectl(&webhooks)?;
        let label = format!("istio.io/rev={revision}");
        self.kubectl(&["label", "--overwrite", name.trim(), &label])
            .map(drop)
    }

    /// Waits until the retirement names these users and none of the others.
    fn wait_until_named(&self, users: &[&str], gone: &[&str]) -> Result<()> {
        let upgrade = self.server.run_json(&["upgrade", "get", self.upgrade])?;
        let operation = text_field(&upgrade, "operation_id")?;
        let named = || {
            let known = self
                .server
                .run_json(&["operation", "get", &operation])
                .ok()?;
            let reason = known["waiting_for"].as_str()?;
            let fits = users.iter().all(|user| reason.contains(user))
                && !gone.iter().any(|user| reason.contains(user));
            fits.then_some(())
        };
        let title = format!("the retirement names {}", users.join(" and "));
        wait_until(&title, NAMED_TIMEOUT, named)?;
        let state = self.server.run_json(&["upgrade", "get", self.upgrade])?;
        if state["state"] != "retiring" {
            bail!(
                "the old revision is used, and the upgrade is {}",
                state["state"]
            );
        }
        println!("  {title}");
        Ok(())
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.lab.run_kubectl("c1", arguments)
    }
}
