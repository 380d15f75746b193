//! `Idempotency-Key`: the stored answer of an earlier, equal request. The row is written with the work itself.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;

use crate::{StoreError, Tx};

/// An answer worth repeating.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The `Location` header.
    pub location: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

/// What an earlier request with the same key left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Earlier {
    /// Nothing.
    None,
    /// The same request: its answer.
    Same(Answer),
    /// Another request under the same key.
    Other,
}

fn place(route: &str, key: &str) -> String {
    format!("idempotency_keys.answer/{route}/{key}")
}

impl Tx<'_> {
    /// What was answered under this key before.
    ///
    /// # Errors
    /// The database failed.
    pub async fn earlier_answer(&mut self, route: &str, key: &str, body_hash: &[u8]) -> Result<Earlier, StoreError> {
        let row = sqlx::query!(
            "SELECT body_hash, status, location, answer FROM idempotency_keys WHERE tenant_id = $1 AND route = $2 AND key = $3",
            self.tenant.0,
            route,
            key
        )
        .fetch_optional(&mut *self.inner)
        .await?;
        let Some(row) = row else { return Ok(Earlier::None) };
        if row.body_hash != body_hash {
            return Ok(Earlier::Other);
        }
        let status = crate::error::fits(row.status.try_into(), "idempotency_keys", "status", key)?;
        Ok(Earlier::Same(Answer {
            status,
            location: row.location,
            body: self.vault.open(&place(route, key), &row.answer)?,
        }))
    }

    /// Keeps an answer. A concurrent copy of the request meets the constraint `idempotency_keys_pk`.
    ///
    /// # Errors
    /// The database failed, or a copy was faster.
    pub async fn keep_answer(
        &mut self,
        route: &str,
        key: &str,
        body_hash: &[u8],
        answer: &Answer,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO idempotency_keys (tenant_id, route, key, body_hash, status, location, answer, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            self.tenant.0,
            route,
            key,
            body_hash,
            i32::from(answer.status),
            answer.location,
            self.vault.seal(&place(route, key), &answer.body),
            now.to_sqlx() as _
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }
}
