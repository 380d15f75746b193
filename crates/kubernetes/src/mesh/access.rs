//! Tells control planes a member's address and certificate authority, and brings changes of either
//! to them.
//!
//! Both are in a kubeconfig. That of the config cluster is a file of each istiod, read once when
//! istiod starts. Those of the other members are remote secrets, which istiod watches. A change of
//! the file needs a restart; so does a change of a remote secret on releases whose secret
//! controller hangs on it (quirk `remote-secret-deadlock`). The write that changes a kubeconfig
//! also puts a hash of it into an annotation of the Secret, and a control plane whose pod template
//! has another hash is restarted. So the restart is made up for if a worker ends between the two
//! writes.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshwright_model::Name;
use meshwright_model::plan::Target;
use meshwright_model::release::{Quirk, Release};
use meshwright_model::version::{RevisionName, Version};
use meshwright_rollout::ports::ClusterError;
use serde_json::{Value, json};

use super::helm_values::TOKENS_DIR;
use super::{KubernetesMesh, MemberCluster, label_query, object_version, text_at, uid_and_version};
use crate::labels::OWNER_LABEL;
use crate::resolver::Resolver;
use crate::{AddressPolicy, ClusterClient, addresses};

/// Key of the config cluster's kubeconfig in its Secret, which becomes the file's name.
pub(super) const CONFIG_KUBECONFIG_KEY: &str = "config";
/// Prefix of the names of the Secrets with the config cluster's kubeconfig; the revision follows.
const CONFIG_SECRET_PREFIX: &str = "istio-kubeconfig-";
/// Path of the token that the config cluster's kubeconfig names.
pub(super) const CONFIG_TOKEN_FILE: &str = "/var/run/secrets/remote/token";
/// Prefix of the annotation with the hash of a member's kubeconfig; a slash and the member's name
/// follow.
const KUBECONFIG_HASH_ANNOTATION: &str = "way-in.meshwright.dev";

/// Returns the path of the token that a remote secret's kubeconfig names.
pub(super) fn token_file(member: &str) -> String {
    format!("{TOKENS_DIR}/{member}/token")
}

/// Returns the name of the remote secret for a member that is not the config cluster.
pub(super) fn remote_secret_name(member: &str) -> String {
    format!("istio-remote-secret-{member}")
}

impl KubernetesMesh {
    /// Brings the tokens, address and certificate authority by which control planes read a member
    /// to those of its current credential. Returns whether all of them were current already. Safe
    /// to repeat.
    ///
    /// # Errors
    /// Returns an error if a cluster does not answer or refuses a call.
    pub async fn renew_access(&self, member: &Name) -> Result<bool, ClusterError> {
        let tokens = self.renew_tokens(member).await?;
        let member = self.find_member(member)?;
        let rewritten = self.rewrite_kubeconfigs(member).await?;
        let restarted = self.restart_outdated_control_planes(member).await?;
        Ok(tokens && !rewritten && !restarted)
    }

    /// Brings control planes to the address that a member's name resolves to now, if it differs
    /// from the one in their kubeconfig. The renewal of the credential may be weeks away, so this
    /// cannot wait for it. An address that a name server leaves out for once, for example because
    /// it rotates its answers, is kept for as long as the member answers there. It costs one list
    /// if no address has changed, and one more after a change. Safe to repeat.
    ///
    /// # Errors
    /// Returns an error if a cluster does not answer or refuses a call.
    pub async fn follow_member_address(&self, member: &Name) -> Result<(), ClusterError> {
        let member = self.find_member(member)?;
        let (key, known, note) = (
            self.kubeconfig_key_and_token_file(member).0,
            self.member_addresses(&member.name).await?,
            kubeconfig_hash_annotation(member),
        );
        let mut ways = self.kubeconfig_secrets(member).await?;
        let rewritten = ways
            .iter()
            .any(|way| !way["metadata"]["annotations"][&note].is_null());
        ways.retain(|way| !secret_leads_to_member(way, &key, member, &known));
        let mut moved = false;
        for way in ways {
            moved |= !self.answers_at_old_address(member, &way, &key).await;
        }
        if moved {
            self.renew_limits().await?;
            self.rewrite_kubeconfigs(member).await?;
        }
        // A kubeconfig that was rewritten earlier may still wait for its restart.
        if moved || rewritten {
            self.restart_outdated_control_planes(member).await?;
        }
        Ok(())
    }

    /// Returns whether the member still answers at the address in a control plane's kubeconfig. The
    /// TLS certificate proves that it is the same cluster.
    async fn answers_at_old_address(&self, member: &MemberCluster, way: &Value, key: &str) -> bool {
        let cluster = &kubeconfig_in_secret(way, key)["clusters"][0]["cluster"];
        let authority =
            cluster["certificate-authority-data"] == STANDARD.encode(&member.credential.authority);
        let Some(told) = cluster["server"]
            .as_str()
            .and_then(addresses::literal_address)
        else {
            return false;
        };
        if !authority || addresses::tls_server_name(&member.credential.server).is_none() {
            return false;
        }
        let rules = AddressPolicy {
            resolver: Arc::new(FixedResolver(told)),
            ..self.config.address_policy.clone()
        };
        match ClusterClient::open(member.name.as_str(), &member.credential, &rules) {
            Ok(client) => client.get("/version").await.is_ok(),
            Err(_) => false,
        }
    }

    /// Writes the member's address and certificate authority into the control planes' kubeconfigs,
    /// with the hash of each. Returns whether any kubeconfig differed.
    async fn rewrite_kubeconfigs(&self, member: &MemberCluster) -> Result<bool, ClusterError> {
        let (key, file) = self.kubeconfig_key_and_token_file(member);
        let known = self.member_addresses(&member.name).await?;
        let path = format!("/api/v1/namespaces/{}/secrets", self.namespace());
        let mut any = false;
        for secret in self.kubeconfig_secrets(member).await? {
            if secret_leads_to_member(&secret, &key, member, &known) {
                continue;
            }
            any = true;
            let wanted = self.member_kubeconfig(member, &file).await?;
            let (uid, version) =
                uid_and_version(&object_version(Some(&secret))).unwrap_or_default();
            let change = json!({
                "metadata": { "uid": uid, "resourceVersion": version, "annotations": { kubeconfig_hash_annotation(member): kubeconfig_hash(&wanted) } },
                "stringData": { &key: wanted },
            });
            let name = text_at(&secret, "/metadata/name").unwrap_or_default();
            tracing::info!(
                member = member.name.as_str(),
                secret = name,
                "rewriting the kubeconfig by which control planes read the member"
            );
            self.config
                .hosting
                .patch(&format!("{path}/{name}"), &change, None)
                .await?;
        }
        Ok(any)
    }

    /// Returns the key of a member's kubeconfig in its Secret, and the token file that the
    /// kubeconfig names.
    fn kubeconfig_key_and_token_file(&self, member: &MemberCluster) -> (String, String) {
        if self.is_config_cluster(&member.name) {
            return (
                CONFIG_KUBECONFIG_KEY.to_owned(),
                CONFIG_TOKEN_FILE.to_owned(),
            );
        }
        (member.name.to_string(), token_file(member.name.as_str()))
    }

    /// Lists the Secrets with the kubeconfig of a member: one for each revision if it is the config
    /// cluster, else the remote secret.
    async fn kubeconfig_secrets(&self, member: &MemberCluster) -> Result<Vec<Value>, ClusterError> {
        let path = format!("/api/v1/namespaces/{}/secrets", self.namespace());
        let config = self.is_config_cluster(&member.name);
        let remote = remote_secret_name(member.name.as_str());
        let mut secrets = self
            .config
            .hosting
            .list(&path, &label_query(&[(OWNER_LABEL, self.namespace())]))
            .await?;
        secrets.retain(|secret| {
            let name = text_at(secret, "/metadata/name").unwrap_or_default();
            if config {
                name.starts_with(CONFIG_SECRET_PREFIX)
            } else {
                name == remote
            }
        });
        Ok(secrets)
    }

    /// Restarts the control planes that do not take over a member's current kubeconfig while they
    /// run, and whose pods do not carry the hash of the Secret. A Secret that was never rewritten
    /// has no hash and restarts none.
    async fn restart_outdated_control_planes(
        &self,
        member: &MemberCluster,
    ) -> Result<bool, ClusterError> {
        let secrets = self.kubeconfig_secrets(member).await?;
        let path = format!("/apis/apps/v1/namespaces/{}/deployments", self.namespace());
        let key = kubeconfig_hash_annotation(member);
        let mut any = false;
        for deployment in self
            .config
            .hosting
            .list(&path, &label_query(&[("app", "istiod")]))
            .await?
        {
            let revision = text_at(&deployment, "/metadata/labels/istio.io~1rev")
                .and_then(|name| name.parse().ok());
            let (Some(name), Some(revision)) = (text_at(&deployment, "/metadata/name"), revision)
            else {
                continue;
            };
            let own = |secret: &&Value| {
                let named = text_at(secret, "/metadata/name").unwrap_or_default();
                !self.is_config_cluster(&member.name)
                    || named == format!("{CONFIG_SECRET_PREFIX}{revision}")
            };
            let noted = secrets
                .iter()
                .find(own)
                .and_then(|secret| secret["metadata"]["annotations"][&key].as_str());
            let Some(noted) = noted else { continue };
            let carried = &deployment["spec"]["template"]["metadata"]["annotations"][&key];
            if carried == noted
                || !self
                    .needs_restart_for_kubeconfig(member, &self.running_release(&revision).await?)
            {
                continue;
            }
            any = true;
            let (uid, version) =
                uid_and_version(&object_version(Some(&deployment))).unwrap_or_default();
            let change = json!({
                "metadata": { "uid": uid, "resourceVersion": version },
                "spec": { "template": { "metadata": { "annotations": { &key: noted } } } },
            });
            tracing::info!(
                member = member.name.as_str(),
                deployment = name,
                "restarting a control plane so that it reads the member's new kubeconfig"
            );
            self.config
                .hosting
                .patch(&format!("{path}/{name}"), &change, None)
                .await?;
        }
        Ok(any)
    }

    /// Returns whether an istiod of a release takes over a change of a member's kubeconfig only by
    /// a restart.
    fn needs_restart_for_kubeconfig(&self, member: &MemberCluster, release: &Release) -> bool {
        self.is_config_cluster(&member.name)
            || release.quirks.contains(&Quirk::RemoteSecretDeadlock)
    }

    /// Returns the release that a control plane runs, as its inventory tells.
    async fn running_release(&self, revision: &RevisionName) -> Result<Release, ClusterError> {
        let seen = self
            .observe_apply_set(&Target::ControlPlane {
                revision: revision.clone(),
            })
            .await?;
        let version: Option<Version> = seen.value.and_then(|value| value.parse().ok());
        match version {
            Some(version) => Ok(self.find_release(&version)?.0.clone()),
            None => Err(ClusterError::Changed {
                place: format!("control plane {revision}"),
            }),
        }
    }

    /// Annotates rendered Deployments with the hashes of the kubeconfigs that they start with, so
    /// that a later check does not restart them.
    pub(super) async fn annotate_kubeconfig_hashes(
        &self,
        objects: &mut [Value],
        release: &Release,
    ) -> Result<(), ClusterError> {
        for member in self
            .config
            .members
            .iter()
            .skip(1)
            .filter(|member| self.needs_restart_for_kubeconfig(member, release))
        {
            let key = kubeconfig_hash_annotation(member);
            let secrets = self.kubeconfig_secrets(member).await?;
            let note = secrets
                .first()
                .map(|secret| secret["metadata"]["annotations"][&key].clone())
                .unwrap_or_default();
            let deployments = objects
                .iter_mut()
                .filter(|object| object["kind"] == "Deployment" && !note.is_null());
            for deployment in deployments {
                deployment["spec"]["template"]["metadata"]["annotations"][&key] = note.clone();
            }
        }
        Ok(())
    }
}

/// Returns the annotation for a member's kubeconfig hash. On the Secret it tells what was written
/// last, and on pods what they were started with.
fn kubeconfig_hash_annotation(member: &MemberCluster) -> String {
    format!("{KUBECONFIG_HASH_ANNOTATION}/{}", member.name)
}

/// Returns the SHA-256 digest of a kubeconfig as base64.
fn kubeconfig_hash(kubeconfig: &str) -> String {
    STANDARD.encode(digest::digest(&digest::SHA256, kubeconfig.as_bytes()))
}

/// Returns whether the kubeconfig in a Secret leads to a member.
fn secret_leads_to_member(
    secret: &Value,
    key: &str,
    member: &MemberCluster,
    known: &[SocketAddr],
) -> bool {
    kubeconfig_leads_to_member(&kubeconfig_in_secret(secret, key), member, known)
}

/// Reads the kubeconfig in a Secret; null if there is none.
fn kubeconfig_in_secret(secret: &Value, key: &str) -> Value {
    let bytes = secret["data"][key]
        .as_str()
        .and_then(|data| STANDARD.decode(data).ok());
    bytes
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

/// Resolver that answers every name with one address.
#[derive(Debug)]
struct FixedResolver(SocketAddr);

#[async_trait]
impl Resolver for FixedResolver {
    async fn resolve_host(&self, _host: &str, _port: u16) -> std::io::Result<Vec<SocketAddr>> {
        Ok(vec![self.0])
    }
}

/// Returns whether a control plane's kubeconfig leads to a member as the current credential does.
/// If a name resolves to several addresses, any of them will do, so that the order of a name
/// server's answers changes nothing.
fn kubeconfig_leads_to_member(held: &Value, member: &MemberCluster, known: &[SocketAddr]) -> bool {
    let cluster = &held["clusters"][0]["cluster"];
    let server = cluster["server"].as_str().unwrap_or_default();
    let authority =
        cluster["certificate-authority-data"] == STANDARD.encode(&member.credential.authority);
    // Kubeconfigs from an earlier version of the server have the name in place of the address.
    let named = server == member.credential.server;
    let name = cluster["tls-server-name"].as_str().map(str::to_owned)
        == addresses::tls_server_name(&member.credential.server);
    let addressed =
        name && addresses::literal_address(server).is_some_and(|address| known.contains(&address));
    authority && (named || addressed)
}
