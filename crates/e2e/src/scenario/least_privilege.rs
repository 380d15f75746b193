//! Tests that our account in the users' clusters has no right that it does not use.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, anyhow, bail};
use serde_json::Value;

use super::credentials::account_name;
use crate::Result;
use crate::assertions::MEMBER_CLUSTERS;
use crate::lab::Lab;
use crate::server::DevServer;

/// Prefix of the user names of our accounts.
const ACCOUNT_PREFIX: &str = "system:serviceaccount:meshwright-system:";
/// Verbs that Kubernetes requires when a role is granted, and that no audit log shows.
const UNLOGGED_VERBS: [&str; 2] = ["bind", "escalate"];
/// Right that only the rollback of a workload needs which no restart replaces. The zoo of odd
/// workloads uses it, on a lab of its own.
const USED_IN_THE_ZOO: (&str, &str, &str) = ("create", "", "pods/eviction");
/// A verb, an API group and a resource.
type Permission = (String, String, String);

/// Checks that our account in the users' clusters was refused nothing and that it used every right
/// that it has, according to the audit logs since the lab began.
pub(super) fn check_least_privilege(lab: &Lab, server: &DevServer) -> Result<()> {
    let mut used: BTreeSet<Permission> = BTreeSet::new();
    let mut denied = BTreeMap::new();
    for member in MEMBER_CLUSTERS {
        let path = lab.kubeconfig_path(member)?.with_file_name("audit.log");
        let log = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        for line in log.lines() {
            let entry: Value = serde_json::from_str(line)?;
            if entry["user"]["username"]
                .as_str()
                .is_some_and(|user| user.starts_with(ACCOUNT_PREFIX))
            {
                record_permission(&entry, &mut used, &mut denied);
            }
        }
    }
    if !denied.is_empty() {
        bail!("our account was refused: {denied:?}");
    }
    let role = lab.run_kubectl(
        MEMBER_CLUSTERS[0],
        &[
            "get",
            "clusterrole",
            &account_name(server, MEMBER_CLUSTERS[0])?,
            "-o",
            "json",
        ],
    )?;
    let granted = list_permissions(&serde_json::from_str(&role)?);
    let unused: Vec<_> = granted
        .iter()
        .filter(|(verb, group, resource)| {
            (verb.as_str(), group.as_str(), resource.as_str()) != USED_IN_THE_ZOO
        })
        .filter(|grant| !used.iter().any(|right| grant_covers(grant, right)))
        .collect();
    if unused.is_empty() && !used.is_empty() {
        return Ok(());
    }
    Err(anyhow!(
        "granted and never used: {unused:?}; if scenarios before this one failed or were left out, \
         their rights are among these"
    ))
}

/// Records the verb, group and resource of one request as used or as denied.
fn record_permission(
    entry: &Value,
    used: &mut BTreeSet<Permission>,
    denied: &mut BTreeMap<String, String>,
) {
    let part = |pointer: &str| {
        entry
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let (verb, group) = (part("/verb"), part("/objectRef/apiGroup"));
    let resource = match part("/objectRef/subresource") {
        none if none.is_empty() => part("/objectRef/resource"),
        sub => format!("{}/{sub}", part("/objectRef/resource")),
    };
    if resource.is_empty() {
        return;
    }
    match entry
        .pointer("/responseStatus/code")
        .and_then(Value::as_i64)
    {
        Some(403) => {
            denied.insert(
                format!("{verb} {group}/{resource}"),
                part("/responseStatus/message"),
            );
        }
        // A server-side apply that creates the object needs both rights.
        Some(201) if verb == "patch" => {
            used.insert(("create".into(), group.clone(), resource.clone()));
            used.insert((verb, group, resource));
        }
        _ => {
            used.insert((verb, group, resource));
        }
    }
}

/// Returns every single right of a role. A right to all resources of a group counts as one, because
/// the kinds of Istio's own groups differ between versions.
fn list_permissions(role: &Value) -> Vec<Permission> {
    let texts = |value: &Value| -> Vec<String> {
        value
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    let mut all = Vec::new();
    for rule in role["rules"].as_array().into_iter().flatten() {
        for verb in texts(&rule["verbs"])
            .into_iter()
            .filter(|verb| !UNLOGGED_VERBS.contains(&verb.as_str()))
        {
            for group in texts(&rule["apiGroups"]) {
                all.extend(
                    texts(&rule["resources"])
                        .into_iter()
                        .map(|resource| (verb.clone(), group.clone(), resource)),
                );
            }
        }
    }
    all
}

fn grant_covers(grant: &Permission, used: &Permission) -> bool {
    grant.0 == used.0 && grant.1 == used.1 && (grant.2 == "*" || grant.2 == used.2)
}
