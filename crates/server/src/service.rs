//! The pieces that every command is put together from.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cluster::{Authority, Credential, Dialling};
use jiff::SignedDuration;
use model::Clock;
use model::clock::SystemClock;
use rollout::decide::Patience;
use store::envelope::{Key, MasterKeys};
use store::{Store, Vault};
use tokio_util::sync::CancellationToken;
use worker::{Engine, Settings};

use crate::Failure;
use crate::fetch::{PublicFetch, PublicPost};
use crate::import::read_charts;
use crate::options::{AnchorFile, Backend, Clusters, KeyKeeper};
use crate::tenants::Anchors;
use crate::transit::Transit;
use crate::worlds::RealWorlds;

/// Reads 32 bytes as 64 hexadecimal digits.
fn key(text: &str, file: &Path) -> Result<Key, Failure> {
    model::audit::hex::decode(text.trim()).ok_or_else(|| {
        let file = file.display();
        Failure::Config(format!("{file} must hold 64 hexadecimal digits; make them with: openssl rand -hex 32"))
    })
}

/// The server's own secret, and the way to the master key.
pub(crate) fn vault(file: &Path, master: &KeyKeeper) -> Result<Vault, Failure> {
    let read = |file: &Path| std::fs::read_to_string(file).map_err(Failure::io(format!("the key {}", file.display())));
    let secret = key(&read(file)?, file)?;
    if let Some(file) = &master.master_key_file {
        let text = read(file)?;
        let mut keys = text.lines().map(|line| key(line, file)).collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Err(Failure::Config(format!("{} holds no key", file.display())));
        }
        let first = keys.remove(0);
        return Ok(Vault::with(secret, Arc::new(MasterKeys::new(first, keys))));
    }
    if let (Some(address), Some(token)) = (&master.transit_address, &master.transit_token_file) {
        let transit = Transit::new(address, &master.transit_mount, &master.transit_key, token.clone());
        let transit = transit.map_err(|error| Failure::Config(format!("--transit-address: {error}")))?;
        return Ok(Vault::with(secret, Arc::new(transit)));
    }
    Ok(Vault::new(secret))
}

/// Connects as whoever the address names.
pub(crate) async fn connect(database: &Backend) -> Result<Store, Failure> {
    Ok(Store::connect(&database.database_url, vault(&database.vault_key_file, &database.master)?).await?)
}

/// Sees to tenants that were made before tenants had keys of their own.
pub(crate) async fn keys_for_all(store: &Store) -> Result<(), Failure> {
    let count = store.give_missing_keys(SystemClock.now()).await?;
    if count > 0 {
        tracing::info!(count, "tenants were given keys of their own");
    }
    Ok(())
}

/// Writes down, in the background, where the audit logs end.
pub(crate) fn anchored(store: &Store, options: &AnchorFile, stop: &CancellationToken) -> Result<(), Failure> {
    if let Some(file) = &options.audit_anchors {
        let every = Duration::from_secs(options.anchor_seconds.max(1));
        tokio::spawn(Anchors::open(file)?.keep(store.clone(), every, stop.clone()));
    }
    Ok(())
}

/// Reads networks that may be dialled although they are private.
pub(crate) fn networks(texts: &[String]) -> Result<Vec<(IpAddr, u8)>, Failure> {
    let read = |text: &String| {
        let wrong = || Failure::Config(format!("{text} is no network: write address/bits, for example 10.0.0.0/8"));
        Dialling::parse_network(text).ok_or_else(wrong)
    };
    texts.iter().map(read).collect()
}

/// What the API needs besides the database. It reads kubeconfigs, makes keys and asks identity providers for theirs; it
/// never calls a cluster.
pub(crate) fn app(store: Store, allowed: &[String], share: u32) -> Result<api::App, Failure> {
    let rules = Dialling { allowed: networks(allowed)?, caller: "api".into(), ..Dialling::default() };
    let literal = rules.clone();
    let fetch = PublicFetch::new(rules).map_err(|error| Failure::Config(format!("no HTTP client: {error}")))?;
    Ok(api::App {
        store: store.sharing(),
        clock: Arc::new(SystemClock),
        read_kubeconfig: Arc::new(move |text: &str| {
            let credential = Credential::parse(text).map_err(|refused| ("kubeconfig_refused", refused.to_string()))?;
            if !literal.allows_literal(credential.host()) {
                let said = "clusters.server is a loopback, private or link-local address that is not allowed here";
                return Err(("address_refused", said.to_owned()));
            }
            Ok((credential.server.clone(), credential.stored()))
        }),
        new_authority: |mesh, now| {
            Authority::generate(mesh, now).map(|authority| authority.stored()).map_err(|error| error.to_string())
        },
        read_charts,
        limits: Arc::new(api::Limits::new(
            api::Rates::TENANT.times(share),
            api::Rates::PRINCIPAL.times(share),
            Arc::new(SystemClock),
        )),
        issuers: Arc::new(api::IssuerKeys::new(Arc::new(fetch))),
    })
}

/// A worker on real clusters.
pub(crate) fn engine(store: Store, clusters: &Clusters) -> Result<Engine, Failure> {
    let worlds = RealWorlds::new(store.clone(), clusters)?;
    let usual = Patience::default();
    let patience = Patience {
        step: SignedDuration::from_secs(clusters.step_seconds),
        dry_run: SignedDuration::from_secs(clusters.dry_run_seconds),
        unreachable: SignedDuration::from_secs(clusters.silent_seconds),
        unused_over: SignedDuration::from_secs(clusters.unused_seconds),
        unused_every: usual.unused_every.min(SignedDuration::from_secs(clusters.unused_seconds)),
        ..usual
    };
    let settings = Settings {
        owner: clusters.owner(),
        lease: clusters.lease(),
        patience,
        observe: Duration::from_secs(clusters.observe_seconds),
        tend: Duration::from_secs(clusters.cluster_seconds),
        ..Settings::default()
    };
    let rules =
        Dialling { allowed: networks(&clusters.allow_networks)?, caller: clusters.owner(), ..Dialling::default() };
    let post = PublicPost::new(rules).map_err(|error| Failure::Config(format!("no HTTP client: {error}")))?;
    Ok(Engine::new(store, Arc::new(worlds), Arc::new(SystemClock), settings).with_post(Arc::new(post)))
}

/// Ends at an interrupt or a request to terminate.
pub(crate) async fn stopped() {
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(error) => {
                tracing::warn!(%error, "SIGTERM is not heard; use an interrupt");
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => if let Err(error) = interrupted { tracing::warn!(%error, "interrupts are not heard") },
        () = terminated => {}
    }
}
