//! The tokens that control planes read members with. They are files in istiod's pods, read again when they change, so that a
//! renewal restarts nothing (requirement E1).

use model::Name;
use model::operation::Problem;
use model::upgrade::Finding;
use rollout::ports::{Permit, WorldError};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::{MemberDoor, MeshWorld, mark_of, preconditions, selector, text};
use crate::account::{Anchors, unbind};
use crate::door::Door;
use crate::foreign::silent_webhooks;
use crate::kubeconfig::Identity;
use crate::register::{explain_unless_changed, version};

/// On a Secret with a token: which member it opens.
const READS_LABEL: &str = "meshwright.dev/reads";
/// Which account of the member it is a token of.
const ACCOUNT_NOTE: &str = "meshwright.dev/account";
/// Which credential of the member it came with.
const SERIAL_NOTE: &str = "meshwright.dev/serial";

impl MeshWorld {
    /// The parts of a Secret in the hosting cluster that holds a new token of an account in a member.
    pub(super) async fn token(&self, member: &MemberDoor, account: &str, permit: &Permit) -> Result<Value, WorldError> {
        let (serial, minted) = self.anchors().mint(&member.door, account, self.config.life, Some(permit)).await?;
        Ok(json!({
            "metadata": {
                "labels": { READS_LABEL: member.name.as_str() },
                "annotations": { ACCOUNT_NOTE: account, SERIAL_NOTE: serial.to_string() },
            },
            "stringData": { "token": minted.token },
        }))
    }

    /// Brings every token that control planes read a member with to the member's present credential, and answers whether
    /// all of them were there before. Safe to repeat.
    ///
    /// # Errors
    /// A cluster did not answer or refused.
    pub(super) async fn renew_tokens(&self, member: &Name) -> Result<bool, WorldError> {
        let member = self.member(member)?;
        let anchors = self.anchors();
        if anchors.newest(&member.door).await? < member.serial {
            anchors.put(&member.door, member.serial).await?;
        }
        let path = format!("/api/v1/namespaces/{}/secrets", self.namespace());
        let query = selector(&[(READS_LABEL, member.name.as_str())]);
        let mut current = true;
        for secret in self.config.hosting.list(&path, &query).await? {
            let note = |key: &str| secret["metadata"]["annotations"][key].as_str();
            let serial = note(SERIAL_NOTE).and_then(|serial| serial.parse::<i64>().ok()).unwrap_or_default();
            let (Some(name), Some(account)) = (text(&secret, "/metadata/name"), note(ACCOUNT_NOTE)) else { continue };
            if serial >= member.serial {
                continue;
            }
            current = false;
            let (serial, minted) = anchors.mint(&member.door, account, self.config.life, None).await?;
            let (uid, version) = preconditions(&mark_of(Some(&secret))).unwrap_or_default();
            let change = json!({
                "metadata": { "uid": uid, "resourceVersion": version, "annotations": { SERIAL_NOTE: serial.to_string() } },
                "stringData": { "token": minted.token },
            });
            self.config.hosting.patch(&format!("{path}/{name}"), &change, None).await?;
        }
        Ok(current)
    }

    /// The Secrets in a member that the tokens of the mesh's control planes are bound to.
    fn anchors(&self) -> Anchors<'_> {
        Anchors::of_mesh(self.namespace())
    }

    /// Takes the member's older credentials away: our account's and those of the control planes. Answers whether there was
    /// none left, and the cluster refuses the one before the present.
    ///
    /// # Errors
    /// As for [`MeshWorld::renew_access`].
    pub async fn retire_tokens(&self, member: &MemberDoor) -> Result<bool, WorldError> {
        let theirs = self.anchors().retire(&member.door, member.serial).await?;
        Ok(member.retire().await? && !theirs)
    }
}

impl MemberDoor {
    /// Asks a cluster that is in no mesh, or whose mesh is not there yet, for its version; takes our account's older
    /// credentials away when that is due. Answers whether there was none left.
    ///
    /// # Errors
    /// Why it cannot be used, in words for the user.
    pub async fn tend(&self, retire: bool) -> Result<(String, bool), Problem> {
        let version = version(&self.door).await?;
        if !retire {
            return Ok((version, false));
        }
        let settled = explain_unless_changed(self.retire().await)?;
        Ok((version, settled))
    }

    /// What the cluster's users should know of it: advice, so a look that fails finds nothing. Takes about 20 s at most.
    pub async fn findings(&self) -> Vec<Finding> {
        silent_webhooks(&self.door).await.unwrap_or_else(|error| {
            let (cluster, error) = (self.name.as_str(), &error as &dyn std::error::Error);
            tracing::debug!(cluster, error, "a look for silent webhooks failed");
            Vec::new()
        })
    }

    /// Takes our account's older credentials away. Answers whether there was none left and the cluster was seen to refuse
    /// the former one: an API server remembers for a few seconds whom it has let in.
    async fn retire(&self) -> Result<bool, WorldError> {
        let any = self.account.anchors().retire(&self.door, self.serial).await?;
        let Some(former) = &self.former else { return Ok(!any) };
        if let Identity::Token(token) = &former.credential.identity {
            unbind(&self.door, token.expose_secret()).await?;
        }
        Ok(!any && is_refused(&former.door).await?)
    }
}

/// Whether a cluster refuses the credential of a connection.
async fn is_refused(door: &Door) -> Result<bool, WorldError> {
    match door.get("/version").await {
        Err(WorldError::Refused { code: "credential_expired", .. }) => Ok(true),
        Ok(_) => Ok(false),
        Err(error) => Err(error),
    }
}
