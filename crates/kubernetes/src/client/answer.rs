//! Reads answers within the limits: frame by frame, never buffered beyond the maximum size, and
//! never longer than the timeout of a call.

use bytes::BytesMut;
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::Body;
use meshwright_model::problem::ProblemCode;
use meshwright_rollout::ports::ClusterError;
use serde_json::Value;
use tokio::time::Instant;

use super::refusal::ErrorStatus;
use super::{ClusterClient, told};
use crate::connect::ConnectError;

/// Reason why a call to a cluster failed.
#[derive(Debug)]
pub(super) enum CallError {
    /// The fencing token's deadline has passed.
    Expired,
    /// The cluster did not answer (problem code, cause); trying again may help.
    Unreachable(ProblemCode, &'static str),
    /// The answer exceeds a limit or is unreadable (problem code, cause); trying again does not
    /// help.
    InvalidResponse(ProblemCode, String),
    /// The cluster answered with an error status.
    Status(ErrorStatus),
}

/// An answer began but did not end in time.
pub(super) const RESPONSE_TOO_SLOW: CallError = CallError::Unreachable(
    ProblemCode::AnswerTooSlow,
    "its answer did not come to an end in time",
);
/// No answer began in time.
const NO_RESPONSE: CallError =
    CallError::Unreachable(ProblemCode::ClusterUnreachable, "no answer in time");
/// The connection failed, before or within an answer.
const CONNECTION_FAILED: CallError =
    CallError::Unreachable(ProblemCode::ClusterUnreachable, "the connection failed");

impl CallError {
    pub(super) fn unreadable_response() -> Self {
        Self::InvalidResponse(
            ProblemCode::AnswerUnreadable,
            "its answer is no JSON of an API server".into(),
        )
    }

    pub(super) fn response_too_large(bytes: usize) -> Self {
        Self::InvalidResponse(
            ProblemCode::AnswerTooLarge,
            format!("its answer is larger than {bytes} bytes"),
        )
    }

    pub(super) fn http_status(&self) -> Option<StatusCode> {
        if let Self::Status(refusal) = self {
            Some(refusal.status)
        } else {
            None
        }
    }

    fn from_client_error(place: &str, error: &kube::Error) -> Self {
        tracing::debug!(
            place,
            error = error as &dyn std::error::Error,
            "a call to the cluster failed"
        );
        match ConnectError::find_in(error) {
            Some(ConnectError::Forbidden) => Self::InvalidResponse(
                ProblemCode::AddressRefused,
                "its address is loopback, private or link-local; the operator can allow the network".into(),
            ),
            Some(ConnectError::Unresolved(_)) => Self::Unreachable(ProblemCode::ClusterUnreachable, "its name does not resolve"),
            Some(ConnectError::Unreachable) => {
                Self::Unreachable(ProblemCode::ClusterUnreachable, "no address accepts a connection")
            }
            Some(ConnectError::TooSlow) => NO_RESPONSE,
            None => CONNECTION_FAILED,
        }
    }

    /// Converts the failure into the error type of the ports.
    pub(super) fn into_cluster_error(self, place: &str) -> ClusterError {
        let place = place.to_owned();
        let refusal = match self {
            Self::Expired => return ClusterError::Expired,
            Self::Unreachable(code, cause) => {
                return ClusterError::Unreachable {
                    place,
                    code,
                    cause: cause.into(),
                };
            }
            Self::InvalidResponse(code, cause) => {
                return ClusterError::Refused { place, code, cause };
            }
            Self::Status(refusal) => refusal,
        };
        let refused = |code, cause| ClusterError::Refused {
            place: place.clone(),
            code,
            cause,
        };
        match refusal.status {
            // 410 Gone: the version from which a list or a watch continues has expired; the caller
            // begins again.
            StatusCode::CONFLICT | StatusCode::GONE => ClusterError::Changed { place },
            StatusCode::UNAUTHORIZED => refused(
                ProblemCode::CredentialExpired,
                "the credential is not valid any more".to_owned(),
            ),
            StatusCode::FORBIDDEN => refused(ProblemCode::PermissionMissing, refusal.message),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                ClusterError::unreachable(place, format!("it answered {}", status.as_u16()))
            }
            _ => refused(ProblemCode::ClusterRefused, refusal.message),
        }
    }
}

impl ClusterClient {
    /// Sends one request and waits for the head of the answer. If the cluster answers 401, reads
    /// the credential again and repeats the request once with a newer one.
    pub(super) async fn send_request(
        &self,
        request: &http::Request<Vec<u8>>,
        latest: Instant,
    ) -> Result<Response<Body>, CallError> {
        let used = self.active_credential();
        let answer = self.send_with_client(&used.client, request, latest).await?;
        if answer.status() == StatusCode::UNAUTHORIZED && self.refresh_credential(&used).await {
            return self
                .send_with_client(&self.active_credential().client, request, latest)
                .await;
        }
        Ok(answer)
    }

    async fn send_with_client(
        &self,
        client: &kube::Client,
        request: &http::Request<Vec<u8>>,
        latest: Instant,
    ) -> Result<Response<Body>, CallError> {
        if Instant::now() >= latest {
            return Err(CallError::Expired);
        }
        let sent =
            tokio::time::timeout_at(latest, client.send(request.clone().map(Body::from))).await;
        sent.map_err(|_| NO_RESPONSE)?
            .map_err(|error| CallError::from_client_error(self.cluster_name(), &error))
    }

    /// Reads a whole answer, within `max_response_bytes` and until `latest`.
    pub(super) async fn read_body(
        &self,
        answer: Response<Body>,
        latest: Instant,
    ) -> Result<BytesMut, CallError> {
        let most = self.limits().max_response_bytes;
        let mut body = answer.into_body();
        let whole = async {
            let mut bytes = BytesMut::new();
            while let Some(frame) = body.frame().await {
                let Ok(data) = frame.map_err(|_| CONNECTION_FAILED)?.into_data() else {
                    continue;
                };
                if bytes.len() + data.len() > most {
                    return Err(CallError::response_too_large(most));
                }
                bytes.extend_from_slice(&data);
            }
            Ok(bytes)
        };
        tokio::time::timeout_at(latest, whole)
            .await
            .map_err(|_| RESPONSE_TOO_SLOW)?
    }
}

/// Returns an error for an answer that is not a success, explained by its body.
pub(super) fn check_status(status: StatusCode, asked: &str, body: &[u8]) -> Result<(), CallError> {
    if status.is_success() {
        return Ok(());
    }
    Err(CallError::Status(ErrorStatus::from_status_body(
        status,
        asked,
        &told::parse_object(body).unwrap_or(Value::Null),
    )))
}

/// Events of a watch, read one by one.
#[derive(Debug)]
pub(crate) struct WatchEvents {
    cluster_name: String,
    body: Body,
    /// Bytes of the next line that have arrived so far.
    line: BytesMut,
    /// Number of bytes at the start of `line` that are known to hold no line break.
    searched: usize,
    max_line_bytes: usize,
    ends_at: Instant,
}

impl WatchEvents {
    pub(super) fn new(client: &ClusterClient, answer: Response<Body>) -> Self {
        let (most, until) = (
            client.limits().max_event_bytes,
            Instant::now() + client.limits().watch_timeout,
        );
        let cluster_name = client.cluster_name().to_owned();
        Self {
            cluster_name,
            body: answer.into_body(),
            line: BytesMut::new(),
            searched: 0,
            max_line_bytes: most,
            ends_at: until,
        }
    }

    /// Returns type and object of the next event, or `None` when the watch has ended.
    ///
    /// # Errors
    /// Returns an error if the connection failed, or if an event is too large or no JSON.
    pub(crate) async fn next_event(&mut self) -> Result<Option<(String, Value)>, ClusterError> {
        let cluster_name = self.cluster_name.clone();
        match tokio::time::timeout_at(self.ends_at, self.read_line()).await {
            Ok(Ok(Some(line))) => {
                let mut event = told::parse_object(&line).map_err(|_| {
                    CallError::unreadable_response().into_cluster_error(&cluster_name)
                })?;
                let kind = event["type"].as_str().unwrap_or_default().to_owned();
                Ok(Some((kind, event["object"].take())))
            }
            Err(_) | Ok(Ok(None)) => Ok(None),
            Ok(Err(failure)) => Err(failure.into_cluster_error(&cluster_name)),
        }
    }

    /// Reads the next line of the watch that is not blank, or `None` at the end of the stream.
    async fn read_line(&mut self) -> Result<Option<BytesMut>, CallError> {
        loop {
            if let Some(at) = self.line[self.searched..]
                .iter()
                .position(|byte| *byte == b'\n')
            {
                let line = self.line.split_to(self.searched + at + 1);
                self.searched = 0;
                if line.iter().any(|byte| !byte.is_ascii_whitespace()) {
                    return Ok(Some(line));
                }
                continue;
            }
            self.searched = self.line.len();
            if self.searched > self.max_line_bytes {
                return Err(CallError::response_too_large(self.max_line_bytes));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame.map_err(|_| CONNECTION_FAILED)?.into_data() {
                        self.line.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}
