//! The pieces that every command is put together from.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cluster::{Authority, Credential};
use jiff::SignedDuration;
use model::clock::SystemClock;
use rollout::decide::Patience;
use store::{Store, Vault};
use worker::{Engine, Settings};

use crate::Failure;
use crate::options::{Clusters, Database};
use crate::worlds::RealWorlds;

/// Reads the sealing key.
pub(crate) fn vault(file: &Path) -> Result<Vault, Failure> {
    let text = std::fs::read_to_string(file).map_err(Failure::io(format!("the sealing key {}", file.display())))?;
    let text = text.trim();
    let digits = |place: usize| u8::from_str_radix(text.get(place * 2..place * 2 + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..32).map(digits).collect();
    let key: Option<[u8; 32]> = bytes.filter(|_| text.len() == 64).and_then(|bytes| bytes.try_into().ok());
    key.map(Vault::new).ok_or_else(|| {
        Failure::Config(format!(
            "{} must hold 64 hexadecimal digits; make one with: openssl rand -hex 32",
            file.display()
        ))
    })
}

/// Connects as whoever the address names.
pub(crate) async fn connect(database: &Database) -> Result<Store, Failure> {
    Ok(Store::connect(&database.database_url, vault(&database.vault_key_file)?).await?)
}

/// What the API needs besides the database. It reads kubeconfigs and makes keys; it never calls a cluster.
pub(crate) fn app(store: Store) -> api::App {
    api::App {
        store,
        clock: Arc::new(SystemClock),
        read_kubeconfig: |text| {
            let credential = Credential::parse(text).map_err(|refused| refused.to_string())?;
            Ok((credential.server.clone(), credential.stored()))
        },
        new_authority: |mesh, now| {
            Authority::generate(mesh, now).map(|authority| authority.stored()).map_err(|error| error.to_string())
        },
    }
}

/// A worker on real clusters.
pub(crate) fn engine(store: Store, clusters: &Clusters) -> Result<Engine, Failure> {
    let worlds = RealWorlds::new(store.clone(), clusters)?;
    let patience = Patience {
        step: SignedDuration::from_secs(clusters.step_seconds),
        dry_run: SignedDuration::from_secs(clusters.dry_run_seconds),
        unreachable: SignedDuration::from_secs(clusters.silent_seconds),
        unused_over: SignedDuration::from_secs(clusters.unused_seconds),
        ..Patience::default()
    };
    let settings = Settings {
        owner: clusters.owner(),
        lease: clusters.lease(),
        patience,
        observe: Duration::from_secs(clusters.observe_seconds),
        ..Settings::default()
    };
    Ok(Engine::new(store, Arc::new(worlds), Arc::new(SystemClock), settings))
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
