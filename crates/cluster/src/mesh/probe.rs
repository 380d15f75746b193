//! A pod through admission and back, without creating it: the only proof that a label is injected as wanted. A missing
//! webhook answers 200 too, so a bare success proves nothing.

use model::plan::{InjectionRequest, Sidecar};
use rollout::ports::ClusterError;
use serde_json::{Value, json};

use super::records::injected_sidecar;
use super::single::SIDECAR_INJECT_LABEL as INJECT_LABEL;
use crate::door::ClusterClient;

/// The label of every pod that is sent through admission, with the value `true`: policies exempt it by this label.
const PROBE_LABEL: &str = "meshwright.dev/probe";
/// What the names of these pods begin with.
const PROBE_POD_NAME: &str = "meshwright-probe";

pub(super) async fn probe_injection(
    door: &ClusterClient,
    namespace: &str,
    asks: &InjectionRequest,
    wanted: &Sidecar,
) -> Result<Result<(), String>, ClusterError> {
    let (label, value) = match asks {
        InjectionRequest::Rev(value) => ("istio.io/rev", value.as_str()),
        InjectionRequest::Default => (INJECT_LABEL, "true"),
    };
    let pod = probe_pod((label, value), "default");
    let admitted = match door.dry_run(&format!("/api/v1/namespaces/{namespace}/pods"), &pod).await {
        Ok(admitted) => admitted,
        // A webhook whose endpoint does not answer refuses the pod with a server error.
        Err(ClusterError::Refused { cause, .. }) => {
            return Ok(Err(format!("the dry run was refused: {cause}")));
        }
        Err(error) => return Err(error),
    };
    Ok(check_injected(&admitted, namespace, wanted))
}

/// Whether the policies of a cluster take the pod in a namespace. It asks for no sidecar, so that no injector has a say.
pub(crate) async fn accepts_probe_pod(door: &ClusterClient, namespace: &str, account: &str) -> Result<bool, ClusterError> {
    let pod = probe_pod((INJECT_LABEL, "false"), account);
    match door.dry_run(&format!("/api/v1/namespaces/{namespace}/pods"), &pod).await {
        Ok(_) => Ok(true),
        Err(ClusterError::Refused { place, code, cause }) if code != "credential_expired" => {
            tracing::info!(place, code, cause, "the dry run of a pod was refused");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// As modest as a pod can be, so that as few policies as possible have something against it.
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

/// Injected by the wanted revision, with its image, and pointing to an address of its own.
fn check_injected(admitted: &Value, namespace: &str, wanted: &Sidecar) -> Result<(), String> {
    let found = injected_sidecar(admitted).ok_or("the pod came back without a sidecar")?;
    if found != *wanted {
        return Err(format!("the pod came back injected by {} with {}", found.revision, found.image));
    }
    let service = format!("istiod-{}.{namespace}.svc:15012", wanted.revision);
    let containers = ["/spec/containers", "/spec/initContainers"]
        .into_iter()
        .filter_map(|pointer| admitted.pointer(pointer)?.as_array())
        .flatten();
    let proxy = containers.into_iter().find(|container| container["name"] == "istio-proxy");
    let variable = |name: &str| {
        let list = proxy.and_then(|proxy| proxy["env"].as_array());
        let entry = list.and_then(|list| list.iter().find(|entry| entry["name"] == name));
        entry.and_then(|entry| entry["value"].as_str()).unwrap_or_default().to_owned()
    };
    for name in ["PROXY_CONFIG", "CA_ADDR"] {
        if !variable(name).contains(&service) {
            return Err(format!("the sidecar's {name} does not name {service}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Sidecar {
        Sidecar { revision: "1-27-9".parse().expect("a name"), image: "hub/proxyv2:1.27.9".into() }
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
        assert_eq!(pod["metadata"]["labels"], json!({ "meshwright.dev/probe": "true", "istio.io/rev": "stable" }));
        assert!(pod["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("meshwright-probe")));
    }

    #[test]
    fn only_the_wanted_revision_with_its_own_address_passes() {
        let own = "istiod-1-27-9.mesh-a.svc:15012";
        assert_eq!(check_injected(&admitted("1-27-9", own), "mesh-a", &wanted()), Ok(()));
        assert!(check_injected(&admitted("1-25-1", own), "mesh-a", &wanted()).is_err());
        assert!(check_injected(&admitted("1-27-9", "istiod.mesh-a.svc:15012"), "mesh-a", &wanted()).is_err());
        assert!(check_injected(&json!({ "metadata": {}, "spec": { "containers": [] } }), "mesh-a", &wanted()).is_err());
    }
}
