//! Limits a mesh's namespace in the hosting cluster: the Pod Security standard of its pods, a
//! quota, and a network policy. A tenant's configuration drives its istiods, so these limits are
//! needed besides our own checks.

use std::net::SocketAddr;

use meshwright_model::Name;
use meshwright_rollout::ports::ClusterError;
use serde_json::{Value, json};

use super::helm_values::{ISTIOD_CPU_MILLICORES, ISTIOD_MEMORY_LIMIT_GIB, ISTIOD_MEMORY_MIB};
use super::{KubernetesMesh, api_paths, label_query};
use crate::addresses;
use crate::labels::{APPLY_SET_LABEL, OWNER_LABEL};

mod network_policy;

use network_policy::{egress_rule, network_policy_spec};

/// Name of the quota and of the network policy.
const LIMITS_NAME: &str = "meshwright-limits";
/// Value of the target while the limits differ from those that are wanted now.
pub(super) const OUTDATED_VALUE: &str = "outdated";
/// Annotation of the network policy that holds the quota that was applied with it.
const QUOTA_ANNOTATION: &str = "meshwright.dev/quota";
/// Version of the Pod Security standards that applies. It is fixed, so that a newer cluster does
/// not tighten the rules under running pods.
const POD_SECURITY_VERSION: &str = "v1.33";
/// Maximum number of pods for each configured replica: a mesh has at most two revisions, and each
/// may replace all of its replicas at once.
const MAX_PODS_PER_REPLICA: u32 = 2 * 2;
impl KubernetesMesh {
    /// Builds the wanted limits: the namespace with its Pod Security labels, the quota and the
    /// network policy.
    pub(super) async fn limit_objects(&self) -> Result<Vec<Value>, ClusterError> {
        let standard = self.pod_security_level().await?;
        let labels = ["enforce", "audit", "warn"].into_iter().flat_map(|mode| {
            let key = format!("pod-security.kubernetes.io/{mode}");
            [
                (format!("{key}-version"), POD_SECURITY_VERSION),
                (key, standard),
            ]
        });
        let labels: serde_json::Map<String, Value> =
            labels.map(|(key, value)| (key, value.into())).collect();
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": self.namespace(), "labels": labels },
        });
        let quota = quota_limits(self.config.replicas);
        let mut policy = self.namespaced_object(
            "networking.k8s.io/v1",
            "NetworkPolicy",
            LIMITS_NAME,
            json!({ "spec": network_policy_spec(&self.allowed_egress().await?) }),
        );
        policy["metadata"]["annotations"][QUOTA_ANNOTATION] = quota.to_string().into();
        Ok(vec![
            namespace,
            self.namespaced_object(
                "v1",
                "ResourceQuota",
                LIMITS_NAME,
                json!({ "spec": { "hard": quota } }),
            ),
            policy,
        ])
    }

    /// Returns whether the limits equal those that are wanted now.
    pub(super) async fn are_limits_current(&self) -> Result<bool, ClusterError> {
        let path = format!("/api/v1/namespaces/{}", self.namespace());
        let namespace = self.config.hosting.get(&path).await?.unwrap_or_default();
        for wanted in self.limit_objects().await? {
            if wanted["kind"] == "Namespace" {
                let labels = wanted["metadata"]["labels"]
                    .as_object()
                    .into_iter()
                    .flatten();
                if labels
                    .into_iter()
                    .any(|(key, value)| namespace["metadata"]["labels"][key] != *value)
                {
                    return Ok(false);
                }
                continue;
            }
            let live = self
                .config
                .hosting
                .get(&api_paths::object_path(&wanted).expect("a known kind"))
                .await?
                .unwrap_or_default();
            let same = |pointer: &str| live.pointer(pointer) == wanted.pointer(pointer);
            let noted = same("/metadata/annotations/meshwright.dev~1quota");
            if live.is_null() || wanted["kind"] == "NetworkPolicy" && !(same("/spec") && noted) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Brings the limits to the addresses that the members have now. A mesh without limits gets
    /// none. Safe to repeat.
    ///
    /// # Errors
    /// Returns an error if the hosting cluster does not answer or refuses a call.
    pub async fn renew_limits(&self) -> Result<(), ClusterError> {
        let target = meshwright_model::plan::Target::Limits;
        if self.observe_apply_set(&target).await?.value.as_deref() != Some(OUTDATED_VALUE) {
            return Ok(());
        }
        for mut object in self.limit_objects().await? {
            object["metadata"]["labels"][OWNER_LABEL] = self.namespace().into();
            object["metadata"]["labels"][APPLY_SET_LABEL] = Self::inventory_name(&target).into();
            self.config
                .hosting
                .apply(
                    &api_paths::object_path(&object).expect("a known kind"),
                    &object,
                    None,
                )
                .await?;
        }
        Ok(())
    }

    /// Returns a member's addresses. They are resolved once and stay the same for the life of this
    /// value.
    pub(super) async fn member_addresses(
        &self,
        name: &Name,
    ) -> Result<Vec<SocketAddr>, ClusterError> {
        if let Some(known) = self.addresses.lock().expect("no holder panics").get(name) {
            return Ok(known.clone());
        }
        let member = self.find_member(name)?;
        let found = addresses::resolve_allowed(
            name.as_str(),
            &member.credential.server,
            &self.config.address_policy,
        )
        .await?;
        self.addresses
            .lock()
            .expect("no holder panics")
            .insert(name.clone(), found.clone());
        Ok(found)
    }

    /// Returns the address of a member for a control plane's kubeconfig. It prefers one that the
    /// network policy allows already, because a name server may answer with other addresses each
    /// time.
    pub(super) async fn kubeconfig_address(&self, name: &Name) -> Result<SocketAddr, ClusterError> {
        let known = self.member_addresses(name).await?;
        let policy = self.current_network_policy().await?;
        let rules = policy["spec"]["egress"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let open = |address: &&SocketAddr| rules.contains(&egress_rule(address));
        Ok(*known
            .iter()
            .find(open)
            .or(known.first())
            .expect("no address at all is an error"))
    }

    /// Reads the network policy from the hosting cluster; null if there is none.
    async fn current_network_policy(&self) -> Result<Value, ClusterError> {
        let path = api_paths::path_by_name("NetworkPolicy", Some(self.namespace()), LIMITS_NAME)
            .expect("a known kind");
        Ok(self.config.hosting.get(&path).await?.unwrap_or_default())
    }

    /// Returns the Pod Security level: `restricted`, or `baseline` while a control plane from an
    /// earlier version of the server exists that does not meet it. A pod of that control plane that
    /// ends could not come back under `restricted`.
    async fn pod_security_level(&self) -> Result<&'static str, ClusterError> {
        let path = format!("/apis/apps/v1/namespaces/{}/deployments", self.namespace());
        let deployments = self
            .config
            .hosting
            .list(&path, &label_query(&[(OWNER_LABEL, self.namespace())]))
            .await?;
        let confined = |deployment: &Value| {
            deployment
                .pointer("/spec/template/spec/containers/0/securityContext/seccompProfile")
                .is_some()
        };
        Ok(if deployments.iter().all(confined) {
            "restricted"
        } else {
            "baseline"
        })
    }
}

/// Builds the quota: room for both revisions of a mesh, each with twice its replicas. The mesh
/// needs no disks and no third load balancer.
fn quota_limits(replicas: u32) -> Value {
    let pods = MAX_PODS_PER_REPLICA * replicas;
    json!({
        "pods": pods.to_string(), "persistentvolumeclaims": "0", "services.loadbalancers": "2",
        "requests.cpu": format!("{}m", pods * ISTIOD_CPU_MILLICORES), "requests.memory": format!("{}Mi", pods * ISTIOD_MEMORY_MIB),
        "limits.memory": format!("{}Gi", pods * ISTIOD_MEMORY_LIMIT_GIB),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c3_the_quota_has_room_for_two_revisions_that_replace_all_of_their_replicas() {
        let expected = json!({
            "pods": "8", "persistentvolumeclaims": "0", "services.loadbalancers": "2", "requests.cpu": "800m",
            "requests.memory": "2048Mi", "limits.memory": "16Gi",
        });
        assert_eq!(quota_limits(2), expected);
    }
}
