//! Builds the objects of a control plane in the hosting cluster, and observes its replicas.

use meshwright_model::operation::Problem;
use meshwright_model::problem::ProblemCode;
use meshwright_model::version::{RevisionName, Version};
use meshwright_rollout::ports::{ClusterError, FencingToken, Readiness};
use serde_json::{Value, json};

use super::access::{CONFIG_KUBECONFIG_KEY, CONFIG_TOKEN_FILE};
use super::helm_values::TOKENS_DIR;
use super::objects::render_refused;
use super::{KubernetesMesh, number_at};

/// Kinds of rendered objects that may go into the hosting cluster; all others are left out. The
/// charts would also bring cluster-wide rights to Secrets, and webhooks that call a tenant's
/// injector for the provider's own pods.
const HOSTING_KINDS: [&str; 5] = [
    "Deployment",
    "Service",
    "ServiceAccount",
    "PodDisruptionBudget",
    "ConfigMap",
];

/// Seconds for which a terminating istiod continues to answer. Endpoints reach nodes and load
/// balancers within a second or two. With the ten seconds that istiod itself takes to end, this
/// stays below a pod's grace period of 30 seconds.
const PRE_STOP_SLEEP_SECONDS: u32 = 5;

impl KubernetesMesh {
    /// Builds the objects of a control plane in the hosting cluster.
    pub(super) async fn control_plane_objects(
        &self,
        revision: &RevisionName,
        value: &str,
        permit: &FencingToken,
    ) -> Result<Vec<Value>, ClusterError> {
        let nobody = || {
            render_refused(&Problem::new(
                ProblemCode::NoMembers,
                "the mesh has no member",
                "",
            ))
        };
        let config = self.config.members.first().ok_or_else(nobody)?;
        let unknown = |_| {
            render_refused(&Problem::new(
                ProblemCode::UnknownVersion,
                format!("{value} is no version"),
                "",
            ))
        };
        let version: Version = value.parse().map_err(unknown)?;
        let rendered = self
            .render_objects(config.name.as_str(), revision, value, "hosted")
            .await?;
        let mut objects: Vec<Value> = rendered
            .into_iter()
            .filter(|object| {
                object["kind"]
                    .as_str()
                    .is_some_and(|kind| HOSTING_KINDS.contains(&kind))
            })
            .collect();
        let mut access = self
            .new_token_secret(config, &format!("istiod-{revision}"), permit)
            .await?;
        access["stringData"][CONFIG_KUBECONFIG_KEY] = self
            .member_kubeconfig(config, CONFIG_TOKEN_FILE)
            .await?
            .into();
        objects.insert(
            0,
            self.namespaced_object(
                "v1",
                "Secret",
                &format!("istio-kubeconfig-{revision}"),
                access,
            ),
        );
        objects.extend(self.hosting_role(revision));
        for object in objects
            .iter_mut()
            .filter(|object| object["kind"] == "Deployment")
        {
            self.require_volumes(object, revision);
            add_pre_stop_sleep(object);
        }
        self.annotate_kubeconfig_hashes(&mut objects, &self.find_release(&version)?.0)
            .await?;
        // The Deployment comes last, so that its pods find all that they mount.
        objects.sort_by_key(|object| object["kind"] == "Deployment");
        Ok(objects)
    }

    /// Builds the role of an istiod in the hosting cluster. It reads remote secrets in the mesh's
    /// own namespace and in no other.
    fn hosting_role(&self, revision: &RevisionName) -> [Value; 2] {
        let name = format!("istiod-{revision}");
        let rules = json!([
            { "apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "watch"] },
            { "apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"] },
        ]);
        let subjects =
            json!([{ "kind": "ServiceAccount", "name": name, "namespace": self.namespace() }]);
        let role = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name });
        [
            self.namespaced_object(
                "rbac.authorization.k8s.io/v1",
                "Role",
                &name,
                json!({ "rules": rules }),
            ),
            self.namespaced_object(
                "rbac.authorization.k8s.io/v1",
                "RoleBinding",
                &name,
                json!({ "roleRef": role, "subjects": subjects }),
            ),
        ]
    }

    /// Replaces the optional volumes by required ones. With a missing kubeconfig istiod would adopt
    /// the *hosting* cluster, and with missing certificates it would generate a second root.
    fn require_volumes(&self, deployment: &mut Value, revision: &RevisionName) {
        let pod = &mut deployment["spec"]["template"]["spec"];
        let kept = ["local-certs", "istio-token"];
        let mut volumes: Vec<Value> = pod["volumes"].as_array().cloned().unwrap_or_default();
        volumes.retain(|volume| {
            volume["name"]
                .as_str()
                .is_some_and(|name| kept.contains(&name))
        });
        let secret = |volume: &str, secret: String| json!({ "name": volume, "secret": { "secretName": secret, "optional": false } });
        volumes.push(secret("cacerts", "cacerts".into()));
        volumes.push(secret(
            "istio-kubeconfig",
            format!("istio-kubeconfig-{revision}"),
        ));
        // Without these files, istiod would read both from the config cluster, where the tenant can
        // write.
        let config = |volume: &str, name: String| json!({ "name": volume, "configMap": { "name": name, "optional": false } });
        volumes.push(config("mesh-config", format!("istio-{revision}")));
        volumes.push(config(
            "inject",
            format!("istio-sidecar-injector-{revision}"),
        ));
        let mut mounts: Vec<Value> = pod["containers"][0]["volumeMounts"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        mounts.retain(|mount| volumes.iter().any(|volume| volume["name"] == mount["name"]));
        mounts.push(
            json!({ "name": "mesh-config", "mountPath": "/etc/istio/config", "readOnly": true }),
        );
        mounts.push(
            json!({ "name": "inject", "mountPath": "/var/lib/istio/inject", "readOnly": true }),
        );
        for member in self.config.members.iter().skip(1) {
            let volume = format!("token-{}", member.name);
            volumes.push(secret(&volume, format!("meshwright-token-{}", member.name)));
            mounts.push(
                json!({ "name": volume, "mountPath": format!("{TOKENS_DIR}/{}", member.name), "readOnly": true }),
            );
        }
        pod["volumes"] = volumes.into();
        pod["containers"][0]["volumeMounts"] = mounts.into();
    }

    /// Returns whether all replicas of a control plane run its newest template and are ready.
    pub(super) async fn replica_readiness(
        &self,
        revision: &RevisionName,
    ) -> Result<Readiness, ClusterError> {
        let path = format!(
            "/apis/apps/v1/namespaces/{}/deployments/istiod-{revision}",
            self.namespace()
        );
        let Some(deployment) = self.config.hosting.get(&path).await? else {
            return Ok(Readiness::Pending("its Deployment is gone".into()));
        };
        let wanted = number_at(&deployment, "/spec/replicas");
        let seen = number_at(&deployment, "/status/observedGeneration")
            >= number_at(&deployment, "/metadata/generation");
        let counts = ["updatedReplicas", "readyReplicas", "replicas"]
            .map(|field| number_at(&deployment, &format!("/status/{field}")));
        if seen && counts == [wanted; 3] {
            return Ok(Readiness::Ready);
        }
        let why = self.unready_reason(revision).await?;
        Ok(Readiness::Pending(format!(
            "{} of {wanted} replicas are ready{why}",
            counts[1]
        )))
    }
}

/// Lets a terminating istiod answer for a while. Its Service and the load balancer learn of the end
/// a moment later, and a webhook call that still arrived here would be refused, and with it the
/// member's new pod.
fn add_pre_stop_sleep(deployment: &mut Value) {
    deployment["spec"]["template"]["spec"]["containers"][0]["lifecycle"] =
        json!({ "preStop": { "sleep": { "seconds": PRE_STOP_SLEEP_SECONDS } } });
}
