//! Events reach webhooks: signed, in order, again and again until they arrive or are given up.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::SignedDuration;
use meshwright_model::Clock;
use meshwright_model::ids::{OperationId, TenantId, WebhookId};
use meshwright_model::operation::OperationKind;
use meshwright_model::webhook::{DeliveryError, DeliveryState};
use meshwright_store::{Delivery, DeliveryAttempt, NewOperation, NewWebhook, Webhook, hmac_sha256};
use meshwright_testkit::Fleet;
use meshwright_worker::{Engine, WebhookSender};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// A message as it arrived.
#[derive(Debug, Clone)]
struct Message {
    url: String,
    id: String,
    at: String,
    signatures: Vec<String>,
    text: String,
    body: Value,
}

/// Addresses that answer what they are told to, and with 200 otherwise.
#[derive(Debug, Default)]
struct Addresses {
    arrived: Mutex<Vec<Message>>,
    answers: Mutex<VecDeque<DeliveryAttempt>>,
}

#[async_trait]
impl WebhookSender for Addresses {
    async fn send_message(
        &self,
        url: &str,
        headers: &[(&'static str, String)],
        body: Vec<u8>,
    ) -> DeliveryAttempt {
        let header = |wanted: &str| {
            headers
                .iter()
                .find(|(name, _)| *name == wanted)
                .expect(wanted)
                .1
                .clone()
        };
        let text = String::from_utf8(body).expect("text");
        let message = Message {
            url: url.into(),
            id: header("webhook-id"),
            at: header("webhook-timestamp"),
            signatures: header("webhook-signature")
                .split(' ')
                .map(str::to_owned)
                .collect(),
            body: serde_json::from_str(&text).expect("JSON"),
            text,
        };
        self.arrived.lock().expect("no panic").push(message);
        self.answers
            .lock()
            .expect("no panic")
            .pop_front()
            .unwrap_or(DeliveryAttempt::Answered(200))
    }
}

struct Stage {
    fleet: Fleet,
    engine: Engine,
    addresses: Arc<Addresses>,
}

const SECRET: &[u8] = b"a secret of thirty-two bytes, so";

impl Stage {
    async fn new() -> Self {
        let fleet = Fleet::new().await;
        let addresses = Arc::new(Addresses::default());
        let engine = fleet
            .build_worker("worker", Duration::from_secs(30))
            .with_webhook_sender(addresses.clone());
        Self {
            fleet,
            engine,
            addresses,
        }
    }

    async fn hook(&self, name: &str, kinds: &[&str]) -> WebhookId {
        let id = WebhookId(self.fleet.clock.new_uuid());
        let new = NewWebhook {
            name: name.into(),
            url: format!("https://{name}.example/hook"),
            kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
            enabled: true,
        };
        let mut tx = self.fleet.db.begin_beside_workers().await;
        tx.webhooks()
            .create_webhook(id, &new, SECRET, self.fleet.clock.now())
            .await
            .expect("a webhook");
        tx.commit().await.expect("a commit");
        id
    }

    /// Something happens: an operation begins.
    async fn event(&self) {
        happens(&self.fleet).await;
    }

    /// Asks for a test message.
    async fn test(&self, id: WebhookId) {
        let mut tx = self.fleet.db.begin_beside_workers().await;
        tx.webhooks().push_test_event(id, self.fleet.clock.now());
        tx.commit().await.expect("a commit");
    }

    async fn deliver(&self) {
        while self
            .engine
            .deliver_due()
            .await
            .expect("the database answers")
        {}
    }

    /// As if the next attempt of everything were due.
    async fn later(&self) {
        let due = "DO $$ BEGIN UPDATE deliveries SET due_at = now() WHERE state = 'pending'; UPDATE webhook_queue SET due_at = now() WHERE due_at IS NOT NULL; END $$";
        self.fleet
            .db
            .execute(meshwright_store::embedded_postgres::SUPERUSER, due)
            .await
            .expect("everything is due");
    }

    fn answer(&self, attempts: impl IntoIterator<Item = DeliveryAttempt>) {
        self.addresses
            .answers
            .lock()
            .expect("no panic")
            .extend(attempts);
    }

    fn arrived(&self) -> Vec<Message> {
        std::mem::take(&mut *self.addresses.arrived.lock().expect("no panic"))
    }

    async fn deliveries(&self, id: WebhookId) -> Vec<Delivery> {
        let mut tx = self.fleet.db.begin_beside_workers().await;
        tx.deliveries()
            .list_deliveries(id, None, 100)
            .await
            .expect("deliveries")
    }

    async fn webhook(&self, id: WebhookId) -> Webhook {
        let mut tx = self.fleet.db.begin_beside_workers().await;
        tx.webhooks().get_webhook(id).await.expect("a webhook")
    }

    async fn switch(&self, id: WebhookId, enabled: bool) {
        let seen = self.webhook(id).await;
        let new = NewWebhook {
            name: seen.name.clone(),
            url: seen.url.clone(),
            kinds: seen.kinds.clone(),
            enabled,
        };
        let mut tx = self.fleet.db.begin_beside_workers().await;
        tx.webhooks()
            .update_webhook(&seen, &new)
            .await
            .expect("a change");
        tx.commit().await.expect("a commit");
    }
}

async fn happens(fleet: &Fleet) {
    let new = NewOperation {
        id: OperationId(fleet.clock.new_uuid()),
        kind: OperationKind::RegisterCluster,
        mesh: None,
        cluster: None,
        upgrade: None,
        arguments: Value::Null,
        due_in: Duration::ZERO,
    };
    let mut tx = fleet.db.begin_beside_workers().await;
    tx.operations()
        .create_operation(&new, fleet.clock.now())
        .await
        .expect("an operation");
    tx.commit().await.expect("a commit");
}

/// What Standard Webhooks asks a receiver to compute.
fn signed(secret: &[u8], message: &Message) -> String {
    let content = format!("{}.{}.{}", message.id, message.at, message.text);
    format!(
        "v1,{}",
        STANDARD.encode(hmac_sha256(secret, content.as_bytes()))
    )
}

#[tokio::test]
async fn messages_are_signed_and_go_where_their_kind_is_wanted_in_the_order_of_events() {
    let stage = Stage::new().await;
    let (all, some) = (
        stage.hook("all", &["*"]).await,
        stage.hook("some", &["operation.*"]).await,
    );
    let none = stage.hook("none", &["upgrade.state"]).await;
    stage.event().await;
    stage.test(all).await;
    stage.deliver().await;
    let arrived = stage.arrived();
    let to = |name: &str| {
        arrived
            .iter()
            .filter(|message| message.url.contains(name))
            .collect::<Vec<_>>()
    };
    assert_eq!(to("all").len(), 2, "{arrived:?}");
    assert_eq!(
        to("all")
            .iter()
            .map(|message| &message.body["type"])
            .collect::<Vec<_>>(),
        ["operation.state", "webhook.test"]
    );
    assert!(to("all")[0].body["data"]["seq"].as_i64() < to("all")[1].body["data"]["seq"].as_i64());
    assert_eq!(
        to("some")
            .iter()
            .map(|message| &message.body["type"])
            .collect::<Vec<_>>(),
        ["operation.state"]
    );
    assert!(to("none").is_empty() && stage.deliveries(none).await.is_empty());
    for message in &arrived {
        assert_eq!(message.signatures, [signed(SECRET, message)]);
        assert_eq!(message.at, stage.fleet.clock.now().as_second().to_string());
    }
    assert_eq!(
        stage.deliveries(some).await[0].state,
        DeliveryState::Delivered
    );
    assert_eq!(
        stage.webhook(all).await.delivered_at,
        Some(stage.fleet.clock.now())
    );
    stage.deliver().await;
    assert!(stage.arrived().is_empty(), "once is enough");
}

#[tokio::test]
async fn what_does_not_arrive_is_sent_again_with_the_same_name_and_holds_up_nobody_else() {
    let stage = Stage::new().await;
    let (slow, fine) = (
        stage.hook("slow", &["webhook.test"]).await,
        stage.hook("fine", &["webhook.test"]).await,
    );
    stage.test(slow).await;
    stage.test(slow).await;
    stage.answer([DeliveryAttempt::Failed(DeliveryError::TooSlow)]);
    stage.deliver().await;
    assert_eq!(
        stage.arrived().len(),
        1,
        "the second message waits behind the first"
    );
    stage.test(fine).await;
    stage.deliver().await;
    assert_eq!(stage.arrived().len(), 1, "the other webhook's own");
    stage.later().await;
    stage.answer([DeliveryAttempt::Answered(503)]);
    stage.deliver().await;
    stage.later().await;
    stage.deliver().await;
    let names: Vec<String> = stage
        .arrived()
        .into_iter()
        .map(|message| message.id)
        .collect();
    assert_eq!(names.len(), 3);
    assert_eq!(names[0], names[1]);
    assert_ne!(names[1], names[2]);
    let first = &stage.deliveries(slow).await[1];
    assert_eq!(
        (first.state, first.attempts, first.last_status),
        (DeliveryState::Delivered, 3, Some(200))
    );
}

/// Addresses of one tenant never answer; those of others do.
#[derive(Debug, Default)]
struct HangingAddresses {
    arrived: Notify,
}

#[async_trait]
impl WebhookSender for HangingAddresses {
    async fn send_message(
        &self,
        url: &str,
        _headers: &[(&'static str, String)],
        _body: Vec<u8>,
    ) -> DeliveryAttempt {
        if url.contains("hangs") {
            std::future::pending::<()>().await;
        }
        self.arrived.notify_one();
        DeliveryAttempt::Answered(200)
    }
}

#[tokio::test]
async fn many_webhooks_of_one_tenant_that_never_answer_leave_senders_for_another_tenants() {
    let hog = Stage::new().await;
    let other = hog
        .fleet
        .for_new_tenant(TenantId(Uuid::from_u128(2)), "other")
        .await;
    // Many more than there are senders.
    for number in 0..20 {
        let hook = hog
            .hook(&format!("hangs-{number}"), &["webhook.test"])
            .await;
        hog.test(hook).await;
    }
    let addresses = Arc::new(HangingAddresses::default());
    let worker = hog
        .fleet
        .build_shared_worker(&other, "worker", Duration::from_secs(30))
        .with_webhook_sender(addresses.clone());
    let working =
        tokio::spawn(async move { worker.run_until_stopped(CancellationToken::new()).await });
    let taken = "SELECT count(*)::text FROM webhook_queue WHERE due_at > now()";
    while hog.fleet.db.query_text("mw_worker", taken).await == ["0"] {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let other = Stage {
        engine: other.build_worker("unused", Duration::from_secs(30)),
        fleet: other,
        addresses: Arc::default(),
    };
    let hook = other.hook("fine", &["webhook.test"]).await;
    other.test(hook).await;
    tokio::time::timeout(Duration::from_secs(30), addresses.arrived.notified())
        .await
        .expect("the other's arrives");
    working.abort();
}

#[tokio::test]
async fn after_ten_attempts_a_message_is_given_up_and_its_webhook_switched_off_until_somebody_switches_it_on()
 {
    let stage = Stage::new().await;
    let id = stage.hook("dead", &["webhook.test"]).await;
    stage.test(id).await;
    stage.answer((0..10).map(|_| DeliveryAttempt::Failed(DeliveryError::Unreachable)));
    for attempt in 1..=10 {
        stage.later().await;
        stage.deliver().await;
        assert_eq!(stage.arrived().len(), 1, "attempt {attempt}");
    }
    let delivery = &stage.deliveries(id).await[0];
    assert_eq!(
        (delivery.state, delivery.attempts, delivery.due_at),
        (DeliveryState::Failed, 10, None)
    );
    assert_eq!(delivery.last_error.as_deref(), Some("unreachable"));
    let hook = stage.webhook(id).await;
    assert_eq!(
        (hook.enabled, hook.disabled_reason.as_deref()),
        (false, Some("failing"))
    );
    stage.later().await;
    stage.deliver().await;
    assert!(stage.arrived().is_empty());
    stage.switch(id, true).await;
    assert_eq!(stage.webhook(id).await.disabled_reason, None);
    let mut tx = stage.fleet.db.begin_beside_workers().await;
    tx.deliveries()
        .requeue_delivery(id, delivery.event.seq)
        .await
        .expect("once more");
    tx.commit().await.expect("a commit");
    stage.deliver().await;
    assert_eq!(stage.arrived().len(), 1);
    assert_eq!(
        stage.deliveries(id).await[0].state,
        DeliveryState::Delivered
    );
}

#[tokio::test]
async fn an_address_that_is_gone_is_told_nothing_more() {
    let stage = Stage::new().await;
    let (gone, watcher) = (
        stage.hook("gone", &["*"]).await,
        stage.hook("watcher", &["webhook.disabled"]).await,
    );
    stage.test(gone).await;
    stage.answer([DeliveryAttempt::Answered(410)]);
    stage.deliver().await;
    assert_eq!(
        stage.webhook(gone).await.disabled_reason.as_deref(),
        Some("gone")
    );
    let told = stage.arrived();
    assert_eq!(
        told.last()
            .map(|message| message.body["data"]["body"].clone()),
        Some(json!({ "reason": "gone", "webhook_id": gone.to_string() }))
    );
    stage.event().await;
    assert_eq!(
        stage.deliveries(gone).await.len(),
        1,
        "what happens while it is off is not kept for it"
    );
    assert_eq!(stage.deliveries(watcher).await.len(), 1);
}

#[tokio::test]
async fn while_a_secret_is_rotated_messages_carry_both_signatures() {
    let stage = Stage::new().await;
    let id = stage.hook("hook", &["webhook.test"]).await;
    let newer: &[u8] = b"another secret of thirty-two byt";
    let until = stage.fleet.clock.now() + SignedDuration::from_hours(1);
    let mut tx = stage.fleet.db.begin_beside_workers().await;
    tx.webhooks()
        .rotate_webhook_secret(id, newer, until)
        .await
        .expect("a rotation");
    tx.commit().await.expect("a commit");
    stage.test(id).await;
    stage.deliver().await;
    let message = stage.arrived().remove(0);
    assert_eq!(
        message.signatures,
        [signed(newer, &message), signed(SECRET, &message)]
    );
    stage.fleet.clock.advance(SignedDuration::from_hours(1));
    stage.test(id).await;
    stage.deliver().await;
    let message = stage.arrived().remove(0);
    assert_eq!(message.signatures, [signed(newer, &message)]);
}

#[tokio::test]
async fn nobody_is_told_what_happens_to_others() {
    let stage = Stage::new().await;
    let other = stage
        .fleet
        .for_new_tenant(
            meshwright_model::ids::TenantId(uuid::Uuid::from_u128(9)),
            "other",
        )
        .await;
    stage.hook("mine", &["*"]).await;
    happens(&other).await;
    stage.deliver().await;
    assert!(stage.arrived().is_empty());
}
