//! Provides clusters with fixed answers for the tests of checks.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use meshwright_model::Name;
use meshwright_model::injection::Injector;
use meshwright_model::leftover::Leftover;
use meshwright_model::observation::Observation;
use meshwright_model::plan::{InjectionRequest, Sidecar, Target, WorkloadRef};
use meshwright_model::version::RevisionName;

use crate::plan::ControlPlane;
use crate::ports::{
    ClusterError, Fence, FencingToken, LivePod, MeshClusters, NextPod, ObjectVersion, Observed,
    ObservedWorkload, Readiness, RevisionUsers, TeardownInspection, UserSearch,
};

/// Clusters without workloads in which every target has the same state. Calls that have no fixed
/// answer fail.
#[derive(Debug)]
pub(super) struct FixedClusters {
    /// Value of every target.
    pub(super) value: &'static str,
    /// Readiness of every target.
    pub(super) readiness: Readiness,
    /// True if every target names a former address.
    pub(super) former_address: bool,
    /// Answer to every search for users.
    pub(super) users: RevisionUsers,
}

impl FixedClusters {
    /// Returns clusters in which every target has a value and has taken effect.
    pub(super) fn with_value(value: &'static str) -> Self {
        Self {
            value,
            readiness: Readiness::Ready,
            former_address: false,
            users: RevisionUsers::default(),
        }
    }
}

fn not_asked<T>() -> Result<T, ClusterError> {
    Err(ClusterError::unreachable("c1", "not asked"))
}

#[async_trait]
impl TeardownInspection for FixedClusters {
    async fn list_injectors(&self, _: &Name) -> Result<Vec<Injector>, ClusterError> {
        not_asked()
    }

    async fn list_remaining_objects(&self, _: &Name) -> Result<Vec<String>, ClusterError> {
        not_asked()
    }

    async fn list_leftovers(
        &self,
        _: &Name,
        _: &ControlPlane,
        _: Option<&BTreeSet<String>>,
    ) -> Result<Vec<Leftover>, ClusterError> {
        not_asked()
    }
}

#[async_trait]
impl MeshClusters for FixedClusters {
    async fn observe_target(&self, _: &Target) -> Result<Observed, ClusterError> {
        Ok(Observed {
            value: Some(self.value.into()),
            version: ObjectVersion::default(),
            readiness: self.readiness.clone(),
            gone: false,
            partial: false,
        })
    }

    async fn names_former_address(&self, _: &Target, _: &str) -> Result<bool, ClusterError> {
        Ok(self.former_address)
    }

    async fn write_target(
        &self,
        _: &Target,
        _: Option<&str>,
        _: &ObjectVersion,
        _: &FencingToken,
    ) -> Result<(), ClusterError> {
        not_asked()
    }

    async fn fence_target(
        &self,
        _: &Target,
        _: Option<&str>,
        _: &FencingToken,
    ) -> Result<Fence, ClusterError> {
        not_asked()
    }

    async fn observe_workload(
        &self,
        _: &Name,
        _: &WorkloadRef,
    ) -> Result<Option<ObservedWorkload>, ClusterError> {
        not_asked()
    }

    async fn probe_injection(
        &self,
        _: &Name,
        _: &InjectionRequest,
        _: &Sidecar,
    ) -> Result<Result<(), String>, ClusterError> {
        not_asked()
    }

    async fn observe_pod(
        &self,
        _: &Name,
        _: &str,
        _: &ObjectVersion,
    ) -> Result<Option<LivePod>, ClusterError> {
        not_asked()
    }

    async fn evict_pod(
        &self,
        _: &Name,
        _: &str,
        _: &ObjectVersion,
        _: &FencingToken,
    ) -> Result<(), ClusterError> {
        not_asked()
    }

    async fn accepts_probes(&self, _: &Name) -> Result<bool, ClusterError> {
        not_asked()
    }

    async fn check_readiness(
        &self,
        _: &RevisionName,
        _: &[Name],
    ) -> Result<Readiness, ClusterError> {
        not_asked()
    }

    async fn list_users(&self, _: &UserSearch<'_>) -> Result<RevisionUsers, ClusterError> {
        Ok(self.users.clone())
    }

    async fn ask_next_pods(
        &self,
        _: &Name,
        _: &[WorkloadRef],
    ) -> Result<BTreeMap<WorkloadRef, NextPod>, ClusterError> {
        not_asked()
    }

    async fn list_pinned_resources(&self, _: &RevisionName) -> Result<Vec<String>, ClusterError> {
        not_asked()
    }

    async fn observe_mesh(&self) -> Result<Observation, ClusterError> {
        Ok(Observation::default())
    }

    async fn wait_for_change(&self) {}
}
