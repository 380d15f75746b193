//! Request bodies and answers: strict JSON in, `Idempotency-Key` honoured, the answer kept in the transaction of the work.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use model::Name;
use model::name::InvalidName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use store::{Answer, Earlier, Tx};

use crate::App;
use crate::auth::Caller;
use crate::problem::{ApiError, Result};

/// The longest key; a UUID has 36.
const LONGEST_KEY: usize = 128;

/// A parsed body with what idempotency needs of it.
#[derive(Debug)]
pub(crate) struct Body<T> {
    pub(crate) value: T,
    key: Option<String>,
    route: String,
    hash: Vec<u8>,
}

impl<T: DeserializeOwned> FromRequest<App> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self> {
        let route = format!("{} {}", request.method(), request.uri().path());
        let key = idempotency_key(request.headers())?;
        let too_large = |_| {
            ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                "The body is too large.",
                "Send less than a megabyte.",
            )
        };
        let bytes = Bytes::from_request(request, app).await.map_err(too_large)?;
        // A verb without arguments may come without a body.
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        let value = serde_json::from_slice(text).map_err(|error| {
            ApiError::new(
                StatusCode::BAD_REQUEST,
                "malformed_body",
                format!("The body cannot be read: {error}."),
                "The OpenAPI document has an example.",
            )
        })?;
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes).as_ref().to_vec();
        Ok(Self { value, key, route, hash })
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let key = key.to_str().ok().filter(|key| (1..=LONGEST_KEY).contains(&key.len()));
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

impl<T> Body<T> {
    /// The stored answer of the same request, if there was one.
    pub(crate) async fn earlier(&self, tx: &mut Tx<'_>) -> Result<Option<Response>> {
        let Some(key) = &self.key else { return Ok(None) };
        match tx.earlier_answer(&self.route, key, &self.hash).await? {
            Earlier::None => Ok(None),
            Earlier::Same(answer) => Ok(Some(response(&answer))),
            Earlier::Other => Err(ApiError::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency_key_reused",
                "This Idempotency-Key was used for another request.",
                "Use a new key for a new request.",
            )),
        }
    }

    /// Keeps the answer and commits it with the work.
    pub(crate) async fn finish(
        &self,
        mut tx: Tx<'_>,
        caller: &Caller,
        status: StatusCode,
        location: Option<String>,
        value: &impl Serialize,
    ) -> Result<Response> {
        let body = serde_json::to_vec(value).expect("our own types have string keys");
        let answer = Answer { status: status.as_u16(), location, body };
        if let Some(key) = &self.key {
            tx.keep_answer(&self.route, key, &self.hash, &answer, caller.app.clock.now()).await?;
        }
        tx.commit().await?;
        Ok(response(&answer))
    }
}

fn response(answer: &Answer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let mut response = (status, answer.body.clone()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(location) = answer.location.as_ref().and_then(|location| HeaderValue::from_str(location).ok()) {
        headers.insert(header::LOCATION, location);
    }
    response
}

/// Reads an id of a path; a malformed one is as absent as an unknown one.
pub(crate) fn id<T: std::str::FromStr>(text: &str, what: &str) -> Result<T> {
    text.parse().map_err(|_| ApiError::not_found(what))
}

/// Reads the field `/name`: a DNS label.
pub(crate) fn name_field(text: &str) -> Result<Name> {
    text.parse().map_err(|error: InvalidName| ApiError::field("/name", error.to_string()))
}
