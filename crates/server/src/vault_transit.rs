//! Wraps and unwraps data keys with the transit engine of Vault. Vault keeps the master key and
//! never reveals it.
//!
//! The calls are those of Vault's HTTP API, `POST /v1/<mount>/encrypt/<key>` and `…/decrypt/<key>`,
//! with the context as `associated_data`. The transit key must have an authenticated type, such as
//! the default `aes256-gcm96`.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshwright_store::tenant_keys::{KeyWrapper, SymmetricKey, WrapError};
use serde_json::{Value, json};

/// Maximum time of one call. A transaction can wait for it, and Postgres ends a transaction that is
/// idle for five seconds.
const TRANSIT_TIMEOUT: Duration = Duration::from_secs(2);

/// Key wrapper that uses one key of a transit engine.
#[derive(Debug)]
pub(crate) struct TransitKeyWrapper {
    http: reqwest::Client,
    address: String,
    mount: String,
    key: String,
    /// File with the token. It is read before each call, because the program that renews the token
    /// replaces the file.
    token_file: PathBuf,
}

impl TransitKeyWrapper {
    pub(crate) fn new(
        address: &str,
        mount: &str,
        key: &str,
        token_file: PathBuf,
    ) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .timeout(TRANSIT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        let address = address.trim_end_matches('/').to_owned();
        Ok(Self {
            http,
            address,
            mount: mount.to_owned(),
            key: key.to_owned(),
            token_file,
        })
    }

    async fn call_engine(
        &self,
        verb: &str,
        body: &Value,
        wanted: &str,
    ) -> Result<String, WrapError> {
        let unavailable =
            |error: Box<dyn std::error::Error + Send + Sync>| WrapError::Unavailable(error);
        let token = tokio::fs::read_to_string(&self.token_file)
            .await
            .map_err(|error| unavailable(error.into()))?;
        let url = format!("{}/v1/{}/{verb}/{}", self.address, self.mount, self.key);
        let request = self
            .http
            .post(url)
            .header("X-Vault-Token", token.trim())
            .json(body);
        let answer = request
            .send()
            .await
            .map_err(|error| unavailable(error.into()))?;
        // A Vault that is sealed, on standby or overloaded will answer later. Every other error is
        // a refusal.
        if answer.status().is_server_error() || answer.status().as_u16() == 429 {
            return Err(unavailable(
                format!("it answered {}", answer.status()).into(),
            ));
        }
        if !answer.status().is_success() {
            tracing::warn!(status = %answer.status(), verb, "the transit engine of Vault refused the call");
            return Err(WrapError::Refused);
        }
        let answer: Value = answer
            .json()
            .await
            .map_err(|error| unavailable(error.into()))?;
        answer["data"][wanted]
            .as_str()
            .map(str::to_owned)
            .ok_or(WrapError::Refused)
    }
}

#[async_trait]
impl KeyWrapper for TransitKeyWrapper {
    fn name(&self) -> String {
        format!("transit:{}/{}", self.mount, self.key)
    }

    async fn wrap_key(&self, key: &SymmetricKey, context: &str) -> Result<Vec<u8>, WrapError> {
        let body = json!({ "plaintext": STANDARD.encode(key), "associated_data": STANDARD.encode(context) });
        Ok(self
            .call_engine("encrypt", &body, "ciphertext")
            .await?
            .into_bytes())
    }

    async fn unwrap_key(&self, wrapped: &[u8], context: &str) -> Result<SymmetricKey, WrapError> {
        let wrapped = std::str::from_utf8(wrapped).map_err(|_| WrapError::Refused)?;
        let body = json!({ "ciphertext": wrapped, "associated_data": STANDARD.encode(context) });
        let text = self.call_engine("decrypt", &body, "plaintext").await?;
        let key = STANDARD.decode(text).map_err(|_| WrapError::Refused)?;
        key.try_into().map_err(|_| WrapError::Refused)
    }
}

#[cfg(test)]
mod tests;
