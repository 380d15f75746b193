//! Builds requests, sends them and reads the answers. Each part of a path must be a plain name.

use http::{Method, Request};
use meshwright_model::problem::ProblemCode;
use meshwright_rollout::ports::FencingToken;
use serde_json::Value;
use tokio::time::Instant;

use super::answer::{CallError, check_status};
use super::{ClusterClient, told};

impl ClusterClient {
    /// Sends a request and parses the answer.
    pub(super) async fn call_json(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
        permit: Option<&FencingToken>,
    ) -> Result<Value, CallError> {
        let bytes = self.send_and_read(method, path, body, permit).await?;
        told::parse_object(&bytes).map_err(|_| CallError::unreadable_response())
    }

    /// Sends a request and reads the whole answer. The deadline of the fencing token, or the
    /// timeout of a call if that is earlier, ends the call; `send_request` checks it once more
    /// directly before the bytes go out.
    pub(super) async fn send_and_read(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
        permit: Option<&FencingToken>,
    ) -> Result<bytes::BytesMut, CallError> {
        let request = self.build_request(method, path, body)?;
        let latest = Instant::now() + self.limits().call_timeout;
        let latest = permit.map_or(latest, |permit| {
            latest.min(permit.deadline.instant().into())
        });
        let answer = self.send_request(&request, latest).await?;
        let status = answer.status();
        let bytes = self.read_body(answer, latest).await?;
        check_status(status, &describe_request(&request), &bytes)?;
        Ok(bytes)
    }

    /// Builds a request. Refuses a path with a part that is no plain name.
    pub(super) fn build_request(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<Request<Vec<u8>>, CallError> {
        let mut request = Request::builder().method(method).uri(path);
        let mut bytes = Vec::new();
        if let Some((kind, object)) = body {
            request = request.header("Content-Type", kind);
            bytes = serde_json::to_vec(object).expect("JSON values have string keys");
        }
        let request = request
            .body(bytes)
            .ok()
            .filter(|request| is_plain_path(request.uri().path()));
        request.ok_or_else(|| {
            tracing::debug!(
                place = self.cluster_name(),
                path,
                "request not sent: a part of its path is no valid name"
            );
            CallError::InvalidResponse(
                ProblemCode::ClusterRefused,
                "a name in it makes no path of an API".into(),
            )
        })
    }
}

/// Formats method and path of a request for messages. All parts of the path are plain names.
pub(super) fn describe_request(request: &Request<Vec<u8>>) -> String {
    format!("{} {}", request.method(), request.uri().path())
}

/// Escapes text that a cluster sent for use as a value in a query.
pub(super) fn escape_query_value(text: &str) -> String {
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

/// Returns whether every part of a path is a name that Kubernetes could have given. Parts come from
/// requests and from what clusters report about themselves; none of them may lead to another object
/// than the one that was observed.
fn is_plain_path(path: &str) -> bool {
    let named = |part: &str| {
        let letters = part
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte));
        letters && !part.is_empty() && part != "." && part != ".."
    };
    path.strip_prefix('/')
        .is_some_and(|parts| parts.split('/').all(named))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_where_its_names_say() {
        for good in [
            "/version",
            "/api/v1/namespaces/istio-system/pods",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/a:b",
        ] {
            assert!(is_plain_path(good), "{good}");
        }
        for bad in [
            "",
            "/",
            "version",
            "/api//v1",
            "/api/v1/",
            "/api/./v1",
            "/a/../b",
            "/a/%2e%2e/b",
            "/a/b c",
            "/a/\u{e9}",
        ] {
            assert!(!is_plain_path(bad), "{bad}");
        }
    }
}
