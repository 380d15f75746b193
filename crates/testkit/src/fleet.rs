//! A mesh in a throw-away database over imagined clusters, and workers to run it: one builder makes the world.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use jiff::SignedDuration;
use model::Clock;
use model::ids::{ClusterId, HostingClusterId, MeshId, OperationId, TenantId, UpgradeId};
use model::operation::OperationKind;
use model::release::{KubernetesRange, Release, ReleaseState};
use model::rules::{Edition, Strategy};
use model::switch::Switch;
use model::upgrade::{LabelPolicy, UpgradePolicyChoice, Verb};
use model::version::Version;
use rollout::decide::Timeouts;
use serde_json::Value;
use store::{
    HostingCluster, NewCluster, NewMesh, NewOperation, NewUpgrade, Operation, Page, StoredRelease, Tx, Upgrade, UserMetadata,
};
use worker::Settings;

use crate::credentials::{CredentialFaults, issue_credential, default_uid};
use crate::{FakeClusters, ManualClock, TestDb};

mod workers;
mod worlds;

/// One mesh of two members on 1.25.1.1, with 1.27.9.1 in the catalogue.
pub struct Fleet {
    /// Its database.
    pub db: TestDb,
    /// Its clusters.
    pub clusters: FakeClusters,
    /// Its time.
    pub clock: Arc<ManualClock>,
    /// The mesh.
    pub mesh: MeshId,
    /// How many workloads are restarted at once.
    pub max_concurrent_restarts: usize,
    /// How often its workers look at the queue without a hint.
    pub poll_interval: Duration,
    /// How long its workers wait for one look.
    pub cluster_timeout: Duration,
    /// What upgrades do with namespaces that name the old revision.
    pub labels: LabelPolicy,
    /// While true, the database fails whoever opens the mesh.
    pub fail_mesh_reads: Arc<AtomicBool>,
    /// How its clusters treat our credentials.
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
        kubernetes: KubernetesRange { min: 29, tested_max: 33, source: "testkit".into() },
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

/// Lets nothing wait for long: one look is proof enough in an imagined world.
pub fn short_timeouts() -> Timeouts {
    let (unused_over, unused_every) = (SignedDuration::ZERO, SignedDuration::ZERO);
    Timeouts { unused_samples: 2, unused_min_span: unused_over, unused_check_interval: unused_every, ..Timeouts::default() }
}

async fn create_ready_cluster(tx: &mut Tx<'_>, clock: &ManualClock, name: &str) -> ClusterId {
    let (id, now) = (ClusterId(clock.new_uuid()), clock.now());
    tx.create_cluster(&new_cluster(id, name), now).await.expect("a cluster");
    tx.store_renewed_credential(id, &issue_credential(default_uid(id), 1, now), Duration::ZERO, now).await.expect("a ready cluster");
    id
}

impl Fleet {
    /// Brings the mesh up, with one workload for each label form of requirement B4 and one without a label.
    ///
    /// # Panics
    /// When the database fails.
    pub async fn new() -> Self {
        Self::with_pending_mesh().await.with_ready_mesh().await
    }

    /// A mesh that is asked for and not yet brought up: its members are registered, and it has no workloads.
    ///
    /// # Panics
    /// When the database fails.
    pub async fn with_pending_mesh() -> Self {
        let db = TestDb::new().await;
        let clock = Arc::new(ManualClock::default());
        let now = clock.now();
        let hosting = HostingClusterId(clock.new_uuid());
        db.worker
            .add_hosting_cluster(&HostingCluster { id: hosting, name: "hosting".into(), created_at: now }, b"config")
            .await
            .expect("a hosting cluster");
        for version in ["1.25.1.1", "1.27.8.1", "1.27.9.1", "1.27.9.2"] {
            db.worker
                .add_release(&StoredRelease { release: test_release(version), charts: Vec::new() }, now)
                .await
                .expect("a release");
        }
        Self::create_fleet(db, clock, hosting).await
    }

    /// Another tenant's fleet in the same database.
    ///
    /// # Panics
    /// When the database fails.
    pub async fn for_new_tenant(&self, tenant: TenantId, name: &str) -> Self {
        let mut tx = self.db.api.begin(self.db.tenant).await.expect("a transaction");
        let hosting = tx.list_hosting_clusters().await.expect("hosting clusters")[0].id;
        drop(tx);
        Self::create_fleet(self.db.for_new_tenant(tenant, name).await, self.clock.clone(), hosting).await.with_ready_mesh().await
    }

    /// Another tenant in the same database, with a cluster of this name that no mesh uses yet.
    ///
    /// # Panics
    /// When the database fails.
    pub async fn add_tenant_with_cluster(&self, tenant: TenantId, name: &str) -> ClusterId {
        let db = self.db.for_new_tenant(tenant, name).await;
        let mut tx = db.worker.begin(tenant).await.expect("a transaction");
        let id = create_ready_cluster(&mut tx, &self.clock, name).await;
        tx.commit().await.expect("a commit");
        id
    }

    async fn with_ready_mesh(self) -> Self {
        self.queue_operation(OperationKind::CreateMesh, Value::Null).await;
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
        tx.create_mesh(&new, now).await.expect("a mesh");
        tx.commit().await.expect("a commit");
        let (world, unreadable) = (FakeClusters::new(&["c1", "c2"]), Arc::default());
        let credentials = CredentialFaults::default();
        let (labels, poll) = (LabelPolicy::Relabel, Duration::from_millis(20));
        let look = Settings::default().cluster_timeout;
        Self { db, clusters: world, clock, mesh, max_concurrent_restarts: 2, poll_interval: poll, cluster_timeout: look, labels, fail_mesh_reads: unreadable, credentials }
    }

    /// Adds one workload for each label form of requirement B4 and one without a label, in both members.
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

    /// The default policy lets no proxy be two minors behind its istiod, and the parts of 1.25 and 1.27 are those that differ.
    ///
    /// # Panics
    /// When the database fails.
    pub async fn allow_two_minors_in_place(&self) {
        let change = "UPDATE upgrade_policies SET body = jsonb_set(body, '{in_place_minors}', '2')";
        self.db.execute("mw_owner", change).await.expect("a policy");
    }

    /// Runs everything that is due.
    ///
    /// # Panics
    /// When the database fails.
    pub async fn run_due(&self) {
        self.build_worker("w", Duration::from_secs(30)).run_due().await.expect("a readable queue");
    }

    /// Has a cluster of this name registered.
    ///
    /// # Panics
    /// When the database fails.
    pub async fn register_cluster(&self, name: &str) -> (ClusterId, OperationId) {
        let (cluster, id, now) = (ClusterId(self.clock.new_uuid()), OperationId(self.clock.new_uuid()), self.clock.now());
        let mut tx = self.db.api.begin(self.db.tenant).await.expect("a transaction");
        tx.create_cluster(&new_cluster(cluster, name), now).await.expect("a cluster");
        let new = NewOperation {
            id,
            kind: OperationKind::RegisterCluster,
            mesh: None,
            cluster: Some(cluster),
            upgrade: None,
            arguments: Value::Null,
            due_in: Duration::ZERO,
        };
        tx.create_operation(&new, now).await.expect("an operation");
        tx.commit().await.expect("a commit");
        (cluster, id)
    }

    /// Queues a renewal of a cluster's credential without an overlap: the former one is wanted dead.
    ///
    /// # Panics
    /// When the database fails.
    pub async fn renew_credential(&self, cluster: ClusterId) -> OperationId {
        let id = OperationId(self.clock.new_uuid());
        let new = NewOperation {
            id,
            kind: OperationKind::RenewCredential,
            mesh: None,
            cluster: Some(cluster),
            upgrade: None,
            arguments: self.cluster(cluster).await.renewal_arguments(Duration::ZERO),
            due_in: Duration::ZERO,
        };
        let mut tx = self.db.api.begin(self.db.tenant).await.expect("a transaction");
        tx.create_operation(&new, self.clock.now()).await.expect("an operation");
        tx.commit().await.expect("a commit");
        id
    }

    /// A cluster as the service knows it.
    ///
    /// # Panics
    /// When the database fails.
    pub async fn cluster(&self, id: ClusterId) -> store::Cluster {
        let mut tx = self.db.api.begin(self.db.tenant).await.expect("a transaction");
        tx.get_cluster(id).await.expect("the cluster")
    }

    /// Deletes a cluster that no mesh uses.
    ///
    /// # Panics
    /// When the database fails, or there is no such cluster.
    pub async fn deregister_cluster(&self, id: ClusterId) {
        let mut tx = self.db.api.begin(self.db.tenant).await.expect("a transaction");
        tx.delete_cluster(id).await.expect("a cluster that no mesh uses");
        tx.commit().await.expect("a commit");
    }

    /// Queues a lone operation on the mesh.
    ///
    /// # Panics
    /// When the database fails.
    pub async fn queue_operation(&self, kind: OperationKind, arguments: Value) -> OperationId {
        let id = OperationId(self.clock.new_uuid());
        let now = self.clock.now();
        let mut tx = self.db.api.begin(self.db.tenant).await.expect("a transaction");
        tx.acquire_data_plane_lock(self.mesh, id).await.expect("a free mesh");
        let new = NewOperation {
            id,
            kind,
            mesh: Some(self.mesh),
            cluster: None,
            upgrade: None,
            arguments,
            due_in: Duration::ZERO,
        };
        tx.create_operation(&new, now).await.expect("an operation");
        tx.commit().await.expect("a commit");
        id
    }

    /// Plans an upgrade.
    ///
    /// # Panics
    /// When the database fails.
    pub async fn plan_upgrade(&self, to: &str, strategy: Strategy, hold_seconds: u32) -> UpgradeId {
        let id = UpgradeId(self.clock.new_uuid());
        let to: Version = to.parse().expect(to);
        let mut tx = self.db.api.begin(self.db.tenant).await.expect("a transaction");
        let current = tx.get_mesh(self.mesh).await.expect("the mesh").current;
        let revision = if strategy == Strategy::Canary { to.revision_name() } else { current.name };
        let labels = self.labels;
        let choice = UpgradePolicyChoice { strategy, auto: false, hold_seconds, accept_warnings: false, labels };
        let new = NewUpgrade { id, mesh: self.mesh, from: current.version, to, revision, choice };
        tx.create_upgrade(&new, self.clock.now()).await.expect("an upgrade");
        tx.commit().await.expect("a commit");
        id
    }

    /// The upgrade that there is, or a canary that is planned now.
    ///
    /// # Panics
    /// When the database fails.
    pub async fn get_or_plan_upgrade(&self) -> UpgradeId {
        let mut tx = self.db.api.begin(self.db.tenant).await.expect("a transaction");
        let known = tx.list_upgrades(self.mesh, Page::ALL).await.expect("upgrades");
        drop(tx);
        match known.first() {
            Some(upgrade) => upgrade.id,
            None => self.plan_upgrade("1.27.9.1", Strategy::Canary, 3600).await,
        }
    }

    /// Presses a button.
    ///
    /// # Errors
    /// As the store answers.
    pub async fn apply_verb(&self, upgrade: UpgradeId, verb: Verb, arguments: Value) -> Result<Upgrade, store::StoreError> {
        let mut tx = self.db.api.begin(self.db.tenant).await?;
        let pressed = tx.apply_verb(upgrade, (verb, "key:test"), None, arguments, self.clock.as_ref()).await?;
        tx.commit().await?;
        Ok(pressed)
    }

    /// Presses a button and runs everything that follows.
    ///
    /// # Panics
    /// When the verb does not fit.
    pub async fn apply_verb_and_run(&self, upgrade: UpgradeId, verb: Verb) -> Upgrade {
        self.apply_verb(upgrade, verb, Value::Null).await.expect("a verb that fits");
        self.run_due().await;
        self.upgrade(upgrade).await
    }

    /// The upgrade as it stands.
    ///
    /// # Panics
    /// When the database fails.
    pub async fn upgrade(&self, id: UpgradeId) -> Upgrade {
        let mut tx = self.db.api.begin(self.db.tenant).await.expect("a transaction");
        tx.get_upgrade(id).await.expect("the upgrade")
    }

    /// An operation as it stands.
    ///
    /// # Panics
    /// When the database fails.
    pub async fn operation(&self, id: OperationId) -> Operation {
        let mut tx = self.db.api.begin(self.db.tenant).await.expect("a transaction");
        tx.get_operation(id).await.expect("the operation")
    }
}
