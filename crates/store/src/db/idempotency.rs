//! Implements `Idempotency-Key`: stores the response of a request, and returns it for an equal
//! later request. The row is reserved before the work and receives the response in the same
//! transaction, so of any number of copies exactly one does the work.

use std::borrow::Cow;

use jiff::{SignedDuration, Timestamp};
use jiff_sqlx::ToSqlx;

use crate::StoreError;
use crate::db::query_areas::IdempotencyQueries;
use crate::db::statements::require_one_row;
use crate::error::decode_column;

/// Time that a response is stored: 24 hours.
const RESPONSE_RETENTION: SignedDuration = SignedDuration::from_hours(24);
/// Time that a copy waits for the first request to end before it is told to retry. A longer wait
/// would only use up the connection pool.
const LOCK_TIMEOUT: &str = "100ms";
/// SQLSTATE code with which Postgres reports that `lock_timeout` has passed.
const LOCK_NOT_AVAILABLE: &str = "55P03";
/// Number of expired rows that one request deletes at most.
const MAX_EXPIRED_REQUESTS_PER_PURGE: i64 = 100;

/// The properties that make two requests copies of each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestKey {
    /// Authenticated caller that sent the request.
    pub principal: String,
    /// HTTP method and path of the request.
    pub route: String,
    /// Value of the `Idempotency-Key` header.
    pub key: String,
    /// SHA-256 of the request body. The same key with another body is a mistake of the client.
    pub body_hash: [u8; 32],
}

/// A response that is stored for copies of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredResponse {
    /// HTTP status code of the response.
    pub status: u16,
    /// Value of the `Location` header, if any.
    pub location: Option<String>,
    /// Value of the `ETag` header, if any.
    pub etag: Option<String>,
    /// Body of the response; it is sealed in the database.
    pub body: Vec<u8>,
}

/// Result of the lookup of an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdempotencyLookup {
    /// No request had this key, or its response has expired: this request does the work.
    FirstRequest,
    /// The same request was answered before, with this response.
    Replay(StoredResponse),
    /// Another request was sent with the same key.
    KeyReused,
}

impl RequestKey {
    fn associated_data(&self) -> String {
        format!(
            "idempotency_keys.answer/{}/{}/{}",
            self.principal, self.route, self.key
        )
    }
}

impl IdempotencyQueries<'_, '_> {
    /// Reserves the row of a request, or finds the response of an earlier copy.
    ///
    /// # Errors
    /// Returns [`StoreError::RequestInFlight`] when a copy of the request is being worked on now.
    pub async fn reserve_idempotency_key(
        &mut self,
        request: &RequestKey,
        now: Timestamp,
    ) -> Result<IdempotencyLookup, StoreError> {
        self.set_lock_timeout(LOCK_TIMEOUT).await?;
        let oldest = now - RESPONSE_RETENTION;
        let taken = sqlx::query!(
            "INSERT INTO idempotency_keys AS known (tenant_id, principal, route, key, body_hash, created_at) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT ON CONSTRAINT idempotency_keys_pk DO UPDATE
                 SET body_hash = excluded.body_hash, created_at = excluded.created_at, status = NULL, location = NULL, etag = NULL, answer = NULL
                 WHERE known.created_at < $7",
            self.tx.tenant.0,
            request.principal,
            request.route,
            request.key,
            request.body_hash.as_slice(),
            now.to_sqlx() as _,
            oldest.to_sqlx() as _
        )
        .execute(&mut *self.tx.inner)
        .await;
        let taken = taken.map_err(|error| {
            let code = error
                .as_database_error()
                .and_then(|database| database.code().map(Cow::into_owned));
            if code.as_deref() == Some(LOCK_NOT_AVAILABLE) {
                StoreError::RequestInFlight
            } else {
                error.into()
            }
        })?;
        self.set_lock_timeout("0").await?;
        if taken.rows_affected() == 0 {
            return self.find_response(request).await;
        }
        sqlx::query!(
            "DELETE FROM idempotency_keys WHERE tenant_id = $1 AND (principal, route, key) IN (
                 SELECT principal, route, key FROM idempotency_keys WHERE tenant_id = $1 AND created_at < $2
                 LIMIT $3 FOR UPDATE SKIP LOCKED)",
            self.tx.tenant.0,
            oldest.to_sqlx() as _,
            MAX_EXPIRED_REQUESTS_PER_PURGE
        )
        .execute(&mut *self.tx.inner)
        .await?;
        Ok(IdempotencyLookup::FirstRequest)
    }

    async fn set_lock_timeout(&mut self, limit: &str) -> Result<(), StoreError> {
        sqlx::query!("SELECT set_config('lock_timeout', $1, true)", limit)
            .fetch_one(&mut *self.tx.inner)
            .await?;
        Ok(())
    }

    async fn find_response(
        &mut self,
        request: &RequestKey,
    ) -> Result<IdempotencyLookup, StoreError> {
        let row = sqlx::query!(
            "SELECT body_hash, status, location, etag, answer FROM idempotency_keys
             WHERE tenant_id = $1 AND principal = $2 AND route = $3 AND key = $4",
            self.tx.tenant.0,
            request.principal,
            request.route,
            request.key
        )
        .fetch_one(&mut *self.tx.inner)
        .await?;
        if row.body_hash != request.body_hash {
            return Ok(IdempotencyLookup::KeyReused);
        }
        let corrupt = || StoreError::Corrupt {
            table: "idempotency_keys",
            column: "answer",
            row: request.key.clone(),
        };
        let (status, answer) = row.status.zip(row.answer).ok_or_else(corrupt)?;
        Ok(IdempotencyLookup::Replay(StoredResponse {
            status: decode_column(
                status.try_into(),
                "idempotency_keys",
                "status",
                &request.key,
            )?,
            location: row.location,
            etag: row.etag,
            body: self.tx.open(&request.associated_data(), &answer).await?,
        }))
    }

    /// Stores the response in the row that [`IdempotencyQueries::reserve_idempotency_key`] reserved.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when no row was reserved, and [`StoreError::KeysErased`]
    /// when the tenant has no keys any more.
    pub async fn store_response(
        &mut self,
        request: &RequestKey,
        answer: &StoredResponse,
    ) -> Result<(), StoreError> {
        let sealed = self.tx.seal(&request.associated_data(), &answer.body)?;
        let kept = sqlx::query!(
            "UPDATE idempotency_keys SET status = $5, location = $6, etag = $7, answer = $8
             WHERE tenant_id = $1 AND principal = $2 AND route = $3 AND key = $4",
            self.tx.tenant.0,
            request.principal,
            request.route,
            request.key,
            i32::from(answer.status),
            answer.location,
            answer.etag,
            sealed
        )
        .execute(&mut *self.tx.inner)
        .await?;
        require_one_row(
            kept.rows_affected(),
            StoreError::NotFound { what: "request" },
        )
    }
}
