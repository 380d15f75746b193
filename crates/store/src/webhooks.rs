//! Webhooks of a tenant, as its people see and change them.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use model::ids::WebhookId;
use model::webhook;

use crate::{NewEvent, Page, StoreError, Tx, id_bounds, require_one_row};

/// An address that events are sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Its id.
    pub id: WebhookId,
    /// Its name, unique within the tenant.
    pub name: String,
    /// Where to.
    pub url: String,
    /// Which kinds of events.
    pub kinds: Vec<String>,
    /// Whether anything is sent.
    pub enabled: bool,
    /// Why we have switched it off: `gone` or `failing`.
    pub disabled_reason: Option<String>,
    /// Until when messages are signed with the former secret as well.
    pub former_until: Option<Timestamp>,
    /// When something last arrived.
    pub delivered_at: Option<Timestamp>,
    /// Rises with every change of what users may write.
    pub generation: i64,
    /// When it was made.
    pub created_at: Timestamp,
}

/// What users write on a webhook.
#[derive(Debug, Clone)]
pub struct NewWebhook {
    /// Its name.
    pub name: String,
    /// Where to.
    pub url: String,
    /// Which kinds of events.
    pub kinds: Vec<String>,
    /// Whether anything is sent.
    pub enabled: bool,
}

pub(crate) fn secret_associated_data(id: WebhookId) -> String {
    format!("webhooks.secret/{id}")
}

impl Tx<'_> {
    /// Adds a webhook with the secret that its messages are signed with.
    ///
    /// # Errors
    /// The name is taken (`webhooks_name_unique`).
    pub async fn create_webhook(
        &mut self,
        id: WebhookId,
        new: &NewWebhook,
        secret: &[u8],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO webhooks (tenant_id, webhook_id, name, url, kinds, enabled, secret, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            self.tenant.0,
            id.0,
            new.name,
            new.url,
            &new.kinds,
            new.enabled,
            self.seal(&secret_associated_data(id), secret)?,
            now.to_sqlx() as _
        )
        .execute(&mut *self.inner)
        .await?;
        sqlx::query!("INSERT INTO webhook_queue (webhook_id, tenant_id) VALUES ($1, $2)", id.0, self.tenant.0)
            .execute(&mut *self.inner)
            .await?;
        self.update_webhook_count().await
    }

    /// Webhooks, oldest first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn list_webhooks(&mut self, page: Page) -> Result<Vec<Webhook>, StoreError> {
        self.read_webhooks(None, page).await
    }

    /// One webhook.
    ///
    /// # Errors
    /// There is none of that id in this tenant.
    pub async fn get_webhook(&mut self, id: WebhookId) -> Result<Webhook, StoreError> {
        self.read_webhooks(Some(id), Page::ALL).await?.pop().ok_or(StoreError::NotFound { what: "webhook" })
    }

    async fn read_webhooks(&mut self, only: Option<WebhookId>, page: Page) -> Result<Vec<Webhook>, StoreError> {
        let (from, to) = id_bounds(only.map(|id| id.0));
        let rows = sqlx::query!(
            "SELECT webhook_id, name, url, kinds, enabled, stopped, former_until, delivered_at, generation, created_at
             FROM webhooks WHERE tenant_id = $1 AND webhook_id BETWEEN $2 AND $5 AND ($3::uuid IS NULL OR webhook_id > $3)
             ORDER BY webhook_id LIMIT $4",
            self.tenant.0,
            from,
            page.after,
            page.limit,
            to
        )
        .fetch_all(&mut *self.inner)
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

    /// Changes a webhook, for somebody who looked at this generation of it. What waits is tried at once when it is switched on.
    ///
    /// # Errors
    /// It has moved on since; the name is taken.
    pub async fn update_webhook(&mut self, seen: &Webhook, new: &NewWebhook) -> Result<(), StoreError> {
        let done = sqlx::query!(
            "UPDATE webhooks SET name = $4, url = $5, kinds = $6, enabled = $7, generation = generation + 1,
                 stopped = CASE WHEN $7 THEN NULL ELSE stopped END
             WHERE tenant_id = $1 AND webhook_id = $2 AND generation = $3",
            self.tenant.0,
            seen.id.0,
            seen.generation,
            new.name,
            new.url,
            &new.kinds,
            new.enabled
        )
        .execute(&mut *self.inner)
        .await?;
        require_one_row(done.rows_affected(), StoreError::StaleVersion)?;
        self.wake_webhook(seen.id, new.enabled).await?;
        self.update_webhook_count().await
    }

    /// Removes a webhook with everything that was to be sent to it.
    ///
    /// # Errors
    /// There is none of that id in this tenant.
    pub async fn delete_webhook(&mut self, id: WebhookId) -> Result<(), StoreError> {
        sqlx::query!("DELETE FROM deliveries WHERE tenant_id = $1 AND webhook_id = $2", self.tenant.0, id.0)
            .execute(&mut *self.inner)
            .await?;
        sqlx::query!("DELETE FROM webhook_queue WHERE tenant_id = $1 AND webhook_id = $2", self.tenant.0, id.0)
            .execute(&mut *self.inner)
            .await?;
        let done = sqlx::query!("DELETE FROM webhooks WHERE tenant_id = $1 AND webhook_id = $2", self.tenant.0, id.0)
            .execute(&mut *self.inner)
            .await?;
        require_one_row(done.rows_affected(), StoreError::NotFound { what: "webhook" })?;
        self.update_webhook_count().await
    }

    /// Gives a webhook another secret. Until the time, messages are signed with the former one as well.
    ///
    /// # Errors
    /// There is none of that id in this tenant.
    pub async fn rotate_webhook_secret(&mut self, id: WebhookId, secret: &[u8], until: Timestamp) -> Result<(), StoreError> {
        let done = sqlx::query!(
            "UPDATE webhooks SET former_secret = secret, former_until = $4, secret = $3, generation = generation + 1
             WHERE tenant_id = $1 AND webhook_id = $2",
            self.tenant.0,
            id.0,
            self.seal(&secret_associated_data(id), secret)?,
            until.to_sqlx() as _
        )
        .execute(&mut *self.inner)
        .await?;
        require_one_row(done.rows_affected(), StoreError::NotFound { what: "webhook" })
    }

    /// Sends a webhook an event that nothing else is about.
    pub fn push_test_event(&mut self, id: WebhookId, now: Timestamp) {
        self.push_webhook_event(webhook::TEST_EVENT_KIND, id, serde_json::json!({}), now);
    }

    pub(crate) fn push_webhook_event(
        &mut self,
        kind: &'static str,
        id: WebhookId,
        body: serde_json::Value,
        at: Timestamp,
    ) {
        let mut body = body;
        body["webhook_id"] = id.to_string().into();
        self.push_event(NewEvent { at, kind, mesh: None, upgrade: None, operation: None, body });
    }

    pub(crate) async fn update_webhook_count(&mut self) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE tenant_heads SET webhooks = (SELECT count(*) FROM webhooks WHERE tenant_id = $1 AND enabled)::integer WHERE tenant_id = $1",
            self.tenant.0
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }
}
