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
use rollout::decide::Patience;
use serde_json::Value;
use store::{
    Hosting, NewCluster, NewMesh, NewOperation, NewUpgrade, Operation, Page, StoredRelease, Tx, Upgrade, Written,
};
use worker::Settings;

use crate::credentials::{Credentials, issued, own_uid};
use crate::{FakeWorld, ManualClock, TestDb};

mod workers;
mod worlds;

/// One mesh of two members on 1.25.1.1, with 1.27.9.1 in the catalogue.
pub struct Fleet {
    /// Its database.
    pub db: TestDb,
    /// Its clusters.
    pub world: FakeWorld,
    /// Its time.
    pub clock: Arc<ManualClock>,
    /// The mesh.
    pub mesh: MeshId,
    /// How many workloads are restarted at once.
    pub width: usize,
    /// How often its workers look at the queue without a hint.
    pub poll: Duration,
    /// How long its workers wait for one look.
    pub look: Duration,
    /// What upgrades do with namespaces that name the old revision.
    pub labels: LabelPolicy,
    /// While true, the database fails whoever opens the mesh.
    pub unreadable: Arc<AtomicBool>,
    /// How its clusters treat our credentials.
    pub credentials: Credentials,
}

fn release(text: &str) -> Release {
    let version: Version = text.parse().expect(text);
    Release {
        state: ReleaseState::Available,
        hub: "lab".into(),
        tag: version.community(),
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

fn submitted(id: ClusterId, name: &str) -> NewCluster {
    NewCluster {
        id,
        name: name.into(),
        server: format!("https://{name}.example:6443"),
        kubeconfig: b"theirs".to_vec(),
        written: Written::default(),
    }
}

/// Lets nothing wait for long: one look is proof enough in an imagined world.
pub fn hasty() -> Patience {
    let (unused_over, unused_every) = (SignedDuration::ZERO, SignedDuration::ZERO);
    Patience { unused_samples: 2, unused_over, unused_every, ..Patience::default() }
}

async fn ready_cluster(tx: &mut Tx<'_>, clock: &ManualClock, name: &str) -> ClusterId {
    let (id, now) = (ClusterId(clock.uuid()), clock.now());
    tx.create_cluster(&submitted(id, name), now).await.expect("a cluster");
    tx.renewed_credential(id, &issued(own_uid(id), 1, now), Duration::ZERO, now).await.expect("a ready cluster");
    id
}

impl Fleet {
    /// Brings the mesh up, with one workload for each label form of requirement B4 and one without a label.
    ///
    /// # Panics
    /// When the database fails.
    pub async fn new() -> Self {
        Self::unborn().await.bring_up().await
    }

    /// A mesh that is asked for and not yet brought up: its members are registered, and it has no workloads.
    ///
    /// # Panics
    /// When the database fails.
    pub async fn unborn() -> Self {
        let db = TestDb::new().await;
        let clock = Arc::new(ManualClock::default());
        let now = clock.now();
        let hosting = HostingClusterId(clock.uuid());
        db.worker
            .add_hosting_cluster(&Hosting { id: hosting, name: "hosting".into(), created_at: now }, b"config")
            .await
            .expect("a hosting cluster");
        for version in ["1.25.1.1", "1.27.8.1", "1.27.9.1", "1.27.9.2"] {
            db.worker
                .add_release(&StoredRelease { release: release(version), charts: Vec::new() }, now)
                .await
                .expect("a release");
        }
        Self::of(db, clock, hosting).await
    }

    /// Another tenant's fleet in the same database.
    ///
    /// # Panics
    /// When the database fails.
    pub async fn beside(&self, tenant: TenantId, name: &str) -> Self {
        let mut tx = self.db.api.begin(self.db.tenant).await.expect("a transaction");
        let hosting = tx.hosting_clusters().await.expect("hosting clusters")[0].id;
        drop(tx);
        Self::of(self.db.beside(tenant, name).await, self.clock.clone(), hosting).await.bring_up().await
    }

    /// Another tenant in the same database, with a cluster of this name that no mesh uses yet.
    ///
    /// # Panics
    /// When the database fails.
    pub async fn neighbour(&self, tenant: TenantId, name: &str) -> ClusterId {
        let db = self.db.beside(tenant, name).await;
        let mut tx = db.worker.begin(tenant).await.expect("a transaction");
        let id = ready_cluster(&mut tx, &self.clock, name).await;
        tx.commit().await.expect("a commit");
        id
    }

    async fn bring_up(self) -> Self {
        self.begin(OperationKind::CreateMesh, Value::Null).await;
        self.run().await;
        self.populate();
        self
    }

    async fn of(db: TestDb, clock: Arc<ManualClock>, hosting: HostingClusterId) -> Self {
        let now = clock.now();
        let mesh = MeshId(clock.uuid());
        let mut tx = db.worker.begin(db.tenant).await.expect("a transaction");
        let mut members = Vec::new();
        for name in ["c1", "c2"] {
            members.push(ready_cluster(&mut tx, &clock, name).await);
        }
        let version = "1.25.1.1".parse().expect("a version");
        let new = NewMesh {
            id: mesh,
            name: "mesh-a".into(),
            edition: Edition::Enterprise,
            hosting,
            authority: b"ca".to_vec(),
            version,
            members,
            written: Written::default(),
            deletion_protection: false,
        };
        tx.create_mesh(&new, now).await.expect("a mesh");
        tx.commit().await.expect("a commit");
        let (world, unreadable) = (FakeWorld::new(&["c1", "c2"]), Arc::default());
        let credentials = Credentials::default();
        let (labels, poll) = (LabelPolicy::Relabel, Duration::from_millis(20));
        let look = Settings::default().look;
        Self { db, world, clock, mesh, width: 2, poll, look, labels, unreadable, credentials }
    }

    /// Adds one workload for each label form of requirement B4 and one without a label, in both members.
    pub fn populate(&self) {
        for (namespace, label) in [
            ("canary", Some("istio.io/rev=canary")),
            ("enabled", Some("istio-injection=enabled")),
            ("explicit", Some("istio.io/rev=1-25-1")),
            ("plain", None),
            ("stable", Some("istio.io/rev=stable")),
        ] {
            self.world.workload("c1", namespace, label, 3);
            self.world.workload("c2", namespace, label, 2);
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
    pub async fn run(&self) {
        self.worker("w", Duration::from_secs(30)).run_due().await.expect("a readable queue");
    }

    /// Has a cluster of this name registered.
    ///
    /// # Panics
    /// When the database fails.
    pub async fn register(&self, name: &str) -> (ClusterId, OperationId) {
        let (cluster, id, now) = (ClusterId(self.clock.uuid()), OperationId(self.clock.uuid()), self.clock.now());
        let mut tx = self.db.api.begin(self.db.tenant).await.expect("a transaction");
        tx.create_cluster(&submitted(cluster, name), now).await.expect("a cluster");
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
    pub async fn renew(&self, cluster: ClusterId) -> OperationId {
        let id = OperationId(self.clock.uuid());
        let new = NewOperation {
            id,
            kind: OperationKind::RenewCredential,
            mesh: None,
            cluster: Some(cluster),
            upgrade: None,
            arguments: self.cluster(cluster).await.renewal(Duration::ZERO),
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
        tx.cluster(id).await.expect("the cluster")
    }

    /// Deletes a cluster that no mesh uses.
    ///
    /// # Panics
    /// When the database fails, or there is no such cluster.
    pub async fn deregister(&self, id: ClusterId) {
        let mut tx = self.db.api.begin(self.db.tenant).await.expect("a transaction");
        tx.delete_cluster(id).await.expect("a cluster that no mesh uses");
        tx.commit().await.expect("a commit");
    }

    /// Queues a lone operation on the mesh.
    ///
    /// # Panics
    /// When the database fails.
    pub async fn begin(&self, kind: OperationKind, arguments: Value) -> OperationId {
        let id = OperationId(self.clock.uuid());
        let now = self.clock.now();
        let mut tx = self.db.api.begin(self.db.tenant).await.expect("a transaction");
        tx.take_data_plane(self.mesh, id).await.expect("a free mesh");
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
    pub async fn plan(&self, to: &str, strategy: Strategy, hold_seconds: u32) -> UpgradeId {
        let id = UpgradeId(self.clock.uuid());
        let to: Version = to.parse().expect(to);
        let mut tx = self.db.api.begin(self.db.tenant).await.expect("a transaction");
        let current = tx.mesh(self.mesh).await.expect("the mesh").current;
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
    pub async fn plan_or_known(&self) -> UpgradeId {
        let mut tx = self.db.api.begin(self.db.tenant).await.expect("a transaction");
        let known = tx.upgrades(self.mesh, Page::ALL).await.expect("upgrades");
        drop(tx);
        match known.first() {
            Some(upgrade) => upgrade.id,
            None => self.plan("1.27.9.1", Strategy::Canary, 3600).await,
        }
    }

    /// Presses a button.
    ///
    /// # Errors
    /// As the store answers.
    pub async fn press(&self, upgrade: UpgradeId, verb: Verb, arguments: Value) -> Result<Upgrade, store::StoreError> {
        let mut tx = self.db.api.begin(self.db.tenant).await?;
        let pressed = tx.upgrade_verb(upgrade, (verb, "key:test"), None, arguments, self.clock.as_ref()).await?;
        tx.commit().await?;
        Ok(pressed)
    }

    /// Presses a button and runs everything that follows.
    ///
    /// # Panics
    /// When the verb does not fit.
    pub async fn go(&self, upgrade: UpgradeId, verb: Verb) -> Upgrade {
        self.press(upgrade, verb, Value::Null).await.expect("a verb that fits");
        self.run().await;
        self.upgrade(upgrade).await
    }

    /// The upgrade as it stands.
    ///
    /// # Panics
    /// When the database fails.
    pub async fn upgrade(&self, id: UpgradeId) -> Upgrade {
        let mut tx = self.db.api.begin(self.db.tenant).await.expect("a transaction");
        tx.upgrade(id).await.expect("the upgrade")
    }

    /// An operation as it stands.
    ///
    /// # Panics
    /// When the database fails.
    pub async fn operation(&self, id: OperationId) -> Operation {
        let mut tx = self.db.api.begin(self.db.tenant).await.expect("a transaction");
        tx.operation(id).await.expect("the operation")
    }
}
