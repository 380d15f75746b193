//! Builds the API and the worker for the commands that run them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use meshwright_kubernetes::{AddressPolicy, Authority, Credential};
use meshwright_model::clock::SystemClock;
use meshwright_model::problem::ProblemCode;
use meshwright_rollout::decide::Timeouts;
use meshwright_store::Store;
use meshwright_worker::{Engine, Settings};
use tokio_util::sync::CancellationToken;

use crate::Failure;
use crate::args::{AuditAnchorArgs, WorkerArgs};
use crate::audit_anchors::AnchorLog;
use crate::charts::read_charts;
use crate::cluster_provider::KubernetesClusterProvider;
use crate::public_http::{PublicFetcher, PublicWebhookSender};

/// Starts a background task that appends audit anchors to a file, if a file is configured.
pub(crate) fn spawn_audit_anchoring(
    store: &Store,
    options: &AuditAnchorArgs,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    if let Some(file) = &options.audit_anchors {
        let every = Duration::from_secs(options.anchor_seconds.max(1));
        tokio::spawn(AnchorLog::open(file)?.append_periodically(
            store.clone(),
            every,
            stop.clone(),
        ));
    }
    Ok(())
}

/// Parses the private networks whose addresses may be called.
pub(crate) fn parse_networks(texts: &[String]) -> Result<Vec<(IpAddr, u8)>, Failure> {
    let read = |text: &String| {
        let wrong = || {
            Failure::Config(format!(
                "{text} is no network: write address/bits, for example 10.0.0.0/8"
            ))
        };
        AddressPolicy::parse_network(text).ok_or_else(wrong)
    };
    texts.iter().map(read).collect()
}

/// Builds the API from the store and the functions that it needs. The API reads kubeconfigs,
/// generates keys and fetches the keys of identity providers. It never calls a cluster.
pub(crate) fn build_app(
    store: Store,
    allowed: &[String],
    rate_limit_multiplier: u32,
) -> Result<meshwright_api::App, Failure> {
    let rules = AddressPolicy {
        allowed_networks: parse_networks(allowed)?,
        worker_name: "api".into(),
        ..AddressPolicy::default()
    };
    let literal = rules.clone();
    let fetch = PublicFetcher::new(rules)
        .map_err(|error| Failure::Config(format!("no HTTP client: {error}")))?;
    Ok(meshwright_api::App {
        store: store.with_connection_quota(),
        clock: Arc::new(SystemClock),
        read_kubeconfig: Arc::new(move |text: &str| {
            let credential = Credential::parse(text)
                .map_err(|refused| (ProblemCode::KubeconfigRefused, refused.to_string()))?;
            if !literal.allows_host(credential.host()) {
                let said = "clusters.server is a loopback, private or link-local address that is not allowed here";
                return Err((ProblemCode::AddressRefused, said.to_owned()));
            }
            Ok((credential.server.clone(), credential.to_stored()))
        }),
        new_authority: |mesh, now| {
            Authority::generate(mesh, now)
                .map(|authority| authority.to_stored())
                .map_err(|error| error.to_string())
        },
        read_charts,
        limits: Arc::new(meshwright_api::RequestLimiter::new(
            meshwright_api::Rates::TENANT.scaled_by(rate_limit_multiplier),
            meshwright_api::Rates::PRINCIPAL.scaled_by(rate_limit_multiplier),
            Arc::new(SystemClock),
        )),
        issuers: Arc::new(meshwright_api::IssuerKeys::new(Arc::new(fetch))),
    })
}

/// Builds the engine of a worker that calls real clusters.
pub(crate) fn build_engine(store: Store, clusters: &WorkerArgs) -> Result<Engine, Failure> {
    let provider = KubernetesClusterProvider::new(store.clone(), clusters)?;
    let usual = Timeouts::default();
    let timeouts = Timeouts {
        step: SignedDuration::from_secs(clusters.step_seconds),
        dry_run: SignedDuration::from_secs(clusters.dry_run_seconds),
        unreachable: SignedDuration::from_secs(clusters.unreachable_seconds),
        unused_min_span: SignedDuration::from_secs(clusters.unused_seconds),
        unused_check_interval: usual
            .unused_check_interval
            .min(SignedDuration::from_secs(clusters.unused_seconds)),
        ..usual
    };
    let settings = Settings {
        worker_name: clusters.worker_name(),
        lease_duration: clusters.lease_duration(),
        timeouts,
        mesh_observation_interval: Duration::from_secs(clusters.observe_seconds),
        cluster_check_interval: Duration::from_secs(clusters.cluster_seconds),
        ..Settings::default()
    };
    let rules = AddressPolicy {
        allowed_networks: parse_networks(&clusters.allow_networks)?,
        worker_name: clusters.worker_name(),
        ..AddressPolicy::default()
    };
    let post = PublicWebhookSender::new(rules)
        .map_err(|error| Failure::Config(format!("no HTTP client: {error}")))?;
    Ok(
        Engine::new(store, Arc::new(provider), Arc::new(SystemClock), settings)
            .with_webhook_sender(Arc::new(post)),
    )
}

/// Waits for SIGINT or SIGTERM.
pub(crate) async fn shutdown_signal() {
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(error) => {
                tracing::warn!(%error, "could not install the SIGTERM handler; stop the process with Ctrl-C");
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => if let Err(error) = interrupted { tracing::warn!(%error, "could not install the SIGINT handler; shutting down") },
        () = terminated => {}
    }
}
