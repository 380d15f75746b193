//! Reads a recording of a lab event by event, and reports each moment at which a namespace was
//! without injection, a workload was below its allowed availability, or a revision was removed while
//! a pod used it. It knows no plans, only the watch events of the API servers.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use meshwright_model::injection::{
    Injection, Injector, NamespaceLabels, NoInjection, PodLabels, injected_by,
};
use serde_json::Value;

use crate::Result;

/// State of one cluster after an event.
#[derive(Default)]
struct ClusterState {
    namespaces: BTreeMap<String, NamespaceLabels>,
    injectors: BTreeMap<String, Injector>,
    /// Whether the recording has shown all objects that existed at its start.
    synced: bool,
    /// Workloads that have had all wanted replicas available at least once.
    fully_available: BTreeSet<String>,
    /// Revision that injected each pod that has not ended.
    revisions_in_use: BTreeMap<String, String>,
}

/// State of all clusters, and the breaches that were found.
#[derive(Default)]
pub(crate) struct AvailabilityJudge {
    clusters: BTreeMap<String, ClusterState>,
    /// Revisions whose istiod has been seen, and whether it has an available replica now.
    istiod_available: BTreeMap<String, bool>,
    pub(crate) breaches: Vec<String>,
    pub(crate) events: usize,
}

pub(crate) fn print_verdict(file: &Path) -> Result<()> {
    let judge = judge_recording(file)?;
    if judge.breaches.is_empty() {
        println!("{} events, no breach", judge.events);
        return Ok(());
    }
    Err(anyhow!(
        "{} events, {} breaches:\n{}",
        judge.events,
        judge.breaches.len(),
        judge.breaches.join("\n")
    ))
}

pub(crate) fn judge_recording(file: &Path) -> Result<AvailabilityJudge> {
    let opened = std::fs::File::open(file).with_context(|| file.display().to_string())?;
    let mut judge = AvailabilityJudge::default();
    for line in std::io::BufReader::new(opened).lines() {
        let line = line?;
        let event: Value =
            serde_json::from_str(&line).with_context(|| format!("event {}", judge.events + 1))?;
        judge.observe_event(&event);
    }
    Ok(judge)
}

fn text_at<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn number_at(value: &Value, pointer: &str) -> i64 {
    value.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

impl AvailabilityJudge {
    pub(crate) fn observe_event(&mut self, event: &Value) {
        self.events += 1;
        let object = &event["object"];
        let (cluster, kind, name) = (
            text_at(event, "/cluster").to_owned(),
            text_at(object, "/kind"),
            text_at(object, "/metadata/name").to_owned(),
        );
        let gone = event["type"] == "DELETED";
        if event["type"] == "SYNCED" {
            self.clusters.entry(cluster.clone()).or_default().synced = true;
        }
        if cluster == "hosting" {
            if kind == "Deployment" && name.starts_with("istiod-") {
                let available = !gone && number_at(object, "/status/availableReplicas") > 0;
                let revision = name.trim_start_matches("istiod-").to_owned();
                if gone {
                    self.check_removal(&revision, None);
                }
                self.istiod_available.insert(revision, available);
            }
            return;
        }
        match kind {
            "" => {}
            "Pod" => {
                self.record_pod(&cluster, object, gone);
                return;
            }
            "Namespace" => self.record_namespace(&cluster, name, object, gone),
            "MutatingWebhookConfiguration" => self.record_webhook(&cluster, name, object, gone),
            "Deployment" | "StatefulSet" | "DaemonSet" => {
                self.check_availability(&cluster, kind, object, gone);
            }
            _ => return,
        }
        self.check_injection(&cluster);
    }

    fn record_namespace(&mut self, cluster: &str, name: String, object: &Value, gone: bool) {
        let known = self.clusters.entry(cluster.to_owned()).or_default();
        let label = |key: &str| {
            object["metadata"]["labels"][key]
                .as_str()
                .map(str::to_owned)
        };
        let labels = NamespaceLabels {
            injection: label("istio-injection"),
            rev: label("istio.io/rev"),
        };
        if gone {
            known.namespaces.remove(&name)
        } else {
            known.namespaces.insert(name, labels)
        };
    }

    fn record_webhook(&mut self, cluster: &str, name: String, object: &Value, gone: bool) {
        let revision = text_at(object, "/metadata/labels/istio.io~1rev");
        let Ok(parsed) = revision.parse() else { return };
        let tag = text_at(object, "/metadata/labels/istio.io~1tag");
        if gone && tag.is_empty() {
            self.check_removal(revision, Some(cluster));
        }
        let known = self.clusters.entry(cluster.to_owned()).or_default();
        let value = if tag.is_empty() { revision } else { tag };
        let injector = Injector {
            value: value.to_owned(),
            revision: parsed,
            serves_default: value == "default",
        };
        if gone {
            known.injectors.remove(&name)
        } else {
            known.injectors.insert(name, injector)
        };
    }

    fn record_pod(&mut self, cluster: &str, object: &Value, gone: bool) {
        let known = self.clusters.entry(cluster.to_owned()).or_default();
        let name = format!(
            "{}/{}",
            text_at(object, "/metadata/namespace"),
            text_at(object, "/metadata/name")
        );
        let revision = text_at(object, "/metadata/annotations/istio.io~1rev");
        let ended = matches!(text_at(object, "/status/phase"), "Succeeded" | "Failed");
        if gone || ended || revision.is_empty() {
            known.revisions_in_use.remove(&name);
        } else {
            known.revisions_in_use.insert(name, revision.to_owned());
        }
    }

    /// Checks that no pod uses a revision whose istiod or, in one cluster, whose injector was
    /// removed.
    fn check_removal(&mut self, revision: &str, cluster: Option<&str>) {
        for (name, known) in &self.clusters {
            let mut users = known
                .revisions_in_use
                .iter()
                .filter(|(_, used)| *used == revision);
            if let Some((pod, _)) = users.next()
                && cluster.is_none_or(|only| only == name)
            {
                self.breaches.push(format!(
                    "event {}: {revision} was removed while the pod {pod} in {name} and {} others used it",
                    self.events,
                    users.count()
                ));
            }
        }
    }

    /// Checks that exactly one webhook matches each labelled namespace, and that the istiod of its
    /// revision has an available replica.
    fn check_injection(&mut self, cluster: &str) {
        let Some(known) = self.clusters.get(cluster) else {
            return;
        };
        let injectors: Vec<Injector> = known.injectors.values().cloned().collect();
        // Before a mesh has its tags, no webhook can match.
        if !known.synced || !injectors.iter().any(|injector| injector.serves_default) {
            return;
        }
        for (namespace, labels) in &known.namespaces {
            let breach = match injected_by(labels, &PodLabels::default(), &injectors) {
                Injection::Injected(revision) => (self.istiod_available.get(revision.as_str())
                    == Some(&false))
                .then(|| format!("the istiod of {revision} is not available")),
                Injection::Ambiguous(all) => Some(format!("{} webhooks match", all.len())),
                Injection::NotInjected(NoInjection::NoSuchRevision) => {
                    Some("no webhook matches".into())
                }
                Injection::NotInjected(_) => None,
            };
            if let Some(breach) = breach {
                self.breaches.push(format!(
                    "event {}: namespace {namespace} in {cluster}: {breach}",
                    self.events
                ));
            }
        }
    }

    /// Checks that a workload that was once complete has at least the available replicas that its
    /// update strategy guarantees.
    fn check_availability(&mut self, cluster: &str, kind: &str, object: &Value, gone: bool) {
        let name = format!(
            "{kind} {}/{}",
            text_at(object, "/metadata/namespace"),
            text_at(object, "/metadata/name")
        );
        let known = self.clusters.entry(cluster.to_owned()).or_default();
        if gone {
            known.fully_available.remove(&name);
            return;
        }
        let replicas = object
            .pointer("/spec/replicas")
            .and_then(Value::as_i64)
            .unwrap_or(1);
        let (wanted, available, allowed) = match kind {
            "Deployment" => (
                replicas,
                number_at(object, "/status/availableReplicas"),
                replicas - max_unavailable(object, replicas),
            ),
            "StatefulSet" => (
                replicas,
                number_at(object, "/status/availableReplicas"),
                replicas - 1,
            ),
            _ => {
                let wanted = number_at(object, "/status/desiredNumberScheduled");
                (
                    wanted,
                    number_at(object, "/status/numberAvailable"),
                    wanted - 1,
                )
            }
        };
        if available >= wanted && wanted > 0 {
            known.fully_available.insert(name);
        } else if known.fully_available.contains(&name) && available < allowed {
            self.breaches.push(format!(
                "event {}: {name} in {cluster} has {available} available, {allowed} are allowed",
                self.events
            ));
        }
    }
}

/// Returns how many replicas of a Deployment its strategy allows to be unavailable.
fn max_unavailable(deployment: &Value, replicas: i64) -> i64 {
    if text_at(deployment, "/spec/strategy/type") == "Recreate" {
        return replicas;
    }
    let update = &deployment["spec"]["strategy"]["rollingUpdate"];
    let share = |value: &Value, round_up: i64| match value.as_str() {
        Some(text) => {
            let percent = text.trim_end_matches('%').parse::<i64>().unwrap_or(0);
            (replicas * percent + round_up) / 100
        }
        // Kubernetes' default is a quarter of the replicas for both fields.
        None => value.as_i64().unwrap_or((replicas * 25 + round_up) / 100),
    };
    let (unavailable, surge) = (
        share(&update["maxUnavailable"], 0),
        share(&update["maxSurge"], 99),
    );
    // Kubernetes never lets both be zero, because no pod could be replaced.
    if unavailable == 0 && surge == 0 {
        1
    } else {
        unavailable
    }
}

#[cfg(test)]
mod tests;
