//! Turns all errors into problem documents. Text from clusters, the database or libraries never
//! reaches a client.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use meshwright_model::access::{Action, Role};
use meshwright_model::problem::ProblemCode;
use meshwright_wire::{FieldError, Problem};

use crate::middleware::request_context;

mod store;

/// Reason why a handler ends early.
#[derive(Debug)]
pub(crate) enum ApiError {
    /// The request is refused or failed, for the reason in the problem.
    Problem(Box<ApiProblem>),
    /// The request repeats an earlier one with the same `Idempotency-Key`, and this is the stored
    /// answer.
    Replay(Box<Response>),
}

/// Problem that is shown to the caller.
#[derive(Debug)]
pub(crate) struct ApiProblem {
    status: StatusCode,
    code: ProblemCode,
    detail: String,
    hint: String,
    errors: Vec<FieldError>,
    /// Seconds after which the same request may succeed; `None` if a retry does not help.
    retry_after: Option<u64>,
    /// True if the service itself runs the request again.
    retryable_conflict: bool,
}

/// Marks an answer that failed only because of a conflict with another transaction, so that the
/// retry layer runs the request again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RetryableConflict;

pub(crate) type Result<T> = std::result::Result<T, ApiError>;

impl ApiError {
    pub(crate) fn new(
        status: StatusCode,
        code: ProblemCode,
        detail: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::Problem(Box::new(ApiProblem {
            status,
            code,
            detail: detail.into(),
            hint: hint.into(),
            errors: Vec::new(),
            retry_after: None,
            retryable_conflict: false,
        }))
    }

    /// Ends the handler with the stored answer of an earlier request.
    pub(crate) fn replay(response: Response) -> Self {
        Self::Replay(Box::new(response))
    }

    pub(crate) fn not_found(what: &str) -> Self {
        let hint = "List what there is and check the id.";
        Self::new(
            StatusCode::NOT_FOUND,
            ProblemCode::NotFound,
            format!("There is no such {what}."),
            hint,
        )
    }

    /// Builds the problem for one invalid field.
    pub(crate) fn invalid_field(pointer: &str, message: impl Into<String>) -> Self {
        FieldError::new(pointer, message).into()
    }

    /// Returns the same problem under another code.
    pub(crate) fn with_code(self, code: ProblemCode) -> Self {
        match self {
            Self::Problem(refusal) => Self::Problem(Box::new(ApiProblem { code, ..*refusal })),
            answered @ Self::Replay(_) => answered,
        }
    }

    pub(crate) fn malformed_body(error: impl std::fmt::Display) -> Self {
        let hint = "The OpenAPI document says what this route takes.";
        Self::new(
            StatusCode::BAD_REQUEST,
            ProblemCode::MalformedBody,
            format!("The body cannot be read: {error}."),
            hint,
        )
    }

    pub(crate) fn malformed_query(error: impl std::fmt::Display) -> Self {
        let hint = "The OpenAPI document says which parameters this route takes.";
        Self::new(
            StatusCode::BAD_REQUEST,
            ProblemCode::MalformedQuery,
            format!("The query cannot be read: {error}."),
            hint,
        )
    }

    pub(crate) fn not_json() -> Self {
        let hint = "Send JSON, with the header Content-Type: application/json.";
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ProblemCode::NotJson,
            "The body is said to be something else than JSON.",
            hint,
        )
    }

    pub(crate) fn body_too_large() -> Self {
        let hint = "Send less than a megabyte.";
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            ProblemCode::BodyTooLarge,
            "The body is too large.",
            hint,
        )
    }

    pub(crate) fn body_too_slow() -> Self {
        let hint = "Send the request again, its whole body at once.";
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            ProblemCode::BodyTooSlow,
            "The body did not arrive in time.",
            hint,
        )
    }

    pub(crate) fn forbidden(action: Action) -> Self {
        let role = Role::least_role_for(action).as_str();
        let hint = "Use a key with that role there, or ask an owner for one.";
        Self::new(
            StatusCode::FORBIDDEN,
            ProblemCode::RoleMissing,
            format!("This needs the role {role}."),
            hint,
        )
    }

    /// Builds the problem for an action that this kind of tenant does not have: tenants have
    /// meshes, and the operator of the service has tenants.
    pub(crate) fn wrong_tenant_kind(action: Action) -> Self {
        let (detail, hint) = match action {
            Action::ReadPlatform | Action::ChangePlatform => (
                "Only the operator of the service may do this.",
                "Ask them, or use a key of theirs.",
            ),
            _ => (
                "Whoever operates the service has no meshes of their own.",
                "Use a key of a tenant.",
            ),
        };
        Self::new(
            StatusCode::FORBIDDEN,
            ProblemCode::RoleMissing,
            detail,
            hint,
        )
    }

    /// Builds the problem for a rate limit that was exceeded. The next request is allowed after
    /// `seconds`.
    pub(crate) fn rate_limited(seconds: u64) -> Self {
        let hint = format!("Come back in {seconds} s, and ask less often.");
        Self::too_many_requests("You ask more often than your share allows.", hint, seconds)
    }

    /// Builds the problem for a tenant with too many requests that wait for a change.
    pub(crate) fn too_many_long_polls() -> Self {
        let hint = "Come back in a second, follow changes with `GET /v1/events`, or ask without `wait_seconds`.";
        Self::too_many_requests(
            "Too many requests of your tenant wait for a change at once.",
            hint,
            1,
        )
    }

    fn too_many_requests(detail: &str, hint: impl Into<String>, seconds: u64) -> Self {
        let mut limited = Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            ProblemCode::RateLimited,
            detail,
            hint,
        );
        if let Self::Problem(refusal) = &mut limited {
            refusal.retry_after = Some(seconds);
        }
        limited
    }

    pub(crate) fn tenant_suspended() -> Self {
        let hint = "Ask the operator of the service.";
        Self::new(
            StatusCode::FORBIDDEN,
            ProblemCode::TenantSuspended,
            "The tenant is suspended.",
            hint,
        )
    }

    pub(crate) fn unauthenticated() -> Self {
        let hint = "Send the header 'Authorization: Bearer <API key>' with a key that is valid.";
        Self::new(
            StatusCode::UNAUTHORIZED,
            ProblemCode::Unauthenticated,
            "No valid credential was sent.",
            hint,
        )
    }

    pub(crate) fn internal() -> Self {
        let hint = "Try again; if it lasts, give the request id to the operator.";
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            ProblemCode::Internal,
            "Something went wrong on our side.",
            hint,
        )
    }

    pub(crate) fn service_unavailable() -> Self {
        let hint = "Send the request again in a moment.";
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            ProblemCode::TryAgain,
            "The service is busy or restarting.",
            hint,
        )
    }
}

impl From<FieldError> for ApiError {
    fn from(wrong: FieldError) -> Self {
        Self::Problem(Box::new(ApiProblem {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            code: ProblemCode::InvalidField,
            detail: wrong.message.clone(),
            hint: "Correct the field and send the request again.".into(),
            errors: vec![wrong],
            retry_after: None,
            retryable_conflict: false,
        }))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        match self {
            Self::Problem(refusal) => refusal.into_response(),
            Self::Replay(response) => *response,
        }
    }
}

impl IntoResponse for ApiProblem {
    fn into_response(self) -> Response {
        // Seconds after which a client may retry while the service or a mesh is busy.
        const RETRY_AFTER_SECONDS: u64 = 2;
        let busy = self.status == StatusCode::SERVICE_UNAVAILABLE
            || matches!(
                self.code,
                ProblemCode::MeshBusy | ProblemCode::RequestInFlight
            );
        let retry_after = self.retry_after.or(busy.then_some(RETRY_AFTER_SECONDS));
        let problem = Problem {
            kind: format!("/problems/{}", self.code.as_str()),
            title: self.code.as_str().replace('_', " "),
            status: self.status.as_u16(),
            code: self.code.as_str().into(),
            detail: self.detail,
            hint: self.hint,
            instance: request_context::request_id(),
            retryable: retry_after.is_some(),
            errors: self.errors,
        };
        let mut response = (self.status, Json(problem)).into_response();
        if self.retryable_conflict {
            response.extensions_mut().insert(RetryableConflict);
        }
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
