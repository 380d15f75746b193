//! Starts a Vault with a transit engine, and calls its API.

use std::path::Path;

use anyhow::anyhow;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use super::text_at;
use crate::Result;
use crate::tls_program::TlsProgram;

/// Exactly the rights that the service's token needs according to `docs/operating.md`.
const SERVICE_POLICY: &str = r#"path "transit/encrypt/meshwright" { capabilities = ["update"] }
path "transit/decrypt/meshwright" { capabilities = ["update"] }"#;
/// Path of the key in the transit engine.
pub(super) const TRANSIT_KEY_PATH: &str = "transit/keys/meshwright";

/// A running, unsealed Vault; it is killed when this value is dropped.
pub(super) struct VaultServer {
    pub(super) program: TlsProgram,
    http: Client,
    pub(super) address: String,
    root_token: String,
    unseal_key: String,
}

impl VaultServer {
    /// Starts Vault, which is built if the cache does not have it, and does the setup that its
    /// operator does once.
    pub(super) async fn start(dir: &Path) -> Result<Self> {
        let program = TlsProgram::start("vault", dir)?;
        let certificate = std::fs::read(&program.certificate)?;
        let trusted = reqwest::Certificate::from_pem(&certificate)?;
        let http = Client::builder().tls_certs_only([trusted]).build()?;
        let address = format!("https://{}", program.address);
        let (root, unseal) = (String::new(), String::new());
        let mut vault = Self {
            program,
            http,
            address,
            root_token: root,
            unseal_key: unseal,
        };
        let made = vault
            .call_as_root(
                "PUT",
                "sys/init",
                json!({ "secret_shares": 1, "secret_threshold": 1 }),
            )
            .await?;
        vault.unseal_key = text_at(&made, "/keys/0")?;
        vault.root_token = text_at(&made, "/root_token")?;
        vault.unseal().await?;
        vault
            .call_as_root("POST", "sys/mounts/transit", json!({ "type": "transit" }))
            .await?;
        vault
            .call_as_root("POST", TRANSIT_KEY_PATH, json!({}))
            .await?;
        vault
            .call_as_root(
                "PUT",
                "sys/policies/acl/meshwright",
                json!({ "policy": SERVICE_POLICY }),
            )
            .await?;
        Ok(vault)
    }

    /// Sends a request as Vault's operator.
    ///
    /// # Errors
    ///
    /// Returns an error when Vault does not answer with a success.
    pub(super) async fn call_as_root(
        &self,
        method: &str,
        path: &str,
        body: Value,
    ) -> Result<Value> {
        let (status, answer) = self
            .call_with_token(&self.root_token, method, path, body)
            .await?;
        if status.is_success() {
            Ok(answer)
        } else {
            Err(anyhow!("vault: {method} {path}: {status} {answer}"))
        }
    }

    pub(super) async fn call_with_token(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Value,
    ) -> Result<(StatusCode, Value)> {
        let method = Method::from_bytes(method.as_bytes())?;
        let request = self
            .http
            .request(method, format!("{}/v1/{path}", self.address))
            .json(&body);
        let answer = request.header("X-Vault-Token", token).send().await?;
        let (status, body) = (answer.status(), answer.text().await?);
        Ok((status, serde_json::from_str(&body).unwrap_or_default()))
    }

    pub(super) async fn unseal(&self) -> Result<()> {
        let opened = self
            .call_as_root("PUT", "sys/unseal", json!({ "key": self.unseal_key }))
            .await?;
        if opened["sealed"] == false {
            Ok(())
        } else {
            Err(anyhow!("vault stayed sealed: {opened}"))
        }
    }

    /// Creates a token with exactly the rights that the service needs.
    pub(super) async fn create_service_token(&self) -> Result<String> {
        let made = self
            .call_as_root(
                "POST",
                "auth/token/create",
                json!({ "policies": ["meshwright"] }),
            )
            .await?;
        text_at(&made, "/auth/client_token")
    }
}
