//! Announces API operations that will be removed. Each answer of such an operation carries the
//! headers `Deprecation` (RFC 9745) and `Sunset` (RFC 8594), and the `OpenAPI` document marks the
//! operation.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use serde_json::Value;

/// An API operation that will be removed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeprecatedOperation {
    /// The `operationId` of the API operation.
    pub(crate) operation: &'static str,
    /// Time from which new clients should not use the operation.
    pub(crate) since: Timestamp,
    /// Time until which the operation works at least; not before `since`.
    pub(crate) until: Timestamp,
    /// Address of the page that says what to use instead.
    pub(crate) page: &'static str,
}

/// All API operations that will be removed. No released operation is deprecated yet.
pub(crate) const DEPRECATED: &[DeprecatedOperation] = &[];

const DEPRECATION: HeaderName = HeaderName::from_static("deprecation");
const SUNSET: HeaderName = HeaderName::from_static("sunset");

/// Headers of deprecated operations, by method and path template.
pub(crate) type DeprecationHeaders = Arc<HashMap<(Method, String), HeaderMap>>;

impl DeprecatedOperation {
    /// Builds the headers that each answer of the operation carries.
    fn response_headers(&self) -> HeaderMap {
        let value =
            |text: String| HeaderValue::from_str(&text).expect("a date and an address of our own");
        let sunset = DateTimePrinter::new()
            .timestamp_to_rfc9110_string(&self.until)
            .expect("a year with four digits");
        HeaderMap::from_iter([
            (DEPRECATION, value(format!("@{}", self.since.as_second()))),
            (SUNSET, value(sunset)),
            (
                header::LINK,
                value(format!("<{}>; rel=\"deprecation\"", self.page)),
            ),
        ])
    }
}

/// Marks the deprecated operations in the document, and returns the headers for their answers.
///
/// # Panics
/// Panics if the document has no such operation, because it was removed and its entry here was not.
pub(crate) fn mark_deprecated(
    document: &mut Value,
    all: &[DeprecatedOperation],
) -> DeprecationHeaders {
    let mut notices = HashMap::new();
    let mut left: Vec<&DeprecatedOperation> = all.iter().collect();
    for (path, methods) in document["paths"].as_object_mut().into_iter().flatten() {
        for (method, operation) in methods.as_object_mut().into_iter().flatten() {
            let Some(at) = left
                .iter()
                .position(|one| operation["operationId"] == one.operation)
            else {
                continue;
            };
            let deprecated = left.remove(at);
            operation["deprecated"] = true.into();
            operation["x-sunset"] = deprecated.until.to_string().into();
            let method = method
                .to_uppercase()
                .parse()
                .expect("a method of the document");
            notices.insert((method, path.clone()), deprecated.response_headers());
        }
    }
    assert!(left.is_empty(), "there are no operations {left:?}");
    Arc::new(notices)
}

/// Adds the headers of a deprecated operation to each of its answers, errors included.
pub(crate) async fn add_deprecation_headers(
    State(notices): State<DeprecationHeaders>,
    request: Request,
    next: Next,
) -> Response {
    let path = request
        .extensions()
        .get::<MatchedPath>()
        .map(|path| path.as_str().to_owned());
    let notice = path.and_then(|path| notices.get(&(request.method().clone(), path)).cloned());
    let mut response = next.run(request).await;
    response.headers_mut().extend(notice.into_iter().flatten());
    response
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::http::StatusCode;
    use axum::routing::get;
    use serde_json::json;
    use tower::ServiceExt;

    use super::*;

    fn sample_deprecation() -> DeprecatedOperation {
        DeprecatedOperation {
            operation: "listThings",
            since: "2026-12-01T00:00:00Z".parse().expect("a time"),
            until: "2027-06-30T12:00:00Z".parse().expect("a time"),
            page: "https://docs.example/things",
        }
    }

    fn document() -> Value {
        let operation = |id: &str| json!({ "operationId": id });
        json!({ "paths": {
            "/v1/things/{id}": { "get": operation("listThings"), "delete": operation("deleteThing") },
            "/v1/others": { "get": operation("listOthers") },
        } })
    }

    #[tokio::test]
    async fn every_answer_of_a_deprecated_operation_says_so_and_no_other() {
        let mut document = document();
        let notices = mark_deprecated(&mut document, &[sample_deprecation()]);
        let gone = async || StatusCode::NOT_FOUND;
        let app = Router::new()
            .route("/v1/things/{id}", get(gone).delete(gone))
            .route("/v1/others", get(gone))
            .layer(axum::middleware::from_fn_with_state(
                notices,
                add_deprecation_headers,
            ));
        let ask = async |method: &str, path: &str| {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .body(Body::empty())
                .expect("a request");
            app.clone()
                .oneshot(request)
                .await
                .expect("an answer")
                .headers()
                .clone()
        };
        let told = ask("GET", "/v1/things/7").await;
        assert_eq!(told["deprecation"], "@1796083200");
        assert_eq!(told["sunset"], "Wed, 30 Jun 2027 12:00:00 GMT");
        assert_eq!(
            told["link"],
            "<https://docs.example/things>; rel=\"deprecation\""
        );
        for (method, path) in [
            ("DELETE", "/v1/things/7"),
            ("GET", "/v1/others"),
            ("GET", "/v1/nothing"),
        ] {
            assert!(
                !ask(method, path).await.contains_key("deprecation"),
                "{method} {path}"
            );
        }
        let marked = &document["paths"]["/v1/things/{id}"];
        assert_eq!(
            (&marked["get"]["deprecated"], &marked["get"]["x-sunset"]),
            (&json!(true), &json!("2027-06-30T12:00:00Z"))
        );
        assert!(marked["delete"].get("deprecated").is_none());
    }

    #[test]
    #[should_panic(expected = "listThings")]
    fn a_notice_about_nothing_is_a_mistake() {
        mark_deprecated(&mut json!({ "paths": {} }), &[sample_deprecation()]);
    }

    #[test]
    fn nothing_goes_away_before_it_was_said() {
        assert!(DEPRECATED.iter().all(|one| one.since <= one.until));
    }
}
