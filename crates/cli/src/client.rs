//! Sends requests to the service and turns its problems into exit codes.

use meshwright_wire::{ClusterList, MeshList, Problem};
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::profile::Profile;
use crate::{Failure, Result};

/// Maximum number of times that one request is sent.
const MAX_ATTEMPTS: u32 = 3;
/// Longest `Retry-After` that the client waits for, in seconds. With a longer one, the answer is
/// final.
const MAX_RETRY_AFTER_SECONDS: u64 = 30;
/// Delay before a request without an answer is sent again, times the number of attempts so far.
const RETRY_DELAY: std::time::Duration = std::time::Duration::from_millis(500);

/// Returns the `Retry-After` of an answer with 503 or 429, if it is short enough to wait for.
fn retry_after(answer: &reqwest::Response) -> Option<std::time::Duration> {
    let later = matches!(
        answer.status(),
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
    );
    let seconds = answer
        .headers()
        .get("retry-after")?
        .to_str()
        .ok()?
        .parse()
        .ok()
        .filter(|seconds| *seconds <= MAX_RETRY_AFTER_SECONDS)?;
    later.then(|| std::time::Duration::from_secs(seconds))
}

/// Generates an idempotency key, by which the service recognises copies of a request.
fn random_idempotency_key() -> String {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's randomness");
    meshwright_model::audit::hex::encode(&bytes)
}

/// HTTP client for one service, with the address and key of a profile.
pub(crate) struct Client {
    http: reqwest::Client,
    profile: Profile,
}

impl Client {
    pub(crate) fn new(profile: Profile) -> Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(std::time::Duration::from_secs(90))
            .build()
            .map_err(Failure::other)?;
        Ok(Self { http, profile })
    }

    /// Sends a request, with an idempotency key unless it is a GET, so that it can be sent again
    /// when no answer came.
    async fn send_request(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        tag: Option<String>,
    ) -> Result<reqwest::Response> {
        let key = (method != Method::GET).then(random_idempotency_key);
        let mut tries = 1;
        let answer = loop {
            let address = format!("{}{path}", self.profile.server);
            let mut request = self
                .http
                .request(method.clone(), address)
                .bearer_auth(&self.profile.key);
            if let Some(body) = &body {
                request = request.json(body);
            }
            for (name, value) in [("If-Match", &tag), ("Idempotency-Key", &key)] {
                if let Some(value) = value {
                    request = request.header(name, value);
                }
            }
            let pause = match request.send().await {
                Ok(answer) => match retry_after(&answer) {
                    Some(pause) if tries < MAX_ATTEMPTS => pause,
                    _ => break answer,
                },
                Err(error) if tries == MAX_ATTEMPTS || error.is_builder() => {
                    return Err(Failure::new(
                        1,
                        format!("{} does not answer: {error}", self.profile.server),
                    ));
                }
                Err(_) => RETRY_DELAY * tries,
            };
            tokio::time::sleep(pause).await;
            tries += 1;
        };
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let code = match status {
            StatusCode::NOT_FOUND => 3,
            StatusCode::CONFLICT
            | StatusCode::PRECONDITION_FAILED
            | StatusCode::PRECONDITION_REQUIRED => 4,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => 5,
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => 2,
            _ => 1,
        };
        let problem: Option<Problem> = answer.json().await.ok();
        let message = problem.map_or_else(
            || format!("the service answered {status}"),
            |problem| format!("{} ({})\n{}", problem.detail, problem.code, problem.hint),
        );
        Err(Failure::new(code, message))
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.send_request(Method::GET, path, None, None)
            .await?
            .json()
            .await
            .map_err(Failure::other)
    }

    /// Returns an object with its `ETag`, which identifies the version of the object.
    pub(crate) async fn get_tagged<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<(T, Option<String>)> {
        let answer = self.send_request(Method::GET, path, None, None).await?;
        let tag = answer
            .headers()
            .get("etag")
            .and_then(|tag| tag.to_str().ok())
            .map(str::to_owned);
        Ok((answer.json().await.map_err(Failure::other)?, tag))
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        tag: Option<String>,
    ) -> Result<T> {
        let body = serde_json::to_value(body).map_err(Failure::other)?;
        self.send_request(Method::POST, path, Some(body), tag)
            .await?
            .json()
            .await
            .map_err(Failure::other)
    }

    pub(crate) async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        let body = serde_json::to_value(body).map_err(Failure::other)?;
        self.send_request(Method::PATCH, path, Some(body), None)
            .await?
            .json()
            .await
            .map_err(Failure::other)
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<Option<Value>> {
        self.delete_with_body(path, None).await
    }

    /// Deletes an object, with a body that holds the options of the deletion.
    pub(crate) async fn delete_with_body(
        &self,
        path: &str,
        body: Option<Value>,
    ) -> Result<Option<Value>> {
        let answer = self.send_request(Method::DELETE, path, body, None).await?;
        if answer.status() == StatusCode::NO_CONTENT {
            Ok(None)
        } else {
            answer.json().await.map(Some).map_err(Failure::other)
        }
    }

    /// Resolves the name of a mesh to its id. Names are DNS labels without underscores, so a text
    /// that begins with `mesh_` is an id.
    pub(crate) async fn resolve_mesh_id(&self, named: &str) -> Result<String> {
        if named.starts_with("mesh_") {
            return Ok(named.to_owned());
        }
        let found: MeshList = self
            .get(&format!("/v1/meshes?name={}", percent_encode(named)))
            .await?;
        let mesh = found.items.into_iter().next();
        mesh.map(|mesh| mesh.id)
            .ok_or_else(|| Failure::new(3, format!("there is no mesh {named}")))
    }

    /// Resolves the name of a cluster to its id. A text that begins with `cluster_` is an id.
    pub(crate) async fn resolve_cluster_id(&self, named: &str) -> Result<String> {
        if named.starts_with("cluster_") {
            return Ok(named.to_owned());
        }
        let found: ClusterList = self
            .get(&format!("/v1/clusters?name={}", percent_encode(named)))
            .await?;
        let cluster = found.items.into_iter().next();
        cluster
            .map(|cluster| cluster.id)
            .ok_or_else(|| Failure::new(3, format!("there is no cluster {named}")))
    }

    /// Reads all items of a list, page by page.
    pub(crate) async fn list_all<T: DeserializeOwned + Serialize>(
        &self,
        path: &str,
    ) -> Result<ListPage<T>> {
        let separator = if path.contains('?') { '&' } else { '?' };
        let mut items: Vec<T> = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let next = token
                .map(|token| format!("&page_token={token}"))
                .unwrap_or_default();
            let page: ListPage<T> = self
                .get(&format!("{path}{separator}page_size=500{next}"))
                .await?;
            items.extend(page.items);
            token = page.next_page_token;
            if token.is_none() {
                return Ok(ListPage {
                    items,
                    next_page_token: None,
                });
            }
        }
    }
}

/// Page of any list. [`Client::list_all`] returns all items as one page.
#[derive(Debug, Serialize, serde::Deserialize)]
pub(crate) struct ListPage<T> {
    pub(crate) items: Vec<T>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
}

/// Percent-encodes a text for a query: all bytes except the unreserved characters of RFC 3986.
pub(crate) fn percent_encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}
