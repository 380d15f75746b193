//! A mesh in a throw-away database over imagined clusters, and workers to run it: one builder makes the world.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::SignedDuration;
use model::Clock;
use model::ids::{ClusterId, HostingClusterId, MeshId, OperationId, TenantId, UpgradeId};
use model::operation::{OperationKind, Problem};
use model::release::{KubernetesRange, Release, ReleaseState};
use model::rules::{Edition, Strategy};
use model::switch::Switch;
use model::upgrade::{LabelPolicy, UpgradePolicyChoice, Verb};
use model::version::Version;
use rollout::decide::Patience;
use rollout::plan::{Layout, Line};
use rollout::ports::World;
use serde_json::Value;
use store::{
    Hosting, Issued, NewCluster, NewMesh, NewOperation, NewUpgrade, Operation, Page, Store, StoredRelease, Tended,
    Upgrade, Written,
};
use worker::{Engine, Settings, Worlds};

use crate::credentials::{Credentials, KUBERNETES, issued};
use crate::relay::Relay;
use crate::world::image;
use crate::{FakeWorld, ManualClock, TestDb};

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
    /// What upgrades do with namespaces that name the old revision.
    pub labels: LabelPolicy,
    /// While true, the database fails whoever opens the mesh.
    pub unreadable: Arc<AtomicBool>,
    /// How its clusters treat our credentials.
    pub credentials: Credentials,
}

/// Reads layouts as the server does, and opens the imagined clusters.
#[derive(Debug)]
struct FakeWorlds {
    store: Store,
    world: FakeWorld,
    width: usize,
    unreadable: Arc<AtomicBool>,
    credentials: Credentials,
    clock: Arc<ManualClock>,
}

#[async_trait]
impl Worlds for FakeWorlds {
    async fn open(&self, tenant: TenantId, mesh: MeshId) -> Result<(Arc<dyn World>, Layout), Problem> {
        let failed = |said: String| Problem::new(worker::DATABASE, said, "Try again.");
        if self.unreadable.load(Ordering::Relaxed) {
            return Err(failed("it is unreadable".into()));
        }
        let lost = |error: store::StoreError| failed(error.to_string());
        let mut tx = self.store.begin(tenant).await.map_err(lost)?;
        let mesh = tx.mesh(mesh).await.map_err(lost)?;
        let line = |revision: store::Revision| Line {
            image: image(&revision.version),
            revision: revision.name,
            release: revision.version,
        };
        let layout = Layout {
            members: mesh.members.iter().map(|member| member.name.parse().expect("a stored name")).collect(),
            current: line(mesh.current),
            target: mesh.target.map(line),
            width: self.width,
            labels: LabelPolicy::Relabel,
        };
        Ok((Arc::new(self.world.clone()), layout))
    }

    async fn connect(&self, _tenant: TenantId, _cluster: ClusterId) -> Result<Issued, Problem> {
        match self.credentials.connect() {
            Some(problem) => Err(problem),
            None => Ok(issued(self.clock.now())),
        }
    }

    async fn tend(&self, _tenant: TenantId, _cluster: ClusterId) -> Result<Tended, Problem> {
        match self.credentials.look() {
            Some(problem) => Err(problem),
            None => Ok(Tended { kubernetes_version: KUBERNETES.into(), settled: true }),
        }
    }
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

/// Lets nothing wait for long: one look is proof enough in an imagined world.
pub fn hasty() -> Patience {
    Patience { unused_samples: 2, unused_over: SignedDuration::ZERO, ..Patience::default() }
}

impl Fleet {
    /// Brings the mesh up, with one workload for each label form of requirement B4 and one without a label.
    ///
    /// # Panics
    /// When the database fails.
    pub async fn new() -> Self {
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
        Self::of(self.db.beside(tenant, name).await, self.clock.clone(), hosting).await
    }

    async fn of(db: TestDb, clock: Arc<ManualClock>, hosting: HostingClusterId) -> Self {
        let now = clock.now();
        let mesh = MeshId(clock.uuid());
        let mut tx = db.worker.begin(db.tenant).await.expect("a transaction");
        let mut members = Vec::new();
        for name in ["c1", "c2"] {
            let id = ClusterId(clock.uuid());
            let cluster = NewCluster {
                id,
                name: name.into(),
                server: format!("https://{name}.example:6443"),
                kubeconfig: b"theirs".to_vec(),
                written: Written::default(),
            };
            tx.create_cluster(&cluster, now).await.expect("a cluster");
            tx.renewed_credential(id, &issued(now), Duration::ZERO, now).await.expect("a ready cluster");
            members.push(id);
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
        let fleet = Self { db, world, clock, mesh, width: 2, poll, labels, unreadable, credentials };
        fleet.begin(OperationKind::CreateMesh, Value::Null).await;
        fleet.run().await;
        for (namespace, label) in [
            ("canary", Some("istio.io/rev=canary")),
            ("enabled", Some("istio-injection=enabled")),
            ("explicit", Some("istio.io/rev=1-25-1")),
            ("plain", None),
            ("stable", Some("istio.io/rev=stable")),
        ] {
            fleet.world.workload("c1", namespace, label, 3);
            fleet.world.workload("c2", namespace, label, 2);
        }
        fleet
    }

    /// A worker of this name with this lease.
    pub fn worker(&self, owner: &str, lease: Duration) -> Engine {
        self.worker_on(self.db.worker.clone(), owner, lease)
    }

    /// A worker behind a relay. A session that stands still in a transaction ends after a third of the lease.
    ///
    /// # Panics
    /// When the database fails.
    pub async fn relayed_worker(&self, owner: &str, lease: Duration, relay: &Relay) -> Engine {
        let url = self.db.relayed_url("mw_worker", relay, lease / 3);
        let store = Store::connect(&url, crate::db::vault()).await.expect("a connection as mw_worker");
        self.worker_on(store, owner, lease)
    }

    fn worker_on(&self, store: Store, owner: &str, lease: Duration) -> Engine {
        let (world, unreadable) = (self.world.clone(), self.unreadable.clone());
        let (credentials, clock) = (self.credentials.clone(), self.clock.clone());
        let worlds = FakeWorlds { store: store.clone(), world, width: self.width, unreadable, credentials, clock };
        let settings =
            Settings { owner: owner.into(), lease, poll: self.poll, patience: hasty(), ..Settings::default() };
        Engine::new(store, Arc::new(worlds), self.clock.clone(), settings)
    }

    /// Runs everything that is due.
    ///
    /// # Panics
    /// When the database fails.
    pub async fn run(&self) {
        self.worker("w", Duration::from_secs(30)).run_due().await.expect("a readable queue");
    }

    /// Queues a lone operation on the mesh.
    ///
    /// # Panics
    /// When the database fails.
    pub async fn begin(&self, kind: OperationKind, arguments: Value) -> OperationId {
        let id = OperationId(self.clock.uuid());
        let now = self.clock.now();
        let mut tx = self.db.api.begin(self.db.tenant).await.expect("a transaction");
        tx.take_slot(self.mesh, &id.to_string()).await.expect("a free mesh");
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
        let pressed = tx.upgrade_verb(upgrade, verb, None, arguments, self.clock.as_ref()).await?;
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
