//! Sends copies of requests at once to two API processes, and kills one process after the other in
//! the middle: each request must have one effect, and all of its copies must get the same answer.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use futures::StreamExt;
use meshwright_model::access::Role;
use meshwright_model::ids::TenantId;
use meshwright_model::quota::QuotaResource;
use meshwright_store::{Sealer, Store};
use serde_json::{Value, json};

use crate::service::{self, ApiProcess, ApiProcessConfig};
use crate::{Result, database};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Number of different requests, each with its own idempotency key.
    #[arg(long, default_value_t = 200)]
    keys: usize,
    /// Number of copies of each request.
    #[arg(long, default_value_t = 8)]
    copies: usize,
}

/// Requests that are under way at once, copies included.
const MAX_IN_FLIGHT: usize = 64;
/// Pause before a copy is sent again that was refused for the moment.
const RETRY_DELAY: Duration = Duration::from_millis(50);
/// Attempts for a copy; one that has no answer after them is stuck.
const MAX_ATTEMPTS: usize = 1200;

pub(crate) fn run(options: &Options) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let postgres = database::start_migrated_postgres(scratch.path())?;
    let secret = scratch.path().join("secret");
    std::fs::write(&secret, "07".repeat(32))?;
    let url = postgres.url("mw_api", database::DATABASE_NAME);
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(run_storm(options, &url, &secret))
}

/// Creates a tenant with quotas that no test reaches, and the key of its owner.
async fn create_tenant_with_owner(
    store: &Store,
) -> std::result::Result<(TenantId, String), meshwright_store::StoreError> {
    let tenant = service::create_unlimited_tenant(store, "storm").await?;
    Ok((
        tenant,
        service::create_api_key(store, tenant, Role::Owner).await?,
    ))
}

async fn run_storm(options: &Options, database: &str, secret: &Path) -> Result<()> {
    let store = Store::connect(database, Sealer::new([7; 32])).await?;
    let (tenant, owner) = create_tenant_with_owner(&store).await?;
    let start = || ApiProcess::start(ApiProcessConfig::new(database, secret));
    let mut apis = [start()?, start()?];
    let addresses: Arc<Vec<String>> =
        Arc::new(apis.iter().map(|api| api.address.clone()).collect());
    let (done, over) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let http = reqwest::Client::builder()
        .timeout(Duration::from_secs(20))
        .build()?;
    let all = options.keys * options.copies;
    let sent = (0..all).map(|number| {
        let (http, owner, addresses, done) =
            (http.clone(), owner.clone(), addresses.clone(), done.clone());
        let (request, copies) = (number / options.copies, options.copies);
        async move {
            let answer = send_copy(&http, &addresses[number % copies % 2], &owner, request).await;
            done.fetch_add(1, Ordering::Relaxed);
            (request, answer)
        }
    });
    let restarts = tokio::spawn({
        let (done, over) = (done.clone(), over.clone());
        async move {
            let mut killed = 0;
            for api in &mut apis {
                killed += 1;
                // Kill one process after a third of the answers, and the other after two thirds.
                while done.load(Ordering::Relaxed) < all * killed / 3
                    && !over.load(Ordering::Relaxed)
                {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                api.kill_and_restart()?;
            }
            Ok::<_, anyhow::Error>((killed, apis))
        }
    });
    let answers: Vec<(usize, Result<(u16, Value)>)> = futures::stream::iter(sent)
        .buffer_unordered(MAX_IN_FLIGHT)
        .collect()
        .await;
    over.store(true, Ordering::Relaxed);
    let (killed, apis) = restarts.await??;
    drop(apis);
    let unequal = count_unequal(options.keys, answers)?;
    let made = store
        .begin(tenant)
        .await?
        .tenants()
        .count_objects(QuotaResource::ApiKeys)
        .await?;
    // The owner's own key is no effect of a request.
    let effects = usize::try_from(made).unwrap_or(0).saturating_sub(1);
    println!(
        "{}",
        json!({ "requests": options.keys, "copies": options.copies, "killed": killed, "effects": effects, "unequal": unequal })
    );
    let fine = effects == options.keys && unequal == 0;
    if fine {
        Ok(())
    } else {
        Err(anyhow!(
            "copies of one request had more than one effect, or different answers"
        ))
    }
}

/// Sends one copy until it has a final answer.
async fn send_copy(
    http: &reqwest::Client,
    address: &str,
    owner: &str,
    request: usize,
) -> Result<(u16, Value)> {
    let body = json!({ "name": format!("k{request}"), "role": "viewer" });
    for _ in 0..MAX_ATTEMPTS {
        let sent = http
            .post(format!("http://{address}/v1/api-keys"))
            .bearer_auth(owner)
            .json(&body);
        if let Ok(answer) = sent
            .header("Idempotency-Key", format!("key-{request}"))
            .send()
            .await
        {
            let status = answer.status().as_u16();
            if let Ok(body) = answer.json::<Value>().await
                && body["code"] != "request_in_flight"
                && status != 503
            {
                return Ok((status, body));
            }
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
    Err(anyhow!("request {request} had no answer"))
}

/// Returns the number of requests whose copies got different answers or an answer other than 201.
fn count_unequal(requests: usize, answers: Vec<(usize, Result<(u16, Value)>)>) -> Result<usize> {
    let mut first: Vec<Option<Value>> = vec![None; requests];
    let mut unequal = vec![false; requests];
    for (request, answer) in answers {
        let (status, body) = answer?;
        let known = first[request].get_or_insert_with(|| body.clone());
        unequal[request] |= status != 201 || *known != body;
    }
    Ok(unequal.into_iter().filter(|unequal| *unequal).count())
}
