//! Issues the tokens by which control planes read members. The tokens are files in istiod's pods,
//! which istiod reads again when they change, so a renewal restarts no pod (requirement E1).

use meshwright_model::Name;
use meshwright_model::operation::Problem;
use meshwright_model::problem::ProblemCode;
use meshwright_model::upgrade::Finding;
use meshwright_rollout::ports::{ClusterError, FencingToken};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::{KubernetesMesh, MemberCluster, label_query, object_version, text_at, uid_and_version};
use crate::client::ClusterClient;
use crate::credential::ClientIdentity;
use crate::foreign::find_silent_webhooks;
use crate::problems::problem_unless_changed;
use crate::registration::read_kubernetes_version;
use crate::service_account::{BoundSecrets, delete_bound_secret};

/// Label on a Secret with a token that names the member which the token is for.
const MEMBER_LABEL: &str = "meshwright.dev/reads";
/// Annotation that names the member's account which the token belongs to.
const ACCOUNT_ANNOTATION: &str = "meshwright.dev/account";
/// Annotation with the serial number of the member's credential that the token was issued with.
const SERIAL_ANNOTATION: &str = "meshwright.dev/serial";

impl KubernetesMesh {
    /// Builds the fields of a Secret in the hosting cluster that holds a new token of an account in
    /// a member.
    pub(super) async fn new_token_secret(
        &self,
        member: &MemberCluster,
        account: &str,
        permit: &FencingToken,
    ) -> Result<Value, ClusterError> {
        let (serial, minted) = self
            .bound_secrets()
            .request_token(
                &member.client,
                account,
                self.config.token_lifetime,
                Some(permit),
            )
            .await?;
        Ok(json!({
            "metadata": {
                "labels": { MEMBER_LABEL: member.name.as_str() },
                "annotations": { ACCOUNT_ANNOTATION: account, SERIAL_ANNOTATION: serial.to_string() },
            },
            "stringData": { "token": minted.token },
        }))
    }

    /// Renews every token by which control planes read a member, if it is older than the member's
    /// current credential. Returns whether all of them were current already. Safe to repeat.
    ///
    /// # Errors
    /// Returns an error if a cluster does not answer or refuses a call.
    pub(super) async fn renew_tokens(&self, member: &Name) -> Result<bool, ClusterError> {
        let member = self.find_member(member)?;
        let anchors = self.bound_secrets();
        if anchors.newest_serial(&member.client).await? < member.serial {
            anchors.apply_secret(&member.client, member.serial).await?;
        }
        let path = format!("/api/v1/namespaces/{}/secrets", self.namespace());
        let query = label_query(&[(MEMBER_LABEL, member.name.as_str())]);
        let mut current = true;
        for secret in self.config.hosting.list(&path, &query).await? {
            let note = |key: &str| secret["metadata"]["annotations"][key].as_str();
            let serial = note(SERIAL_ANNOTATION)
                .and_then(|serial| serial.parse::<i64>().ok())
                .unwrap_or_default();
            let (Some(name), Some(account)) =
                (text_at(&secret, "/metadata/name"), note(ACCOUNT_ANNOTATION))
            else {
                continue;
            };
            if serial >= member.serial {
                continue;
            }
            current = false;
            let (serial, minted) = anchors
                .request_token(&member.client, account, self.config.token_lifetime, None)
                .await?;
            let (uid, version) =
                uid_and_version(&object_version(Some(&secret))).unwrap_or_default();
            let change = json!({
                "metadata": { "uid": uid, "resourceVersion": version, "annotations": { SERIAL_ANNOTATION: serial.to_string() } },
                "stringData": { "token": minted.token },
            });
            self.config
                .hosting
                .patch(&format!("{path}/{name}"), &change, None)
                .await?;
        }
        Ok(current)
    }

    /// Returns the Secrets in a member that the tokens of the mesh's control planes are bound to.
    fn bound_secrets(&self) -> BoundSecrets<'_> {
        BoundSecrets::for_mesh(self.namespace())
    }

    /// Deletes the member's older credentials: those of our account and those of the control
    /// planes. Returns whether none was left and the cluster refuses the credential before the
    /// current one.
    ///
    /// # Errors
    /// Fails as [`KubernetesMesh::renew_access`] does.
    pub async fn retire_tokens(&self, member: &MemberCluster) -> Result<bool, ClusterError> {
        let theirs = self
            .bound_secrets()
            .delete_older(&member.client, member.serial)
            .await?;
        Ok(member.retire_older_credentials().await? && !theirs)
    }
}

impl MemberCluster {
    /// Checks a cluster that is in no mesh, or whose mesh is not there yet, by reading its version.
    /// Deletes our account's older credentials if `retire` is set. Returns the version, and whether
    /// no older credential was left.
    ///
    /// # Errors
    /// Returns a problem that tells the user why the cluster cannot be used.
    pub async fn check_health(&self, retire: bool) -> Result<(String, bool), Problem> {
        let version = read_kubernetes_version(&self.client).await?;
        if !retire {
            return Ok((version, false));
        }
        let settled = problem_unless_changed(self.retire_older_credentials().await)?;
        Ok((version, settled))
    }

    /// Lists facts that the cluster's users should know. They are advice, so a check that fails
    /// returns no findings. It takes at most about 20 s.
    pub async fn list_findings(&self) -> Vec<Finding> {
        find_silent_webhooks(&self.client)
            .await
            .unwrap_or_else(|error| {
                let (cluster, error) = (self.name.as_str(), &error as &dyn std::error::Error);
                tracing::debug!(
                    cluster,
                    error,
                    "could not check the cluster for silent webhooks"
                );
                Vec::new()
            })
    }

    /// Deletes our account's older credentials. Returns whether none was left and the cluster was
    /// seen to refuse the previous one: an API server accepts a token that it has seen for a few
    /// seconds more.
    async fn retire_older_credentials(&self) -> Result<bool, ClusterError> {
        let any = self
            .account
            .bound_secrets()
            .delete_older(&self.client, self.serial)
            .await?;
        let Some(former) = &self.previous else {
            return Ok(!any);
        };
        if let ClientIdentity::Token(token) = &former.credential.identity {
            delete_bound_secret(&self.client, token.expose_secret()).await?;
        }
        Ok(!any && is_credential_refused(&former.client).await?)
    }
}

/// Returns whether a cluster refuses the credential of a client.
async fn is_credential_refused(client: &ClusterClient) -> Result<bool, ClusterError> {
    match client.get("/version").await {
        Err(ClusterError::Refused {
            code: ProblemCode::CredentialExpired,
            ..
        }) => Ok(true),
        Ok(_) => Ok(false),
        Err(error) => Err(error),
    }
}
