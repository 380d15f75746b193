//! Issues tokens that are bound to Secrets. Deleting a Secret ends its tokens.

use std::time::Duration;

use http::HeaderValue;
use jiff::Timestamp;
use meshwright_model::problem::ProblemCode;
use meshwright_rollout::ports::{ClusterError, FencingToken};
use serde_json::{Value, json};

use super::{Account, MIN_TOKEN_LIFETIME, REGISTRATION_LABEL, SERIAL_LABEL};
use crate::client::ClusterClient;

/// Maximum size of a token that we accept from a cluster, in bytes. Real tokens have about 1,200.
/// Every request carries the token in a header, and servers refuse headers of more than 8 KiB.
const MAX_ISSUED_TOKEN_BYTES: usize = 7 * 1024;

/// Token that a cluster issued, with its expiry.
pub(crate) struct IssuedToken {
    pub(crate) token: String,
    pub(crate) expires_at: Timestamp,
}

/// Secrets of one namespace that tokens are bound to. In our own namespace these are the Secrets of
/// one registration. In a mesh's namespace these are all of them, because no other registration
/// uses it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BoundSecrets<'a> {
    pub(super) namespace: &'a str,
    pub(super) account: Option<&'a Account>,
}

impl<'a> BoundSecrets<'a> {
    /// Selects the Secrets of a mesh's namespace.
    pub(crate) fn for_mesh(namespace: &'a str) -> Self {
        Self {
            namespace,
            account: None,
        }
    }

    /// Builds the Secret that the tokens of a serial number are bound to.
    pub(crate) fn secret_for(&self, serial: i64) -> Value {
        let prefix = self.account.map_or("meshwright-access", Account::name);
        let mut labels = json!({ SERIAL_LABEL: serial.to_string() });
        if let Some(account) = self.account {
            labels[REGISTRATION_LABEL] = account.name().into();
        }
        json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": { "name": format!("{prefix}-{serial}"), "namespace": self.namespace, "labels": labels },
        })
    }

    /// Creates the Secret of a serial number. Safe to repeat.
    pub(crate) async fn apply_secret(
        &self,
        client: &ClusterClient,
        serial: i64,
    ) -> Result<(), ClusterError> {
        let object = self.secret_for(serial);
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        client
            .apply(
                &format!("/api/v1/namespaces/{}/secrets/{name}", self.namespace),
                &object,
                None,
            )
            .await
            .map(|_| ())
    }

    /// Lists the serial numbers in the cluster with their Secrets, in rising order.
    async fn list_secrets(
        &self,
        client: &ClusterClient,
    ) -> Result<Vec<(i64, Value)>, ClusterError> {
        let escaped = |label: &str| label.replace('/', "%2F");
        let mut query = format!("labelSelector={}", escaped(SERIAL_LABEL));
        if let Some(account) = self.account {
            query.push_str(&format!(
                ",{}%3D{}",
                escaped(REGISTRATION_LABEL),
                account.name()
            ));
        }
        let listed = client
            .list(
                &format!("/api/v1/namespaces/{}/secrets", self.namespace),
                &query,
            )
            .await?;
        let number = |object: &Value| {
            object["metadata"]["labels"][SERIAL_LABEL]
                .as_str()?
                .parse()
                .ok()
        };
        let mut found: Vec<(i64, Value)> = listed
            .into_iter()
            .filter_map(|object| Some((number(&object)?, object)))
            .collect();
        found.sort_by_key(|(serial, _)| *serial);
        Ok(found)
    }

    /// Returns the highest serial number in the cluster, or 0 if there is none.
    pub(crate) async fn newest_serial(&self, client: &ClusterClient) -> Result<i64, ClusterError> {
        Ok(self
            .list_secrets(client)
            .await?
            .last()
            .map_or(0, |(serial, _)| *serial))
    }

    /// Requests a token of an account, bound to the newest Secret. Returns its serial number as
    /// well.
    pub(crate) async fn request_token(
        &self,
        client: &ClusterClient,
        account: &str,
        life: Duration,
        permit: Option<&FencingToken>,
    ) -> Result<(i64, IssuedToken), ClusterError> {
        let namespace = self.namespace;
        let Some((serial, anchor)) = self.list_secrets(client).await?.pop() else {
            let cause = format!("the namespace {namespace} has no Secret that tokens are bound to");
            return Err(ClusterError::unreachable(client.cluster_name(), cause));
        };
        let metadata = &anchor["metadata"];
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {
                "expirationSeconds": life.max(MIN_TOKEN_LIFETIME).as_secs(),
                "boundObjectRef": { "apiVersion": "v1", "kind": "Secret", "name": metadata["name"], "uid": metadata["uid"] },
            },
        });
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let answer = client.create(&path, &request, permit).await?;
        let minted = parse_issued_token(&answer).ok_or_else(|| ClusterError::Refused {
            place: client.cluster_name().to_owned(),
            code: ProblemCode::TokenUnusable,
            cause: "its answer to a request for a token holds none that can be sent".into(),
        })?;
        Ok((serial, minted))
    }

    /// Deletes the Secrets before a serial number, which ends their tokens. Returns whether there
    /// were any.
    pub(crate) async fn delete_older(
        &self,
        client: &ClusterClient,
        serial: i64,
    ) -> Result<bool, ClusterError> {
        let namespace = self.namespace;
        let mut any = false;
        for (older, anchor) in self
            .list_secrets(client)
            .await?
            .into_iter()
            .filter(|(older, _)| *older < serial)
        {
            let name = anchor["metadata"]["name"].as_str().unwrap_or_default();
            tracing::info!(
                place = client.cluster_name(),
                namespace,
                serial = older,
                "deleting the Secret of an older credential, which ends its tokens"
            );
            client
                .delete(
                    &format!("/api/v1/namespaces/{namespace}/secrets/{name}"),
                    None,
                    None,
                )
                .await?;
            any = true;
        }
        Ok(any)
    }
}

/// Reads the token from the answer to a `TokenRequest`. Returns `None` if it holds none that a
/// request could carry.
fn parse_issued_token(answer: &Value) -> Option<IssuedToken> {
    let status = &answer["status"];
    let token = status["token"]
        .as_str()
        .filter(|token| is_header_value(token))?;
    let expires_at = status["expirationTimestamp"].as_str()?.parse().ok()?;
    Some(IssuedToken {
        token: token.to_owned(),
        expires_at,
    })
}

/// Returns whether a token can be the value of a header: visible ASCII characters in one line, at
/// most `MAX_ISSUED_TOKEN_BYTES`.
fn is_header_value(token: &str) -> bool {
    let visible = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    visible && token.len() <= MAX_ISSUED_TOKEN_BYTES && HeaderValue::from_str(token).is_ok()
}

/// Deletes the Secret that a token is bound to. The token's claims tell which one it is, so this
/// also works for names that another version of the server has chosen.
pub(crate) async fn delete_bound_secret(
    client: &ClusterClient,
    token: &str,
) -> Result<(), ClusterError> {
    let Some((namespace, name, uid)) = bound_secret_of(token) else {
        return Ok(());
    };
    let path = format!("/api/v1/namespaces/{namespace}/secrets/{name}");
    match client
        .delete(&path, Some(json!({ "uid": uid })), None)
        .await
    {
        // Another Secret has the name by now, so the token has ended already.
        Err(ClusterError::Changed { .. }) => Ok(()),
        ended => ended,
    }
}

/// Reads namespace, name and uid of the Secret from a token's claims. The signature is not checked,
/// because the token is our own.
fn bound_secret_of(token: &str) -> Option<(String, String, String)> {
    use base64::Engine as _;
    let claims = token.split('.').nth(1)?;
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(claims)
        .ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    let text = |pointer: &str| {
        claims
            .pointer(pointer)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    Some((
        text("/kubernetes.io/namespace")?,
        text("/kubernetes.io/secret/name")?,
        text("/kubernetes.io/secret/uid")?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(token: &str) -> Value {
        json!({ "status": { "token": token, "expirationTimestamp": "2026-11-22T10:00:00Z" } })
    }

    #[test]
    fn a_token_that_no_header_can_carry_is_no_token() {
        assert!(parse_issued_token(&answer("abc.def-ghi_jkl")).is_some());
        for token in [
            "",
            "a\nb",
            "a b",
            "a\0",
            "a\u{e9}",
            &"a".repeat(MAX_ISSUED_TOKEN_BYTES + 1),
        ] {
            assert!(parse_issued_token(&answer(token)).is_none(), "{token:?}");
        }
        assert!(parse_issued_token(&json!({ "status": { "token": 7 } })).is_none());
    }

    #[test]
    fn a_token_tells_which_secret_it_is_bound_to() {
        use base64::Engine as _;
        let claims = r#"{"kubernetes.io":{"namespace":"n","secret":{"name":"s","uid":"u"}}}"#;
        let token = format!(
            "h.{}.s",
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims)
        );
        assert_eq!(
            bound_secret_of(&token),
            Some(("n".into(), "s".into(), "u".into()))
        );
        assert_eq!(bound_secret_of("opaque"), None);
    }
}
