//! Tests a real Vault as the keeper of the master key: its core, its transit engine and its own API
//! over TLS, in use by the server as it is shipped.

use std::path::{Path, PathBuf};
use std::process::Command;

use meshwright_store::embedded_postgres::{EmbeddedPostgres, SUPERUSER};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use crate::beside::Beside;
use crate::service::{Api, SERVER, Setting};
use crate::{Result, fresh, run_command};

/// Exactly the rights that the service's token needs according to `docs/operating.md`.
const POLICY: &str = r#"path "transit/encrypt/meshwright" { capabilities = ["update"] }
path "transit/decrypt/meshwright" { capabilities = ["update"] }"#;
/// Path of the key in the transit engine.
const ENGINE: &str = "transit/keys/meshwright";

pub(crate) fn run() -> Result<()> {
    let scratch = tempfile::tempdir().map_err(|error| error.to_string())?;
    let postgres = fresh::live(scratch.path())?;
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let keeper = Keeper::start(scratch.path()).await?;
        let scene = Scene::new(scratch.path(), &postgres, keeper).await?;
        scene.play().await
    })
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// A running, unsealed Vault; it is killed when this value is dropped.
struct Keeper {
    program: Beside,
    http: Client,
    address: String,
    root: String,
    unseal: String,
}

impl Keeper {
    /// Starts Vault, which is built if the cache does not have it, and does the setup that its
    /// operator does once.
    async fn start(dir: &Path) -> Result<Self> {
        let program = Beside::start("vault", dir)?;
        let certificate = std::fs::read(&program.certificate).map_err(text)?;
        let trusted = reqwest::Certificate::from_pem(&certificate).map_err(text)?;
        let http = Client::builder()
            .tls_certs_only([trusted])
            .build()
            .map_err(text)?;
        let address = format!("https://{}", program.address);
        let (root, unseal) = (String::new(), String::new());
        let mut keeper = Self {
            program,
            http,
            address,
            root,
            unseal,
        };
        let made = keeper
            .ask(
                "PUT",
                "sys/init",
                json!({ "secret_shares": 1, "secret_threshold": 1 }),
            )
            .await?;
        keeper.unseal = word(&made, "/keys/0")?;
        keeper.root = word(&made, "/root_token")?;
        keeper.unseal().await?;
        keeper
            .ask("POST", "sys/mounts/transit", json!({ "type": "transit" }))
            .await?;
        keeper.ask("POST", ENGINE, json!({})).await?;
        keeper
            .ask(
                "PUT",
                "sys/policies/acl/meshwright",
                json!({ "policy": POLICY }),
            )
            .await?;
        Ok(keeper)
    }

    /// Sends a request as Vault's operator.
    ///
    /// # Errors
    ///
    /// Returns an error when Vault does not answer with a success.
    async fn ask(&self, method: &str, path: &str, body: Value) -> Result<Value> {
        let (status, answer) = self.ask_as(&self.root, method, path, body).await?;
        if status.is_success() {
            Ok(answer)
        } else {
            Err(format!("vault: {method} {path}: {status} {answer}"))
        }
    }

    async fn ask_as(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Value,
    ) -> Result<(StatusCode, Value)> {
        let method = Method::from_bytes(method.as_bytes()).map_err(text)?;
        let request = self
            .http
            .request(method, format!("{}/v1/{path}", self.address))
            .json(&body);
        let answer = request
            .header("X-Vault-Token", token)
            .send()
            .await
            .map_err(text)?;
        let (status, body) = (answer.status(), answer.text().await.map_err(text)?);
        Ok((status, serde_json::from_str(&body).unwrap_or_default()))
    }

    async fn unseal(&self) -> Result<()> {
        let opened = self
            .ask("PUT", "sys/unseal", json!({ "key": self.unseal }))
            .await?;
        if opened["sealed"] == false {
            Ok(())
        } else {
            Err(format!("vault stayed sealed: {opened}"))
        }
    }

    /// Creates a token with exactly the rights that the service needs.
    async fn token(&self) -> Result<String> {
        let made = self
            .ask(
                "POST",
                "auth/token/create",
                json!({ "policies": ["meshwright"] }),
            )
            .await?;
        word(&made, "/auth/client_token")
    }
}

fn word(answer: &Value, pointer: &str) -> Result<String> {
    answer
        .pointer(pointer)
        .and_then(Value::as_str)
        .map(str::to_owned)
        .ok_or_else(|| format!("no {pointer}: {answer}"))
}

/// Prints what was checked, or returns an error when it does not hold.
fn expect(holds: bool, what: &str, seen: impl std::fmt::Debug) -> Result<()> {
    if !holds {
        return Err(format!("{what}: no: {seen:?}"));
    }
    println!("fine: {what}");
    Ok(())
}

/// The service with a Vault as the keeper of its master key.
struct Scene<'a> {
    postgres: &'a EmbeddedPostgres,
    keeper: Keeper,
    http: Client,
    token_file: PathBuf,
    secret: PathBuf,
    environment: Vec<(&'static str, String)>,
}

/// A tenant and the API key of its owner.
struct Tenant {
    id: String,
    owner: String,
}

impl<'a> Scene<'a> {
    async fn new(dir: &Path, postgres: &'a EmbeddedPostgres, keeper: Keeper) -> Result<Self> {
        let [token_file, secret] = ["token", "secret"].map(|name| dir.join(name));
        std::fs::write(&secret, "07".repeat(32)).map_err(text)?;
        std::fs::write(&token_file, keeper.token().await?).map_err(text)?;
        let environment = vec![
            ("MESHWRIGHT_TRANSIT_ADDRESS", keeper.address.clone()),
            (
                "MESHWRIGHT_TRANSIT_TOKEN_FILE",
                token_file.display().to_string(),
            ),
            // Variable that names the file of trusted authorities for a process.
            (
                "SSL_CERT_FILE",
                keeper.program.certificate.display().to_string(),
            ),
        ];
        Ok(Self {
            postgres,
            keeper,
            http: Client::new(),
            token_file,
            secret,
            environment,
        })
    }

    fn url(&self, role: &str) -> String {
        self.postgres.url(role, fresh::NAME)
    }

    /// Starts an API process, which has no tenant key in memory yet.
    fn api(&self) -> Result<Api> {
        let setting = Setting::new(&self.url("mw_api"), &self.secret);
        Api::start(Setting {
            environment: self.environment.clone(),
            ..setting
        })
    }

    /// Runs the command `tenants` of the server's operator.
    fn tenants(&self, arguments: &[&str]) -> Result<String> {
        let mut run = Command::new(SERVER);
        run.arg("tenants")
            .args(arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        run.env("MESHWRIGHT_DATABASE_URL", self.url("mw_worker"))
            .env("MESHWRIGHT_VAULT_KEY_FILE", &self.secret);
        Ok(run_command(&mut run)?.trim().to_owned())
    }

    fn query(&self, query: &str) -> Result<Vec<String>> {
        let mut psql = Command::new(fresh::program("psql")?);
        psql.args(["--quiet", "--tuples-only", "--no-align", "--command", query])
            .arg(self.url(SUPERUSER));
        Ok(run_command(&mut psql)?.lines().map(str::to_owned).collect())
    }

    async fn post(
        &self,
        api: &Api,
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
        let answer = request
            .header("Idempotency-Key", name)
            .send()
            .await
            .map_err(text)?;
        Ok((answer.status(), answer.json().await.map_err(text)?))
    }

    async fn tenant(&self, api: &Api, operator: &str, name: &str) -> Result<Tenant> {
        let (status, made) = self
            .post(api, operator, "tenants", &json!({ "name": name }))
            .await?;
        expect(
            status == StatusCode::CREATED,
            &format!("tenant {name} is made"),
            &made["code"],
        )?;
        Ok(Tenant {
            id: word(&made, "/id")?,
            owner: word(&made, "/owner_key")?,
        })
    }

    /// Creates a webhook, whose answer contains a secret and is stored sealed. The same request
    /// again gets the same answer, if the stored one opens.
    async fn webhook(&self, api: &Api, tenant: &Tenant, name: &str) -> Result<(StatusCode, Value)> {
        let body = json!({ "name": name, "url": "https://example.com/events" });
        self.post(api, &tenant.owner, "webhooks", &body).await
    }

    /// Returns the versions of Vault's key that the tenants' keys are wrapped with.
    fn versions(&self) -> Result<Vec<String>> {
        self.query(
            "SELECT DISTINCT split_part(convert_from(wrapped, 'UTF8'), ':', 2) FROM tenant_keys",
        )
    }

    async fn play(&self) -> Result<()> {
        let api = self.api()?;
        let operator = self.tenants(&["operator-key"])?;
        let one = self.tenant(&api, &operator, "payments").await?;
        let other = self.tenant(&api, &operator, "search").await?;
        let wrappers = self.query("SELECT DISTINCT wrapper FROM tenant_keys")?;
        expect(
            wrappers == ["transit:transit/meshwright"],
            "Vault wraps every tenant's key",
            wrappers,
        )?;
        let (status, first) = self.webhook(&api, &one, "first").await?;
        expect(
            status == StatusCode::CREATED && first["secret"].is_string(),
            "a secret is kept",
            &first["code"],
        )?;
        let (status, again) = self.webhook(&self.api()?, &one, "first").await?;
        expect(
            status == StatusCode::CREATED && again == first,
            "another process opens it",
            status,
        )?;
        self.sealed(&api, &one, &first).await?;
        self.rotated(&one, &first).await?;
        self.without_a_token(&one, &first).await?;
        self.swapped(&one, &other, &first).await?;
        self.erased(&one, &other).await
    }

    async fn sealed(&self, api: &Api, tenant: &Tenant, first: &Value) -> Result<()> {
        let late = self.api()?;
        self.keeper.ask("PUT", "sys/seal", json!({})).await?;
        let (status, refused) = self.webhook(&late, tenant, "first").await?;
        let fits = status == StatusCode::SERVICE_UNAVAILABLE && refused["code"] == "try_again";
        expect(
            fits,
            "while Vault is sealed, who has opened no key asks to try again",
            &refused,
        )?;
        let (status, _) = self.webhook(api, tenant, "second").await?;
        expect(
            status == StatusCode::CREATED,
            "who has opened it goes on",
            status,
        )?;
        self.keeper.unseal().await?;
        let (_, again) = self.webhook(&late, tenant, "first").await?;
        expect(
            again == *first,
            "unsealed, it goes on without a restart",
            &again["code"],
        )
    }

    async fn rotated(&self, tenant: &Tenant, first: &Value) -> Result<()> {
        self.keeper
            .ask("POST", &format!("{ENGINE}/rotate"), json!({}))
            .await?;
        let (_, again) = self.webhook(&self.api()?, tenant, "first").await?;
        expect(
            again == *first,
            "a key that Vault has rotated opens what it wrapped before",
            &again["code"],
        )?;
        let said = self.tenants(&["rewrap-keys"])?;
        let versions = self.versions()?;
        expect(
            versions == ["v2"],
            &format!("rewrap-keys: {said}"),
            versions,
        )?;
        self.keeper
            .ask(
                "POST",
                &format!("{ENGINE}/config"),
                json!({ "min_decryption_version": 2 }),
            )
            .await?;
        let (_, again) = self.webhook(&self.api()?, tenant, "first").await?;
        expect(
            again == *first,
            "the former version can be taken out of use",
            &again["code"],
        )
    }

    async fn without_a_token(&self, tenant: &Tenant, first: &Value) -> Result<()> {
        let token = std::fs::read_to_string(&self.token_file).map_err(text)?;
        for (method, path) in [
            ("GET", ENGINE),
            ("POST", "transit/encrypt/other"),
            ("GET", "sys/policies/acl/meshwright"),
        ] {
            let (status, _) = self
                .keeper
                .ask_as(&token, method, path, json!({ "plaintext": "" }))
                .await?;
            expect(
                status == StatusCode::FORBIDDEN,
                &format!("the service's token is not let to {path}"),
                status,
            )?;
        }
        self.keeper
            .ask("POST", "auth/token/revoke", json!({ "token": token }))
            .await?;
        let api = self.api()?;
        let (status, _) = self.webhook(&api, tenant, "first").await?;
        expect(
            status == StatusCode::SERVICE_UNAVAILABLE,
            "with a revoked token nothing opens",
            status,
        )?;
        std::fs::write(&self.token_file, self.keeper.token().await?).map_err(text)?;
        let (_, again) = self.webhook(&api, tenant, "first").await?;
        expect(
            again == *first,
            "another token in the file is used at once",
            &again["code"],
        )
    }

    /// Checks that a tenant's key does not open for another tenant, even if an attacker who can
    /// write to the database swaps the two.
    async fn swapped(&self, one: &Tenant, other: &Tenant, first: &Value) -> Result<()> {
        let swap = "WITH old AS (SELECT * FROM tenant_keys)
            UPDATE tenant_keys k SET wrapped = old.wrapped FROM old, tenants mine, tenants theirs
            WHERE mine.name IN ('payments', 'search') AND theirs.name IN ('payments', 'search') AND mine.name <> theirs.name
              AND k.tenant_id = mine.tenant_id AND old.tenant_id = theirs.tenant_id";
        self.query(swap)?;
        let api = self.api()?;
        for tenant in [one, other] {
            let (status, _) = self.webhook(&api, tenant, "first").await?;
            expect(
                status == StatusCode::SERVICE_UNAVAILABLE,
                "a key of another tenant does not open",
                status,
            )?;
        }
        self.query(swap)?;
        let (_, again) = self.webhook(&api, one, "first").await?;
        expect(again == *first, "its own does", &again["code"])
    }

    async fn erased(&self, one: &Tenant, other: &Tenant) -> Result<()> {
        self.tenants(&["erase-secrets", "--tenant", &one.id, "--confirm", &one.id])?;
        let api = self.api()?;
        for name in ["first", "third"] {
            let (_, refused) = self.webhook(&api, one, name).await?;
            expect(
                refused["code"] == "secrets_erased",
                "erased is erased",
                &refused,
            )?;
        }
        let (status, _) = self.webhook(&api, other, "first").await?;
        expect(
            status == StatusCode::CREATED,
            "and nobody else is touched",
            status,
        )
    }
}
