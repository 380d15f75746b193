//! `Idempotency-Key`: the stored answer of an earlier, equal request. The row is taken before the work and answered with
//! it, in one transaction: of any number of copies exactly one does the work.

use std::borrow::Cow;

use jiff::{SignedDuration, Timestamp};
use jiff_sqlx::ToSqlx;

use crate::error::decode_column;
use crate::{StoreError, Tx, require_one_row};

/// How long an answer is kept.
const RESPONSE_RETENTION: SignedDuration = SignedDuration::from_hours(24);
/// How long a copy waits for the first one to end before it is told to come back. Longer would only fill the pool.
const LOCK_TIMEOUT: &str = "100ms";
/// Postgres: a lock was not to be had in that time.
const LOCK_NOT_AVAILABLE: &str = "55P03";
/// Old rows that one request clears away at most.
const MAX_EXPIRED_REQUESTS_PER_PURGE: i64 = 100;

/// What makes two requests copies of each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestKey {
    /// Who sent it.
    pub principal: String,
    /// Method and path.
    pub route: String,
    /// The header's value.
    pub key: String,
    /// Digest of the body; the same key with another body is a mistake.
    pub body_hash: [u8; 32],
}

/// An answer worth repeating.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredResponse {
    /// HTTP status.
    pub status: u16,
    /// The `Location` header.
    pub location: Option<String>,
    /// The `ETag` header.
    pub etag: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

/// What an earlier request with the same key left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdempotencyLookup {
    /// Nothing: this one does the work.
    FirstRequest,
    /// The same request: its answer.
    Replay(StoredResponse),
    /// Another request under the same key.
    KeyReused,
}

impl RequestKey {
    fn associated_data(&self) -> String {
        format!("idempotency_keys.answer/{}/{}/{}", self.principal, self.route, self.key)
    }
}

impl Tx<'_> {
    /// Takes the row of a request, or finds what was answered before.
    ///
    /// # Errors
    /// [`StoreError::InFlight`]: a copy is being worked on right now.
    pub async fn reserve_idempotency_key(&mut self, request: &RequestKey, now: Timestamp) -> Result<IdempotencyLookup, StoreError> {
        self.set_lock_timeout(LOCK_TIMEOUT).await?;
        let oldest = now - RESPONSE_RETENTION;
        let taken = sqlx::query!(
            "INSERT INTO idempotency_keys AS known (tenant_id, principal, route, key, body_hash, created_at) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT ON CONSTRAINT idempotency_keys_pk DO UPDATE
                 SET body_hash = excluded.body_hash, created_at = excluded.created_at, status = NULL, location = NULL, etag = NULL, answer = NULL
                 WHERE known.created_at < $7",
            self.tenant.0,
            request.principal,
            request.route,
            request.key,
            request.body_hash.as_slice(),
            now.to_sqlx() as _,
            oldest.to_sqlx() as _
        )
        .execute(&mut *self.inner)
        .await;
        let taken = taken.map_err(|error| {
            let code = error.as_database_error().and_then(|database| database.code().map(Cow::into_owned));
            if code.as_deref() == Some(LOCK_NOT_AVAILABLE) { StoreError::RequestInFlight } else { error.into() }
        })?;
        self.set_lock_timeout("0").await?;
        if taken.rows_affected() == 0 {
            return self.find_response(request).await;
        }
        sqlx::query!(
            "DELETE FROM idempotency_keys WHERE tenant_id = $1 AND (principal, route, key) IN (
                 SELECT principal, route, key FROM idempotency_keys WHERE tenant_id = $1 AND created_at < $2
                 LIMIT $3 FOR UPDATE SKIP LOCKED)",
            self.tenant.0,
            oldest.to_sqlx() as _,
            MAX_EXPIRED_REQUESTS_PER_PURGE
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(IdempotencyLookup::FirstRequest)
    }

    async fn set_lock_timeout(&mut self, limit: &str) -> Result<(), StoreError> {
        sqlx::query!("SELECT set_config('lock_timeout', $1, true)", limit).fetch_one(&mut *self.inner).await?;
        Ok(())
    }

    async fn find_response(&mut self, request: &RequestKey) -> Result<IdempotencyLookup, StoreError> {
        let row = sqlx::query!(
            "SELECT body_hash, status, location, etag, answer FROM idempotency_keys
             WHERE tenant_id = $1 AND principal = $2 AND route = $3 AND key = $4",
            self.tenant.0,
            request.principal,
            request.route,
            request.key
        )
        .fetch_one(&mut *self.inner)
        .await?;
        if row.body_hash != request.body_hash {
            return Ok(IdempotencyLookup::KeyReused);
        }
        let corrupt = || StoreError::Corrupt { table: "idempotency_keys", column: "answer", row: request.key.clone() };
        let (status, answer) = row.status.zip(row.answer).ok_or_else(corrupt)?;
        Ok(IdempotencyLookup::Replay(StoredResponse {
            status: decode_column(status.try_into(), "idempotency_keys", "status", &request.key)?,
            location: row.location,
            etag: row.etag,
            body: self.open(&request.associated_data(), &answer).await?,
        }))
    }

    /// Keeps the answer in the row that was taken.
    ///
    /// # Errors
    /// The database failed.
    pub async fn store_response(&mut self, request: &RequestKey, answer: &StoredResponse) -> Result<(), StoreError> {
        let sealed = self.seal(&request.associated_data(), &answer.body)?;
        let kept = sqlx::query!(
            "UPDATE idempotency_keys SET status = $5, location = $6, etag = $7, answer = $8
             WHERE tenant_id = $1 AND principal = $2 AND route = $3 AND key = $4",
            self.tenant.0,
            request.principal,
            request.route,
            request.key,
            i32::from(answer.status),
            answer.location,
            answer.etag,
            sealed
        )
        .execute(&mut *self.inner)
        .await?;
        require_one_row(kept.rows_affected(), StoreError::NotFound { what: "request" })
    }
}
