//! How control planes come to know a member's address and authority, and how a change of either reaches them.
//!
//! Both stand in a kubeconfig: that of the config cluster is a file of each istiod, read once when it starts; those of the
//! others are remote secrets, which istiod watches. A change of the first needs a restart, and so does one of the others
//! on releases whose secret controller hangs over it. The write that changes a kubeconfig leaves a note of it on the Secret,
//! and a control plane whose pods do not carry that note is restarted: a worker that ends between the two is made up for.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::Name;
use model::plan::Target;
use model::release::{Quirk, Release};
use model::version::{RevisionName, Version};
use rollout::ports::ClusterError;
use serde_json::{Value, json};

use super::values::TOKENS_DIR;
use super::{MemberCluster, KubernetesMesh, OWNER_LABEL, object_version, uid_and_version, label_query, text_at};
use crate::connect::Resolver;
use crate::{AddressPolicy, ClusterClient, addresses};

/// The file of the config cluster's kubeconfig, in its Secret.
pub(super) const CONFIG_KUBECONFIG_KEY: &str = "config";
/// What the names of the Secrets with that kubeconfig begin with; the revision follows.
const CONFIG_SECRET_PREFIX: &str = "istio-kubeconfig-";
/// Where that kubeconfig finds its token.
pub(super) const CONFIG_TOKEN_FILE: &str = "/var/run/secrets/remote/token";
/// On a pod template: before a slash, with the member's name after it.
const KUBECONFIG_HASH_ANNOTATION: &str = "way-in.meshwright.dev";

/// Where a remote secret's kubeconfig finds its token.
pub(super) fn token_file(member: &str) -> String {
    format!("{TOKENS_DIR}/{member}/token")
}

/// The Secret that tells istiod of a member which is not the config cluster.
pub(super) fn remote_secret_name(member: &str) -> String {
    format!("istio-remote-secret-{member}")
}

impl KubernetesMesh {
    /// Brings what control planes read a member with to its present credential: tokens, address and authority. Answers
    /// whether all of it was there before. Safe to repeat.
    ///
    /// # Errors
    /// A cluster did not answer or refused.
    pub async fn renew_access(&self, member: &Name) -> Result<bool, ClusterError> {
        let tokens = self.renew_tokens(member).await?;
        let member = self.find_member(member)?;
        let rewritten = self.rewrite_kubeconfigs(member).await?;
        let restarted = self.restart_outdated_control_planes(member).await?;
        Ok(tokens && !rewritten && !restarted)
    }

    /// Brings control planes after a member whose name leads to another address than they were told: its credential may be good
    /// for weeks. An address that a name server leaves out for once, as one that answers in turns does, is kept for as long as
    /// the member answers there. Costs one list where nothing moved, and another one after a move. Safe to repeat.
    ///
    /// # Errors
    /// A cluster did not answer or refused.
    pub async fn follow_member_address(&self, member: &Name) -> Result<(), ClusterError> {
        let member = self.find_member(member)?;
        let (key, known, note) = (self.kubeconfig_key_and_token_file(member).0, self.member_addresses(&member.name).await?, kubeconfig_hash_annotation(member));
        let mut ways = self.kubeconfig_secrets(member).await?;
        let rewritten = ways.iter().any(|way| !way["metadata"]["annotations"][&note].is_null());
        ways.retain(|way| !secret_leads_to_member(way, &key, member, &known));
        let mut moved = false;
        for way in ways {
            moved |= !self.answers_at_old_address(member, &way, &key).await;
        }
        if moved {
            self.renew_limits().await?;
            self.rewrite_kubeconfigs(member).await?;
        }
        // What was rewritten before may still wait for its restart.
        if moved || rewritten {
            self.restart_outdated_control_planes(member).await?;
        }
        Ok(())
    }

    /// Whether the member, which is known by its certificate, answers at the address that control planes were told.
    async fn answers_at_old_address(&self, member: &MemberCluster, way: &Value, key: &str) -> bool {
        let cluster = &kubeconfig_in_secret(way, key)["clusters"][0]["cluster"];
        let authority = cluster["certificate-authority-data"] == STANDARD.encode(&member.credential.authority);
        let Some(told) = cluster["server"].as_str().and_then(addresses::literal_address) else { return false };
        if !authority || addresses::tls_server_name(&member.credential.server).is_none() {
            return false;
        }
        let rules = AddressPolicy { resolver: Arc::new(FixedResolver(told)), ..self.config.address_policy.clone() };
        match ClusterClient::open(member.name.as_str(), &member.credential, &rules) {
            Ok(door) => door.get("/version").await.is_ok(),
            Err(_) => false,
        }
    }

    /// Writes the member's address and authority into the kubeconfigs of the control planes, with a note of what was written.
    /// Answers whether any was another.
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
            let (uid, version) = uid_and_version(&object_version(Some(&secret))).unwrap_or_default();
            let change = json!({
                "metadata": { "uid": uid, "resourceVersion": version, "annotations": { kubeconfig_hash_annotation(member): kubeconfig_hash(&wanted) } },
                "stringData": { &key: wanted },
            });
            let name = text_at(&secret, "/metadata/name").unwrap_or_default();
            tracing::info!(
                member = member.name.as_str(),
                secret = name,
                "control planes are told another way into a member"
            );
            self.config.hosting.patch(&format!("{path}/{name}"), &change, None).await?;
        }
        Ok(any)
    }

    /// The key of a member's kubeconfig in its Secret, and the token file that it names.
    fn kubeconfig_key_and_token_file(&self, member: &MemberCluster) -> (String, String) {
        if self.is_config_cluster(&member.name) {
            return (CONFIG_KUBECONFIG_KEY.to_owned(), CONFIG_TOKEN_FILE.to_owned());
        }
        (member.name.to_string(), token_file(member.name.as_str()))
    }

    /// The Secrets that tell control planes the way into a member: one for each revision, or the remote secret.
    async fn kubeconfig_secrets(&self, member: &MemberCluster) -> Result<Vec<Value>, ClusterError> {
        let path = format!("/api/v1/namespaces/{}/secrets", self.namespace());
        let config = self.is_config_cluster(&member.name);
        let remote = remote_secret_name(member.name.as_str());
        let mut secrets = self.config.hosting.list(&path, &label_query(&[(OWNER_LABEL, self.namespace())])).await?;
        secrets.retain(|secret| {
            let name = text_at(secret, "/metadata/name").unwrap_or_default();
            if config { name.starts_with(CONFIG_SECRET_PREFIX) } else { name == remote }
        });
        Ok(secrets)
    }

    /// Restarts the control planes that would not take a member's present way in as they run: those whose pods do not carry
    /// the note of the Secret. A Secret that was never rewritten carries none.
    async fn restart_outdated_control_planes(&self, member: &MemberCluster) -> Result<bool, ClusterError> {
        let secrets = self.kubeconfig_secrets(member).await?;
        let path = format!("/apis/apps/v1/namespaces/{}/deployments", self.namespace());
        let key = kubeconfig_hash_annotation(member);
        let mut any = false;
        for deployment in self.config.hosting.list(&path, &label_query(&[("app", "istiod")])).await? {
            let revision = text_at(&deployment, "/metadata/labels/istio.io~1rev").and_then(|name| name.parse().ok());
            let (Some(name), Some(revision)) = (text_at(&deployment, "/metadata/name"), revision) else { continue };
            let own = |secret: &&Value| {
                let named = text_at(secret, "/metadata/name").unwrap_or_default();
                !self.is_config_cluster(&member.name) || named == format!("{CONFIG_SECRET_PREFIX}{revision}")
            };
            let noted = secrets.iter().find(own).and_then(|secret| secret["metadata"]["annotations"][&key].as_str());
            let Some(noted) = noted else { continue };
            let carried = &deployment["spec"]["template"]["metadata"]["annotations"][&key];
            if carried == noted || !self.needs_restart_for_kubeconfig(member, &self.running_release(&revision).await?) {
                continue;
            }
            any = true;
            let (uid, version) = uid_and_version(&object_version(Some(&deployment))).unwrap_or_default();
            let change = json!({
                "metadata": { "uid": uid, "resourceVersion": version },
                "spec": { "template": { "metadata": { "annotations": { &key: noted } } } },
            });
            tracing::info!(
                member = member.name.as_str(),
                deployment = name,
                "a control plane is restarted for a member's new way in"
            );
            self.config.hosting.patch(&format!("{path}/{name}"), &change, None).await?;
        }
        Ok(any)
    }

    /// Whether an istiod of a release takes a change of a member's kubeconfig only with a restart.
    fn needs_restart_for_kubeconfig(&self, member: &MemberCluster, release: &Release) -> bool {
        self.is_config_cluster(&member.name) || release.quirks.contains(&Quirk::RemoteSecretDeadlock)
    }

    /// The release that a control plane runs, by its own inventory.
    async fn running_release(&self, revision: &RevisionName) -> Result<Release, ClusterError> {
        let seen = self.observe_apply_set(&Target::ControlPlane { revision: revision.clone() }).await?;
        let version: Option<Version> = seen.value.and_then(|value| value.parse().ok());
        match version {
            Some(version) => Ok(self.find_release(&version)?.0.clone()),
            None => Err(ClusterError::Changed { place: format!("control plane {revision}") }),
        }
    }

    /// Notes on rendered Deployments the ways in that they start with, so that a later look restarts none of them.
    pub(super) async fn annotate_kubeconfig_hashes(&self, objects: &mut [Value], release: &Release) -> Result<(), ClusterError> {
        for member in self.config.members.iter().skip(1).filter(|member| self.needs_restart_for_kubeconfig(member, release)) {
            let key = kubeconfig_hash_annotation(member);
            let secrets = self.kubeconfig_secrets(member).await?;
            let note =
                secrets.first().map(|secret| secret["metadata"]["annotations"][&key].clone()).unwrap_or_default();
            let deployments = objects.iter_mut().filter(|object| object["kind"] == "Deployment" && !note.is_null());
            for deployment in deployments {
                deployment["spec"]["template"]["metadata"]["annotations"][&key] = note.clone();
            }
        }
        Ok(())
    }
}

/// The annotation of a member's way in: on the Secret as it was last rewritten, on pods as they were last started.
fn kubeconfig_hash_annotation(member: &MemberCluster) -> String {
    format!("{KUBECONFIG_HASH_ANNOTATION}/{}", member.name)
}

fn kubeconfig_hash(kubeconfig: &str) -> String {
    STANDARD.encode(digest::digest(&digest::SHA256, kubeconfig.as_bytes()))
}

/// Whether the kubeconfig in a Secret leads to a member.
fn secret_leads_to_member(secret: &Value, key: &str, member: &MemberCluster, known: &[SocketAddr]) -> bool {
    kubeconfig_leads_to_member(&kubeconfig_in_secret(secret, key), member, known)
}

/// The kubeconfig in a Secret; null where there is none.
fn kubeconfig_in_secret(secret: &Value, key: &str) -> Value {
    let bytes = secret["data"][key].as_str().and_then(|data| STANDARD.decode(data).ok());
    bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// A name server that knows one address.
#[derive(Debug)]
struct FixedResolver(SocketAddr);

#[async_trait]
impl Resolver for FixedResolver {
    async fn resolve_host(&self, _host: &str, _port: u16) -> std::io::Result<Vec<SocketAddr>> {
        Ok(vec![self.0])
    }
}

/// Whether a kubeconfig that control planes have leads to a member as its present credential does. A name that resolves to
/// several addresses leads to any of them, so that the order of a name server's answers changes nothing.
fn kubeconfig_leads_to_member(held: &Value, member: &MemberCluster, known: &[SocketAddr]) -> bool {
    let cluster = &held["clusters"][0]["cluster"];
    let server = cluster["server"].as_str().unwrap_or_default();
    let authority = cluster["certificate-authority-data"] == STANDARD.encode(&member.credential.authority);
    // An earlier server gave the name instead of the address.
    let named = server == member.credential.server;
    let name = cluster["tls-server-name"].as_str().map(str::to_owned) == addresses::tls_server_name(&member.credential.server);
    let addressed = name && addresses::literal_address(server).is_some_and(|address| known.contains(&address));
    authority && (named || addressed)
}
