//! Finds objects in members that name a former address of their control plane.
//!
//! The address of a revision is assigned by the hosting cluster when the mesh is created. If a
//! member was left behind and the mesh is created again, the member's webhooks have their right
//! value and an address at which no control plane answers.

use meshwright_model::plan::Target;
use meshwright_model::version::RevisionName;
use meshwright_rollout::ports::ClusterError;
use serde_json::Value;

use super::single_object::{DEFAULT_VALIDATOR, revision_webhook_name, tag_webhook_name};
use super::{KubernetesMesh, text_at};
use crate::api_paths::{MUTATING_WEBHOOKS_PATH, VALIDATING_WEBHOOKS_PATH};
use crate::client::ClusterClient;
use crate::labels::APPLY_SET_LABEL;

impl KubernetesMesh {
    /// Returns whether a target with this value names another address than the present one of its
    /// control plane. An object that was removed, or an address that is not assigned, is no former
    /// address.
    pub(super) async fn compare_addresses(
        &self,
        target: &Target,
        value: &str,
    ) -> Result<bool, ClusterError> {
        let (named, present) = match target {
            Target::MemberObjects { revision, .. } => (
                self.own_webhook_host(target, revision).await?,
                self.revision_host(revision).await?,
            ),
            Target::Validator { .. } => {
                let Ok(revision) = value.parse() else {
                    return Ok(false);
                };
                let path = format!("{VALIDATING_WEBHOOKS_PATH}/{DEFAULT_VALIDATOR}");
                (
                    webhook_host(self.client_for(target)?, &path).await?,
                    self.revision_host(&revision).await?,
                )
            }
            // A tag is written as a copy of its revision's webhook, so it is compared with that.
            Target::Tag { tag, .. } if tag != value => {
                let door = self.client_for(target)?;
                let canonical = self.revision_webhook_path(value);
                (
                    self.tag_host(door, tag).await?,
                    webhook_host(door, &canonical).await?,
                )
            }
            _ => return Ok(false),
        };
        Ok(matches!((named, present), (Some(named), Some(present)) if named != present))
    }

    fn revision_webhook_path(&self, revision: &str) -> String {
        format!(
            "{MUTATING_WEBHOOKS_PATH}/{}",
            revision_webhook_name(self, revision)
        )
    }

    /// Returns the host that a revision's own webhook calls, or `None` if the webhook became an
    /// alias of another revision.
    async fn own_webhook_host(
        &self,
        target: &Target,
        revision: &RevisionName,
    ) -> Result<Option<String>, ClusterError> {
        let path = self.revision_webhook_path(revision.as_str());
        let webhook = self.client_for(target)?.get(&path).await?;
        let own = webhook.filter(|webhook| {
            webhook["metadata"]["labels"][APPLY_SET_LABEL] == Self::inventory_name(target)
        });
        Ok(own.as_ref().and_then(called_host))
    }

    /// Returns the host that a tag's webhook calls. A tag with the name of an earlier revision is
    /// that revision's webhook.
    async fn tag_host(
        &self,
        door: &ClusterClient,
        tag: &str,
    ) -> Result<Option<String>, ClusterError> {
        let name = tag_webhook_name(tag, self.namespace());
        match webhook_host(door, &format!("{MUTATING_WEBHOOKS_PATH}/{name}")).await? {
            Some(host) => Ok(Some(host)),
            None => webhook_host(door, &self.revision_webhook_path(tag)).await,
        }
    }

    /// Returns the host at which the control plane of a revision is reached now.
    async fn revision_host(&self, revision: &RevisionName) -> Result<Option<String>, ClusterError> {
        let address = self.assigned_address(revision).await?;
        Ok(address.and_then(|address| host_of(&format!("https://{address}:15017/"))))
    }
}

async fn webhook_host(door: &ClusterClient, path: &str) -> Result<Option<String>, ClusterError> {
    Ok(door.get(path).await?.as_ref().and_then(called_host))
}

fn called_host(webhook: &Value) -> Option<String> {
    host_of(text_at(webhook, "/webhooks/0/clientConfig/url")?)
}

fn host_of(url: &str) -> Option<String> {
    let url: http::Uri = url.parse().ok()?;
    url.host().map(str::to_owned)
}
