//! Reads the body and the idempotency key of a request that changes something. The body is strict
//! JSON.

use axum::body::Bytes;
use axum::extract::{FromRequest, Query, Request};
use axum::http::{HeaderMap, StatusCode, header};
use meshwright_model::audit::Digest;
use meshwright_model::problem::ProblemCode;
use meshwright_store::sha256;
use meshwright_wire::JsonObject;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::connection_limits::ClientConnection;
use crate::error::{ApiError, Result};
use crate::request::caller::AppState;

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
    pub(super) key: Option<String>,
    pub(super) route: String,
    pub(super) hash: Digest,
    /// True if the request has `validate_only`: the change is rolled back, and the answer shows
    /// what would have been answered.
    pub(super) only_validate: bool,
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
            ProblemCode::BadIdempotencyKey,
            "Idempotency-Key must be 1 to 128 visible characters.",
            "A UUID is fine.",
        )
    };
    key.map(|key| Some(key.to_owned())).ok_or_else(bad)
}
