//! Tests a real Vault as the keeper of the master key: its core, its transit engine and its own API
//! over TLS, in use by the server as it is shipped.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use meshwright_store::embedded_postgres::{EmbeddedPostgres, SUPERUSER};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

use crate::service::{ApiProcess, ApiProcessConfig, SERVER_BINARY};
use crate::{Result, database, run_command};

mod vault_server;

use vault_server::{TRANSIT_KEY_PATH, VaultServer};

pub(crate) fn run() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let postgres = database::start_migrated_postgres(scratch.path())?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let vault = VaultServer::start(scratch.path()).await?;
        let scene = VaultScenario::new(scratch.path(), &postgres, vault).await?;
        scene.run_checks().await
    })
}

fn text_at(answer: &Value, pointer: &str) -> Result<String> {
    answer
        .pointer(pointer)
        .and_then(Value::as_str)
        .map(str::to_owned)
        .with_context(|| format!("no {pointer}: {answer}"))
}

/// Prints what was checked, or returns an error when it does not hold.
fn check_that(holds: bool, what: &str, seen: impl std::fmt::Debug) -> Result<()> {
    if !holds {
        bail!("{what}: no: {seen:?}");
    }
    println!("fine: {what}");
    Ok(())
}

/// The service with a Vault as the keeper of its master key.
struct VaultScenario<'a> {
    postgres: &'a EmbeddedPostgres,
    vault: VaultServer,
    http: Client,
    token_file: PathBuf,
    secret_file: PathBuf,
    environment: Vec<(&'static str, String)>,
}

/// A tenant and the API key of its owner.
struct Tenant {
    id: String,
    owner_key: String,
}

impl<'a> VaultScenario<'a> {
    async fn new(dir: &Path, postgres: &'a EmbeddedPostgres, vault: VaultServer) -> Result<Self> {
        let [token_file, secret] = ["token", "secret"].map(|name| dir.join(name));
        std::fs::write(&secret, "07".repeat(32))?;
        std::fs::write(&token_file, vault.create_service_token().await?)?;
        let environment = vec![
            ("MESHWRIGHT_TRANSIT_ADDRESS", vault.address.clone()),
            (
                "MESHWRIGHT_TRANSIT_TOKEN_FILE",
                token_file.display().to_string(),
            ),
            // Variable that names the file of trusted authorities for a process.
            (
                "SSL_CERT_FILE",
                vault.program.certificate.display().to_string(),
            ),
        ];
        Ok(Self {
            postgres,
            vault,
            http: Client::new(),
            token_file,
            secret_file: secret,
            environment,
        })
    }

    fn database_url(&self, role: &str) -> String {
        self.postgres.url(role, database::DATABASE_NAME)
    }

    /// Starts an API process, which has no tenant key in memory yet.
    fn start_api(&self) -> Result<ApiProcess> {
        let config = ApiProcessConfig::new(&self.database_url("mw_api"), &self.secret_file);
        ApiProcess::start(ApiProcessConfig {
            environment: self.environment.clone(),
            ..config
        })
    }

    /// Runs the command `tenants` of the server's operator.
    fn run_tenants_command(&self, arguments: &[&str]) -> Result<String> {
        let mut run = Command::new(SERVER_BINARY);
        run.arg("tenants")
            .args(arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        run.env("MESHWRIGHT_DATABASE_URL", self.database_url("mw_worker"))
            .env("MESHWRIGHT_VAULT_KEY_FILE", &self.secret_file);
        Ok(run_command(&mut run)?.trim().to_owned())
    }

    fn query_database(&self, query: &str) -> Result<Vec<String>> {
        let mut psql = Command::new(database::postgres_program("psql")?);
        psql.args(["--quiet", "--tuples-only", "--no-align", "--command", query])
            .arg(self.database_url(SUPERUSER));
        Ok(run_command(&mut psql)?.lines().map(str::to_owned).collect())
    }

    async fn post_json(
        &self,
        api: &ApiProcess,
        key: &str,
        path: &str,
        body: &Value,
    ) -> Result<(StatusCode, Value)> {
        let request = self
            .http
            .post(format!("http://{}/v1/{path}", api.address))
            .bearer_auth(key)
            .json(body);
        let name = body["name"].as_str().unwrap_or_default().to_owned();
        let answer = request.header("Idempotency-Key", name).send().await?;
        Ok((answer.status(), answer.json().await?))
    }

    async fn create_tenant(&self, api: &ApiProcess, operator: &str, name: &str) -> Result<Tenant> {
        let (status, made) = self
            .post_json(api, operator, "tenants", &json!({ "name": name }))
            .await?;
        check_that(
            status == StatusCode::CREATED,
            &format!("tenant {name} is made"),
            &made["code"],
        )?;
        Ok(Tenant {
            id: text_at(&made, "/id")?,
            owner_key: text_at(&made, "/owner_key")?,
        })
    }

    /// Creates a webhook, whose answer contains a secret and is stored sealed. The same request
    /// again gets the same answer, if the stored one opens.
    async fn create_webhook(
        &self,
        api: &ApiProcess,
        tenant: &Tenant,
        name: &str,
    ) -> Result<(StatusCode, Value)> {
        let body = json!({ "name": name, "url": "https://example.com/events" });
        self.post_json(api, &tenant.owner_key, "webhooks", &body)
            .await
    }

    /// Returns the versions of Vault's key that the tenants' keys are wrapped with.
    fn wrapping_key_versions(&self) -> Result<Vec<String>> {
        self.query_database(
            "SELECT DISTINCT split_part(convert_from(wrapped, 'UTF8'), ':', 2) FROM tenant_keys",
        )
    }

    async fn run_checks(&self) -> Result<()> {
        let api = self.start_api()?;
        let operator = self.run_tenants_command(&["operator-key"])?;
        let one = self.create_tenant(&api, &operator, "payments").await?;
        let other = self.create_tenant(&api, &operator, "search").await?;
        let wrappers = self.query_database("SELECT DISTINCT wrapper FROM tenant_keys")?;
        check_that(
            wrappers == ["transit:transit/meshwright"],
            "Vault wraps every tenant's key",
            wrappers,
        )?;
        let (status, first) = self.create_webhook(&api, &one, "first").await?;
        check_that(
            status == StatusCode::CREATED && first["secret"].is_string(),
            "a secret is kept",
            &first["code"],
        )?;
        let (status, again) = self
            .create_webhook(&self.start_api()?, &one, "first")
            .await?;
        check_that(
            status == StatusCode::CREATED && again == first,
            "another process opens it",
            status,
        )?;
        self.check_sealed_vault(&api, &one, &first).await?;
        self.check_rotation(&one, &first).await?;
        self.check_token_revocation(&one, &first).await?;
        self.check_swapped_keys(&one, &other, &first).await?;
        self.check_erased_tenant(&one, &other).await
    }

    async fn check_sealed_vault(
        &self,
        api: &ApiProcess,
        tenant: &Tenant,
        first: &Value,
    ) -> Result<()> {
        let late = self.start_api()?;
        self.vault
            .call_as_root("PUT", "sys/seal", json!({}))
            .await?;
        let (status, refused) = self.create_webhook(&late, tenant, "first").await?;
        let fits = status == StatusCode::SERVICE_UNAVAILABLE && refused["code"] == "try_again";
        check_that(
            fits,
            "while Vault is sealed, who has opened no key asks to try again",
            &refused,
        )?;
        let (status, _) = self.create_webhook(api, tenant, "second").await?;
        check_that(
            status == StatusCode::CREATED,
            "who has opened it goes on",
            status,
        )?;
        self.vault.unseal().await?;
        let (_, again) = self.create_webhook(&late, tenant, "first").await?;
        check_that(
            again == *first,
            "unsealed, it goes on without a restart",
            &again["code"],
        )
    }

    async fn check_rotation(&self, tenant: &Tenant, first: &Value) -> Result<()> {
        self.vault
            .call_as_root("POST", &format!("{TRANSIT_KEY_PATH}/rotate"), json!({}))
            .await?;
        let (_, again) = self
            .create_webhook(&self.start_api()?, tenant, "first")
            .await?;
        check_that(
            again == *first,
            "a key that Vault has rotated opens what it wrapped before",
            &again["code"],
        )?;
        let said = self.run_tenants_command(&["rewrap-keys"])?;
        let versions = self.wrapping_key_versions()?;
        check_that(
            versions == ["v2"],
            &format!("rewrap-keys: {said}"),
            versions,
        )?;
        self.vault
            .call_as_root(
                "POST",
                &format!("{TRANSIT_KEY_PATH}/config"),
                json!({ "min_decryption_version": 2 }),
            )
            .await?;
        let (_, again) = self
            .create_webhook(&self.start_api()?, tenant, "first")
            .await?;
        check_that(
            again == *first,
            "the former version can be taken out of use",
            &again["code"],
        )
    }

    async fn check_token_revocation(&self, tenant: &Tenant, first: &Value) -> Result<()> {
        let token = std::fs::read_to_string(&self.token_file)?;
        for (method, path) in [
            ("GET", TRANSIT_KEY_PATH),
            ("POST", "transit/encrypt/other"),
            ("GET", "sys/policies/acl/meshwright"),
        ] {
            let (status, _) = self
                .vault
                .call_with_token(&token, method, path, json!({ "plaintext": "" }))
                .await?;
            check_that(
                status == StatusCode::FORBIDDEN,
                &format!("the service's token is not let to {path}"),
                status,
            )?;
        }
        self.vault
            .call_as_root("POST", "auth/token/revoke", json!({ "token": token }))
            .await?;
        let api = self.start_api()?;
        let (status, _) = self.create_webhook(&api, tenant, "first").await?;
        check_that(
            status == StatusCode::SERVICE_UNAVAILABLE,
            "with a revoked token nothing opens",
            status,
        )?;
        std::fs::write(&self.token_file, self.vault.create_service_token().await?)?;
        let (_, again) = self.create_webhook(&api, tenant, "first").await?;
        check_that(
            again == *first,
            "another token in the file is used at once",
            &again["code"],
        )
    }

    /// Checks that a tenant's key does not open for another tenant, even if an attacker who can
    /// write to the database swaps the two.
    async fn check_swapped_keys(&self, one: &Tenant, other: &Tenant, first: &Value) -> Result<()> {
        let swap = "WITH old AS (SELECT * FROM tenant_keys)
            UPDATE tenant_keys k SET wrapped = old.wrapped FROM old, tenants mine, tenants theirs
            WHERE mine.name IN ('payments', 'search') AND theirs.name IN ('payments', 'search') AND mine.name <> theirs.name
              AND k.tenant_id = mine.tenant_id AND old.tenant_id = theirs.tenant_id";
        self.query_database(swap)?;
        let api = self.start_api()?;
        for tenant in [one, other] {
            let (status, _) = self.create_webhook(&api, tenant, "first").await?;
            check_that(
                status == StatusCode::SERVICE_UNAVAILABLE,
                "a key of another tenant does not open",
                status,
            )?;
        }
        self.query_database(swap)?;
        let (_, again) = self.create_webhook(&api, one, "first").await?;
        check_that(again == *first, "its own does", &again["code"])
    }

    async fn check_erased_tenant(&self, one: &Tenant, other: &Tenant) -> Result<()> {
        self.run_tenants_command(&["erase-secrets", "--tenant", &one.id, "--confirm", &one.id])?;
        let api = self.start_api()?;
        for name in ["first", "third"] {
            let (_, refused) = self.create_webhook(&api, one, name).await?;
            check_that(
                refused["code"] == "secrets_erased",
                "erased is erased",
                &refused,
            )?;
        }
        let (status, _) = self.create_webhook(&api, other, "first").await?;
        check_that(
            status == StatusCode::CREATED,
            "and nobody else is touched",
            status,
        )
    }
}
