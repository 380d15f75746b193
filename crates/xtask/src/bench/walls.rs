//! What row-level security costs beside queries that name their tenant anyway: each list and each get, in a transaction as
//! the API begins it, on two databases that differ in nothing else.

use std::time::{Duration, Instant};

use clap::Args;
use jiff::SignedDuration;
use model::Clock;
use model::access::Role;
use model::ids::{ClusterId, KeyId, OperationId, TenantId, UpgradeId, WebhookId};
use serde_json::{Map, Value, json};
use store::{KeyText, Narrow, NewCluster, NewKey, NewWebhook, Page, Reach, StoreError, Tx, Written};
use testkit::Fleet;
use uuid::Uuid;

use super::rounded;
use crate::Result;

#[derive(Debug, Args)]
pub(crate) struct Walls {
    /// How often each query runs on each side; the sides take turns, and each goes first every other time.
    #[arg(long, default_value_t = 500)]
    pairs: usize,
    /// How many tenants share the database.
    #[arg(long, default_value_t = 20)]
    tenants: u128,
    /// How many keys and clusters each of them has.
    #[arg(long, default_value_t = 60)]
    rows: usize,
}

/// What a page shows.
const PAGE: Page = Page { after: None, limit: 51 };
/// The goal.
const MOST: f64 = 1.10;

#[derive(Debug, Clone, Copy)]
enum Look {
    Clusters,
    Cluster,
    Meshes,
    Mesh,
    Upgrades,
    Upgrade,
    Operations,
    Operation,
    Keys,
    Key,
    Providers,
    Bindings,
    Events,
    Audit,
    Usage,
    Webhooks,
    Webhook,
    Deliveries,
}

const LOOKS: [Look; 18] = [
    Look::Clusters,
    Look::Cluster,
    Look::Meshes,
    Look::Mesh,
    Look::Upgrades,
    Look::Upgrade,
    Look::Operations,
    Look::Operation,
    Look::Keys,
    Look::Key,
    Look::Providers,
    Look::Bindings,
    Look::Events,
    Look::Audit,
    Look::Usage,
    Look::Webhooks,
    Look::Webhook,
    Look::Deliveries,
];

/// One database, and things in it.
pub(super) struct Side {
    pub(super) fleet: Fleet,
    pub(super) cluster: ClusterId,
    pub(super) upgrade: UpgradeId,
    pub(super) operation: OperationId,
    pub(super) key: KeyId,
    pub(super) webhook: WebhookId,
}

pub(crate) fn run(options: &Walls) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let failed = |error: StoreError| error.to_string();
        let with = Side::new(options.tenants, options.rows).await.map_err(failed)?;
        let without = Side::new(options.tenants, options.rows).await.map_err(failed)?;
        without.fleet.db.take_row_security_away().await;
        for side in [&with, &without] {
            side.fleet.db.execute(store::private::SUPERUSER, "VACUUM ANALYZE").await?;
        }
        let mut figures = Map::new();
        let mut worst: f64 = 0.0;
        for look in LOOKS {
            let (on, off) = pairs(options.pairs, &with, &without, look).await.map_err(failed)?;
            let ratio = on.as_secs_f64() / off.as_secs_f64();
            worst = worst.max(ratio);
            let shown =
                json!({ "ratio": rounded(ratio), "microseconds_with": on.as_micros(), "without": off.as_micros() });
            figures.insert(format!("{look:?}").to_lowercase(), shown);
        }
        println!(
            "{:#}",
            json!({ "pairs": options.pairs, "goal": MOST, "worst": rounded(worst), "looks": Value::Object(figures) })
        );
        if worst <= MOST { Ok(()) } else { Err(format!("row-level security costs more than {MOST} somewhere")) }
    })
}

/// The medians of both sides.
async fn pairs(
    count: usize,
    with: &Side,
    without: &Side,
    look: Look,
) -> std::result::Result<(Duration, Duration), StoreError> {
    let (mut on, mut off) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for pair in 0..count {
        if pair % 2 == 0 {
            on.push(with.timed(look).await?);
            off.push(without.timed(look).await?);
        } else {
            off.push(without.timed(look).await?);
            on.push(with.timed(look).await?);
        }
    }
    on.sort();
    off.sort();
    Ok((on[count / 2], off[count / 2]))
}

impl Side {
    /// Every tenant has a mesh with its history, and as many keys and clusters as was asked for.
    pub(super) async fn new(tenants: u128, rows: usize) -> std::result::Result<Self, StoreError> {
        let fleet = Fleet::new().await;
        fill(&fleet, rows).await?;
        for tenant in 2..=tenants {
            let other = fleet.beside(TenantId(Uuid::from_u128(tenant)), &format!("tenant-{tenant}")).await;
            fill(&other, rows).await?;
        }
        let upgrade = fleet.plan_or_known().await;
        let mut tx = fleet.db.api.begin(fleet.db.tenant).await?;
        let cluster = tx.clusters(&Reach::ALL, &Narrow::default(), PAGE).await?[0].id;
        let operation = tx.operations(&Reach::ALL, None, PAGE).await?[0].id;
        let key = tx.keys(false, PAGE).await?[0].id;
        let webhook = tx.webhooks(PAGE).await?[0].id;
        drop(tx);
        Ok(Self { fleet, cluster, upgrade, operation, key, webhook })
    }

    async fn timed(&self, look: Look) -> std::result::Result<Duration, StoreError> {
        let start = Instant::now();
        let mut tx = self.fleet.db.api.begin(self.fleet.db.tenant).await?;
        self.look(&mut tx, look).await?;
        tx.commit().await?;
        Ok(start.elapsed())
    }

    async fn look(&self, tx: &mut Tx<'_>, look: Look) -> std::result::Result<(), StoreError> {
        let (all, every) = (Reach::ALL, Narrow::default());
        match look {
            Look::Clusters => tx.clusters(&all, &every, PAGE).await.map(drop),
            Look::Cluster => tx.cluster(self.cluster).await.map(drop),
            Look::Meshes => tx.meshes(&all, &every, PAGE).await.map(drop),
            Look::Mesh => tx.mesh(self.fleet.mesh).await.map(drop),
            Look::Upgrades => tx.upgrades(self.fleet.mesh, PAGE).await.map(drop),
            Look::Upgrade => tx.upgrade(self.upgrade).await.map(drop),
            Look::Operations => tx.operations(&all, None, PAGE).await.map(drop),
            Look::Operation => tx.operation(self.operation).await.map(drop),
            Look::Keys => tx.keys(false, PAGE).await.map(drop),
            Look::Key => tx.key(self.key).await.map(drop),
            Look::Providers => tx.providers(PAGE).await.map(drop),
            Look::Bindings => tx.bindings(None, PAGE).await.map(drop),
            Look::Events => tx.events_after(&all, 0, None, PAGE.limit).await.map(drop),
            Look::Audit => tx.audit_entries(0, PAGE.limit).await.map(drop),
            Look::Usage => tx.own_tenant().await.map(drop),
            Look::Webhooks => tx.webhooks(PAGE).await.map(drop),
            Look::Webhook => tx.webhook(self.webhook).await.map(drop),
            Look::Deliveries => tx.deliveries(self.webhook, None, PAGE.limit).await.map(drop),
        }
    }
}

async fn fill(fleet: &Fleet, rows: usize) -> std::result::Result<(), StoreError> {
    let mut tx = fleet.db.api.begin(fleet.db.tenant).await?;
    for row in 0..rows {
        let now = fleet.clock.now() + SignedDuration::from_secs(1);
        let text = KeyText::generate(fleet.db.tenant, KeyId(fleet.clock.uuid()));
        let digest = text.digest(fleet.db.api.vault());
        let key = NewKey {
            id: text.key,
            name: format!("k{row}"),
            role: Role::Viewer,
            scopes: Vec::new(),
            digest,
            expires_at: None,
        };
        tx.create_key(&key, now).await?;
        let cluster = NewCluster {
            id: ClusterId(fleet.clock.uuid()),
            name: format!("more-{row}"),
            server: format!("https://{row}.example"),
            kubeconfig: b"theirs".to_vec(),
            written: Written::default(),
        };
        tx.create_cluster(&cluster, now).await?;
    }
    let hook =
        NewWebhook { name: "hook".into(), url: "https://hooks.example".into(), kinds: vec!["*".into()], enabled: true };
    let id = WebhookId(fleet.clock.uuid());
    tx.create_webhook(id, &hook, b"a secret", fleet.clock.now()).await?;
    for _ in 0..rows {
        tx.test_webhook(id, fleet.clock.now());
    }
    tx.commit().await
}
