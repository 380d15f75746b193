//! Builds the objects of each ApplySet.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshwright_model::Name;
use meshwright_model::operation::Problem;
use meshwright_model::plan::Target;
use meshwright_model::switch::Switches;
use meshwright_model::version::{RevisionName, Version};
use meshwright_rollout::ports::{ClusterError, FencingToken, Readiness};
use serde_json::{Value, json};

use super::access::{CONFIG_KUBECONFIG_KEY, CONFIG_TOKEN_FILE, remote_secret_name, token_file};
use super::helm_values::{HelmValues, TOKENS_DIR, network_name};
use super::{KubernetesMesh, MemberCluster, number_at, text_at};
use crate::addresses;
use crate::credential::Credential;
use crate::helm::Charts;
use crate::service_account::BoundSecrets;

/// Service account by which control planes read a member.
const READER_ACCOUNT: &str = "istio-reader-service-account";

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
    /// Builds the objects that a target of several objects needs for a value.
    pub(super) async fn desired_objects(
        &self,
        target: &Target,
        value: &str,
        permit: &FencingToken,
    ) -> Result<Vec<Value>, ClusterError> {
        match target {
            Target::MeshNamespace => Ok(vec![self.cacerts_secret()]),
            Target::Limits => self.limit_objects().await,
            Target::MemberBootstrap { member } => {
                Ok(self.member_bootstrap_objects(self.find_member(member)?))
            }
            Target::RemoteAccess { member } => {
                self.remote_access_objects(self.find_member(member)?, permit)
                    .await
            }
            Target::Address { revision } => Ok(vec![self.address_service(revision)]),
            Target::Crds { member } => self.istio_crds(self.find_member(member)?, value).await,
            Target::MemberObjects { member, revision } => {
                self.member_objects(self.find_member(member)?, revision, value)
                    .await
            }
            Target::ControlPlane { revision } => {
                self.control_plane_objects(revision, value, permit).await
            }
            Target::Tag { .. }
            | Target::Validator { .. }
            | Target::Certificates { .. }
            | Target::NamespaceLabel { .. }
            | Target::Workload { .. } => Ok(Vec::new()),
        }
    }

    /// Builds an object in the mesh's namespace. `rest` adds fields to it, also within `metadata`.
    pub(super) fn namespaced_object(
        &self,
        api: &str,
        kind: &str,
        name: &str,
        rest: Value,
    ) -> Value {
        let mut object = json!({ "apiVersion": api, "kind": kind, "metadata": { "name": name, "namespace": self.namespace() } });
        if let (Some(object), Value::Object(rest)) = (object.as_object_mut(), rest) {
            for (key, value) in rest {
                match (object.get_mut(&key), value) {
                    (Some(Value::Object(known)), Value::Object(more)) => known.extend(more),
                    (_, value) => drop(object.insert(key, value)),
                }
            }
        }
        object
    }

    /// Builds the Secret with the mesh's certificate authority. Without it, istiod would store a
    /// self-signed authority in the config cluster, another one for each revision.
    fn cacerts_secret(&self) -> Value {
        let authority = &self.config.authority;
        let certificate = &authority.certificate;
        let data = json!({ "ca-cert.pem": certificate, "ca-key.pem": authority.key, "root-cert.pem": certificate, "cert-chain.pem": certificate });
        self.namespaced_object("v1", "Secret", "cacerts", json!({ "stringData": data }))
    }

    /// Builds the objects that a member needs before its control planes can read it. The annotation
    /// `controlPlaneClusters` lets the hosted control planes lead in a member that is not the
    /// config cluster; istiod reads it once, when it first sees the member.
    fn member_bootstrap_objects(&self, member: &MemberCluster) -> Vec<Value> {
        let config = self
            .config
            .members
            .first()
            .map(|first| first.name.to_string())
            .unwrap_or_default();
        let metadata = json!({
            "name": self.namespace(),
            "labels": { "topology.istio.io/network": network_name(member.name.as_str()) },
            "annotations": { "topology.istio.io/controlPlaneClusters": config },
        });
        let anchor = BoundSecrets::for_mesh(self.namespace()).secret_for(member.serial);
        vec![
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata }),
            self.namespaced_object("v1", "ServiceAccount", READER_ACCOUNT, json!({})),
            anchor,
        ]
    }

    /// Builds the kubeconfig of a member. It names a token file, which a renewal rewrites, so the
    /// text changes only with the member's address or certificate authority (see `access`). The
    /// address is one that we have checked; the certificate is still checked against the name that
    /// the user gave.
    pub(super) async fn member_kubeconfig(
        &self,
        member: &MemberCluster,
        token_file: &str,
    ) -> Result<String, ClusterError> {
        let address = self.kubeconfig_address(&member.name).await?;
        Ok(kubeconfig_text(&member.credential, address, token_file))
    }

    /// Builds the objects that give control planes access to a member. The config cluster has none
    /// here, because each revision reads it with an account of its own; the others get a remote
    /// secret.
    async fn remote_access_objects(
        &self,
        member: &MemberCluster,
        permit: &FencingToken,
    ) -> Result<Vec<Value>, ClusterError> {
        if self.is_config_cluster(&member.name) {
            return Ok(Vec::new());
        }
        let name = member.name.as_str();
        let token = self
            .new_token_secret(member, READER_ACCOUNT, permit)
            .await?;
        let metadata = json!({ "labels": { "istio/multiCluster": "true" }, "annotations": { "networking.istio.io/cluster": name } });
        let kubeconfig = self.member_kubeconfig(member, &token_file(name)).await?;
        Ok(vec![
            self.namespaced_object("v1", "Secret", &format!("meshwright-token-{name}"), token),
            self.namespaced_object(
                "v1",
                "Secret",
                &remote_secret_name(name),
                json!({ "metadata": metadata, "stringData": { name: kubeconfig } }),
            ),
        ])
    }

    /// Builds the load balancer Service of a revision. It exposes only the ports that users'
    /// clusters need: discovery and certificates, and webhooks.
    fn address_service(&self, revision: &RevisionName) -> Value {
        let port = |name: &str, port: u16| json!({ "name": name, "port": port, "targetPort": port, "protocol": "TCP" });
        let spec = json!({
            "type": "LoadBalancer", "selector": { "app": "istiod", "istio.io/rev": revision.as_str() },
            "ports": [port("tls-xds", 15012), port("https-webhooks", 15017)],
        });
        self.namespaced_object(
            "v1",
            "Service",
            &address_service_name(revision),
            json!({ "spec": spec }),
        )
    }

    /// Returns the address that was assigned to a revision, or `None` before that.
    pub(super) async fn assigned_address(
        &self,
        revision: &RevisionName,
    ) -> Result<Option<String>, ClusterError> {
        let path = format!(
            "/api/v1/namespaces/{}/services/{}",
            self.namespace(),
            address_service_name(revision)
        );
        let service = self.config.hosting.get(&path).await?;
        let ingress = service
            .as_ref()
            .and_then(|service| service.pointer("/status/loadBalancer/ingress/0"));
        Ok(ingress
            .and_then(|ingress| text_at(ingress, "/ip").or_else(|| text_at(ingress, "/hostname")))
            .map(str::to_owned))
    }

    /// Renders the chart for one purpose (`hosted`, `remote`, `definitions` or `base`) with all its
    /// values.
    async fn render_objects(
        &self,
        member: &str,
        revision: &RevisionName,
        value: &str,
        what: &str,
    ) -> Result<Vec<Value>, ClusterError> {
        let version: Version = value.parse().map_err(|_| {
            render_refused(&Problem::new(
                "unknown_version",
                format!("{value} is no version"),
                "",
            ))
        })?;
        let (release, charts): &(_, Charts) = self.find_release(&version)?;
        let needs_address = what != "definitions";
        let address = if needs_address {
            self.assigned_address(revision).await?
        } else {
            Some(String::new())
        };
        let address = address.ok_or_else(|| {
            ClusterError::unreachable("the hosting cluster", "no address was assigned yet")
        })?;
        let members: Vec<Name> = self
            .config
            .members
            .iter()
            .map(|member| member.name.clone())
            .collect();
        let none = Switches::new();
        let rendering = HelmValues {
            namespace: self.namespace(),
            revision,
            release,
            switches: self.config.switches.get(revision).unwrap_or(&none),
            members: &members,
            member,
            address: &address,
            replicas: self.config.replicas,
        };
        let (chart, values) = match what {
            "hosted" => ("istiod", rendering.hosted_values()),
            "remote" => ("istiod", rendering.remote_values()),
            _ => ("base", rendering.base_values()),
        };
        let objects = self
            .config
            .helm
            .template_chart(charts, chart, self.namespace(), &values)
            .await;
        objects.map_err(|problem| render_refused(&problem))
    }

    /// Renders Istio's custom resource definitions for a member.
    async fn istio_crds(
        &self,
        member: &MemberCluster,
        value: &str,
    ) -> Result<Vec<Value>, ClusterError> {
        let revision = value
            .parse::<Version>()
            .map(|version| version.revision_name());
        let revision = revision.map_err(|_| {
            render_refused(&Problem::new(
                "unknown_version",
                format!("{value} is no version"),
                "",
            ))
        })?;
        let objects = self
            .render_objects(member.name.as_str(), &revision, value, "definitions")
            .await?;
        Ok(objects
            .into_iter()
            .filter(|object| object["kind"] == "CustomResourceDefinition")
            .collect())
    }

    /// Returns whether the cluster serves all of Istio's custom resource definitions.
    pub(super) async fn crds_readiness(&self, member: &Name) -> Result<Readiness, ClusterError> {
        let door = &self.find_member(member)?.client;
        let listed = door
            .list(
                "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
                "",
            )
            .await?;
        let ours = listed.iter().filter(|object| {
            text_at(object, "/spec/group").is_some_and(|group| group.ends_with(".istio.io"))
        });
        let waiting = ours.filter(|object| {
            let conditions = object
                .pointer("/status/conditions")
                .and_then(Value::as_array);
            !conditions.is_some_and(|list| {
                list.iter().any(|condition| {
                    condition["type"] == "Established" && condition["status"] == "True"
                })
            })
        });
        Ok(match waiting.count() {
            0 => Readiness::Ready,
            left => Readiness::Pending(format!("{left} definitions are not established yet")),
        })
    }

    /// Renders a revision's objects in a member. Webhooks are created with the CA bundle of our own
    /// root: without it they would refuse every pod until istiod has patched them.
    pub(super) async fn member_objects(
        &self,
        member: &MemberCluster,
        revision: &RevisionName,
        value: &str,
    ) -> Result<Vec<Value>, ClusterError> {
        let mut objects = self
            .render_objects(member.name.as_str(), revision, value, "remote")
            .await?;
        let bundle = STANDARD.encode(&self.config.authority.certificate);
        for object in &mut objects {
            if object["kind"] == "MutatingWebhookConfiguration"
                && let Some(webhooks) = object["webhooks"].as_array_mut()
            {
                for webhook in webhooks {
                    webhook["clientConfig"]["caBundle"] = bundle.clone().into();
                }
            }
        }
        Ok(objects)
    }

    /// Renders the default validator, which is part of the base chart. The module of the tags moves
    /// it.
    pub(super) async fn default_validator(
        &self,
        revision: &RevisionName,
        value: &str,
    ) -> Result<Option<Value>, ClusterError> {
        let Some(config) = self.config.members.first() else {
            return Ok(None);
        };
        let objects = self
            .render_objects(config.name.as_str(), revision, value, "base")
            .await?;
        Ok(objects
            .into_iter()
            .find(|object| object["kind"] == "ValidatingWebhookConfiguration"))
    }

    /// Builds the objects of a control plane in the hosting cluster.
    async fn control_plane_objects(
        &self,
        revision: &RevisionName,
        value: &str,
        permit: &FencingToken,
    ) -> Result<Vec<Value>, ClusterError> {
        let nobody = || render_refused(&Problem::new("no_members", "the mesh has no member", ""));
        let config = self.config.members.first().ok_or_else(nobody)?;
        let unknown = |_| {
            render_refused(&Problem::new(
                "unknown_version",
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

fn kubeconfig_text(credential: &Credential, address: SocketAddr, token_file: &str) -> String {
    let authority = STANDARD.encode(&credential.authority);
    let mut cluster =
        json!({ "server": format!("https://{address}"), "certificate-authority-data": authority });
    if let Some(name) = addresses::tls_server_name(&credential.server) {
        cluster["tls-server-name"] = name.into();
    }
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "member",
        "clusters": [{ "name": "member", "cluster": cluster }],
        "contexts": [{ "name": "member", "context": { "cluster": "member", "user": "member" } }],
        "users": [{ "name": "member", "user": { "tokenFile": token_file } }],
    })
    .to_string()
}

fn address_service_name(revision: &RevisionName) -> String {
    format!("istiod-{revision}-address")
}

pub(super) fn render_refused(problem: &Problem) -> ClusterError {
    ClusterError::Refused {
        place: "the renderer".into(),
        code: "render_failed",
        cause: problem.message.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::ClientIdentity;

    /// Returns the server and the TLS server name in a control plane's kubeconfig for a member.
    fn told(server: &str) -> (Value, Value) {
        let credential = Credential::new(
            server,
            b"-----BEGIN ".to_vec(),
            ClientIdentity::Token("t".to_owned().into()),
        );
        let address = "198.18.0.1:6443".parse().expect("an address");
        let text = kubeconfig_text(&credential.expect("a credential"), address, "/token");
        let mut kubeconfig: Value = serde_json::from_str(&text).expect("JSON");
        let cluster = &mut kubeconfig["clusters"][0]["cluster"];
        (cluster["server"].take(), cluster["tls-server-name"].take())
    }

    #[test]
    fn c3_control_planes_are_told_the_checked_address_and_the_name_of_its_certificate() {
        assert_eq!(
            told("https://c2.example:6443"),
            (json!("https://198.18.0.1:6443"), json!("c2.example"))
        );
        assert_eq!(
            told("https://198.18.0.1:6443"),
            (json!("https://198.18.0.1:6443"), Value::Null)
        );
    }
}
