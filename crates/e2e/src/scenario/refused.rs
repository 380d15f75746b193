//! Tests a rollback after a policy of a cluster's owner has refused one object in the middle of a
//! canary: every object must be as it was before.

use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use serde_json::json;

use super::rollback::wait_until_settled;
use super::{NEW_RELEASE, OLD_RELEASE, apply_verb, text_field};
use crate::Result;
use crate::assertions::{assert_revision_gone, assert_sidecars, diff_dumps};
use crate::lab::{Lab, wait_until};
use crate::server::DevServer;

const STATE_TIMEOUT: Duration = Duration::from_secs(90);
const POLICY_NAME: &str = "refuse-one-object";

/// An object that the policy refuses: cluster, API group, plural and name.
type RefusedObject = (&'static str, &'static str, &'static str, &'static str);

/// Objects that are refused, one for each run. The Deployment is the last object of the control
/// plane; a member's Service is in the middle of its objects.
const REFUSED_OBJECTS: [RefusedObject; 2] = [
    ("hosting", "apps", "deployments", "istiod-1-27-9"),
    ("c2", "", "services", "istiod-1-27-9"),
];

/// Checks that a canary pauses when one object is refused, and that it can be rolled back while the
/// policy is still in force.
pub(crate) fn check_rollback_after_refusal(
    lab: &Lab,
    server: &DevServer,
    dir: &Path,
) -> Result<()> {
    for object in REFUSED_OBJECTS {
        wait_until_settled(lab)?;
        let before = lab.dump_objects()?;
        let policy = AdmissionPolicy::deny_object(lab, dir, object)?;
        let planned = [
            "upgrade",
            "plan",
            "demo",
            "--version",
            NEW_RELEASE.0,
            "--strategy",
            "canary",
            "--hold-seconds",
            "3600",
        ];
        let upgrade = text_field(&server.run_json(&planned)?, "id")?;
        server.run_cli(&["upgrade", "start", &upgrade])?;
        let paused = server.wait_for_state(&upgrade, "paused", STATE_TIMEOUT)?;
        let code = &paused["problem"]["code"];
        if code != "cluster_refused" && code != "permission_missing" {
            bail!(
                "{object:?} was refused, and the upgrade says {}",
                paused["problem"]
            );
        }
        apply_verb(server, "rollback", &upgrade, "rolled_back")?;
        drop(policy);
        assert_sidecars(lab, OLD_RELEASE.1, OLD_RELEASE.2)?;
        assert_revision_gone(lab, NEW_RELEASE.1)?;
        wait_until_settled(lab)?;
        let differs = diff_dumps(&before, &lab.dump_objects()?, &[]);
        if !differs.is_empty() {
            bail!(
                "{object:?} was refused, and {} lines differ:\n{}",
                differs.len(),
                differs.join("\n")
            );
        }
    }
    Ok(())
}

/// A policy in force; it is deleted when this value is dropped.
struct AdmissionPolicy<'a> {
    lab: &'a Lab,
    cluster: &'static str,
    file: String,
}

impl<'a> AdmissionPolicy<'a> {
    fn deny_object(
        lab: &'a Lab,
        dir: &Path,
        (cluster, group, plural, name): RefusedObject,
    ) -> Result<Self> {
        let rule = json!({ "apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [plural] });
        let api = "admissionregistration.k8s.io/v1";
        let policy = json!({
            "apiVersion": api, "kind": "ValidatingAdmissionPolicy", "metadata": { "name": POLICY_NAME },
            "spec": {
                "failurePolicy": "Fail", "matchConstraints": { "resourceRules": [rule] },
                "validations": [{ "expression": format!("object.metadata.name != '{name}'"), "message": "refused by the lab" }],
            },
        });
        let binding = json!({
            "apiVersion": api, "kind": "ValidatingAdmissionPolicyBinding", "metadata": { "name": POLICY_NAME },
            "spec": { "policyName": POLICY_NAME, "validationActions": ["Deny"] },
        });
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": [policy, binding] });
        let file = dir.join("refused.json");
        std::fs::write(&file, list.to_string())?;
        let file = file.display().to_string();
        lab.run_kubectl(cluster, &["apply", "-f", &file])?;
        let made = Self { lab, cluster, file };
        // A policy comes into force a moment after it was written, so try until it refuses an
        // object.
        wait_until("the policy is in force", STATE_TIMEOUT, || {
            let metadata = json!({ "name": name, "namespace": "default" });
            let kind = if plural == "services" {
                "Service"
            } else {
                "Deployment"
            };
            let api = if group.is_empty() {
                "v1".to_owned()
            } else {
                format!("{group}/v1")
            };
            let spec = if kind == "Service" {
                json!({ "ports": [{ "port": 1 }] })
            } else {
                let labels = json!({ "app": "refused" });
                let container = json!({ "name": "app", "image": "registry.example/refused:1" });
                json!({ "selector": { "matchLabels": labels }, "template": { "metadata": { "labels": labels }, "spec": { "containers": [container] } } })
            };
            let object =
                json!({ "apiVersion": api, "kind": kind, "metadata": metadata, "spec": spec });
            let file = dir.join("refused-object.json");
            std::fs::write(&file, object.to_string()).ok()?;
            let tried = [
                "create",
                "--dry-run=server",
                "-f",
                &file.display().to_string(),
            ];
            lab.run_kubectl(cluster, &tried)
                .err()
                .filter(|said| said.to_string().contains("refused by the lab"))
                .map(drop)
        })?;
        Ok(made)
    }
}

impl Drop for AdmissionPolicy<'_> {
    fn drop(&mut self) {
        if let Err(error) = self
            .lab
            .run_kubectl(self.cluster, &["delete", "-f", &self.file])
        {
            eprintln!("the policy is still there: {error:#}");
        }
    }
}
