//! Measures whether answer times reveal that an object of another tenant exists: its id and an id
//! that never existed are asked for in turns over one connection. The same is measured for an
//! object of the caller's own tenant, where a difference must show; otherwise the clock is too
//! coarse to prove anything.

use std::fmt::Display;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::Args;
use meshwright_model::access::Role;
use meshwright_model::ids::{
    ClusterId, KeyId, MeshId, OperationId, TenantId, UpgradeId, WebhookId,
};
use serde_json::{Map, json};
use uuid::Uuid;

use super::rls_cost::BenchDatabase;
use super::{median, round_to_thousandths};
use crate::Result;
use crate::service::{self, ApiProcess, ApiProcessConfig, SERVER_BINARY};

#[derive(Debug, Args)]
pub(crate) struct ExistenceOptions {
    /// Path of the server program to measure.
    #[arg(long, default_value = SERVER_BINARY)]
    server: PathBuf,
    /// Number of requests for each id; the two take turns, and each goes first every other time.
    #[arg(long, default_value_t = 2000)]
    pairs: u32,
}

/// Largest allowed ratio between the two medians.
const MAX_RATIO: f64 = 1.03;
/// Allowed deviation, in standard deviations of a fair coin, of the share of pairs in which the
/// existing object takes longer. A half is expected.
const MAX_DEVIATIONS: f64 = 3.5;

/// Two ids of one kind: the first belongs to an object of another tenant, and the second to no
/// object.
struct IdPair {
    title: &'static str,
    path: fn(&str) -> String,
    existing: String,
    missing: String,
}

pub(crate) fn run(options: &ExistenceOptions) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let scratch = tempfile::tempdir()?;
    let secret = scratch.path().join("secret");
    std::fs::write(&secret, "2a".repeat(32))?;
    let side = runtime.block_on(BenchDatabase::new(2, 60))?;
    let store = &side.fleet.db.api;
    let other = runtime.block_on(service::create_api_key(
        store,
        TenantId(Uuid::from_u128(2)),
        Role::Owner,
    ))?;
    let owner = runtime.block_on(service::create_api_key(
        store,
        side.fleet.db.tenant,
        Role::Owner,
    ))?;
    let setting = ApiProcessConfig::new(&side.fleet.db.url("mw_api"), &secret);
    let api = ApiProcess::start(ApiProcessConfig {
        program: options.server.clone(),
        ..setting
    })?;
    runtime.block_on(measure_existence(options, &api, &side, [&other, &owner]))
}

async fn measure_existence(
    options: &ExistenceOptions,
    api: &ApiProcess,
    side: &BenchDatabase,
    [other, owner]: [&str; 2],
) -> Result<()> {
    let (mut figures, mut told) = (Map::new(), Vec::new());
    let bound = MAX_DEVIATIONS / (2.0 * f64::from(options.pairs).sqrt());
    for pair in id_pairs(side) {
        let (ratio, longer) = pair.measure_pair(options.pairs, api, other, 404).await?;
        figures.insert(
            pair.title.into(),
            json!({ "ratio": round_to_thousandths(ratio), "longer": round_to_thousandths(longer) }),
        );
        if !(1.0 / MAX_RATIO..=MAX_RATIO).contains(&ratio) || (longer - 0.5).abs() > bound {
            told.push(pair.title);
        }
    }
    let (ratio, longer) = id_pairs(side)[0]
        .measure_pair(options.pairs, api, owner, 200)
        .await?;
    println!(
        "{:#}",
        json!({
            "pairs": options.pairs, "goal": MAX_RATIO, "longer_may_differ_from_half_by": round_to_thousandths(bound), "another_tenants": figures,
            "ones_own": { "ratio": round_to_thousandths(ratio), "longer": round_to_thousandths(longer) },
        })
    );
    if (longer - 0.5).abs() <= bound {
        return Err(anyhow!(
            "what one may see took no longer than what is nowhere: the clock sees nothing"
        ));
    }
    if told.is_empty() {
        Ok(())
    } else {
        Err(anyhow!("time tells that there are: {}", told.join(", ")))
    }
}

fn id_pairs(side: &BenchDatabase) -> [IdPair; 6] {
    [
        IdPair::new(
            "meshes",
            |id| format!("meshes/{id}"),
            MeshId,
            side.fleet.mesh.0,
        ),
        IdPair::new(
            "clusters",
            |id| format!("clusters/{id}"),
            ClusterId,
            side.cluster.0,
        ),
        IdPair::new(
            "upgrades",
            |id| format!("upgrades/{id}"),
            UpgradeId,
            side.upgrade.0,
        ),
        IdPair::new(
            "operations",
            |id| format!("operations/{id}"),
            OperationId,
            side.operation.0,
        ),
        IdPair::new("keys", |id| format!("api-keys/{id}"), KeyId, side.key.0),
        IdPair::new(
            "webhooks",
            |id| format!("webhooks/{id}/deliveries"),
            WebhookId,
            side.webhook.0,
        ),
    ]
}

impl IdPair {
    fn new<Id: Display>(
        title: &'static str,
        path: fn(&str) -> String,
        written: fn(Uuid) -> Id,
        there: Uuid,
    ) -> Self {
        // The id that never existed differs from the other one in its last bit only.
        let beside = Uuid::from_u128(there.as_u128() ^ 1);
        Self {
            title,
            path,
            existing: written(there).to_string(),
            missing: written(beside).to_string(),
        }
    }

    /// Returns the ratio of the medians, and the share of pairs in which the existing object took
    /// longer.
    async fn measure_pair(
        &self,
        count: u32,
        api: &ApiProcess,
        key: &str,
        status: u16,
    ) -> Result<(f64, f64)> {
        let http = reqwest::Client::new();
        let ask = async |id: &str, status: u16| {
            let request = http
                .get(format!("http://{}/v1/{}", api.address, (self.path)(id)))
                .bearer_auth(key);
            let start = Instant::now();
            let answer = request.send().await?;
            let got = answer.status().as_u16();
            answer.bytes().await?;
            let taken = start.elapsed();
            if got == status {
                Ok(taken)
            } else {
                Err(anyhow!("{}: {status} was expected, not {got}", self.title))
            }
        };
        let (mut there, mut nowhere): (Vec<Duration>, Vec<Duration>) = (Vec::new(), Vec::new());
        for pair in 0..count {
            if pair % 2 == 0 {
                there.push(ask(&self.existing, status).await?);
                nowhere.push(ask(&self.missing, 404).await?);
            } else {
                nowhere.push(ask(&self.missing, 404).await?);
                there.push(ask(&self.existing, status).await?);
            }
        }
        let longer: u32 = there
            .iter()
            .zip(&nowhere)
            .map(|(there, nowhere)| u32::from(there > nowhere))
            .sum();
        let seconds =
            |times: &[Duration]| median(times.iter().map(Duration::as_secs_f64).collect());
        Ok((
            seconds(&there) / seconds(&nowhere),
            f64::from(longer) / f64::from(count),
        ))
    }
}
