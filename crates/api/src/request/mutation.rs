//! Handles requests that change something. The body is strict JSON, `Idempotency-Key` is honoured,
//! one audit entry is written, and the answer is stored in the transaction of the change.

use axum::body::Bytes;
use axum::extract::{FromRequest, Query, Request};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use meshwright_model::audit::{Digest, Entry};
use meshwright_store::{IdempotencyLookup, RequestKey, StoredResponse, Tx, sha256};
use meshwright_wire::JsonObject;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::connection_limits::ClientConnection;
use crate::error::{ApiError, Result};
use crate::middleware::request_context;
use crate::request::caller::{AppState, Caller, Database};

/// Maximum length of an `Idempotency-Key` in bytes. A UUID has 36.
pub(crate) const MAX_IDEMPOTENCY_KEY_LEN: usize = 128;

/// Body of a request that takes no fields.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EmptyBody {}

/// A parsed body, together with the values that idempotency needs.
#[derive(Debug)]
pub(crate) struct Body<T> {
    pub(crate) value: T,
    key: Option<String>,
    route: String,
    hash: Digest,
    /// True if the request has `validate_only`: the change is rolled back, and the answer shows
    /// what would have been answered.
    only_validate: bool,
}

/// Query parameters that every request with a change takes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MutationQuery {
    #[serde(default)]
    validate_only: bool,
}

impl<T: DeserializeOwned> FromRequest<AppState> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &AppState) -> Result<Self> {
        let route = format!("{} {}", request.method(), request.uri().path());
        let key = idempotency_key(request.headers())?;
        let Query(manner) = Query::<MutationQuery>::try_from_uri(request.uri())
            .map_err(|error| ApiError::malformed_query(error.body_text()))?;
        let is_json = is_json_content_type(request.headers());
        let bytes = read_body_bytes(request, app).await?;
        if !is_json && !bytes.is_empty() {
            return Err(ApiError::not_json());
        }
        // A request without arguments may have no body at all.
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        let unreadable = |error: serde_json::Error| ApiError::malformed_body(error.to_string());
        let JsonObject(value) = serde_json::from_slice(text).map_err(unreadable)?;
        if text
            .windows(ESCAPED_NUL.len())
            .any(|part| part == ESCAPED_NUL)
            && let Some(pointer) = find_nul(&serde_json::from_slice(text).map_err(unreadable)?)
        {
            return Err(ApiError::invalid_field(
                &pointer,
                "the character NUL cannot be kept",
            ));
        }
        Ok(Self {
            value,
            key,
            route,
            hash: sha256(&bytes),
            only_validate: manner.validate_only,
        })
    }
}

/// Reads the whole body of an authenticated request. The time for it is limited, so that the
/// unfinished bodies of one tenant cannot occupy all connections.
async fn read_body_bytes(request: Request, app: &AppState) -> Result<Bytes> {
    let connection = request.extensions().get::<ClientConnection>().cloned();
    let read = Bytes::from_request(request, app);
    let read = match connection {
        Some(connection) => connection
            .read_body(read)
            .await
            .ok_or_else(ApiError::body_too_slow)?,
        // A request that was made inside the process, as in tests, has no connection.
        None => read.await,
    };
    read.map_err(|_| ApiError::body_too_large())
}

/// The character NUL as JSON writes it. Postgres cannot store it in a text.
const ESCAPED_NUL: &[u8] = br"\u0000";

/// Returns the JSON pointer of the first text or field name that contains the character NUL.
fn find_nul(value: &Value) -> Option<String> {
    let below = |name: &str, value: &Value| {
        let rest = if name.contains('\0') {
            Some(String::new())
        } else {
            find_nul(value)
        };
        rest.map(|rest| format!("/{}{rest}", name.replace('~', "~0").replace('/', "~1")))
    };
    match value {
        Value::String(text) => text.contains('\0').then(String::new),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(index, item)| below(&index.to_string(), item)),
        Value::Object(fields) => fields.iter().find_map(|(name, value)| below(name, value)),
        _ => None,
    }
}

/// Returns true if the content type is JSON or absent. A form on a foreign web page cannot send
/// JSON without the browser asking this service first, so refusing its content types stops
/// cross-site requests.
fn is_json_content_type(headers: &HeaderMap) -> bool {
    let Some(said) = headers.get(header::CONTENT_TYPE) else {
        return true;
    };
    let kind = said
        .to_str()
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// Reads the header `Idempotency-Key`: 1 to 128 visible ASCII characters.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>> {
    let Some(key) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let visible = |key: &&str| {
        (1..=MAX_IDEMPOTENCY_KEY_LEN).contains(&key.len())
            && key.bytes().all(|byte| byte.is_ascii_graphic())
    };
    let key = key.to_str().ok().filter(visible);
    let bad = || {
        ApiError::new(
            StatusCode::BAD_REQUEST,
            "bad_idempotency_key",
            "Idempotency-Key must be 1 to 128 visible characters.",
            "A UUID is fine.",
        )
    };
    key.map(|key| Some(key.to_owned())).ok_or_else(bad)
}

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
                        "idempotency_key_reused",
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
        self.tx.record_audit(Entry {
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
        self.tx.record_audit(entry);
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
            self.tx.store_response(request, &answer).await?;
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
