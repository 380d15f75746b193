//! Builds the objects of each `ApplySet`.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshwright_model::operation::Problem;
use meshwright_model::plan::Target;
use meshwright_model::problem::ProblemCode;
use meshwright_model::version::RevisionName;
use meshwright_rollout::ports::{ClusterError, FencingToken};
use serde_json::{Value, json};

use super::access::{remote_secret_name, token_file};
use super::helm_values::network_name;
use super::{KubernetesMesh, MemberCluster, text_at};
use crate::addresses;
use crate::credential::Credential;
use crate::service_account::BoundSecrets;

/// Service account by which control planes read a member.
const READER_ACCOUNT: &str = "istio-reader-service-account";

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
        code: ProblemCode::RenderFailed,
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
