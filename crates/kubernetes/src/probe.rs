//! Sends a pod through admission without creating it. This is the only proof that a label is
//! injected as wanted. A missing webhook gives status 200 too, so success alone proves nothing.

use meshwright_model::plan::{InjectionRequest, Sidecar};
use meshwright_model::problem::ProblemCode;
use meshwright_model::version::RevisionName;
use meshwright_rollout::ports::ClusterError;
use serde_json::{Value, json};

use crate::client::ClusterClient;
use crate::labels::SIDECAR_INJECT_LABEL as INJECT_LABEL;
use crate::object_fields::text_at;

/// Label of every probe pod, with the value `true`, by which policies can exempt it.
const PROBE_LABEL: &str = "meshwright.dev/probe";
/// Name of probe pods.
const PROBE_POD_NAME: &str = "meshwright-probe";

/// Probes which sidecar a pod with a label would get. The inner error tells why the result is not
/// the wanted one.
pub(crate) async fn probe_injection(
    client: &ClusterClient,
    namespace: &str,
    asks: &InjectionRequest,
    wanted: &Sidecar,
) -> Result<Result<(), String>, ClusterError> {
    let (label, value) = match asks {
        InjectionRequest::Rev(value) => ("istio.io/rev", value.as_str()),
        InjectionRequest::Default => (INJECT_LABEL, "true"),
    };
    let pod = probe_pod((label, value), "default");
    let admitted = match client
        .dry_run(&format!("/api/v1/namespaces/{namespace}/pods"), &pod)
        .await
    {
        Ok(admitted) => admitted,
        // A webhook whose endpoint does not answer makes the API server refuse the pod with a
        // server error.
        Err(ClusterError::Refused { cause, .. }) => {
            return Ok(Err(format!("the dry run was refused: {cause}")));
        }
        Err(error) => return Err(error),
    };
    Ok(check_injected(&admitted, namespace, wanted))
}

/// Returns the sidecar that a revision gives to a probe pod. Returns `None` if the pod is refused or
/// if another revision, or none, injects it.
pub(crate) async fn probe_sidecar(
    client: &ClusterClient,
    namespace: &str,
    revision: &RevisionName,
) -> Result<Option<Sidecar>, ClusterError> {
    let pod = probe_pod(("istio.io/rev", revision.as_str()), "default");
    let admitted = dry_run_probe(client, namespace, &pod).await?;
    let found = admitted.as_ref().and_then(injected_sidecar);
    Ok(found.filter(|found| found.revision == *revision))
}

/// Returns whether a cluster's policies accept the probe pod in a namespace. The pod asks for no
/// sidecar, so that no injector affects the result.
pub(crate) async fn accepts_probe_pod(
    client: &ClusterClient,
    namespace: &str,
    account: &str,
) -> Result<bool, ClusterError> {
    let pod = probe_pod((INJECT_LABEL, "false"), account);
    let admitted = dry_run_probe(client, namespace, &pod).await?;
    Ok(admitted.is_some())
}

/// Sends a probe pod through admission. Returns `None` if it is refused.
async fn dry_run_probe(
    client: &ClusterClient,
    namespace: &str,
    pod: &Value,
) -> Result<Option<Value>, ClusterError> {
    match client
        .dry_run(&format!("/api/v1/namespaces/{namespace}/pods"), pod)
        .await
    {
        Ok(admitted) => Ok(Some(admitted)),
        Err(ClusterError::Refused { place, code, cause })
            if code != ProblemCode::CredentialExpired =>
        {
            tracing::info!(
                place,
                code = code.as_str(),
                cause,
                "the cluster refused the dry run of a probe pod"
            );
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Builds a pod that needs as few rights as possible, so that as few policies as possible refuse
/// it.
fn probe_pod((label, value): (&str, &str), account: &str) -> Value {
    let security = json!({
        "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] }, "readOnlyRootFilesystem": true,
        "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": { "type": "RuntimeDefault" },
    });
    let little = json!({ "cpu": "1m", "memory": "1Mi" });
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": PROBE_POD_NAME, "labels": { PROBE_LABEL: "true", label: value } },
        "spec": {
            "serviceAccountName": account,
            "containers": [{
                "name": "probe", "image": "meshwright.invalid/probe:1", "securityContext": security,
                "resources": { "requests": little, "limits": little },
            }],
        },
    })
}

/// Checks that an admitted pod has the sidecar of the wanted revision, with that revision's image
/// and discovery address.
fn check_injected(admitted: &Value, namespace: &str, wanted: &Sidecar) -> Result<(), String> {
    let found = injected_sidecar(admitted).ok_or("the pod came back without a sidecar")?;
    if found != *wanted {
        return Err(format!(
            "the pod came back injected by {} with {}",
            found.revision, found.image
        ));
    }
    let service = format!("istiod-{}.{namespace}.svc:15012", wanted.revision);
    let containers = ["/spec/containers", "/spec/initContainers"]
        .into_iter()
        .filter_map(|pointer| admitted.pointer(pointer)?.as_array())
        .flatten();
    let proxy = containers
        .into_iter()
        .find(|container| container["name"] == "istio-proxy");
    let variable = |name: &str| {
        let list = proxy.and_then(|proxy| proxy["env"].as_array());
        let entry = list.and_then(|list| list.iter().find(|entry| entry["name"] == name));
        entry
            .and_then(|entry| entry["value"].as_str())
            .unwrap_or_default()
            .to_owned()
    };
    for name in ["PROXY_CONFIG", "CA_ADDR"] {
        if !variable(name).contains(&service) {
            return Err(format!("the sidecar's {name} does not name {service}"));
        }
    }
    Ok(())
}

/// Returns the sidecar of a pod, from the annotation of the injector and the image of the proxy. A
/// label would only show the revision that was asked for.
pub(crate) fn injected_sidecar(pod: &Value) -> Option<Sidecar> {
    let revision = text_at(pod, "/metadata/annotations/istio.io~1rev")?
        .parse()
        .ok()?;
    let containers = ["/spec/containers", "/spec/initContainers"]
        .into_iter()
        .filter_map(|pointer| pod.pointer(pointer)?.as_array())
        .flatten();
    let proxy = containers
        .into_iter()
        .find(|container| container["name"] == "istio-proxy")?;
    Some(Sidecar {
        revision,
        image: proxy["image"].as_str()?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Sidecar {
        Sidecar {
            revision: "1-27-9".parse().expect("a name"),
            image: "hub/proxyv2:1.27.9".into(),
        }
    }

    fn admitted(revision: &str, service: &str) -> Value {
        json!({
            "metadata": { "annotations": { "istio.io/rev": revision } },
            "spec": { "containers": [{ "name": "istio-proxy", "image": "hub/proxyv2:1.27.9", "env": [
                { "name": "PROXY_CONFIG", "value": format!("{{\"discoveryAddress\":\"{service}\"}}") }, { "name": "CA_ADDR", "value": service },
            ] }] },
        })
    }

    #[test]
    fn d13_policies_know_the_pod_by_its_label_and_its_name() {
        let pod = probe_pod(("istio.io/rev", "stable"), "default");
        assert_eq!(
            pod["metadata"]["labels"],
            json!({ "meshwright.dev/probe": "true", "istio.io/rev": "stable" })
        );
        assert!(
            pod["metadata"]["name"]
                .as_str()
                .is_some_and(|name| name.starts_with("meshwright-probe"))
        );
    }

    #[test]
    fn only_the_wanted_revision_with_its_own_address_passes() {
        let own = "istiod-1-27-9.mesh-a.svc:15012";
        assert_eq!(
            check_injected(&admitted("1-27-9", own), "mesh-a", &wanted()),
            Ok(())
        );
        assert!(check_injected(&admitted("1-25-1", own), "mesh-a", &wanted()).is_err());
        assert!(
            check_injected(
                &admitted("1-27-9", "istiod.mesh-a.svc:15012"),
                "mesh-a",
                &wanted()
            )
            .is_err()
        );
        assert!(
            check_injected(
                &json!({ "metadata": {}, "spec": { "containers": [] } }),
                "mesh-a",
                &wanted()
            )
            .is_err()
        );
    }
}
