//! Queues the deliveries of events, and schedules the webhooks that are due. Workers claim a webhook
//! with all its due deliveries.

use std::time::Duration;

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use meshwright_model::backoff::retry_delay;
use meshwright_model::ids::{TenantId, WebhookId};
use meshwright_model::webhook::{self, EventKind, WebhookStop};

use crate::db::query_areas::DeliveryQueries;
use crate::db::statements::{require_one_row, retry_on_conflict, to_uuids};
use crate::{NewEvent, Store, StoreError};

impl Store {
    /// Claims the webhook whose deliveries have been due the longest, and keeps it from other
    /// workers for `lease`. Webhooks of the tenants in `excluded` are left out.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
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

impl DeliveryQueries<'_, '_> {
    /// Adds a delivery for each event and each enabled webhook that subscribes to it. `first` is
    /// the number of the first event.
    pub(crate) async fn enqueue_deliveries(
        &mut self,
        events: &[NewEvent],
        first: i64,
    ) -> Result<(), StoreError> {
        let hooks = sqlx::query!(
            "SELECT webhook_id, kinds FROM webhooks WHERE tenant_id = $1 AND enabled ORDER BY webhook_id",
            self.tx.tenant.0
        )
        .fetch_all(&mut *self.tx.inner)
        .await?;
        for hook in hooks {
            let id = WebhookId(hook.webhook_id);
            let wanted: Vec<(i64, Timestamp)> = events
                .iter()
                .zip(first..)
                .filter(|(event, _)| {
                    let named = hook
                        .kinds
                        .iter()
                        .any(|wanted| webhook::matches_event_kind(wanted, event.kind.as_str()));
                    // A test event goes only to the webhook that it names.
                    if event.kind == EventKind::WebhookTest {
                        event.body["webhook_id"] == id.to_string()
                    } else {
                        named
                    }
                })
                .map(|(event, seq)| (seq, event.at))
                .collect();
            for (seq, at) in &wanted {
                sqlx::query!(
                    "INSERT INTO deliveries (tenant_id, webhook_id, seq, due_at, created_at) VALUES ($1, $2, $3, now(), $4)",
                    self.tx.tenant.0,
                    id.0,
                    seq,
                    at.to_sqlx() as _
                )
                .execute(&mut *self.tx.inner)
                .await?;
            }
            if !wanted.is_empty() {
                self.wake_webhook(id, true).await?;
            }
        }
        Ok(())
    }

    /// Makes a webhook due now. A webhook that waits after failures keeps its later time; `on:
    /// false` takes it out of the schedule.
    pub(crate) async fn wake_webhook(&mut self, id: WebhookId, on: bool) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE webhook_queue SET due_at = CASE WHEN $3 THEN coalesce(due_at, now()) END WHERE tenant_id = $1 AND webhook_id = $2",
            self.tx.tenant.0,
            id.0,
            on
        )
        .execute(&mut *self.tx.inner)
        .await?;
        Ok(())
    }

    /// Gives back a claimed webhook: it becomes due with its next pending delivery. After a failure
    /// it also waits for a delay that grows with the failures in a row.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn reschedule_webhook(
        &mut self,
        id: WebhookId,
        failed: bool,
    ) -> Result<(), StoreError> {
        let failures = sqlx::query_scalar!(
            "UPDATE webhook_queue SET failures = CASE WHEN $3 THEN failures + 1 ELSE 0 END WHERE tenant_id = $1 AND webhook_id = $2
             RETURNING failures",
            self.tx.tenant.0,
            id.0,
            failed
        )
        .fetch_optional(&mut *self.tx.inner)
        .await?;
        let Some(failures) = failures else {
            return Ok(());
        };
        let rest = if failed {
            retry_delay(failures)
        } else {
            Duration::ZERO
        };
        sqlx::query!(
            "UPDATE webhook_queue SET due_at = (
                 SELECT greatest(min(d.due_at), now() + make_interval(secs => $3)) FROM deliveries d JOIN webhooks w USING (tenant_id, webhook_id)
                 WHERE d.tenant_id = $1 AND d.webhook_id = $2 AND d.state = 'pending' AND w.enabled HAVING min(d.due_at) IS NOT NULL)
             WHERE tenant_id = $1 AND webhook_id = $2",
            self.tx.tenant.0,
            id.0,
            rest.as_secs_f64()
        )
        .execute(&mut *self.tx.inner)
        .await?;
        Ok(())
    }

    /// Disables a webhook that does not accept deliveries any more, and pushes an event about it. A
    /// user has to enable the webhook again.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn disable_webhook(
        &mut self,
        id: WebhookId,
        reason: WebhookStop,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let done = sqlx::query!(
            "UPDATE webhooks SET enabled = false, stopped = $3, generation = generation + 1 WHERE tenant_id = $1 AND webhook_id = $2 AND enabled",
            self.tx.tenant.0,
            id.0,
            reason.as_str()
        )
        .execute(&mut *self.tx.inner)
        .await?;
        if done.rows_affected() == 1 {
            self.tx.webhooks().update_webhook_count().await?;
            self.tx.webhooks().push_webhook_event(
                EventKind::WebhookDisabled,
                id,
                serde_json::json!({ "reason": reason.as_str() }),
                now,
            );
        }
        Ok(())
    }

    /// Requeues a delivery in any state, with a new count of attempts.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when the webhook has no delivery of this event.
    pub async fn requeue_delivery(&mut self, id: WebhookId, seq: i64) -> Result<(), StoreError> {
        let done = sqlx::query!(
            "UPDATE deliveries SET state = 'pending', attempts = 0, due_at = now() WHERE tenant_id = $1 AND webhook_id = $2 AND seq = $3",
            self.tx.tenant.0,
            id.0,
            seq
        )
        .execute(&mut *self.tx.inner)
        .await?;
        require_one_row(
            done.rows_affected(),
            StoreError::NotFound { what: "delivery" },
        )?;
        sqlx::query!(
            "UPDATE webhook_queue SET due_at = now() WHERE tenant_id = $1 AND webhook_id = $2",
            self.tx.tenant.0,
            id.0
        )
        .execute(&mut *self.tx.inner)
        .await?;
        Ok(())
    }
}
