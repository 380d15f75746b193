//! Implements the ports of `rollout` for the clusters of one mesh: which objects each target is
//! made of, and where its value is stored.
//!
//! A target of several objects (module `apply_set`) keeps its value in an inventory that is written
//! last. Tags, the validator, namespace labels and workloads (module `single_object`) keep it in
//! the object itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use meshwright_model::Name;
use meshwright_model::observation::Observation;
use meshwright_model::plan::{InjectionRequest, Sidecar, Target, WorkloadRef};
use meshwright_model::problem::ProblemCode;
use meshwright_model::release::Release;
use meshwright_model::switch::Switches;
use meshwright_model::version::{RevisionName, Version};
use meshwright_rollout::ports::{
    ClusterError, Fence, FencingToken, LivePod, MeshClusters, NextPod, ObjectVersion, Observed,
    ObservedWorkload, Readiness, RevisionUsers, UserSearch,
};

use crate::address_policy::AddressPolicy;
use crate::client::ClusterClient;
use crate::credential::Credential;
use crate::helm::{Charts, Helm};
use crate::mesh_ca::Authority;
use crate::object_fields::{
    label_query, number_at, object_names, object_version, text_at, uid_and_version,
};
use crate::service_account::Account;
use crate::{api_paths, probe};

mod access;
mod apply_set;
mod certificates;
mod control_plane;
mod data_plane;
mod former_address;
mod helm_values;
mod istiod_tokens;
mod leaving;
mod limits;
mod next_pods;
mod objects;
mod observation;
mod proxies;
mod records;
mod rendering;
mod revision_pins;
mod single_object;
mod usage;
mod watch;

/// Maximum time that the engine waits for an event before it checks again.
const RECHECK_INTERVAL: Duration = Duration::from_millis(400);
/// Delay after an event, so that one check covers a burst of events.
const EVENT_BURST_DELAY: Duration = Duration::from_millis(100);

/// Member cluster of a mesh.
#[derive(Debug, Clone)]
pub struct MemberCluster {
    /// Name of the member cluster.
    pub name: Name,
    /// Client that uses the current credential.
    pub client: ClusterClient,
    /// Credential whose address and certificate authority the control planes' kubeconfigs also get.
    pub credential: Credential,
    /// Serial number of the credential, from 1.
    pub serial: i64,
    /// Service account that the credential belongs to.
    pub account: Account,
    /// Credential before this one, set once its time is over and until the cluster was seen to
    /// refuse it.
    pub previous: Option<PreviousCredential>,
}

/// Credential that the cluster must refuse by now, with a client to try it.
#[derive(Debug, Clone)]
pub struct PreviousCredential {
    /// Credential that must be refused.
    pub credential: Credential,
    /// Client that uses this credential.
    pub client: ClusterClient,
}

/// Configuration of a [`KubernetesMesh`].
#[derive(Debug)]
pub struct KubernetesMeshConfig {
    /// Namespace of the mesh: the same name in the hosting cluster and in every member.
    pub namespace: String,
    /// Client of the hosting cluster.
    pub hosting: ClusterClient,
    /// Members of the mesh; the first is the config cluster.
    pub members: Vec<MemberCluster>,
    /// Policy that decides which addresses of members may be called.
    pub address_policy: AddressPolicy,
    /// Certificate authority of the mesh.
    pub authority: Authority,
    /// Releases that the mesh's revisions run, with their charts.
    pub releases: Vec<(Release, Charts)>,
    /// Values of istiod's switches that each revision keeps.
    pub switches: BTreeMap<RevisionName, Switches>,
    /// Helm program that renders the charts.
    pub helm: Helm,
    /// Number of replicas of each control plane.
    pub replicas: u32,
    /// Lifetime of the tokens by which control planes read members.
    pub token_lifetime: Duration,
}

/// Clusters of one mesh, as real Kubernetes clusters.
#[derive(Debug, Clone)]
pub struct KubernetesMesh {
    config: Arc<KubernetesMeshConfig>,
    watches: Arc<watch::Watches>,
    addresses: Arc<Mutex<BTreeMap<Name, Vec<SocketAddr>>>>,
}

impl KubernetesMesh {
    /// Creates the mesh from its configuration without calling any cluster.
    pub fn new(config: KubernetesMeshConfig) -> Self {
        Self {
            config: Arc::new(config),
            watches: Arc::default(),
            addresses: Arc::default(),
        }
    }

    fn namespace(&self) -> &str {
        &self.config.namespace
    }

    fn find_member(&self, name: &Name) -> Result<&MemberCluster, ClusterError> {
        let found = self
            .config
            .members
            .iter()
            .find(|member| member.name == *name);
        let cause = || "it is not a member of the mesh".to_owned();
        found.ok_or_else(|| ClusterError::Refused {
            place: name.to_string(),
            code: ProblemCode::NotAMember,
            cause: cause(),
        })
    }

    fn is_config_cluster(&self, name: &Name) -> bool {
        self.config
            .members
            .first()
            .is_some_and(|member| member.name == *name)
    }

    fn find_release(&self, version: &Version) -> Result<&(Release, Charts), ClusterError> {
        let found = self
            .config
            .releases
            .iter()
            .find(|(release, _)| release.version == *version);
        let cause = || format!("release {version} is not in the catalogue any more");
        found.ok_or_else(|| ClusterError::Refused {
            place: "the catalogue".into(),
            code: ProblemCode::ReleaseMissing,
            cause: cause(),
        })
    }

    /// Ends an observation with `look_too_slow` if it takes longer than `look_timeout`.
    async fn with_look_timeout<T>(
        &self,
        look: impl Future<Output = Result<T, ClusterError>> + Send,
    ) -> Result<T, ClusterError> {
        let looked = tokio::time::timeout(self.config.hosting.limits().look_timeout, look).await;
        looked.unwrap_or_else(|_| {
            Err(ClusterError::Unreachable {
                place: "a cluster of the mesh".to_owned(),
                code: ProblemCode::LookTooSlow,
                cause: "a look did not come to an end in time".to_owned(),
            })
        })
    }

    /// Returns the client of the cluster that holds a target.
    fn client_for(&self, target: &Target) -> Result<&ClusterClient, ClusterError> {
        match target.member() {
            Some(member) => Ok(&self.find_member(member)?.client),
            None => Ok(&self.config.hosting),
        }
    }
}

#[async_trait]
impl MeshClusters for KubernetesMesh {
    async fn observe_target(&self, target: &Target) -> Result<Observed, ClusterError> {
        let look = async {
            if let Target::Certificates { member } = target {
                return self.observe_certificates(member).await;
            }
            match single_object::ObjectTarget::for_target(self, target).await? {
                Some(single) => single.observe_value().await,
                None => self.observe_apply_set(target).await,
            }
        };
        self.with_look_timeout(look).await
    }

    async fn names_former_address(
        &self,
        target: &Target,
        value: &str,
    ) -> Result<bool, ClusterError> {
        self.with_look_timeout(self.compare_addresses(target, value))
            .await
    }

    async fn write_target(
        &self,
        target: &Target,
        to: Option<&str>,
        seen: &ObjectVersion,
        permit: &FencingToken,
    ) -> Result<(), ClusterError> {
        if let Target::Certificates { member } = target {
            return if to.is_some() {
                Ok(())
            } else {
                self.remove_certificates(member, seen, permit).await
            };
        }
        match single_object::ObjectTarget::for_target(self, target).await? {
            Some(single) => single.set_value(self, to, seen, permit).await,
            None => self.write_apply_set(target, to, seen, permit).await,
        }
    }

    async fn fence_target(
        &self,
        target: &Target,
        goal: Option<&str>,
        permit: &FencingToken,
    ) -> Result<Fence, ClusterError> {
        // There is no version to move: each deletion names its object's uid and version, and only
        // istiod writes these objects.
        if let Target::Certificates { .. } = target {
            return Ok(Fence::UntilLeaseEnds);
        }
        match single_object::ObjectTarget::for_target(self, target).await? {
            Some(single) => single.fence_object(permit).await,
            None => self.fence_apply_set(target, goal, permit).await,
        }
    }

    async fn observe_workload(
        &self,
        member: &Name,
        workload: &WorkloadRef,
    ) -> Result<Option<ObservedWorkload>, ClusterError> {
        self.watches
            .workload_state(self.find_member(member)?, workload)
            .await
    }

    async fn probe_injection(
        &self,
        member: &Name,
        asks: &InjectionRequest,
        wanted: &Sidecar,
    ) -> Result<Result<(), String>, ClusterError> {
        probe::probe_injection(
            &self.find_member(member)?.client,
            self.namespace(),
            asks,
            wanted,
        )
        .await
    }

    async fn ask_next_pods(
        &self,
        member: &Name,
        workloads: &[WorkloadRef],
    ) -> Result<BTreeMap<WorkloadRef, NextPod>, ClusterError> {
        next_pods::ask_next_pods(self, member, workloads).await
    }

    async fn accepts_probes(&self, member: &Name) -> Result<bool, ClusterError> {
        probe::accepts_probe_pod(
            &self.find_member(member)?.client,
            self.namespace(),
            "default",
        )
        .await
    }

    async fn observe_pod(
        &self,
        member: &Name,
        namespace: &str,
        pod: &ObjectVersion,
    ) -> Result<Option<LivePod>, ClusterError> {
        let member = self.find_member(member)?;
        self.watches.pod_state(member, namespace, pod).await
    }

    async fn evict_pod(
        &self,
        member: &Name,
        namespace: &str,
        pod: &ObjectVersion,
        permit: &FencingToken,
    ) -> Result<(), ClusterError> {
        let member = self.find_member(member)?;
        member.client.evict(namespace, pod, permit).await
    }

    async fn check_readiness(
        &self,
        revision: &RevisionName,
        members: &[Name],
    ) -> Result<Readiness, ClusterError> {
        self.with_look_timeout(self.revision_readiness(revision, members))
            .await
    }

    async fn list_users(&self, search: &UserSearch<'_>) -> Result<RevisionUsers, ClusterError> {
        self.with_look_timeout(self.find_users(search)).await
    }

    async fn list_pinned_resources(
        &self,
        revision: &RevisionName,
    ) -> Result<Vec<String>, ClusterError> {
        self.with_look_timeout(self.find_pinned_resources(revision))
            .await
    }

    async fn observe_mesh(&self) -> Result<Observation, ClusterError> {
        self.with_look_timeout(self.observe_members()).await
    }

    async fn wait_for_change(&self) {
        tokio::time::timeout(RECHECK_INTERVAL, self.watches.wait_for_change())
            .await
            .ok();
        // Events come in bursts, and each check costs the database a few queries.
        tokio::time::sleep(EVENT_BURST_DELAY).await;
    }
}
