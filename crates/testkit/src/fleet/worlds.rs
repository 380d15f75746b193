//! Opens the fake clusters of a fleet for its workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use meshwright_model::Clock;
use meshwright_model::ids::{ClusterId, MeshId, TenantId};
use meshwright_model::leftover::{AccountRemoval, Leftover};
use meshwright_model::operation::Problem;
use meshwright_model::rollout::RolloutPolicy;
use meshwright_model::upgrade::LabelPolicy;
use meshwright_rollout::plan::{ControlPlane, MeshTopology};
use meshwright_rollout::ports::{AccountPresence, MeshClusters};
use meshwright_store::{ClusterHealth, IssuedCredential, Store};
use meshwright_worker::ClusterProvider;

use crate::credentials::{CredentialFaults, KUBERNETES_VERSION};
use crate::world::proxy_image;
use crate::{FakeClusters, ManualClock};

/// Cluster provider that reads a mesh's topology from the database, as the server does, and opens
/// the fake clusters.
#[derive(Debug)]
pub(super) struct FakeClusterProvider {
    pub(super) store: Store,
    pub(super) clusters: FakeClusters,
    pub(super) max_concurrent_restarts: usize,
    pub(super) fail_mesh_reads: Arc<AtomicBool>,
    pub(super) credentials: CredentialFaults,
    pub(super) clock: Arc<ManualClock>,
    /// Clusters of another tenant, if the worker serves two fleets.
    pub(super) other_tenant: Option<(TenantId, FakeClusters, CredentialFaults)>,
}

impl FakeClusterProvider {
    fn clusters_of(&self, tenant: TenantId) -> (&FakeClusters, &CredentialFaults) {
        match &self.other_tenant {
            Some((other, world, credentials)) if *other == tenant => (world, credentials),
            _ => (&self.clusters, &self.credentials),
        }
    }
}

#[async_trait]
impl ClusterProvider for FakeClusterProvider {
    async fn open_mesh(
        &self,
        tenant: TenantId,
        mesh: MeshId,
    ) -> Result<(Arc<dyn MeshClusters>, MeshTopology), Problem> {
        let failed =
            |said: String| Problem::new(meshwright_worker::DATABASE_CODE, said, "Try again.");
        if self.fail_mesh_reads.load(Ordering::Relaxed) {
            return Err(failed("it is unreadable".into()));
        }
        let lost = |error: meshwright_store::StoreError| {
            meshwright_worker::problem_from_store_error(&error)
        };
        let mut tx = self.store.begin(tenant).await.map_err(lost)?;
        let mesh = tx.meshes().get_mesh(mesh).await.map_err(lost)?;
        let line = |revision: meshwright_store::Revision| ControlPlane {
            image: proxy_image(&revision.version),
            revision: revision.name,
            release: revision.version,
        };
        let layout = MeshTopology {
            members: mesh
                .members
                .iter()
                .map(|member| member.name.parse().expect("a stored name"))
                .collect(),
            current: line(mesh.current),
            target: mesh.target.map(line),
            max_concurrent_restarts: self.max_concurrent_restarts,
            label_policy: LabelPolicy::Relabel,
            rollout: RolloutPolicy::default(),
        };
        Ok((Arc::new(self.clusters_of(tenant).0.clone()), layout))
    }

    async fn identify_cluster(
        &self,
        tenant: TenantId,
        cluster: ClusterId,
    ) -> Result<String, Problem> {
        Ok(self.clusters_of(tenant).1.cluster_uid(cluster))
    }

    async fn issue_credential(
        &self,
        tenant: TenantId,
        cluster: ClusterId,
    ) -> Result<IssuedCredential, Problem> {
        let lost = |error: meshwright_store::StoreError| {
            meshwright_worker::problem_from_store_error(&error)
        };
        let mut tx = self.store.begin(tenant).await.map_err(lost)?;
        let known = tx
            .clusters()
            .get_cluster(cluster)
            .await
            .map_err(lost)?
            .credential_lifetime
            .map_or(0, |life| life.serial);
        drop(tx);
        self.clusters_of(tenant)
            .1
            .connect_cluster(cluster, known + 1, self.clock.now())
            .await
    }

    async fn remove_account(
        &self,
        tenant: TenantId,
        _cluster: ClusterId,
        removal: AccountRemoval,
    ) -> Result<AccountPresence, Problem> {
        self.clusters_of(tenant).1.leave_cluster(removal)
    }

    async fn list_left_behind(
        &self,
        _tenant: TenantId,
        _cluster: ClusterId,
    ) -> Result<Vec<Leftover>, Problem> {
        Ok(vec![Leftover::for_object(
            &"c2".parse().expect("a name"),
            "Namespace",
            None,
            "meshwright-system",
        )])
    }

    async fn monitor_cluster(
        &self,
        tenant: TenantId,
        _cluster: ClusterId,
    ) -> Result<ClusterHealth, Problem> {
        let credentials = self.clusters_of(tenant).1;
        if let Some(problem) = credentials.check_cluster().await {
            return Err(problem);
        }
        let (settled, findings) = (credentials.is_settled(), credentials.findings());
        Ok(ClusterHealth {
            kubernetes_version: KUBERNETES_VERSION.into(),
            old_credentials_revoked: settled,
            findings,
        })
    }
}
