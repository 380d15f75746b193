//! Builds a mesh in a throw-away database over fake clusters, with workers that run its operations.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use jiff::SignedDuration;
use meshwright_model::Clock;
use meshwright_model::edition::Edition;
use meshwright_model::ids::{ClusterId, HostingClusterId, MeshId, TenantId};
use meshwright_model::operation::OperationKind;
use meshwright_model::release::{KubernetesRange, Release, ReleaseState};
use meshwright_model::switch::Switch;
use meshwright_model::upgrade::LabelPolicy;
use meshwright_model::version::Version;
use meshwright_rollout::decide::Timeouts;
use meshwright_store::{HostingCluster, NewCluster, NewMesh, StoredRelease, Tx, UserMetadata};
use meshwright_worker::Settings;
use serde_json::Value;

use crate::credentials::{CredentialFaults, default_uid, issue_credential};
use crate::{FakeClusters, ManualClock, TestDb};

mod operations;
mod upgrades;
mod workers;
mod worlds;

/// Mesh of two members on 1.25.1.1, with 1.27.9.1 and other releases in the catalogue.
pub struct Fleet {
    /// Database that the mesh is stored in.
    pub db: TestDb,
    /// Fake clusters of the mesh.
    pub clusters: FakeClusters,
    /// Clock of the database rows and of the workers.
    pub clock: Arc<ManualClock>,
    /// Id of the mesh.
    pub mesh: MeshId,
    /// Number of workloads that one operation restarts at once.
    pub max_concurrent_restarts: usize,
    /// Interval at which workers read the queue if no work notification arrives.
    pub poll_interval: Duration,
    /// Time between two searches for the users of a revision.
    pub user_search_interval: SignedDuration,
    /// Time that workers wait for one look at a cluster.
    pub cluster_timeout: Duration,
    /// Treatment of namespaces whose label names the old revision, in upgrades planned from now on.
    pub labels: LabelPolicy,
    /// While true, opening the mesh fails as if the database had failed.
    pub fail_mesh_reads: Arc<AtomicBool>,
    /// Faults of the clusters in calls that concern our credentials.
    pub credentials: CredentialFaults,
}

fn test_release(text: &str) -> Release {
    let version: Version = text.parse().expect(text);
    Release {
        state: ReleaseState::Available,
        hub: "lab".into(),
        tag: version.community_version(),
        digest: String::new(),
        supported_until: None,
        kubernetes: KubernetesRange {
            min: 29,
            tested_max: 33,
            source: "testkit".into(),
        },
        quirks: Vec::new(),
        released_on: None,
        channels: BTreeSet::new(),
        minimum_edition: Edition::Standard,
        notes: String::new(),
        switches: Switch::defaults_of(&version),
        version,
    }
}

fn new_cluster(id: ClusterId, name: &str) -> NewCluster {
    NewCluster {
        id,
        name: name.into(),
        server: format!("https://{name}.example:6443"),
        kubeconfig: b"theirs".to_vec(),
        metadata: UserMetadata::default(),
    }
}

/// Returns timeouts that fit fake clusters: two looks without a time between them prove that a
/// revision is unused.
pub fn short_timeouts() -> Timeouts {
    let (unused_over, unused_every) = (SignedDuration::ZERO, SignedDuration::ZERO);
    Timeouts {
        unused_samples: 2,
        unused_min_span: unused_over,
        unused_check_interval: unused_every,
        partial_min_span: SignedDuration::ZERO,
        ..Timeouts::default()
    }
}

async fn create_ready_cluster(tx: &mut Tx<'_>, clock: &ManualClock, name: &str) -> ClusterId {
    let (id, now) = (ClusterId(clock.new_uuid()), clock.now());
    tx.clusters()
        .create_cluster(&new_cluster(id, name), now)
        .await
        .expect("a cluster");
    tx.clusters()
        .store_renewed_credential(
            id,
            &issue_credential(default_uid(id), 1, now),
            Duration::ZERO,
            now,
        )
        .await
        .expect("a ready cluster");
    id
}

impl Fleet {
    /// Creates the mesh and installs it, with one workload for each label form of requirement B4
    /// and one without a label.
    ///
    /// # Panics
    /// Panics when the database fails.
    pub async fn new() -> Self {
        Self::with_pending_mesh().await.with_ready_mesh().await
    }

    /// Creates a mesh that is not installed yet. Its members are registered, and it has no
    /// workloads.
    ///
    /// # Panics
    /// Panics when the database fails.
    pub async fn with_pending_mesh() -> Self {
        let db = TestDb::new().await;
        let clock = Arc::new(ManualClock::default());
        let now = clock.now();
        let hosting = HostingClusterId(clock.new_uuid());
        db.worker
            .add_hosting_cluster(
                &HostingCluster {
                    id: hosting,
                    name: "hosting".into(),
                    created_at: now,
                },
                b"config",
            )
            .await
            .expect("a hosting cluster");
        for version in ["1.25.1.1", "1.27.8.1", "1.27.9.1", "1.27.9.2"] {
            db.worker
                .add_release(
                    &StoredRelease {
                        release: test_release(version),
                        charts: Vec::new(),
                    },
                    now,
                )
                .await
                .expect("a release");
        }
        Self::create_fleet(db, clock, hosting).await
    }

    /// Creates the fleet of another tenant in the same database.
    ///
    /// # Panics
    /// Panics when the database fails.
    pub async fn for_new_tenant(&self, tenant: TenantId, name: &str) -> Self {
        let mut tx = self.db.begin_beside_workers().await;
        let hosting = tx
            .catalogue()
            .list_hosting_clusters()
            .await
            .expect("hosting clusters")[0]
            .id;
        drop(tx);
        Self::create_fleet(
            self.db.for_new_tenant(tenant, name).await,
            self.clock.clone(),
            hosting,
        )
        .await
        .with_ready_mesh()
        .await
    }

    /// Creates another tenant in the same database, with a cluster of this name that no mesh uses
    /// yet.
    ///
    /// # Panics
    /// Panics when the database fails.
    pub async fn add_tenant_with_cluster(&self, tenant: TenantId, name: &str) -> ClusterId {
        let db = self.db.for_new_tenant(tenant, name).await;
        let mut tx = db.worker.begin(tenant).await.expect("a transaction");
        let id = create_ready_cluster(&mut tx, &self.clock, name).await;
        tx.commit().await.expect("a commit");
        id
    }

    async fn with_ready_mesh(self) -> Self {
        self.queue_operation(OperationKind::CreateMesh, Value::Null)
            .await;
        self.run_due().await;
        self.add_workloads();
        self
    }

    async fn create_fleet(db: TestDb, clock: Arc<ManualClock>, hosting: HostingClusterId) -> Self {
        let now = clock.now();
        let mesh = MeshId(clock.new_uuid());
        let mut tx = db.worker.begin(db.tenant).await.expect("a transaction");
        let mut members = Vec::new();
        for name in ["c1", "c2"] {
            members.push(create_ready_cluster(&mut tx, &clock, name).await);
        }
        let version = "1.25.1.1".parse().expect("a version");
        let new = NewMesh {
            id: mesh,
            name: "mesh-a".into(),
            edition: Edition::Enterprise,
            hosting_cluster: hosting,
            authority: b"ca".to_vec(),
            version,
            members,
            metadata: UserMetadata::default(),
            deletion_protection: false,
        };
        tx.meshes().create_mesh(&new, now).await.expect("a mesh");
        tx.commit().await.expect("a commit");
        let (world, unreadable) = (FakeClusters::new(&["c1", "c2"]), Arc::default());
        let credentials = CredentialFaults::default();
        let (labels, poll) = (LabelPolicy::Relabel, Duration::from_millis(20));
        let look = Settings::default().cluster_timeout;
        Self {
            db,
            clusters: world,
            clock,
            mesh,
            max_concurrent_restarts: 2,
            poll_interval: poll,
            user_search_interval: SignedDuration::ZERO,
            cluster_timeout: look,
            labels,
            fail_mesh_reads: unreadable,
            credentials,
        }
    }

    /// Adds one workload for each label form of requirement B4 and one without a label, in both
    /// members.
    pub fn add_workloads(&self) {
        for (namespace, label) in [
            ("canary", Some("istio.io/rev=canary")),
            ("enabled", Some("istio-injection=enabled")),
            ("explicit", Some("istio.io/rev=1-25-1")),
            ("plain", None),
            ("stable", Some("istio.io/rev=stable")),
        ] {
            self.clusters.add_workload("c1", namespace, label, 3);
            self.clusters.add_workload("c2", namespace, label, 2);
        }
    }

    /// Allows upgrades in place by two minors. The default policy lets no proxy be two minors
    /// behind its istiod, but only 1.25 and 1.27 consist of different objects here.
    ///
    /// # Panics
    /// Panics when the database fails.
    pub async fn allow_two_minors_in_place(&self) {
        let change = "UPDATE upgrade_policies SET body = jsonb_set(body, '{in_place_minors}', '2')";
        self.db.execute("mw_owner", change).await.expect("a policy");
    }

    /// Runs a worker until no operation is due.
    ///
    /// # Panics
    /// Panics when the database fails.
    pub async fn run_due(&self) {
        self.build_worker("w", Duration::from_secs(30))
            .run_due()
            .await
            .expect("a readable queue");
    }
}
