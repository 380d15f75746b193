//! One cluster's API: JSON in and out, a deadline on every request, errors in the ports' words.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::{Method, Request, StatusCode};
use kube::config::AuthInfo;
use rollout::ports::{Permit, WorldError};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::dialling::Dialling;
use crate::kubeconfig::{Credential, Identity};

/// Who writes our fields.
pub const FIELD_MANAGER: &str = "meshwright";
/// One request, answer included. A sixth of the default lease.
const CALL: Duration = Duration::from_secs(5);
/// Objects a page of a list.
const PAGE: u32 = 500;

/// A connection to one cluster.
#[derive(Clone)]
pub struct Door {
    place: String,
    client: kube::Client,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Door {
    /// Resolves the server, checks its addresses and pins one, so that no later answer of a name server can lead the
    /// credential elsewhere. Redirects are not followed.
    ///
    /// # Errors
    /// The address is not allowed, the name does not resolve, or the credential cannot be used.
    pub async fn open(place: &str, credential: &Credential, rules: &Dialling) -> Result<Self, WorldError> {
        let refused =
            |code, cause: &str| WorldError::Refused { place: place.to_owned(), code, cause: cause.to_owned() };
        let uri: http::Uri =
            credential.server.parse().map_err(|_| refused("credential_refused", "its address cannot be read"))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(443);
        let found = tokio::time::timeout(CALL, tokio::net::lookup_host((host.as_str(), port))).await;
        let unreachable = |cause: &str| WorldError::Unreachable { place: place.to_owned(), cause: cause.to_owned() };
        let found: Vec<SocketAddr> = found
            .map_err(|_| unreachable("the name was not resolved in time"))?
            .map_err(|_| unreachable("the name does not resolve"))?
            .collect();
        let Some(pinned) = found.iter().find(|address| rules.allows(address.ip())) else {
            return Err(refused(
                "address_refused",
                "its address is loopback, private or link-local; the operator can allow the network",
            ));
        };
        let mut config =
            kube::Config::new(format!("https://{pinned}/").parse().expect("an address is a valid authority"));
        // The certificate is checked against the name that the user gave, not against the pinned address.
        config.tls_server_name = Some(host);
        config.root_cert = Some(
            certificates(&credential.authority)
                .ok_or_else(|| refused("credential_refused", "its certificate authority is not PEM"))?,
        );
        config.auth_info = auth_info(&credential.identity);
        config.proxy_url = None;
        let caller = format!("meshwright/{} ({})", env!("CARGO_PKG_VERSION"), rules.caller);
        let caller = caller.parse().map_err(|_| refused("credential_refused", "the worker's name is not printable"))?;
        config.headers.push((http::header::USER_AGENT, caller));
        (config.connect_timeout, config.read_timeout, config.write_timeout) = (Some(CALL), None, Some(CALL));
        let client = kube::Client::try_from(config)
            .map_err(|_| refused("credential_refused", "its certificate or key cannot be used"))?;
        Ok(Self { place: place.to_owned(), client })
    }

    /// What the cluster is called in messages.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// For what needs more than JSON: port-forwards.
    pub(crate) fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// An object; `None` when there is none.
    ///
    /// # Errors
    /// The cluster did not answer or refused.
    pub async fn get(&self, path: &str) -> Result<Option<Value>, WorldError> {
        match self.call(Method::GET, path, None, None).await {
            Ok(object) => Ok(Some(object)),
            Err(Failure::Status(StatusCode::NOT_FOUND, _)) => Ok(None),
            Err(failure) => Err(self.explain(failure)),
        }
    }

    /// Every object of a list, page by page. A kind that the cluster does not know has no objects.
    ///
    /// # Errors
    /// As for [`Door::get`].
    pub async fn list(&self, path: &str, query: &str) -> Result<Vec<Value>, WorldError> {
        let (mut items, mut token) = (Vec::new(), String::new());
        loop {
            let page = match self
                .call(Method::GET, &format!("{path}?limit={PAGE}&{query}&continue={token}"), None, None)
                .await
            {
                Ok(page) => page,
                Err(Failure::Status(StatusCode::NOT_FOUND, _)) => return Ok(items),
                Err(failure) => return Err(self.explain(failure)),
            };
            if let Some(Value::Array(found)) = page.get("items") {
                items.extend(found.iter().cloned());
            }
            match page.pointer("/metadata/continue").and_then(Value::as_str) {
                Some(next) if !next.is_empty() => next.clone_into(&mut token),
                _ => return Ok(items),
            }
        }
    }

    /// Creates an object; `Changed` when it is there already.
    ///
    /// # Errors
    /// As for [`Door::get`].
    pub async fn create(&self, path: &str, object: &Value, permit: Option<&Permit>) -> Result<Value, WorldError> {
        let path = format!("{path}?fieldManager={FIELD_MANAGER}");
        self.call(Method::POST, &path, Some(("application/json", object)), permit)
            .await
            .map_err(|failure| self.explain(failure))
    }

    /// Sends an object through admission and throws it away.
    ///
    /// # Errors
    /// As for [`Door::get`].
    pub async fn dry_run(&self, path: &str, object: &Value) -> Result<Value, WorldError> {
        let path = format!("{path}?dryRun=All");
        match self.call(Method::POST, &path, Some(("application/json", object)), None).await {
            Ok(admitted) => Ok(admitted),
            // The cluster did answer: it is a webhook that did not.
            Err(Failure::Status(status, cause)) if status.is_server_error() => {
                Err(WorldError::Refused { place: self.place.clone(), code: "webhook_failed", cause })
            }
            Err(failure) => Err(self.explain(failure)),
        }
    }

    /// Server-side apply with our field manager. `force` takes fields over that another manager holds.
    ///
    /// # Errors
    /// As for [`Door::get`].
    pub async fn apply(&self, path: &str, object: &Value, permit: Option<&Permit>) -> Result<Value, WorldError> {
        let path = format!("{path}?fieldManager={FIELD_MANAGER}&force=true");
        self.call(Method::PATCH, &path, Some(("application/apply-patch+yaml", object)), permit)
            .await
            .map_err(|failure| self.explain(failure))
    }

    /// Merge patch. A patch that carries `uid` and `resourceVersion` fails with `Changed` when the object moved on.
    ///
    /// # Errors
    /// As for [`Door::get`].
    pub async fn patch(&self, path: &str, change: &Value, permit: Option<&Permit>) -> Result<Value, WorldError> {
        let path = format!("{path}?fieldManager={FIELD_MANAGER}");
        self.call(Method::PATCH, &path, Some(("application/merge-patch+json", change)), permit)
            .await
            .map_err(|failure| self.explain(failure))
    }

    /// The same for an object that may be gone by now: then there is nothing to do.
    ///
    /// # Errors
    /// As for [`Door::get`].
    pub async fn patch_if_there(&self, path: &str, change: &Value, permit: &Permit) -> Result<(), WorldError> {
        let path = format!("{path}?fieldManager={FIELD_MANAGER}");
        match self.call(Method::PATCH, &path, Some(("application/merge-patch+json", change)), Some(permit)).await {
            Ok(_) | Err(Failure::Status(StatusCode::NOT_FOUND, _)) => Ok(()),
            Err(failure) => Err(self.explain(failure)),
        }
    }

    /// Deletes an object in the background; one that is gone already is fine.
    ///
    /// # Errors
    /// As for [`Door::get`].
    pub async fn delete(
        &self,
        path: &str,
        preconditions: Option<Value>,
        permit: Option<&Permit>,
    ) -> Result<(), WorldError> {
        let options = json!({ "kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background", "preconditions": preconditions });
        match self.call(Method::DELETE, path, Some(("application/json", &options)), permit).await {
            Ok(_) | Err(Failure::Status(StatusCode::NOT_FOUND, _)) => Ok(()),
            Err(failure) => Err(self.explain(failure)),
        }
    }

    /// The last place before bytes go out: here the permit is checked, and here the deadline cuts the call off.
    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
        permit: Option<&Permit>,
    ) -> Result<Value, Failure> {
        let mut request = Request::builder().method(method).uri(path);
        let mut bytes = Vec::new();
        if let Some((kind, object)) = body {
            request = request.header("Content-Type", kind);
            bytes = serde_json::to_vec(object).expect("JSON values have string keys");
        }
        let malformed = || Failure::Status(StatusCode::BAD_REQUEST, "a name in it makes no path of an API".into());
        let request =
            request.body(bytes).ok().filter(|request| is_plain(request.uri().path())).ok_or_else(malformed)?;
        let latest =
            permit.map_or_else(|| Instant::now() + CALL, |permit| permit.deadline.instant().min(Instant::now() + CALL));
        if Instant::now() >= latest {
            return Err(Failure::Expired);
        }
        match tokio::time::timeout_at(latest.into(), self.client.request::<Value>(request)).await {
            Err(_) => Err(Failure::Silent("no answer in time".into())),
            Ok(Ok(value)) => Ok(value),
            Ok(Err(kube::Error::Api(status))) => Err(Failure::Status(
                StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
                status.message.clone(),
            )),
            Ok(Err(error)) => {
                tracing::debug!(place = self.place, error = &error as &dyn std::error::Error, "a call failed");
                Err(Failure::Silent("the connection failed".into()))
            }
        }
    }

    fn explain(&self, failure: Failure) -> WorldError {
        let place = self.place.clone();
        match failure {
            Failure::Expired => WorldError::Expired,
            Failure::Silent(cause) => WorldError::Unreachable { place, cause },
            Failure::Status(StatusCode::CONFLICT, _) => WorldError::Changed { place },
            Failure::Status(StatusCode::UNAUTHORIZED, _) => WorldError::Refused {
                place,
                code: "credential_expired",
                cause: "the credential is not valid any more".into(),
            },
            Failure::Status(StatusCode::FORBIDDEN, message) => {
                WorldError::Refused { place, code: "permission_missing", cause: message }
            }
            Failure::Status(status, _) if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                WorldError::Unreachable { place, cause: format!("it answered {status}") }
            }
            Failure::Status(_, message) => WorldError::Refused { place, code: "cluster_refused", cause: message },
        }
    }
}

enum Failure {
    Expired,
    Silent(String),
    Status(StatusCode, String),
}

/// Whether every part of a path is a name as Kubernetes has them. Parts come from requests and from what clusters say of
/// themselves, and none of them may lead to another object than the one that was looked at.
fn is_plain(path: &str) -> bool {
    let named = |part: &str| {
        let letters = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte));
        letters && !part.is_empty() && part != "." && part != ".."
    };
    path.strip_prefix('/').is_some_and(|parts| parts.split('/').all(named))
}

fn auth_info(identity: &Identity) -> AuthInfo {
    use base64::Engine as _;
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    match identity {
        Identity::Token(token) => {
            AuthInfo { token: Some(token.expose_secret().to_owned().into()), ..AuthInfo::default() }
        }
        Identity::Certificate { certificate, key } => AuthInfo {
            client_certificate_data: Some(encode(certificate)),
            client_key_data: Some(encode(key.expose_secret().as_bytes()).into()),
            ..AuthInfo::default()
        },
    }
}

/// The certificates of a PEM bundle, as DER.
fn certificates(pem: &[u8]) -> Option<Vec<Vec<u8>>> {
    use base64::Engine as _;
    let text = std::str::from_utf8(pem).ok()?;
    let blocks = text.split("-----BEGIN CERTIFICATE-----").skip(1);
    let decoded: Option<Vec<Vec<u8>>> = blocks
        .map(|block| {
            let body: String = block.split("-----END CERTIFICATE-----").next()?.split_whitespace().collect();
            base64::engine::general_purpose::STANDARD.decode(body).ok()
        })
        .collect();
    decoded.filter(|list| !list.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_where_its_names_say() {
        for good in
            ["/version", "/api/v1/namespaces/istio-system/pods", "/apis/rbac.authorization.k8s.io/v1/clusterroles/a:b"]
        {
            assert!(is_plain(good), "{good}");
        }
        for bad in
            ["", "/", "version", "/api//v1", "/api/v1/", "/api/./v1", "/a/../b", "/a/%2e%2e/b", "/a/b c", "/a/\u{e9}"]
        {
            assert!(!is_plain(bad), "{bad}");
        }
    }
}
