//! Measures the cost of row-level security for queries that filter by tenant anyway: each list and
//! each single read, in a transaction as the API begins it, on two databases that differ in nothing
//! else.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::Args;
use jiff::SignedDuration;
use meshwright_model::Clock;
use meshwright_model::access::Role;
use meshwright_model::ids::{ClusterId, KeyId, OperationId, TenantId, UpgradeId, WebhookId};
use meshwright_store::{
    AccessFilter, ApiKeyToken, ListFilter, NewApiKey, NewCluster, NewWebhook, Page, StoreError, Tx,
    UserMetadata,
};
use meshwright_testkit::Fleet;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::round_to_thousandths;
use crate::Result;

#[derive(Debug, Args)]
pub(crate) struct RlsCostOptions {
    /// Number of runs of each query on each side; the sides take turns, and each goes first every
    /// other time.
    #[arg(long, default_value_t = 500)]
    pairs: usize,
    /// Number of tenants that share the database.
    #[arg(long, default_value_t = 20)]
    tenants: u128,
    /// Number of API keys and of clusters that each tenant has.
    #[arg(long, default_value_t = 60)]
    rows: usize,
}

/// First page of a list, with one entry more than a page shows.
const FIRST_PAGE: Page = Page {
    after: None,
    limit: 51,
};
/// Largest allowed ratio of the time with row-level security to the time without it.
const MAX_RLS_SLOWDOWN: f64 = 1.10;

/// Query whose time is measured.
#[derive(Debug, Clone, Copy)]
enum ReadQuery {
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

const READ_QUERIES: [ReadQuery; 18] = [
    ReadQuery::Clusters,
    ReadQuery::Cluster,
    ReadQuery::Meshes,
    ReadQuery::Mesh,
    ReadQuery::Upgrades,
    ReadQuery::Upgrade,
    ReadQuery::Operations,
    ReadQuery::Operation,
    ReadQuery::Keys,
    ReadQuery::Key,
    ReadQuery::Providers,
    ReadQuery::Bindings,
    ReadQuery::Events,
    ReadQuery::Audit,
    ReadQuery::Usage,
    ReadQuery::Webhooks,
    ReadQuery::Webhook,
    ReadQuery::Deliveries,
];

/// One database, with the ids of objects in it.
pub(super) struct BenchDatabase {
    pub(super) fleet: Fleet,
    pub(super) cluster: ClusterId,
    pub(super) upgrade: UpgradeId,
    pub(super) operation: OperationId,
    pub(super) key: KeyId,
    pub(super) webhook: WebhookId,
}

pub(crate) fn run(options: &RlsCostOptions) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let with = BenchDatabase::new(options.tenants, options.rows).await?;
        let without = BenchDatabase::new(options.tenants, options.rows).await?;
        without.fleet.db.disable_row_security().await;
        for side in [&with, &without] {
            side.fleet.db.execute(meshwright_store::embedded_postgres::SUPERUSER, "VACUUM ANALYZE").await.map_err(anyhow::Error::msg)?;
        }
        let mut figures = Map::new();
        let mut worst: f64 = 0.0;
        for look in READ_QUERIES {
            let (on, off) = measure_pairs(options.pairs, &with, &without, look).await?;
            let ratio = on.as_secs_f64() / off.as_secs_f64();
            worst = worst.max(ratio);
            let shown =
                json!({ "ratio": round_to_thousandths(ratio), "microseconds_with": on.as_micros(), "without": off.as_micros() });
            figures.insert(format!("{look:?}").to_lowercase(), shown);
        }
        println!(
            "{:#}",
            json!({ "pairs": options.pairs, "goal": MAX_RLS_SLOWDOWN, "worst": round_to_thousandths(worst), "looks": Value::Object(figures) })
        );
        if worst <= MAX_RLS_SLOWDOWN { Ok(()) } else { Err(anyhow!("row-level security costs more than {MAX_RLS_SLOWDOWN} somewhere")) }
    })
}

/// Returns the median times of both sides.
async fn measure_pairs(
    count: usize,
    with: &BenchDatabase,
    without: &BenchDatabase,
    look: ReadQuery,
) -> std::result::Result<(Duration, Duration), StoreError> {
    let (mut on, mut off) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for pair in 0..count {
        if pair % 2 == 0 {
            on.push(with.measure_query(look).await?);
            off.push(without.measure_query(look).await?);
        } else {
            off.push(without.measure_query(look).await?);
            on.push(with.measure_query(look).await?);
        }
    }
    on.sort();
    off.sort();
    Ok((on[count / 2], off[count / 2]))
}

impl BenchDatabase {
    /// Creates a database in which every tenant has a mesh with its history, and the wanted numbers
    /// of keys and clusters.
    pub(super) async fn new(tenants: u128, rows: usize) -> std::result::Result<Self, StoreError> {
        let fleet = Fleet::new().await;
        fill_tenant(&fleet, rows).await?;
        for tenant in 2..=tenants {
            let other = fleet
                .for_new_tenant(
                    TenantId(Uuid::from_u128(tenant)),
                    &format!("tenant-{tenant}"),
                )
                .await;
            fill_tenant(&other, rows).await?;
        }
        let upgrade = fleet.get_or_plan_upgrade().await;
        let mut tx = fleet.db.api.begin(fleet.db.tenant).await?;
        let cluster = tx
            .clusters()
            .list_clusters(&AccessFilter::ALL, &ListFilter::default(), FIRST_PAGE)
            .await?[0]
            .id;
        let operation = tx
            .operations()
            .list_operations(&AccessFilter::ALL, None, FIRST_PAGE)
            .await?[0]
            .id;
        let key = tx.api_keys().list_api_keys(false, FIRST_PAGE).await?[0].id;
        let webhook = tx.webhooks().list_webhooks(FIRST_PAGE).await?[0].id;
        drop(tx);
        Ok(Self {
            fleet,
            cluster,
            upgrade,
            operation,
            key,
            webhook,
        })
    }

    async fn measure_query(&self, look: ReadQuery) -> std::result::Result<Duration, StoreError> {
        let start = Instant::now();
        let mut tx = self.fleet.db.api.begin(self.fleet.db.tenant).await?;
        self.run_query(&mut tx, look).await?;
        tx.commit().await?;
        Ok(start.elapsed())
    }

    async fn run_query(
        &self,
        tx: &mut Tx<'_>,
        look: ReadQuery,
    ) -> std::result::Result<(), StoreError> {
        let (all, every) = (AccessFilter::ALL, ListFilter::default());
        match look {
            ReadQuery::Clusters => tx
                .clusters()
                .list_clusters(&all, &every, FIRST_PAGE)
                .await
                .map(drop),
            ReadQuery::Cluster => tx.clusters().get_cluster(self.cluster).await.map(drop),
            ReadQuery::Meshes => tx
                .meshes()
                .list_meshes(&all, &every, FIRST_PAGE)
                .await
                .map(drop),
            ReadQuery::Mesh => tx.meshes().get_mesh(self.fleet.mesh).await.map(drop),
            ReadQuery::Upgrades => tx
                .upgrades()
                .list_upgrades(self.fleet.mesh, FIRST_PAGE)
                .await
                .map(drop),
            ReadQuery::Upgrade => tx.upgrades().get_upgrade(self.upgrade).await.map(drop),
            ReadQuery::Operations => tx
                .operations()
                .list_operations(&all, None, FIRST_PAGE)
                .await
                .map(drop),
            ReadQuery::Operation => tx
                .operations()
                .get_operation(self.operation)
                .await
                .map(drop),
            ReadQuery::Keys => tx
                .api_keys()
                .list_api_keys(false, FIRST_PAGE)
                .await
                .map(drop),
            ReadQuery::Key => tx.api_keys().get_api_key(self.key).await.map(drop),
            ReadQuery::Providers => tx
                .identities()
                .list_identity_providers(FIRST_PAGE)
                .await
                .map(drop),
            ReadQuery::Bindings => tx
                .identities()
                .list_role_bindings(None, FIRST_PAGE)
                .await
                .map(drop),
            ReadQuery::Events => tx
                .events()
                .list_events_after(&all, 0, None, FIRST_PAGE.limit)
                .await
                .map(drop),
            ReadQuery::Audit => tx
                .audit()
                .list_audit_entries(0, FIRST_PAGE.limit)
                .await
                .map(drop),
            ReadQuery::Usage => tx.tenants().current_tenant().await.map(drop),
            ReadQuery::Webhooks => tx.webhooks().list_webhooks(FIRST_PAGE).await.map(drop),
            ReadQuery::Webhook => tx.webhooks().get_webhook(self.webhook).await.map(drop),
            ReadQuery::Deliveries => tx
                .deliveries()
                .list_deliveries(self.webhook, None, FIRST_PAGE.limit)
                .await
                .map(drop),
        }
    }
}

async fn fill_tenant(fleet: &Fleet, rows: usize) -> std::result::Result<(), StoreError> {
    let mut tx = fleet.db.api.begin(fleet.db.tenant).await?;
    for row in 0..rows {
        let now = fleet.clock.now() + SignedDuration::from_secs(1);
        let text = ApiKeyToken::generate(fleet.db.tenant, KeyId(fleet.clock.new_uuid()));
        let digest = text.secret_digest(fleet.db.api.sealer());
        let key = NewApiKey {
            id: text.key,
            name: format!("k{row}"),
            role: Role::Viewer,
            scopes: Vec::new(),
            digest,
            expires_at: None,
        };
        tx.api_keys().create_api_key(&key, now).await?;
        let cluster = NewCluster {
            id: ClusterId(fleet.clock.new_uuid()),
            name: format!("more-{row}"),
            server: format!("https://{row}.example"),
            kubeconfig: b"theirs".to_vec(),
            metadata: UserMetadata::default(),
        };
        tx.clusters().create_cluster(&cluster, now).await?;
    }
    let hook = NewWebhook {
        name: "hook".into(),
        url: "https://hooks.example".into(),
        kinds: vec!["*".into()],
        enabled: true,
    };
    let id = WebhookId(fleet.clock.new_uuid());
    tx.webhooks()
        .create_webhook(id, &hook, b"a secret", fleet.clock.now())
        .await?;
    for _ in 0..rows {
        tx.webhooks().push_test_event(id, fleet.clock.now());
    }
    tx.commit().await
}
