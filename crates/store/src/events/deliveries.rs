//! Stores the deliveries of events to webhooks, with the results of their attempts. They are kept as
//! long as the event.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use meshwright_model::ClosedSet;
use meshwright_model::ids::{MeshId, OperationId, UpgradeId, WebhookId};
use meshwright_model::webhook::{DeliveryError, DeliveryState, delivery_retry_delay};

use crate::db::query_areas::DeliveryQueries;
use crate::events::webhooks::secret_associated_data;
use crate::{Event, StoreError};

/// One event on its way to one webhook.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Event to be delivered.
    pub event: Event,
    /// State of the delivery: `pending`, `delivered` or `failed`.
    pub state: DeliveryState,
    /// Number of attempts so far.
    pub attempts: i32,
    /// Time of the next attempt; `None` unless the delivery is pending.
    pub due_at: Option<Timestamp>,
    /// Time of the last attempt; `None` before the first one.
    pub last_at: Option<Timestamp>,
    /// HTTP status of the last attempt; `None` when it got no answer.
    pub last_status: Option<i32>,
    /// Reason why the last attempt got no answer: `address_refused`, `too_slow` or `unreachable`.
    pub last_error: Option<String>,
}

/// Result of one delivery attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryAttempt {
    /// The webhook answered with this HTTP status.
    Answered(u16),
    /// The attempt got no answer, for this reason.
    Failed(DeliveryError),
}

impl DeliveryAttempt {
    /// Returns true for any 2xx status, with which a webhook accepts a message by Standard
    /// Webhooks.
    pub fn is_accepted(&self) -> bool {
        matches!(self, Self::Answered(200..300))
    }
}

/// The deliveries that are due for one webhook.
#[derive(Debug)]
pub struct DeliveryBatch {
    /// Address that the deliveries are sent to.
    pub url: String,
    /// Secrets that sign each message: the current one, and the previous one while it is still
    /// valid.
    pub secrets: Vec<Vec<u8>>,
    /// Deliveries that are due, oldest event first.
    pub deliveries: Vec<Delivery>,
}

impl DeliveryQueries<'_, '_> {
    /// Reads the deliveries that are due for a webhook, at most `limit`. Returns `None` when the
    /// webhook is disabled or deleted.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer, and
    /// [`StoreError::UnsealFailed`] when a secret does not open.
    pub async fn next_delivery_batch(
        &mut self,
        id: WebhookId,
        limit: i64,
        now: Timestamp,
    ) -> Result<Option<DeliveryBatch>, StoreError> {
        let hook = sqlx::query!(
            "SELECT url, secret, former_secret, former_until FROM webhooks WHERE tenant_id = $1 AND webhook_id = $2 AND enabled",
            self.tx.tenant.0,
            id.0
        )
        .fetch_optional(&mut *self.tx.inner)
        .await?;
        let Some(hook) = hook else { return Ok(None) };
        let mut secrets = vec![
            self.tx
                .open(&secret_associated_data(id), &hook.secret)
                .await?,
        ];
        if let Some(former) = hook
            .former_secret
            .filter(|_| hook.former_until.is_some_and(|until| until.to_jiff() > now))
        {
            secrets.push(self.tx.open(&secret_associated_data(id), &former).await?);
        }
        let deliveries = self.read_deliveries(id, true, None, limit).await?;
        Ok(Some(DeliveryBatch {
            url: hook.url,
            secrets,
            deliveries,
        }))
    }

    /// Lists the deliveries of a webhook for events with a number below `before`, newest first.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn list_deliveries(
        &mut self,
        id: WebhookId,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<Delivery>, StoreError> {
        self.read_deliveries(id, false, before, limit).await
    }

    /// Reads one delivery.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when the webhook has no delivery of this event.
    pub async fn get_delivery(&mut self, id: WebhookId, seq: i64) -> Result<Delivery, StoreError> {
        let found = self
            .read_deliveries(id, false, seq.checked_add(1), 1)
            .await?
            .pop();
        found
            .filter(|delivery| delivery.event.seq == seq)
            .ok_or(StoreError::NotFound { what: "delivery" })
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
            self.tx.tenant.0,
            id.0,
            before,
            due,
            limit
        )
        .fetch_all(&mut *self.tx.inner)
        .await?;
        let read = rows.into_iter().map(|row| {
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
                state: DeliveryState::from_name(&row.state).ok_or(StoreError::Corrupt {
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

    /// Records the result of an attempt and returns the new state of the delivery: accepted, to be
    /// tried again, or given up.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
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
            DeliveryAttempt::Failed(why) => (None, Some(why.as_str())),
        };
        sqlx::query!(
            "UPDATE deliveries SET state = $4, attempts = $5, due_at = now() + make_interval(secs => $6), last_at = $7, last_status = $8, last_error = $9
             WHERE tenant_id = $1 AND webhook_id = $2 AND seq = $3",
            self.tx.tenant.0,
            id.0,
            delivery.event.seq,
            state.as_str(),
            attempts,
            rest.map(|rest| rest.as_secs_f64()),
            now.to_sqlx() as _,
            status,
            error
        )
        .execute(&mut *self.tx.inner)
        .await?;
        if attempt.is_accepted() {
            sqlx::query!(
                "UPDATE webhooks SET delivered_at = $3 WHERE tenant_id = $1 AND webhook_id = $2",
                self.tx.tenant.0,
                id.0,
                now.to_sqlx() as _
            )
            .execute(&mut *self.tx.inner)
            .await?;
        }
        Ok(state)
    }
}
