//! What is sealed for a tenant, on a real Postgres: it opens in its own place, with its own tenant's key, and not after
//! that key was erased.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use meshwright_model::Clock;
use meshwright_model::ids::{ClusterId, TenantId, WebhookId};
use meshwright_store::embedded_postgres::SUPERUSER;
use meshwright_store::tenant_keys::{KeyWrapper, MasterKeys, SymmetricKey, WrapError};
use meshwright_store::{
    IssuedCredential, NewCluster, NewWebhook, Sealer, Store, StoreError, UserMetadata,
};
use meshwright_testkit::{ManualClock, TestDb};
use uuid::Uuid;

const SECRET: &[u8] = b"a kubeconfig that nobody may read";

async fn cluster(db: &TestDb, tenant: TenantId, clock: &ManualClock) -> ClusterId {
    let id = ClusterId(clock.new_uuid());
    let name = format!("c-{}", &id.to_string()[30..]);
    let new = NewCluster {
        id,
        name,
        server: "https://c.example".into(),
        kubeconfig: SECRET.into(),
        metadata: UserMetadata::default(),
    };
    let mut tx = db.api.begin(tenant).await.expect("a transaction");
    tx.clusters()
        .create_cluster(&new, clock.now())
        .await
        .expect("a cluster");
    tx.commit().await.expect("a commit");
    id
}

async fn kubeconfig(store: &Store, tenant: TenantId, id: ClusterId) -> Result<Vec<u8>, StoreError> {
    store
        .begin(tenant)
        .await?
        .clusters()
        .cluster_kubeconfig(id)
        .await
}

async fn other_tenant(db: &TestDb, now: Timestamp) -> TenantId {
    let tenant = TenantId(Uuid::from_u128(2));
    db.api
        .create_tenant(tenant, "other", now)
        .await
        .expect("a tenant");
    tenant
}

#[tokio::test]
async fn a_rotated_key_opens_old_and_new_values_in_every_process() {
    let (db, clock) = (TestDb::new().await, ManualClock::default());
    let first = cluster(&db, db.tenant, &clock).await;
    assert_eq!(
        kubeconfig(&db.worker, db.tenant, first)
            .await
            .expect("it opens"),
        SECRET,
        "the worker has the key"
    );
    assert_eq!(
        db.api
            .rotate_tenant_key(db.tenant, clock.now())
            .await
            .expect("a rotation"),
        2
    );
    let second = cluster(&db, db.tenant, &clock).await;
    for id in [first, second] {
        assert_eq!(
            kubeconfig(&db.worker, db.tenant, id)
                .await
                .expect("it opens"),
            SECRET,
            "the worker learns the key"
        );
    }
    // What another process still seals with the former key is taken along before that key is removed.
    let late = {
        let new = NewCluster {
            id: ClusterId(clock.new_uuid()),
            name: "late".into(),
            server: "https://l.example".into(),
            kubeconfig: SECRET.into(),
            metadata: UserMetadata::default(),
        };
        let behind = Store::connect(&db.url("mw_api"), meshwright_testkit::db::test_sealer())
            .await
            .expect("another process");
        let mut tx = behind.begin(db.tenant).await.expect("a transaction");
        db.api
            .rotate_tenant_key(db.tenant, clock.now())
            .await
            .expect("a rotation");
        tx.clusters()
            .create_cluster(&new, clock.now())
            .await
            .expect("a cluster");
        tx.commit().await.expect("a commit");
        new.id
    };
    clock.advance(SignedDuration::from_hours(26));
    assert_eq!(
        db.api
            .rotate_tenant_key(db.tenant, clock.now())
            .await
            .expect("a rotation"),
        4
    );
    for id in [first, second, late] {
        assert_eq!(
            kubeconfig(&db.worker, db.tenant, id)
                .await
                .expect("it opens"),
            SECRET
        );
    }
    assert_eq!(
        db.execute(SUPERUSER, "DELETE FROM tenant_keys WHERE version < 3")
            .await,
        Ok(0),
        "they are gone"
    );
}

/// A rotation seals every lasting secret again before the key that it was sealed with is removed.
#[tokio::test]
async fn submitted_and_former_kubeconfigs_and_webhooks_secrets_follow_a_rotated_key() {
    let (db, clock) = (TestDb::new().await, ManualClock::default());
    let (id, webhook) = (
        cluster(&db, db.tenant, &clock).await,
        WebhookId(clock.new_uuid()),
    );
    let new = NewWebhook {
        name: "w".into(),
        url: "https://w.example".into(),
        kinds: Vec::new(),
        enabled: true,
    };
    let mut tx = db.begin().await;
    for serial in [1, 2] {
        let issued = IssuedCredential {
            uid: "uid".into(),
            kubernetes_version: "v1.33.1".into(),
            server: "https://c.example".into(),
            kubeconfig: format!("ours-{serial}").into_bytes(),
            serial,
            issued_at: clock.now(),
            expires_at: clock.now(),
        };
        tx.clusters()
            .store_renewed_credential(id, &issued, Duration::ZERO, clock.now())
            .await
            .expect("a credential");
    }
    tx.clusters()
        .submit_kubeconfig(id, Some(b"another"))
        .await
        .expect("a kubeconfig");
    tx.webhooks()
        .create_webhook(webhook, &new, b"former", clock.now())
        .await
        .expect("a webhook");
    let until = clock.now() + SignedDuration::from_hours(100);
    tx.webhooks()
        .rotate_webhook_secret(webhook, b"present", until)
        .await
        .expect("another secret");
    tx.commit().await.expect("a commit");
    db.api
        .rotate_tenant_key(db.tenant, clock.now())
        .await
        .expect("a rotation");
    clock.advance(SignedDuration::from_hours(26));
    db.api
        .rotate_tenant_key(db.tenant, clock.now())
        .await
        .expect("a rotation");
    assert_eq!(
        db.execute(SUPERUSER, "DELETE FROM tenant_keys WHERE version < 2")
            .await,
        Ok(0),
        "they are gone"
    );
    let mut tx = db.worker.begin(db.tenant).await.expect("a transaction");
    assert_eq!(
        tx.clusters()
            .submitted_kubeconfig(id)
            .await
            .expect("it opens")
            .expect("it is there"),
        b"another"
    );
    assert_eq!(
        tx.clusters()
            .former_kubeconfig(id)
            .await
            .expect("it opens")
            .expect("it is there"),
        b"ours-1"
    );
    let mail = tx
        .deliveries()
        .next_delivery_batch(webhook, 1, clock.now())
        .await
        .expect("it opens")
        .expect("it is switched on");
    assert_eq!(mail.secrets, [b"present".to_vec(), b"former".to_vec()]);
}

#[tokio::test]
async fn a_value_that_is_copied_to_another_row_or_tenant_does_not_open() {
    let (db, clock) = (TestDb::new().await, ManualClock::default());
    let other = other_tenant(&db, clock.now()).await;
    let (victim, twin) = (
        cluster(&db, db.tenant, &clock).await,
        cluster(&db, db.tenant, &clock).await,
    );
    let foreign = cluster(&db, other, &clock).await;
    for (id, tenant) in [(twin, db.tenant), (foreign, other)] {
        let copy = format!(
            "UPDATE clusters SET kubeconfig = (SELECT kubeconfig FROM clusters WHERE cluster_id = '{}') WHERE cluster_id = '{}'",
            victim.0, id.0
        );
        assert_eq!(db.execute(SUPERUSER, &copy).await, Ok(1));
        assert!(matches!(
            kubeconfig(&db.api, tenant, id).await,
            Err(StoreError::UnsealFailed)
        ));
    }
    assert!(kubeconfig(&db.api, db.tenant, victim).await.is_ok());
}

#[tokio::test]
async fn an_erased_tenant_is_lost_and_the_others_are_not() {
    let (db, clock) = (TestDb::new().await, ManualClock::default());
    let other = other_tenant(&db, clock.now()).await;
    let (lost, kept) = (
        cluster(&db, db.tenant, &clock).await,
        cluster(&db, other, &clock).await,
    );
    db.api
        .erase_tenant_keys(db.tenant)
        .await
        .expect("an erasure");
    assert!(matches!(
        kubeconfig(&db.api, db.tenant, lost).await,
        Err(StoreError::KeysErased)
    ));
    assert!(kubeconfig(&db.api, other, kept).await.is_ok());
    // Nothing brings a key back by accident.
    let mut tx = db.begin().await;
    let new = NewCluster {
        id: ClusterId(clock.new_uuid()),
        name: "new".into(),
        server: String::new(),
        kubeconfig: SECRET.into(),
        metadata: UserMetadata::default(),
    };
    assert!(matches!(
        tx.clusters().create_cluster(&new, clock.now()).await,
        Err(StoreError::KeysErased)
    ));
}

#[tokio::test]
async fn a_master_key_is_changed_without_a_pause() {
    let (db, clock) = (TestDb::new().await, ManualClock::default());
    let connect = async |keys: MasterKeys| {
        let vault = Sealer::with_key_wrapper([42; 32], Arc::new(keys));
        Store::connect(&db.url("mw_worker"), vault)
            .await
            .expect("a connection")
    };
    let (old, new) = ([1; 32], [2; 32]);
    let tenant = TenantId(Uuid::from_u128(3));
    let before = connect(MasterKeys::new(old, Vec::new())).await;
    before
        .create_tenant(tenant, "third", clock.now())
        .await
        .expect("a tenant");
    let new_only = async || {
        connect(MasterKeys::new(new, Vec::new()))
            .await
            .begin(tenant)
            .await
            .map(drop)
    };
    assert!(
        matches!(new_only().await, Err(StoreError::KeyService(_))),
        "it was wrapped with the old one"
    );
    let both = connect(MasterKeys::new(new, vec![old])).await;
    assert_eq!(both.rewrap_tenant_keys(tenant).await.expect("a rewrap"), 1);
    let wrapped = format!(
        "SELECT wrapped::text FROM tenant_keys WHERE tenant_id = '{}'",
        tenant.0
    );
    let once = db.query_text(SUPERUSER, &wrapped).await;
    assert_eq!(both.rewrap_tenant_keys(tenant).await.expect("a rewrap"), 1);
    assert_ne!(
        db.query_text(SUPERUSER, &wrapped).await,
        once,
        "a key service may have another version of the same key"
    );
    assert!(new_only().await.is_ok(), "the old line can be taken out");
}

/// What an earlier version sealed with the server's own key is sealed with the tenant's when a worker starts.
#[tokio::test]
async fn tenants_from_before_there_were_keys_get_one_and_lose_nothing() {
    let (db, clock) = (TestDb::new().await, ManualClock::default());
    let id = cluster(&db, db.tenant, &clock).await;
    let old =
        meshwright_testkit::db::test_sealer().seal(&format!("clusters.kubeconfig/{id}"), SECRET);
    let digits: String = old
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    let before = format!(
        "DO $$ BEGIN DELETE FROM tenant_keys WHERE tenant_id = '{0}'; UPDATE tenant_heads SET needs_key = true WHERE tenant_id = '{0}';
         UPDATE clusters SET kubeconfig = decode('{digits}', 'hex'); END $$",
        db.tenant.0
    );
    db.execute(SUPERUSER, &before)
        .await
        .expect("a database of an earlier version");
    let fresh = Store::connect(&db.url("mw_worker"), meshwright_testkit::db::test_sealer())
        .await
        .expect("a worker that starts");
    assert!(matches!(
        kubeconfig(&fresh, db.tenant, id).await,
        Err(StoreError::UnsealFailed | StoreError::KeysErased)
    ));
    assert_eq!(
        fresh.backfill_tenant_keys(clock.now()).await.expect("keys"),
        1
    );
    assert_eq!(
        fresh
            .backfill_tenant_keys(clock.now())
            .await
            .expect("nothing left"),
        0
    );
    assert_eq!(
        kubeconfig(&fresh, db.tenant, id).await.expect("it opens"),
        SECRET
    );
}

/// Counts how often it is asked, like a key service that charges for it.
#[derive(Debug, Default)]
struct Counted {
    asked: AtomicUsize,
}

#[async_trait]
impl KeyWrapper for Counted {
    fn name(&self) -> String {
        "counted".into()
    }

    async fn wrap_key(&self, key: &SymmetricKey, context: &str) -> Result<Vec<u8>, WrapError> {
        MasterKeys::new([5; 32], Vec::new())
            .wrap_key(key, context)
            .await
    }

    async fn unwrap_key(&self, wrapped: &[u8], context: &str) -> Result<SymmetricKey, WrapError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        MasterKeys::new([5; 32], Vec::new())
            .unwrap_key(wrapped, context)
            .await
    }
}

#[tokio::test]
async fn a_key_service_is_asked_once_however_much_is_opened() {
    let (mut db, clock) = (TestDb::new().await, ManualClock::default());
    let keeper = Arc::new(Counted::default());
    let vault = Sealer::with_key_wrapper([42; 32], keeper.clone());
    db.api = Store::connect(&db.url("mw_api"), vault)
        .await
        .expect("a connection");
    let tenant = TenantId(Uuid::from_u128(4));
    db.api
        .create_tenant(tenant, "fourth", clock.now())
        .await
        .expect("a tenant");
    let ids = [
        cluster(&db, tenant, &clock).await,
        cluster(&db, tenant, &clock).await,
    ];
    for id in ids.into_iter().cycle().take(6) {
        assert_eq!(
            kubeconfig(&db.api, tenant, id).await.expect("it opens"),
            SECRET
        );
    }
    assert_eq!(keeper.asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_wrapped_key_that_is_copied_to_another_tenant_or_version_does_not_unwrap() {
    let (db, clock) = (TestDb::new().await, ManualClock::default());
    let other = other_tenant(&db, clock.now()).await;
    let foreign = format!(
        "UPDATE tenant_keys SET wrapped = (SELECT wrapped FROM tenant_keys WHERE tenant_id = '{}') WHERE tenant_id = '{}'",
        db.tenant.0, other.0
    );
    assert_eq!(db.execute(SUPERUSER, &foreign).await, Ok(1));
    let fresh = async |tenant| {
        let store = Store::connect(&db.url("mw_api"), meshwright_testkit::db::test_sealer())
            .await
            .expect("a process that starts");
        store.begin(tenant).await.map(drop)
    };
    assert!(matches!(fresh(other).await, Err(StoreError::KeyService(_))));
    assert!(fresh(db.tenant).await.is_ok());
    let later = format!(
        "UPDATE tenant_keys SET version = 7 WHERE tenant_id = '{}'",
        db.tenant.0
    );
    assert_eq!(db.execute(SUPERUSER, &later).await, Ok(1));
    assert!(matches!(
        fresh(db.tenant).await,
        Err(StoreError::KeyService(_))
    ));
}
