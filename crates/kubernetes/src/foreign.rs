//! Finds webhooks in a user's cluster that are not ours and would disturb a mesh. Webhooks of
//! another Istio, in use or left over, would inject or refuse the same objects as ours. Any other
//! webhook whose server does not answer makes the API server refuse pods.

use std::time::Duration;

use futures::StreamExt as _;
use meshwright_model::observation::foreign_istio_problem;
use meshwright_model::operation::Problem;
use meshwright_model::problem::ProblemCode;
use meshwright_model::rules::Severity;
use meshwright_model::upgrade::Finding;
use meshwright_rollout::ports::ClusterError;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::api_paths::{MUTATING_WEBHOOKS_PATH, VALIDATING_WEBHOOKS_PATH};
use crate::client::ClusterClient;
use crate::labels::OWNER_LABEL;
use crate::problems::problem_from_error;

/// Maximum number of webhooks that one check tries with a dry run.
const MAX_DRY_RUNS: usize = 20;
/// Maximum number of dry runs at once. Each may hold a worker of the API server until the webhook's
/// own timeout.
const MAX_CONCURRENT_DRY_RUNS: usize = 4;
/// Timeout of one check for silent webhooks with all its dry runs: four rounds of calls of 5 s. The
/// check only gives advice, and the worker has other clusters to check.
const DRY_RUNS_TIMEOUT: Duration = Duration::from_secs(20);

/// Lists all webhook configurations of a cluster, each with its kind as `kubectl` knows it.
pub(crate) async fn list_admission_webhooks(
    client: &ClusterClient,
) -> Result<Vec<(&'static str, Value)>, ClusterError> {
    let mutating = client.list(MUTATING_WEBHOOKS_PATH, "").await?;
    let validating = client.list(VALIDATING_WEBHOOKS_PATH, "").await?;
    let of = |kind: &'static str| move |object: Value| (kind, object);
    let all = mutating.into_iter().map(of("mutatingwebhookconfiguration"));
    Ok(all
        .chain(
            validating
                .into_iter()
                .map(of("validatingwebhookconfiguration")),
        )
        .collect())
}

/// Returns Istio's webhook configurations that do not carry this mesh's label, as `kind/name`.
/// Without a mesh none counts as ours.
pub(crate) fn foreign_istio_webhooks(
    webhooks: &[(&'static str, Value)],
    mesh: Option<&str>,
) -> Vec<String> {
    let ours =
        |object: &Value| mesh.is_some_and(|mesh| object["metadata"]["labels"][OWNER_LABEL] == mesh);
    let foreign = webhooks
        .iter()
        .filter(|(_, object)| is_istio_webhook(object) && !ours(object));
    foreign
        .filter_map(|(kind, object)| Some(format!("{kind}/{}", printable_name(object)?)))
        .collect()
}

/// Checks that a cluster has no webhooks of any Istio.
///
/// # Errors
/// Names all webhooks that were found, or tells why the cluster could not be read.
pub(crate) async fn require_no_istio(client: &ClusterClient) -> Result<(), Problem> {
    let webhooks = list_admission_webhooks(client)
        .await
        .map_err(|error| problem_from_error(&error))?;
    let found = foreign_istio_webhooks(&webhooks, None);
    if found.is_empty() {
        Ok(())
    } else {
        Err(foreign_istio_problem(client.cluster_name(), &found))
    }
}

/// Returns whether a configuration is an injector, a tag or a validator of any Istio. The names of
/// all their entries are in Istio's own domain, regardless of the installer.
fn is_istio_webhook(object: &Value) -> bool {
    webhook_entries(object).iter().any(|entry| {
        entry["name"]
            .as_str()
            .is_some_and(|name| name.ends_with(".istio.io"))
    })
}

/// Finds webhooks of other software that refuse every pod of some namespace, because their server
/// does not answer. Each webhook is tried with a dry run of a pod that it would be asked about.
/// Webhooks that were not tried before the timeout are left out.
pub(crate) async fn find_silent_webhooks(
    client: &ClusterClient,
) -> Result<Vec<Finding>, ClusterError> {
    let ends = Instant::now() + DRY_RUNS_TIMEOUT;
    let late = |_| {
        ClusterError::unreachable(
            client.cluster_name(),
            "the lists of webhooks and namespaces took too long",
        )
    };
    let tried = tokio::time::timeout_at(ends, plan_dry_runs(client))
        .await
        .map_err(late)??;
    let answers = futures::stream::iter(tried).map(|(found, path, pod)| async move {
        if is_webhook_silent(client, &path, &pod).await {
            Some(found)
        } else {
            None
        }
    });
    // `buffered` keeps the order of the list, so that two checks that find the same report the
    // same.
    let answers = answers
        .buffered(MAX_CONCURRENT_DRY_RUNS)
        .take_until(tokio::time::sleep_until(ends));
    let mut found: Vec<Finding> = answers.filter_map(std::future::ready).collect().await;
    found.dedup();
    Ok(found)
}

/// Plans the dry runs: for each the finding that it could prove, its path, and its pod. A webhook
/// that selects no existing namespace needs none.
async fn plan_dry_runs(
    client: &ClusterClient,
) -> Result<Vec<(Finding, String, Value)>, ClusterError> {
    let webhooks = list_admission_webhooks(client).await?;
    let others = webhooks
        .iter()
        .filter(|(_, object)| !is_istio_webhook(object));
    let asked: Vec<(&str, &Value, &Value)> = others
        .flat_map(|(kind, object)| {
            webhook_entries(object)
                .iter()
                .map(move |entry| (*kind, object, entry))
        })
        .filter(|(_, _, entry)| fails_closed_for_pods(entry))
        .take(MAX_DRY_RUNS)
        .collect();
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    let namespaces = client.list("/api/v1/namespaces", "").await?;
    let one = |(kind, object, entry): (&str, &Value, &Value)| {
        let matching = namespaces
            .iter()
            .find(|namespace| selector_matches(&entry["namespaceSelector"], namespace));
        let (namespace, webhook) = (matching.and_then(printable_name)?, printable_name(object)?);
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        Some((
            silent_webhook_finding(kind, webhook, namespace),
            path,
            matching_pod(entry),
        ))
    };
    Ok(asked.into_iter().filter_map(one).collect())
}

/// Returns whether a dry run fails because a webhook does not answer. The API server may wait
/// longer for a webhook than we wait for the API server, so a dry run without an answer counts too,
/// if the API server answers another call.
async fn is_webhook_silent(client: &ClusterClient, path: &str, pod: &Value) -> bool {
    match client.dry_run(path, pod).await {
        Err(ClusterError::Refused {
            code: ProblemCode::WebhookFailed,
            ..
        }) => true,
        Err(ClusterError::Unreachable { .. }) => client.get("/version").await.is_ok(),
        _ => false,
    }
}

/// Builds the finding for a webhook that does not answer.
fn silent_webhook_finding(kind: &str, webhook: &str, namespace: &str) -> Finding {
    Finding {
        severity: Severity::Warn,
        code: ProblemCode::WebhookSilent.into(),
        object: format!("{kind}/{webhook}"),
        message: format!(
            "New pods of the namespace {namespace} are refused: a webhook that they are shown to does not answer."
        ),
        hint: format!(
            "Bring the webhook's server back, or remove what is left of it: `kubectl delete {kind}/{webhook}`. Restarts of an upgrade wait for pods that this webhook refuses."
        ),
    }
}

fn webhook_entries(object: &Value) -> &[Value] {
    object["webhooks"].as_array().map_or(&[], Vec::as_slice)
}

/// Returns the name of an object if Kubernetes would accept it. The name becomes part of commands
/// that people copy, so any other text is dropped.
fn printable_name(object: &Value) -> Option<&str> {
    const MAX_NAME_CHARACTERS: usize = 253;
    let letter =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    let plain =
        |name: &&str| (1..=MAX_NAME_CHARACTERS).contains(&name.len()) && name.bytes().all(letter);
    object["metadata"]["name"]
        .as_str()
        .filter(plain)
        .filter(|name| !name.starts_with('-'))
}

/// Returns whether an entry is asked about new pods, and refuses them if it does not answer.
/// Kubernetes assumes the failure policy `Fail` if none is set.
fn fails_closed_for_pods(entry: &Value) -> bool {
    let has = |rule: &Value, field: &str, wanted: &[&str]| {
        let list = rule[field]
            .as_array()
            .map_or(&[] as &[Value], Vec::as_slice);
        list.iter()
            .any(|value| value.as_str().is_some_and(|value| wanted.contains(&value)))
    };
    let pods = |rule: &Value| {
        has(rule, "apiGroups", &["", "*"])
            && has(rule, "operations", &["CREATE", "*"])
            && has(rule, "resources", &["pods", "*", "*/*"])
    };
    entry["failurePolicy"] != "Ignore"
        && entry["rules"]
            .as_array()
            .is_some_and(|rules| rules.iter().any(pods))
}

/// Returns whether a label selector matches an object, by Kubernetes' rules. An empty selector
/// matches every object.
fn selector_matches(selector: &Value, object: &Value) -> bool {
    let labels = &object["metadata"]["labels"];
    let equal = selector["matchLabels"]
        .as_object()
        .is_none_or(|wanted| wanted.iter().all(|(key, value)| labels[key] == *value));
    let expressions = selector["matchExpressions"]
        .as_array()
        .map_or(&[] as &[Value], Vec::as_slice);
    equal
        && expressions.iter().all(|expression| {
            let value = expression["key"]
                .as_str()
                .map_or(&Value::Null, |key| &labels[key]);
            let listed = expression["values"]
                .as_array()
                .is_some_and(|values| values.contains(value));
            match expression["operator"].as_str() {
                Some("In") => listed,
                Some("NotIn") => !listed,
                Some("Exists") => !value.is_null(),
                Some("DoesNotExist") => value.is_null(),
                _ => false,
            }
        })
}

/// Builds a pod that an entry's object selector matches, as far as labels can achieve this.
fn matching_pod(entry: &Value) -> Value {
    let selector = &entry["objectSelector"];
    let mut labels: Map<String, Value> = selector["matchLabels"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    for expression in selector["matchExpressions"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let value = match expression["operator"].as_str() {
            Some("In") => expression["values"][0].clone(),
            Some("Exists") => "probe".into(),
            _ => continue,
        };
        if let Some(key) = expression["key"].as_str() {
            labels.entry(key).or_insert(value);
        }
    }
    // Opt out of sidecar injection, so that our own webhooks do not answer in place of the one on
    // trial.
    labels
        .entry("sidecar.istio.io/inject")
        .or_insert("false".into());
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "meshwright-probe", "labels": labels },
        "spec": { "containers": [{ "name": "probe", "image": "meshwright.invalid/probe" }] },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(name: &str, entry: &str, owner: Option<&str>) -> Value {
        let labels = owner.map_or(json!({}), |owner| json!({ OWNER_LABEL: owner }));
        json!({ "metadata": { "name": name, "labels": labels }, "webhooks": [{ "name": entry }] })
    }

    #[test]
    fn every_webhook_of_another_istio_is_found_and_ours_are_not() {
        const MUTATES: &str = "mutatingwebhookconfiguration";
        const VALIDATES: &str = "validatingwebhookconfiguration";
        let all = [
            (
                MUTATES,
                webhook(
                    "istio-sidecar-injector",
                    "rev.namespace.sidecar-injector.istio.io",
                    None,
                ),
            ),
            (
                MUTATES,
                webhook(
                    "istio-revision-tag-default",
                    "object.sidecar-injector.istio.io",
                    Some("other-1"),
                ),
            ),
            (
                MUTATES,
                webhook(
                    "ours",
                    "rev.object.sidecar-injector.istio.io",
                    Some("mesh-1"),
                ),
            ),
            (
                VALIDATES,
                webhook("istiod-default-validator", "validation.istio.io", None),
            ),
            (
                VALIDATES,
                webhook(
                    "istio-validator-istio-system",
                    "rev.validation.istio.io",
                    None,
                ),
            ),
            (
                MUTATES,
                webhook("image-scanner", "pods.scanner.example", None),
            ),
            (
                MUTATES,
                webhook("a; rm -rf /", "object.sidecar-injector.istio.io", None),
            ),
        ];
        let foreign = [
            "mutatingwebhookconfiguration/istio-sidecar-injector",
            "mutatingwebhookconfiguration/istio-revision-tag-default",
            "validatingwebhookconfiguration/istiod-default-validator",
            "validatingwebhookconfiguration/istio-validator-istio-system",
        ];
        assert_eq!(foreign_istio_webhooks(&all, Some("mesh-1")), foreign);
        assert_eq!(
            foreign_istio_webhooks(&all, None).len(),
            foreign.len() + 1,
            "before there is a mesh, ours is a leftover"
        );
    }

    #[test]
    fn a_selector_selects_as_kubernetes_does() {
        let object = json!({ "metadata": { "labels": { "scan": "yes", "a": "b" } } });
        for selector in [
            json!(null),
            json!({ "matchLabels": { "scan": "yes" } }),
            json!({ "matchExpressions": [{ "key": "scan", "operator": "In", "values": ["no", "yes"] }] }),
            json!({ "matchExpressions": [{ "key": "other", "operator": "NotIn", "values": ["x"] }, { "key": "a", "operator": "Exists" }] }),
            json!({ "matchExpressions": [{ "key": "other", "operator": "DoesNotExist" }] }),
        ] {
            assert!(selector_matches(&selector, &object), "{selector}");
        }
        for selector in [
            json!({ "matchLabels": { "scan": "no" } }),
            json!({ "matchLabels": { "scan": "yes", "more": "x" } }),
            json!({ "matchExpressions": [{ "key": "scan", "operator": "NotIn", "values": ["yes"] }] }),
            json!({ "matchExpressions": [{ "key": "a", "operator": "DoesNotExist" }] }),
            json!({ "matchExpressions": [{ "key": "other", "operator": "Exists" }] }),
        ] {
            assert!(!selector_matches(&selector, &object), "{selector}");
        }
    }

    #[test]
    fn only_what_fails_closed_for_new_pods_is_tried() {
        let entry = |policy: &str, resource: &str| json!({ "failurePolicy": policy, "rules": [{ "apiGroups": [""], "operations": ["CREATE"], "resources": [resource] }] });
        assert!(fails_closed_for_pods(&entry("Fail", "pods")));
        assert!(!fails_closed_for_pods(&entry("Ignore", "pods")));
        assert!(!fails_closed_for_pods(&entry("Fail", "services")));
        let selector = json!({ "objectSelector": { "matchLabels": { "scan": "yes" }, "matchExpressions": [{ "key": "tier", "operator": "In", "values": ["a"] }] } });
        assert_eq!(matching_pod(&selector)["metadata"]["labels"]["tier"], "a");
    }
}
