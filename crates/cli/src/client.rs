//! Calls to the service; problems become exit codes.

use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use wire::{ClusterList, MeshList, Problem};

use crate::profile::Profile;
use crate::{Failure, Result};

/// A connection to the service.
pub(crate) struct Client {
    http: reqwest::Client,
    profile: Profile,
}

impl Client {
    pub(crate) fn new(profile: Profile) -> Result<Self> {
        let http =
            reqwest::Client::builder().timeout(std::time::Duration::from_secs(90)).build().map_err(Failure::other)?;
        Ok(Self { http, profile })
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        tag: Option<String>,
    ) -> Result<reqwest::Response> {
        let mut request =
            self.http.request(method, format!("{}{path}", self.profile.server)).bearer_auth(&self.profile.key);
        if let Some(body) = body {
            request = request.json(&body);
        }
        if let Some(tag) = tag {
            request = request.header("If-Match", tag);
        }
        let answer = request
            .send()
            .await
            .map_err(|error| Failure::new(1, format!("{} does not answer: {error}", self.profile.server)))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let code = match status {
            StatusCode::NOT_FOUND => 3,
            StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED | StatusCode::PRECONDITION_REQUIRED => 4,
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
        self.call(Method::GET, path, None, None).await?.json().await.map_err(Failure::other)
    }

    /// An object with the tag that says which version of it this is.
    pub(crate) async fn get_tagged(&self, path: &str) -> Result<Option<String>> {
        let answer = self.call(Method::GET, path, None, None).await?;
        Ok(answer.headers().get("etag").and_then(|tag| tag.to_str().ok()).map(str::to_owned))
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        tag: Option<String>,
    ) -> Result<T> {
        let body = serde_json::to_value(body).map_err(Failure::other)?;
        self.call(Method::POST, path, Some(body), tag).await?.json().await.map_err(Failure::other)
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<Option<Value>> {
        let answer = self.call(Method::DELETE, path, None, None).await?;
        if answer.status() == StatusCode::NO_CONTENT {
            Ok(None)
        } else {
            answer.json().await.map(Some).map_err(Failure::other)
        }
    }

    /// The id of a mesh that was named.
    pub(crate) async fn mesh(&self, named: &str) -> Result<String> {
        let all: MeshList = self.get("/v1/meshes").await?;
        let found = all.items.into_iter().find(|mesh| mesh.id == named || mesh.name == named);
        found.map(|mesh| mesh.id).ok_or_else(|| Failure::new(3, format!("there is no mesh {named}")))
    }

    /// The id of a cluster that was named.
    pub(crate) async fn cluster(&self, named: &str) -> Result<String> {
        let all: ClusterList = self.get("/v1/clusters").await?;
        let found = all.items.into_iter().find(|cluster| cluster.id == named || cluster.name == named);
        found.map(|cluster| cluster.id).ok_or_else(|| Failure::new(3, format!("there is no cluster {named}")))
    }
}
