//! What is sent to webhooks: written with the events themselves, taken by workers, kept as long as the events are.

use std::time::Duration;

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use model::backoff::retry_delay;
use model::ids::{MeshId, OperationId, TenantId, UpgradeId, WebhookId};
use model::webhook::{self, delivery_retry_delay};

use crate::queue::to_uuids;
use crate::webhooks::secret_associated_data;
use crate::{Event, NewEvent, Store, StoreError, Tx, retry_on_conflict};

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// It is tried again.
    Pending,
    /// It was accepted.
    Delivered,
    /// It was given up.
    Failed,
}

impl DeliveryState {
    /// The written form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }
}

/// One event on its way to one webhook.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The event.
    pub event: Event,
    /// Where it stands.
    pub state: DeliveryState,
    /// How often it was tried.
    pub attempts: i32,
    /// When it is tried next.
    pub due_at: Option<Timestamp>,
    /// When it was last tried.
    pub last_at: Option<Timestamp>,
    /// With which status that was answered.
    pub last_status: Option<i32>,
    /// Why it was not.
    pub last_error: Option<String>,
}

/// What came of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryAttempt {
    /// It was answered with a status.
    Answered(u16),
    /// It was not, for this reason: a stable word.
    Failed(&'static str),
}

impl DeliveryAttempt {
    /// Standard Webhooks: any 2xx accepts a message.
    pub fn is_accepted(&self) -> bool {
        matches!(self, Self::Answered(200..300))
    }
}

/// What is to be sent to a webhook now.
#[derive(Debug)]
pub struct DeliveryBatch {
    /// Where to.
    pub url: String,
    /// What it is signed with: the present secret, and the former one while that is good.
    pub secrets: Vec<Vec<u8>>,
    /// What, oldest first.
    pub deliveries: Vec<Delivery>,
}

impl Store {
    /// Takes the webhook that has been waiting the longest for something to be sent, and keeps it from others for a while.
    /// Webhooks of the tenants in `without` are left out.
    ///
    /// # Errors
    /// The database failed.
    pub async fn claim_webhook(
        &self,
        lease: Duration,
        excluded: &[TenantId],
    ) -> Result<Option<(TenantId, WebhookId)>, StoreError> {
        let excluded = to_uuids(excluded, |id| id.0);
        let take = || async {
            let row = sqlx::query!(
                "UPDATE webhook_queue SET due_at = now() + make_interval(secs => $1)
                 WHERE webhook_id = (SELECT webhook_id FROM webhook_queue WHERE due_at <= now() AND tenant_id <> ALL($2)
                     ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
                 RETURNING webhook_id, tenant_id",
                lease.as_secs_f64(),
                &excluded
            )
            .fetch_optional(&self.pool)
            .await?;
            Ok(row.map(|row| (TenantId(row.tenant_id), WebhookId(row.webhook_id))))
        };
        retry_on_conflict(take).await
    }
}

impl Tx<'_> {
    /// Writes down who is to be told of these events. Called with the numbers that they just got.
    pub(crate) async fn enqueue_deliveries(&mut self, events: &[NewEvent], first: i64) -> Result<(), StoreError> {
        let hooks = sqlx::query!(
            "SELECT webhook_id, kinds FROM webhooks WHERE tenant_id = $1 AND enabled ORDER BY webhook_id",
            self.tenant.0
        )
        .fetch_all(&mut *self.inner)
        .await?;
        for hook in hooks {
            let id = WebhookId(hook.webhook_id);
            let wanted: Vec<(i64, Timestamp)> = events
                .iter()
                .zip(first..)
                .filter(|(event, _)| {
                    let named = hook.kinds.iter().any(|wanted| webhook::matches_event_kind(wanted, event.kind));
                    if event.kind == webhook::TEST_EVENT_KIND { event.body["webhook_id"] == id.to_string() } else { named }
                })
                .map(|(event, seq)| (seq, event.at))
                .collect();
            for (seq, at) in &wanted {
                sqlx::query!(
                    "INSERT INTO deliveries (tenant_id, webhook_id, seq, due_at, created_at) VALUES ($1, $2, $3, now(), $4)",
                    self.tenant.0,
                    id.0,
                    seq,
                    at.to_sqlx() as _
                )
                .execute(&mut *self.inner)
                .await?;
            }
            if !wanted.is_empty() {
                self.wake_webhook(id, true).await?;
            }
        }
        Ok(())
    }

    /// Makes a webhook due, unless it rests because it fails; switched on, it rests no longer.
    pub(crate) async fn wake_webhook(&mut self, id: WebhookId, on: bool) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE webhook_queue SET due_at = CASE WHEN $3 THEN coalesce(due_at, now()) END WHERE tenant_id = $1 AND webhook_id = $2",
            self.tenant.0,
            id.0,
            on
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// What is to be sent to a webhook now, at most so much; `None` when it is switched off or gone.
    ///
    /// # Errors
    /// The database failed, or a secret does not open.
    pub async fn next_delivery_batch(&mut self, id: WebhookId, limit: i64, now: Timestamp) -> Result<Option<DeliveryBatch>, StoreError> {
        let hook = sqlx::query!(
            "SELECT url, secret, former_secret, former_until FROM webhooks WHERE tenant_id = $1 AND webhook_id = $2 AND enabled",
            self.tenant.0,
            id.0
        )
        .fetch_optional(&mut *self.inner)
        .await?;
        let Some(hook) = hook else { return Ok(None) };
        let mut secrets = vec![self.open(&secret_associated_data(id), &hook.secret).await?];
        if let Some(former) =
            hook.former_secret.filter(|_| hook.former_until.is_some_and(|until| until.to_jiff() > now))
        {
            secrets.push(self.open(&secret_associated_data(id), &former).await?);
        }
        let deliveries = self.read_deliveries(id, true, None, limit).await?;
        Ok(Some(DeliveryBatch { url: hook.url, secrets, deliveries }))
    }

    /// What was and is to be sent to a webhook, newest first, before an event.
    ///
    /// # Errors
    /// The database failed.
    pub async fn list_deliveries(
        &mut self,
        id: WebhookId,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<Delivery>, StoreError> {
        self.read_deliveries(id, false, before, limit).await
    }

    /// One delivery.
    ///
    /// # Errors
    /// There is none of that event to that webhook.
    pub async fn get_delivery(&mut self, id: WebhookId, seq: i64) -> Result<Delivery, StoreError> {
        let found = self.read_deliveries(id, false, seq.checked_add(1), 1).await?.pop();
        found.filter(|delivery| delivery.event.seq == seq).ok_or(StoreError::NotFound { what: "delivery" })
    }

    async fn read_deliveries(
        &mut self,
        id: WebhookId,
        due: bool,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<Delivery>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT d.seq, e.at, e.kind, e.mesh_id, e.upgrade_id, e.operation_id, e.body, d.state, d.attempts,
                 d.due_at, d.last_at, d.last_status, d.last_error
             FROM deliveries d JOIN events e ON e.tenant_id = d.tenant_id AND e.seq = d.seq
             WHERE d.tenant_id = $1 AND d.webhook_id = $2 AND ($3::bigint IS NULL OR d.seq < $3)
                 AND (NOT $4 OR (d.state = 'pending' AND d.due_at <= now()))
             ORDER BY CASE WHEN $4 THEN d.seq ELSE -d.seq END LIMIT $5"#,
            self.tenant.0,
            id.0,
            before,
            due,
            limit
        )
        .fetch_all(&mut *self.inner)
        .await?;
        let read = rows.into_iter().map(|row| {
            let states = [DeliveryState::Pending, DeliveryState::Delivered, DeliveryState::Failed];
            let state = states.into_iter().find(|state| state.as_str() == row.state);
            Ok(Delivery {
                event: Event {
                    seq: row.seq,
                    at: row.at.to_jiff(),
                    kind: row.kind,
                    mesh: row.mesh_id.map(MeshId),
                    upgrade: row.upgrade_id.map(UpgradeId),
                    operation: row.operation_id.map(OperationId),
                    body: row.body,
                },
                state: state.ok_or(StoreError::Corrupt {
                    table: "deliveries",
                    column: "state",
                    row: id.to_string(),
                })?,
                attempts: row.attempts,
                due_at: row.due_at.map(jiff_sqlx::Timestamp::to_jiff),
                last_at: row.last_at.map(jiff_sqlx::Timestamp::to_jiff),
                last_status: row.last_status,
                last_error: row.last_error,
            })
        });
        read.collect()
    }

    /// Records what came of an attempt: it arrived, it is tried again, or it is given up.
    ///
    /// # Errors
    /// The database failed.
    pub async fn record_delivery_attempt(
        &mut self,
        id: WebhookId,
        delivery: &Delivery,
        attempt: &DeliveryAttempt,
        now: Timestamp,
    ) -> Result<DeliveryState, StoreError> {
        let attempts = delivery.attempts.saturating_add(1);
        let rest = delivery_retry_delay(attempts);
        let state = match (attempt.is_accepted(), rest) {
            (true, _) => DeliveryState::Delivered,
            (false, Some(_)) => DeliveryState::Pending,
            (false, None) => DeliveryState::Failed,
        };
        let rest = rest.filter(|_| state == DeliveryState::Pending);
        let (status, error) = match attempt {
            DeliveryAttempt::Answered(status) => (Some(i32::from(*status)), None),
            DeliveryAttempt::Failed(why) => (None, Some(*why)),
        };
        sqlx::query!(
            "UPDATE deliveries SET state = $4, attempts = $5, due_at = now() + make_interval(secs => $6), last_at = $7, last_status = $8, last_error = $9
             WHERE tenant_id = $1 AND webhook_id = $2 AND seq = $3",
            self.tenant.0,
            id.0,
            delivery.event.seq,
            state.as_str(),
            attempts,
            rest.map(|rest| rest.as_secs_f64()),
            now.to_sqlx() as _,
            status,
            error
        )
        .execute(&mut *self.inner)
        .await?;
        if attempt.is_accepted() {
            sqlx::query!(
                "UPDATE webhooks SET delivered_at = $3 WHERE tenant_id = $1 AND webhook_id = $2",
                self.tenant.0,
                id.0,
                now.to_sqlx() as _
            )
            .execute(&mut *self.inner)
            .await?;
        }
        Ok(state)
    }

    /// Gives a claimed webhook back: it is due when the next of its deliveries is, and after failures not for a while.
    ///
    /// # Errors
    /// The database failed.
    pub async fn reschedule_webhook(&mut self, id: WebhookId, failed: bool) -> Result<(), StoreError> {
        let failures = sqlx::query_scalar!(
            "UPDATE webhook_queue SET failures = CASE WHEN $3 THEN failures + 1 ELSE 0 END WHERE tenant_id = $1 AND webhook_id = $2
             RETURNING failures",
            self.tenant.0,
            id.0,
            failed
        )
        .fetch_optional(&mut *self.inner)
        .await?;
        let Some(failures) = failures else { return Ok(()) };
        let rest = if failed { retry_delay(failures) } else { Duration::ZERO };
        sqlx::query!(
            "UPDATE webhook_queue SET due_at = (
                 SELECT greatest(min(d.due_at), now() + make_interval(secs => $3)) FROM deliveries d JOIN webhooks w USING (tenant_id, webhook_id)
                 WHERE d.tenant_id = $1 AND d.webhook_id = $2 AND d.state = 'pending' AND w.enabled HAVING min(d.due_at) IS NOT NULL)
             WHERE tenant_id = $1 AND webhook_id = $2",
            self.tenant.0,
            id.0,
            rest.as_secs_f64()
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Switches a webhook off that nobody listens at any more. Somebody has to switch it on again.
    ///
    /// # Errors
    /// The database failed.
    pub async fn disable_webhook(&mut self, id: WebhookId, reason: &'static str, now: Timestamp) -> Result<(), StoreError> {
        let done = sqlx::query!(
            "UPDATE webhooks SET enabled = false, stopped = $3, generation = generation + 1 WHERE tenant_id = $1 AND webhook_id = $2 AND enabled",
            self.tenant.0,
            id.0,
            reason
        )
        .execute(&mut *self.inner)
        .await?;
        if done.rows_affected() == 1 {
            self.update_webhook_count().await?;
            self.push_webhook_event("webhook.disabled", id, serde_json::json!({ "reason": reason }), now);
        }
        Ok(())
    }

    /// Has an event sent once more, whatever became of it.
    ///
    /// # Errors
    /// There is none of that event to that webhook.
    pub async fn requeue_delivery(&mut self, id: WebhookId, seq: i64) -> Result<(), StoreError> {
        let done = sqlx::query!(
            "UPDATE deliveries SET state = 'pending', attempts = 0, due_at = now() WHERE tenant_id = $1 AND webhook_id = $2 AND seq = $3",
            self.tenant.0,
            id.0,
            seq
        )
        .execute(&mut *self.inner)
        .await?;
        crate::require_one_row(done.rows_affected(), StoreError::NotFound { what: "delivery" })?;
        sqlx::query!(
            "UPDATE webhook_queue SET due_at = now() WHERE tenant_id = $1 AND webhook_id = $2",
            self.tenant.0,
            id.0
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }
}
