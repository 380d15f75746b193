//! The tokens that control planes read members with. They are files in istiod's pods, read again when they change, so that a
//! renewal restarts nothing (requirement E1).

use model::Name;
use model::operation::Problem;
use rollout::ports::{Permit, WorldError};
use serde_json::{Value, json};

use super::{MemberDoor, MeshWorld, mark_of, preconditions, selector, text};
use crate::account::{self, NAMESPACE};
use crate::register::{explain, version};

/// On a Secret with a token: which member it opens.
const READS_LABEL: &str = "meshwright.dev/reads";
/// Which account of the member it is a token of.
const ACCOUNT_NOTE: &str = "meshwright.dev/account";
/// Which credential of the member it came with.
const SERIAL_NOTE: &str = "meshwright.dev/serial";

impl MeshWorld {
    /// The parts of a Secret in the hosting cluster that holds a new token of an account in a member.
    pub(super) async fn token(&self, member: &MemberDoor, account: &str, permit: &Permit) -> Result<Value, WorldError> {
        let (serial, minted) =
            account::mint(&member.door, self.namespace(), account, self.config.life, Some(permit)).await?;
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
    pub async fn renew_tokens(&self, member: &Name) -> Result<bool, WorldError> {
        let member = self.member(member)?;
        let newest = account::anchors(&member.door, self.namespace()).await?.pop();
        if newest.is_none_or(|(serial, _)| serial < member.serial) {
            account::put_anchor(&member.door, self.namespace(), member.serial).await?;
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
            let (serial, minted) =
                account::mint(&member.door, self.namespace(), account, self.config.life, None).await?;
            let (uid, version) = preconditions(&mark_of(Some(&secret))).unwrap_or_default();
            let change = json!({
                "metadata": { "uid": uid, "resourceVersion": version, "annotations": { SERIAL_NOTE: serial.to_string() } },
                "stringData": { "token": minted.token },
            });
            self.config.hosting.patch(&format!("{path}/{name}"), &change, None).await?;
        }
        Ok(current)
    }

    /// Takes the member's older credentials away: our account's and those of the control planes. Answers whether there was
    /// none left.
    ///
    /// # Errors
    /// As for [`MeshWorld::renew_tokens`].
    pub async fn retire_tokens(&self, member: &Name) -> Result<bool, WorldError> {
        let member = self.member(member)?;
        let ours = account::retire(&member.door, NAMESPACE, member.serial).await?;
        let theirs = account::retire(&member.door, self.namespace(), member.serial).await?;
        Ok(!ours && !theirs)
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
        let any = account::retire(&self.door, NAMESPACE, self.serial).await.map_err(|error| explain(&error))?;
        Ok((version, !any))
    }
}
