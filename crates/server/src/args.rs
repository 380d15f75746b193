//! Declares the command line and its environment variables. The doc comments are its help texts.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use meshwright_wire::ReleaseArgs;

/// Runs a managed service mesh: moves every control plane and every sidecar from one version to the
/// next, and back.
#[derive(Debug, Parser)]
#[command(name = "meshwright-server", version, args_override_self = true)]
pub(crate) struct ServerArgs {
    #[command(flatten)]
    pub(crate) telemetry: TelemetryArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Arguments for the traces of the process.
#[derive(Debug, Args)]
pub(crate) struct TelemetryArgs {
    /// Address of a collector that receives traces by OTLP over HTTP, for example
    /// `http://127.0.0.1:4318`.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", global = true)]
    pub(crate) otlp_endpoint: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct MetricsArgs {
    /// Address that serves /metrics, /healthz, /readyz and /version without credentials, to every
    /// client that can reach it.
    #[arg(long, env = "MESHWRIGHT_METRICS_LISTEN")]
    pub(crate) metrics_listen: Option<String>,
}

/// Arguments that limit the client connections.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct ConnectionArgs {
    /// Maximum number of client connections at once, from 1 to 1000000. The limit of open files
    /// should be at least 320 higher, else there is room for fewer. When no more than one
    /// in 64 is left, a new connection closes the oldest one on which no caller was authenticated.
    #[arg(long, env = "MESHWRIGHT_CONNECTIONS", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) connections: u32,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve the API, with the database role `mw_api`.
    Serve {
        #[command(flatten)]
        database: StoreArgs,
        /// Address to listen on, as host:port.
        #[arg(long, env = "MESHWRIGHT_LISTEN", default_value = "127.0.0.1:8080")]
        listen: String,
        /// Private network whose identity providers can be asked for their keys and whose addresses
        /// kubeconfigs can name, as ADDRESS/BITS (repeatable).
        #[arg(
            long = "allow-network",
            env = "MESHWRIGHT_ALLOW_NETWORKS",
            value_delimiter = ','
        )]
        networks: Vec<String>,
        /// Factor by which the default request rates of each tenant and each principal are
        /// multiplied, from 1 to 1000000.
        #[arg(long, alias = "share", env = "MESHWRIGHT_SHARE", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(meshwright_api::Rates::MAX_FACTOR)))]
        rate_limit_multiplier: u32,
        #[command(flatten)]
        connections: ConnectionArgs,
        #[command(flatten)]
        metrics: MetricsArgs,
    },
    /// Run operations as a worker, with the database role `mw_worker`.
    Work {
        #[command(flatten)]
        database: StoreArgs,
        #[command(flatten)]
        clusters: WorkerArgs,
        #[command(flatten)]
        anchors: AuditAnchorArgs,
        #[command(flatten)]
        metrics: MetricsArgs,
    },
    /// Bring the database schema up to date, with the role `mw_owner`.
    Migrate {
        #[command(flatten)]
        database: StoreArgs,
    },
    /// Print the SQL that creates the database roles, for a superuser to run.
    Roles,
    /// Print the `OpenAPI` document of the service.
    Openapi,
    /// Add releases to the catalogue.
    Releases {
        #[command(flatten)]
        database: StoreArgs,
        #[command(subcommand)]
        command: ReleasesCommand,
    },
    /// Add hosting clusters, in which control planes run.
    Hosting {
        #[command(flatten)]
        database: StoreArgs,
        #[command(subcommand)]
        command: HostingCommand,
    },
    /// Manage the keys of tenants, with the database role `mw_worker`.
    Tenants {
        #[command(flatten)]
        database: StoreArgs,
        #[command(subcommand)]
        command: TenantsCommand,
    },
    /// Anchor and verify the audit logs of tenants, with the database role `mw_worker`.
    Audit {
        #[command(flatten)]
        database: StoreArgs,
        #[command(subcommand)]
        command: AuditCommand,
    },
    /// Run everything in one process with an embedded Postgres, for trying it out and for
    /// development.
    Dev(DevArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct StoreArgs {
    /// URL of the Postgres database, with the role to connect as.
    #[arg(long, env = "MESHWRIGHT_DATABASE_URL", hide_env_values = true)]
    pub(crate) database_url: String,
    /// File with the server's own secret of 32 bytes, in hexadecimal. It peppers API keys and
    /// encrypts what belongs to no tenant.
    #[arg(long, alias = "vault-key-file", env = "MESHWRIGHT_VAULT_KEY_FILE")]
    pub(crate) server_secret_file: PathBuf,
    #[command(flatten)]
    pub(crate) master: MasterKeySource,
}

/// Arguments that choose the master key, which wraps the data keys of tenants. Without any of them,
/// the master key is derived from the server's own secret.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct MasterKeySource {
    /// File with master keys of 32 bytes in hexadecimal, one per line: the first one wraps, and all
    /// of them unwrap. To change the master key, add a new first line, restart, run
    /// `tenants rewrap-keys`, and remove the old line. Without a file and without Vault, the master
    /// key is derived from the server's own secret.
    #[arg(
        long,
        env = "MESHWRIGHT_MASTER_KEY_FILE",
        conflicts_with = "transit_address"
    )]
    pub(crate) master_key_file: Option<PathBuf>,
    /// Address of a Vault server whose transit engine wraps the data keys of tenants.
    #[arg(
        long,
        env = "MESHWRIGHT_TRANSIT_ADDRESS",
        requires = "transit_token_file"
    )]
    pub(crate) transit_address: Option<String>,
    /// Path at which the transit engine is mounted in Vault.
    #[arg(long, env = "MESHWRIGHT_TRANSIT_MOUNT", default_value = "transit")]
    pub(crate) transit_mount: String,
    /// Name of the key in the transit engine.
    #[arg(long, env = "MESHWRIGHT_TRANSIT_KEY", default_value = "meshwright")]
    pub(crate) transit_key: String,
    /// File with a token for Vault. It is read again before each call.
    #[arg(long, env = "MESHWRIGHT_TRANSIT_TOKEN_FILE")]
    pub(crate) transit_token_file: Option<PathBuf>,
}

/// Arguments for the file of audit anchors.
#[derive(Debug, Clone, Args)]
pub(crate) struct AuditAnchorArgs {
    /// File to which audit anchors are appended: the newest entry of each audit log. Keep it where
    /// the administrator of the database cannot write.
    #[arg(long, env = "MESHWRIGHT_AUDIT_ANCHORS")]
    pub(crate) audit_anchors: Option<PathBuf>,
    /// Seconds between two rounds of audit anchors, at least 1.
    #[arg(long, env = "MESHWRIGHT_ANCHOR_SECONDS", default_value_t = 60)]
    pub(crate) anchor_seconds: u64,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum TenantsCommand {
    /// Create a key for the operator of the service, who creates tenants with it, and print the
    /// key.
    OperatorKey {
        /// Name of the new key.
        #[arg(long, default_value = "operator")]
        name: String,
    },
    /// Give a tenant a new data key, and encrypt its secrets with it.
    RotateKey {
        /// Id of the tenant whose key is rotated.
        #[arg(long)]
        tenant: meshwright_model::ids::TenantId,
    },
    /// Wrap the data keys of all tenants with the present master key.
    RewrapKeys,
    /// Erase the data keys of a tenant. Its secrets cannot be recovered.
    EraseSecrets {
        /// Id of the tenant whose secrets are erased.
        #[arg(long)]
        tenant: meshwright_model::ids::TenantId,
        /// Id of the same tenant once more, as a confirmation.
        #[arg(long)]
        confirm: meshwright_model::ids::TenantId,
    },
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum AuditCommand {
    /// Append the newest entry of each audit log to a file of audit anchors.
    Anchor {
        /// File to which the audit anchors are appended.
        #[arg(long)]
        file: PathBuf,
    },
    /// Verify every audit log: read it whole, compute each digest, and compare it with the anchors.
    Verify {
        /// File of audit anchors, one JSON object per line.
        #[arg(long)]
        anchors: Option<PathBuf>,
    },
}

#[derive(Debug, Clone, Args)]
pub(crate) struct WorkerArgs {
    /// Path of the helm program; by default it is searched in PATH.
    #[arg(long, env = "MESHWRIGHT_HELM", default_value = "helm")]
    pub(crate) helm: PathBuf,
    /// Private network whose clusters and webhooks can be called, as ADDRESS/BITS (repeatable).
    #[arg(
        long = "allow-network",
        env = "MESHWRIGHT_ALLOW_NETWORKS",
        value_delimiter = ','
    )]
    pub(crate) allow_networks: Vec<String>,
    /// Number of istiod replicas of each control plane.
    #[arg(long, env = "MESHWRIGHT_REPLICAS", default_value_t = 2)]
    pub(crate) replicas: u32,
    /// Maximum number of workloads of a mesh that are restarted at once.
    #[arg(long, alias = "width", env = "MESHWRIGHT_WIDTH", default_value_t = 10)]
    pub(crate) max_concurrent_restarts: usize,
    /// Seconds after which a claim ends if the worker does not renew it.
    #[arg(long, env = "MESHWRIGHT_LEASE_SECONDS", default_value_t = 30)]
    pub(crate) lease_seconds: u64,
    /// Name of this worker in the queue and in the audit logs of clusters; by default it is made of
    /// the process id.
    #[arg(long, alias = "owner", env = "MESHWRIGHT_OWNER")]
    pub(crate) worker_name: Option<String>,
    /// Seconds over which checks must show a revision as unused before it is removed.
    #[arg(long, env = "MESHWRIGHT_UNUSED_SECONDS", default_value_t = 120)]
    pub(crate) unused_seconds: i64,
    /// Maximum number of seconds for one step. After that, the operation is paused and a person has
    /// to act.
    #[arg(long, env = "MESHWRIGHT_STEP_SECONDS", default_value_t = 600)]
    pub(crate) step_seconds: i64,
    /// Maximum number of seconds until a dry run is injected as wanted.
    #[arg(long, env = "MESHWRIGHT_DRY_RUN_SECONDS", default_value_t = 120)]
    pub(crate) dry_run_seconds: i64,
    /// Maximum number of seconds without an answer from a cluster. After that, the operation is
    /// paused and a person has to act.
    #[arg(
        long,
        alias = "silent-seconds",
        env = "MESHWRIGHT_SILENT_SECONDS",
        default_value_t = 120
    )]
    pub(crate) unreachable_seconds: i64,
    /// Seconds between two observations of a mesh.
    #[arg(long, env = "MESHWRIGHT_OBSERVE_SECONDS", default_value_t = 10)]
    pub(crate) observe_seconds: u64,
    /// Seconds between two checks of a cluster that answers.
    #[arg(long, env = "MESHWRIGHT_CLUSTER_SECONDS", default_value_t = 60)]
    pub(crate) cluster_seconds: u64,
    /// Days that our credentials in clusters are valid, from 1 to 3650. They are renewed after a
    /// third of this time. A cluster can issue shorter ones.
    #[arg(long, env = "MESHWRIGHT_CREDENTIAL_DAYS", default_value_t = 90, value_parser = clap::value_parser!(u64).range(1..=3650))]
    pub(crate) credential_days: u64,
}

impl WorkerArgs {
    pub(crate) fn worker_name(&self) -> String {
        self.worker_name
            .clone()
            .unwrap_or_else(|| format!("worker-{}", std::process::id()))
    }

    pub(crate) fn lease_duration(&self) -> Duration {
        Duration::from_secs(self.lease_seconds)
    }
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ReleasesCommand {
    /// Import a release from a folder of charts.
    Import(Box<ImportReleaseArgs>),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ImportReleaseArgs {
    /// Version of the release, for example 1.27.9.1.
    #[arg(long)]
    pub(crate) version: String,
    /// Folder with the charts `base` and `istiod`.
    #[arg(long)]
    pub(crate) charts: PathBuf,
    #[command(flatten)]
    pub(crate) facts: ReleaseArgs,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum HostingCommand {
    /// Add a hosting cluster, in which control planes can run.
    Add {
        /// Name of the hosting cluster.
        #[arg(long)]
        name: String,
        /// File with a kubeconfig that has all certificates and tokens inline.
        #[arg(long)]
        kubeconfig: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Folder for the database, the server secret and the first API keys.
    #[arg(long, default_value = ".meshwright")]
    pub(crate) dir: PathBuf,
    /// Address to listen on, as host:port. A listener that the parent process hands over comes
    /// first.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub(crate) listen: String,
    /// File with the kubeconfig of a hosting cluster to add.
    #[arg(long)]
    pub(crate) hosting_kubeconfig: Option<PathBuf>,
    /// Release to import, as VERSION=FOLDER, or as VERSION@TAG=FOLDER if its images have another
    /// tag (repeatable).
    #[arg(long = "release")]
    pub(crate) releases: Vec<String>,
    /// Registry and path that the images of these releases are pulled from.
    #[arg(long, default_value = "docker.io/istio")]
    pub(crate) hub: String,
    /// Run no operations in this process; workers that run `work` do it.
    #[arg(long)]
    pub(crate) no_work: bool,
    #[command(flatten)]
    pub(crate) anchors: AuditAnchorArgs,
    #[command(flatten)]
    pub(crate) clusters: WorkerArgs,
    #[command(flatten)]
    pub(crate) connections: ConnectionArgs,
    #[command(flatten)]
    pub(crate) metrics: MetricsArgs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_that_the_rate_limiter_cannot_count_is_refused_with_the_range() {
        let parse = |factor: &str| {
            let always = ["meshwright-server", "serve", "--server-secret-file", "f"];
            let rest = ["--database-url", "u", "--rate-limit-multiplier", factor];
            ServerArgs::try_parse_from(always.into_iter().chain(rest))
        };
        for refused in ["0", "1000001", "6000000"] {
            let said = parse(refused).expect_err(refused).to_string();
            assert!(said.contains("1..=1000000"), "{said}");
        }
        assert!(parse("1").is_ok() && parse("1000000").is_ok());
    }
}
