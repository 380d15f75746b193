//! Handles requests that change something: `Idempotency-Key` is honoured, one audit entry is
//! written, and the answer is stored in the transaction of the change.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use meshwright_model::audit::{Digest, Entry};
use meshwright_model::problem::ProblemCode;
use meshwright_store::{IdempotencyLookup, RequestKey, StoredResponse, Tx, sha256};
use serde::Serialize;

use crate::error::{ApiError, Result};
use crate::middleware::request_context;
use crate::request::caller::{Caller, Database};

mod body;

pub(crate) use body::{Body, EmptyBody, MAX_IDEMPOTENCY_KEY_LEN};

/// A change in progress, with the transaction in which it happens.
pub(crate) struct Mutation<'a> {
    pub(crate) tx: Tx<'static>,
    caller: &'a Caller,
    action: &'static str,
    request: Option<RequestKey>,
    only_validate: bool,
}

/// Result of a change, from which the answer and the audit entry are made.
pub(crate) struct MutationOutcome {
    pub(crate) status: StatusCode,
    /// Value of the header `Location`: path at which the client follows the result.
    pub(crate) location: Option<String>,
    /// Value of the header `ETag` for the resource in the body.
    pub(crate) etag: Option<String>,
    /// Changed object, as the audit log names it.
    pub(crate) target: String,
    /// SHA-256 digest of the object before the change, in its API form; `None` for a new object.
    pub(crate) before: Option<Digest>,
}

impl MutationOutcome {
    /// Creates the result of a change to `target`, without headers and without a former value.
    pub(crate) fn new(status: StatusCode, target: impl ToString) -> Self {
        Self {
            status,
            location: None,
            etag: None,
            target: target.to_string(),
            before: None,
        }
    }

    /// Adds the path at which the client follows the result.
    pub(crate) fn with_location(self, location: String) -> Self {
        Self {
            location: Some(location),
            ..self
        }
    }

    /// Adds the `ETag` of the resource in the body.
    pub(crate) fn with_etag(self, tag: String) -> Self {
        Self {
            etag: Some(tag),
            ..self
        }
    }

    /// Adds the digest of the target as it was before the change.
    pub(crate) fn with_before(self, before: &impl Serialize) -> Self {
        Self {
            before: Some(sha256(&to_json(before))),
            ..self
        }
    }
}

/// Writes a value as JSON.
fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("our own types have string keys")
}

impl Caller {
    /// Begins a change. A request that repeats an earlier one with the same `Idempotency-Key` ends
    /// here with the stored answer of the first one.
    pub(crate) async fn begin_mutation<T>(
        &self,
        database: Database,
        action: &'static str,
        body: &Body<T>,
    ) -> Result<Mutation<'_>> {
        let mut tx = database.begin_write().await?;
        let key = body.key.as_ref().filter(|_| !body.only_validate);
        let request = key.map(|key| RequestKey {
            principal: self.principal.clone(),
            route: body.route.clone(),
            key: key.clone(),
            body_hash: body.hash,
        });
        if let Some(request) = &request {
            match tx
                .idempotency()
                .reserve_idempotency_key(request, self.app.clock.now())
                .await?
            {
                IdempotencyLookup::FirstRequest => {}
                IdempotencyLookup::Replay(answer) => {
                    return Err(ApiError::replay(to_response(&answer)));
                }
                IdempotencyLookup::KeyReused => {
                    return Err(ApiError::new(
                        StatusCode::UNPROCESSABLE_ENTITY,
                        ProblemCode::IdempotencyKeyReused,
                        "This Idempotency-Key was used for another request.",
                        "Use a new key for a new request.",
                    ));
                }
            }
        }
        Ok(Mutation {
            tx,
            caller: self,
            action,
            request,
            only_validate: body.only_validate,
        })
    }
}

impl Mutation<'_> {
    /// Finishes a change: writes the audit entry, stores the answer for repeated requests, commits,
    /// and returns the answer with `shown` as its body.
    pub(crate) async fn commit_response(
        mut self,
        done: MutationOutcome,
        shown: &impl Serialize,
    ) -> Result<Response> {
        let body = to_json(shown);
        self.record_audit(&done, Some(sha256(&body)));
        self.commit_answer(StoredResponse {
            status: done.status.as_u16(),
            location: done.location,
            etag: done.etag,
            body,
        })
        .await
    }

    /// Finishes a deletion in the same way, and answers with 204 and no body.
    pub(crate) async fn commit_deletion(
        mut self,
        target: impl ToString,
        before: &impl Serialize,
    ) -> Result<Response> {
        let done = MutationOutcome::new(StatusCode::NO_CONTENT, target).with_before(before);
        self.record_audit(&done, None);
        self.commit_answer(StoredResponse {
            status: done.status.as_u16(),
            location: None,
            etag: None,
            body: Vec::new(),
        })
        .await
    }

    /// Records in the audit log that a cluster which does not answer may be left behind, and the
    /// reason.
    pub(crate) fn record_forced(&mut self, target: impl ToString, reason: &str) {
        self.tx.audit().record_audit(Entry {
            at: self.caller.app.clock.now(),
            actor: self.caller.principal.clone(),
            action: "force".into(),
            target: format!("{}: {reason}", target.to_string()),
            request_id: request_context::request_id(),
            before: None,
            after: None,
        });
    }

    /// Records the change in the audit log.
    fn record_audit(&mut self, done: &MutationOutcome, after: Option<Digest>) {
        let entry = Entry {
            before: done.before,
            after,
            ..self.audit_entry(&done.target)
        };
        self.tx.audit().record_audit(entry);
    }

    /// Builds the audit entry of this change to a target.
    pub(crate) fn audit_entry(&self, target: impl ToString) -> Entry {
        Entry {
            at: self.caller.app.clock.now(),
            actor: self.caller.principal.clone(),
            action: self.action.into(),
            target: target.to_string(),
            request_id: request_context::request_id(),
            before: None,
            after: None,
        }
    }

    /// Stores the answer and commits. With `validate_only` it drops the transaction instead, which
    /// rolls it back.
    async fn commit_answer(mut self, answer: StoredResponse) -> Result<Response> {
        if self.only_validate {
            return Ok(validation_response(answer));
        }
        if let Some(request) = &self.request {
            self.tx
                .idempotency()
                .store_response(request, &answer)
                .await?;
        }
        self.tx.commit().await?;
        Ok(to_response(&answer))
    }
}

/// Turns an answer into the answer of a request with `validate_only`. The whole change was made in
/// a transaction that is rolled back, so every refusal and every shown value equals that of the
/// real request, except for ids. Checks that only a worker can make in a cluster were not run.
fn validation_response(answer: StoredResponse) -> Response {
    let mut response = to_response(&StoredResponse {
        status: StatusCode::OK.as_u16(),
        location: None,
        etag: None,
        ..answer
    });
    let headers = response.headers_mut();
    headers.insert(
        "meshwright-validated-only",
        HeaderValue::from_static("true"),
    );
    headers.insert("meshwright-prechecks", HeaderValue::from_static("not_run"));
    response
}

/// Builds the HTTP response from a stored answer.
fn to_response(answer: &StoredResponse) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    if answer.body.is_empty() {
        return status.into_response();
    }
    let mut response = (status, answer.body.clone()).into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    for (name, value) in [
        (header::LOCATION, &answer.location),
        (header::ETAG, &answer.etag),
    ] {
        if let Some(value) = value
            .as_ref()
            .and_then(|value| HeaderValue::from_str(value).ok())
        {
            headers.insert(name, value);
        }
    }
    response
}
