//! Stores the webhooks of a tenant, as its users see and change them.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use meshwright_model::ids::WebhookId;
use meshwright_model::webhook::EventKind;

use crate::db::query_areas::WebhookQueries;
use crate::db::statements::{id_bounds, require_one_row};
use crate::{NewEvent, Page, StoreError};

/// An address of a tenant that events are sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Identifier of the webhook.
    pub id: WebhookId,
    /// Name of the webhook, unique within the tenant.
    pub name: String,
    /// Address that events are sent to.
    pub url: String,
    /// Kinds of events that are sent: a kind such as `upgrade.state`, a group such as `upgrade.*`,
    /// or `*`.
    pub kinds: Vec<String>,
    /// Whether events are sent to the webhook.
    pub enabled: bool,
    /// Reason why the service disabled the webhook: `gone` or `failing`; `None` when it did not.
    pub disabled_reason: Option<String>,
    /// Time until which messages are also signed with the previous secret.
    pub former_until: Option<Timestamp>,
    /// Time when the webhook last accepted an event.
    pub delivered_at: Option<Timestamp>,
    /// Version of the webhook: rises by one with every change of what users may write.
    pub generation: i64,
    /// Time when the webhook was created.
    pub created_at: Timestamp,
}

/// The properties of a webhook that users write.
#[derive(Debug, Clone)]
pub struct NewWebhook {
    /// Name of the webhook, unique within the tenant.
    pub name: String,
    /// Address that events are sent to.
    pub url: String,
    /// Kinds of events that are sent: a kind such as `upgrade.state`, a group such as `upgrade.*`,
    /// or `*`.
    pub kinds: Vec<String>,
    /// Whether events are sent to the webhook.
    pub enabled: bool,
}

pub(crate) fn secret_associated_data(id: WebhookId) -> String {
    format!("webhooks.secret/{id}")
}

impl WebhookQueries<'_, '_> {
    /// Adds a webhook with the secret that signs its messages.
    ///
    /// # Errors
    /// Returns [`StoreError::Conflict`] with `webhooks_name_unique` when the name is taken.
    pub async fn create_webhook(
        &mut self,
        id: WebhookId,
        new: &NewWebhook,
        secret: &[u8],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO webhooks (tenant_id, webhook_id, name, url, kinds, enabled, secret, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            self.tx.tenant.0,
            id.0,
            new.name,
            new.url,
            &new.kinds,
            new.enabled,
            self.tx.seal(&secret_associated_data(id), secret)?,
            now.to_sqlx() as _
        )
        .execute(&mut *self.tx.inner)
        .await?;
        sqlx::query!(
            "INSERT INTO webhook_queue (webhook_id, tenant_id) VALUES ($1, $2)",
            id.0,
            self.tx.tenant.0
        )
        .execute(&mut *self.tx.inner)
        .await?;
        self.update_webhook_count().await
    }

    /// Lists the webhooks of this tenant, oldest first.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn list_webhooks(&mut self, page: Page) -> Result<Vec<Webhook>, StoreError> {
        self.read_webhooks(None, page).await
    }

    /// Reads one webhook.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when this tenant has no such webhook.
    pub async fn get_webhook(&mut self, id: WebhookId) -> Result<Webhook, StoreError> {
        self.read_webhooks(Some(id), Page::ALL)
            .await?
            .pop()
            .ok_or(StoreError::NotFound { what: "webhook" })
    }

    async fn read_webhooks(
        &mut self,
        only: Option<WebhookId>,
        page: Page,
    ) -> Result<Vec<Webhook>, StoreError> {
        let (from, to) = id_bounds(only.map(|id| id.0));
        let rows = sqlx::query!(
            "SELECT webhook_id, name, url, kinds, enabled, stopped, former_until, delivered_at, generation, created_at
             FROM webhooks WHERE tenant_id = $1 AND webhook_id BETWEEN $2 AND $5 AND ($3::uuid IS NULL OR webhook_id > $3)
             ORDER BY webhook_id LIMIT $4",
            self.tx.tenant.0,
            from,
            page.after,
            page.limit,
            to
        )
        .fetch_all(&mut *self.tx.inner)
        .await?;
        let read = rows.into_iter().map(|row| Webhook {
            id: WebhookId(row.webhook_id),
            name: row.name,
            url: row.url,
            kinds: row.kinds,
            enabled: row.enabled,
            disabled_reason: row.stopped,
            former_until: row.former_until.map(jiff_sqlx::Timestamp::to_jiff),
            delivered_at: row.delivered_at.map(jiff_sqlx::Timestamp::to_jiff),
            generation: row.generation,
            created_at: row.created_at.to_jiff(),
        });
        Ok(read.collect())
    }

    /// Updates a webhook, if its generation is still the one that the caller saw. Enabling it makes
    /// waiting deliveries due at once.
    ///
    /// # Errors
    /// Returns [`StoreError::StaleVersion`] when the generation has changed since, and
    /// [`StoreError::Conflict`] with `webhooks_name_unique` when the name is taken.
    pub async fn update_webhook(
        &mut self,
        seen: &Webhook,
        new: &NewWebhook,
    ) -> Result<(), StoreError> {
        let done = sqlx::query!(
            "UPDATE webhooks SET name = $4, url = $5, kinds = $6, enabled = $7, generation = generation + 1,
                 stopped = CASE WHEN $7 THEN NULL ELSE stopped END
             WHERE tenant_id = $1 AND webhook_id = $2 AND generation = $3",
            self.tx.tenant.0,
            seen.id.0,
            seen.generation,
            new.name,
            new.url,
            &new.kinds,
            new.enabled
        )
        .execute(&mut *self.tx.inner)
        .await?;
        require_one_row(done.rows_affected(), StoreError::StaleVersion)?;
        self.tx
            .deliveries()
            .wake_webhook(seen.id, new.enabled)
            .await?;
        self.update_webhook_count().await
    }

    /// Deletes a webhook with its deliveries.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when this tenant has no such webhook.
    pub async fn delete_webhook(&mut self, id: WebhookId) -> Result<(), StoreError> {
        sqlx::query!(
            "DELETE FROM deliveries WHERE tenant_id = $1 AND webhook_id = $2",
            self.tx.tenant.0,
            id.0
        )
        .execute(&mut *self.tx.inner)
        .await?;
        sqlx::query!(
            "DELETE FROM webhook_queue WHERE tenant_id = $1 AND webhook_id = $2",
            self.tx.tenant.0,
            id.0
        )
        .execute(&mut *self.tx.inner)
        .await?;
        let done = sqlx::query!(
            "DELETE FROM webhooks WHERE tenant_id = $1 AND webhook_id = $2",
            self.tx.tenant.0,
            id.0
        )
        .execute(&mut *self.tx.inner)
        .await?;
        require_one_row(
            done.rows_affected(),
            StoreError::NotFound { what: "webhook" },
        )?;
        self.update_webhook_count().await
    }

    /// Gives a webhook a new secret. Until the given time, messages are also signed with the
    /// previous one.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when this tenant has no such webhook.
    pub async fn rotate_webhook_secret(
        &mut self,
        id: WebhookId,
        secret: &[u8],
        until: Timestamp,
    ) -> Result<(), StoreError> {
        let done = sqlx::query!(
            "UPDATE webhooks SET former_secret = secret, former_until = $4, secret = $3, generation = generation + 1
             WHERE tenant_id = $1 AND webhook_id = $2",
            self.tx.tenant.0,
            id.0,
            self.tx.seal(&secret_associated_data(id), secret)?,
            until.to_sqlx() as _
        )
        .execute(&mut *self.tx.inner)
        .await?;
        require_one_row(
            done.rows_affected(),
            StoreError::NotFound { what: "webhook" },
        )
    }

    /// Pushes a test event, which is sent to this webhook only.
    pub fn push_test_event(&mut self, id: WebhookId, now: Timestamp) {
        self.push_webhook_event(EventKind::WebhookTest, id, serde_json::json!({}), now);
    }

    pub(crate) fn push_webhook_event(
        &mut self,
        kind: EventKind,
        id: WebhookId,
        body: serde_json::Value,
        at: Timestamp,
    ) {
        let mut body = body;
        body["webhook_id"] = id.to_string().into();
        self.tx.push_event(NewEvent {
            at,
            kind,
            mesh: None,
            upgrade: None,
            operation: None,
            body,
        });
    }

    pub(crate) async fn update_webhook_count(&mut self) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE tenant_heads SET webhooks = (SELECT count(*) FROM webhooks WHERE tenant_id = $1 AND enabled)::integer WHERE tenant_id = $1",
            self.tx.tenant.0
        )
        .execute(&mut *self.tx.inner)
        .await?;
        Ok(())
    }
}
