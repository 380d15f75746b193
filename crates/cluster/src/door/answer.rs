//! Reading of answers: byte by byte within the limits, never buffered beyond them, never longer than the time of a call.

use bytes::BytesMut;
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::Body;
use rollout::ports::WorldError;
use serde_json::Value;
use tokio::time::Instant;

use super::refusal::Refusal;
use super::{Door, told};
use crate::connect::NotConnected;

/// How a call failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The permit to write has run out.
    Expired,
    /// No answer; trying again may help.
    Silent(&'static str, &'static str),
    /// The answer passes a limit or is none; trying again does not help.
    Unusable(&'static str, String),
    /// The cluster said no.
    Status(Refusal),
}

pub(super) const TOO_SLOW: Failure = Failure::Silent("answer_too_slow", "its answer did not come to an end in time");
const NO_ANSWER: Failure = Failure::Silent("cluster_unreachable", "no answer in time");
const BROKEN: Failure = Failure::Silent("cluster_unreachable", "the connection failed");

impl Failure {
    pub(super) fn unreadable() -> Self {
        Self::Unusable("answer_unreadable", "its answer is no JSON of an API server".into())
    }

    pub(super) fn too_large(bytes: usize) -> Self {
        Self::Unusable("answer_too_large", format!("its answer is larger than {bytes} bytes"))
    }

    pub(super) fn status(&self) -> Option<StatusCode> {
        if let Self::Status(refusal) = self { Some(refusal.status) } else { None }
    }

    fn of_client(place: &str, error: &kube::Error) -> Self {
        tracing::debug!(place, error = error as &dyn std::error::Error, "a call failed");
        match NotConnected::within(error) {
            Some(NotConnected::Forbidden) => Self::Unusable(
                "address_refused",
                "its address is loopback, private or link-local; the operator can allow the network".into(),
            ),
            Some(NotConnected::Unresolved(_)) => Self::Silent("cluster_unreachable", "its name does not resolve"),
            Some(NotConnected::Silent) => Self::Silent("cluster_unreachable", "no address accepts a connection"),
            Some(NotConnected::TooSlow) => NO_ANSWER,
            None => BROKEN,
        }
    }

    /// The failure in the ports' words.
    pub(super) fn explain(self, place: &str) -> WorldError {
        let place = place.to_owned();
        let refusal = match self {
            Self::Expired => return WorldError::Expired,
            Self::Silent(code, cause) => return WorldError::Unreachable { place, code, cause: cause.into() },
            Self::Unusable(code, cause) => return WorldError::Refused { place, code, cause },
            Self::Status(refusal) => refusal,
        };
        let refused = |code, cause| WorldError::Refused { place: place.clone(), code, cause };
        match refusal.status {
            // Gone is what a list or a watch goes on from: it begins again.
            StatusCode::CONFLICT | StatusCode::GONE => WorldError::Changed { place },
            StatusCode::UNAUTHORIZED => {
                refused("credential_expired", "the credential is not valid any more".to_owned())
            }
            StatusCode::FORBIDDEN => refused("permission_missing", refusal.words),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                WorldError::silent(place, format!("it answered {}", status.as_u16()))
            }
            _ => refused("cluster_refused", refusal.words),
        }
    }
}

impl Door {
    /// Sends one request and waits for the head of the answer. A credential that is not valid any more is read again, once.
    pub(super) async fn send(
        &self,
        request: &http::Request<Vec<u8>>,
        latest: Instant,
    ) -> Result<Response<Body>, Failure> {
        let used = self.present();
        let answer = self.send_by(&used.client, request, latest).await?;
        if answer.status() == StatusCode::UNAUTHORIZED && self.renewed(&used).await {
            return self.send_by(&self.present().client, request, latest).await;
        }
        Ok(answer)
    }

    async fn send_by(
        &self,
        client: &kube::Client,
        request: &http::Request<Vec<u8>>,
        latest: Instant,
    ) -> Result<Response<Body>, Failure> {
        if Instant::now() >= latest {
            return Err(Failure::Expired);
        }
        let sent = tokio::time::timeout_at(latest, client.send(request.clone().map(Body::from))).await;
        sent.map_err(|_| NO_ANSWER)?.map_err(|error| Failure::of_client(self.place(), &error))
    }

    /// Reads a whole answer.
    pub(super) async fn read(&self, answer: Response<Body>, latest: Instant) -> Result<BytesMut, Failure> {
        let most = self.limits().answer_bytes;
        let mut body = answer.into_body();
        let whole = async {
            let mut bytes = BytesMut::new();
            while let Some(frame) = body.frame().await {
                let Ok(data) = frame.map_err(|_| BROKEN)?.into_data() else { continue };
                if bytes.len() + data.len() > most {
                    return Err(Failure::too_large(most));
                }
                bytes.extend_from_slice(&data);
            }
            Ok(bytes)
        };
        tokio::time::timeout_at(latest, whole).await.map_err(|_| TOO_SLOW)?
    }
}

/// Refuses an answer that is not a success, by what its body says.
pub(super) fn judge(status: StatusCode, asked: &str, body: &[u8]) -> Result<(), Failure> {
    if status.is_success() {
        return Ok(());
    }
    Err(Failure::Status(Refusal::read(status, asked, &told::read(body).unwrap_or(Value::Null))))
}

/// Events of a watch, one by one.
#[derive(Debug)]
pub(crate) struct Events {
    place: String,
    body: Body,
    /// What has come of the next line.
    line: BytesMut,
    /// Bytes of `line` that hold no line break.
    searched: usize,
    most: usize,
    until: Instant,
}

impl Events {
    pub(super) fn new(door: &Door, answer: Response<Body>) -> Self {
        let (most, until) = (door.limits().event_bytes, Instant::now() + door.limits().watch);
        let place = door.place().to_owned();
        Self { place, body: answer.into_body(), line: BytesMut::new(), searched: 0, most, until }
    }

    /// The next event: its type and its object. `None` when the watch has come to its end.
    ///
    /// # Errors
    /// The connection failed, or an event is too large or no JSON.
    pub(crate) async fn next(&mut self) -> Result<Option<(String, Value)>, WorldError> {
        let place = self.place.clone();
        match tokio::time::timeout_at(self.until, self.read_line()).await {
            Ok(Ok(Some(line))) => {
                let mut event = told::read(&line).map_err(|_| Failure::unreadable().explain(&place))?;
                let kind = event["type"].as_str().unwrap_or_default().to_owned();
                Ok(Some((kind, event["object"].take())))
            }
            Err(_) | Ok(Ok(None)) => Ok(None),
            Ok(Err(failure)) => Err(failure.explain(&place)),
        }
    }

    async fn read_line(&mut self) -> Result<Option<BytesMut>, Failure> {
        loop {
            if let Some(at) = self.line[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.line.split_to(self.searched + at + 1);
                self.searched = 0;
                if line.iter().any(|byte| !byte.is_ascii_whitespace()) {
                    return Ok(Some(line));
                }
                continue;
            }
            self.searched = self.line.len();
            if self.searched > self.most {
                return Err(Failure::too_large(self.most));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame.map_err(|_| BROKEN)?.into_data() {
                        self.line.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}
