//! Checks which value a step captures from a target that is not at its start.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use meshwright_model::Name;
use meshwright_model::ids::OperationId;
use meshwright_model::injection::Injector;
use meshwright_model::leftover::Leftover;
use meshwright_model::observation::Observation;
use meshwright_model::operation::Progress;
use meshwright_model::plan::{InjectionRequest, Sidecar, Step, WorkloadRef};
use meshwright_model::version::RevisionName;

use super::super::undo;
use super::*;
use crate::plan::ControlPlane;
use crate::ports::{
    Fence, FencingToken, LivePod, NextPod, ObjectVersion, Observed, ObservedWorkload,
    RevisionUsers, TeardownInspection, UserSearch,
};

/// Clusters in which every target has this value and names a former address. All other calls fail.
struct FormerAddress(&'static str);

fn not_asked<T>() -> Result<T, ClusterError> {
    Err(ClusterError::unreachable("c1", "not asked"))
}

#[async_trait]
impl TeardownInspection for FormerAddress {
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
impl MeshClusters for FormerAddress {
    async fn observe_target(&self, _: &Target) -> Result<Observed, ClusterError> {
        Ok(Observed {
            value: Some(self.0.into()),
            version: ObjectVersion::default(),
            readiness: Readiness::Ready,
            gone: false,
            partial: false,
        })
    }

    async fn names_former_address(&self, _: &Target, _: &str) -> Result<bool, ClusterError> {
        Ok(true)
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
        not_asked()
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
        not_asked()
    }

    async fn wait_for_change(&self) {}
}

#[tokio::test]
async fn undo_of_a_rewrite_to_the_present_address_removes_the_target() {
    let target = Target::MemberObjects {
        member: "c1".parse().expect("a name"),
        revision: "1-27-9".parse().expect("a revision name"),
    };
    let installs = Step::Set {
        target: target.clone(),
        from: None,
        to: Some("1.27.9.1".into()),
    };
    let place = StepContext {
        operation: format!("op_{:026}", 1)
            .parse::<OperationId>()
            .expect("an id"),
        number: 0,
        step: &installs,
        progress: &Progress::default(),
        now: jiff::Timestamp::UNIX_EPOCH,
        restarts: &[],
        former_stamps: &BTreeMap::new(),
        unused_proof: None,
    };
    let checked = place.check(&FormerAddress("1.27.9.1")).await;
    let Ok(StepCheck::Ready { capture, .. }) = checked else {
        panic!("{checked:?}")
    };
    assert_eq!(
        undo(&installs, &capture),
        Some(Step::Set {
            target,
            from: Some("1.27.9.1".into()),
            to: None,
        }),
        "the roles and the webhook go with their control plane"
    );
}
