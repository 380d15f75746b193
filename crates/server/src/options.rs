//! The command line and its environment variables.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use wire::ReleaseArgs;

/// A managed service mesh: every control plane and every sidecar from one version to the next, and back.
#[derive(Debug, Parser)]
#[command(name = "meshwright-server", version, args_override_self = true)]
pub(crate) struct ServerArgs {
    #[command(flatten)]
    pub(crate) telemetry: TelemetryArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What the process says about what it does.
#[derive(Debug, Args)]
pub(crate) struct TelemetryArgs {
    /// Address of a collector that traces are sent to, by OTLP over HTTP, for example `http://127.0.0.1:4318`.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", global = true)]
    pub(crate) otlp_endpoint: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct MetricsArgs {
    /// Address that shows /metrics, /healthz, /readyz and /version without credentials. Whoever reaches it may look.
    #[arg(long, env = "MESHWRIGHT_METRICS_LISTEN")]
    pub(crate) metrics_listen: Option<String>,
}

/// How many clients are served at once.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct ConnectionArgs {
    /// Connections at once. The limit of open files may leave room for fewer: it should be at least 320 higher. For one more,
    /// the oldest connection on which no caller was let in is closed.
    #[arg(long, env = "MESHWRIGHT_CONNECTIONS", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) connections: u32,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve the API, with the database role of the API.
    Serve {
        #[command(flatten)]
        database: StoreArgs,
        /// Address to listen on.
        #[arg(long, env = "MESHWRIGHT_LISTEN", default_value = "127.0.0.1:8080")]
        listen: String,
        /// A private network whose identity providers may be asked for their keys and whose addresses kubeconfigs may name,
        /// as address/bits. Repeatable.
        #[arg(long = "allow-network", env = "MESHWRIGHT_ALLOW_NETWORKS", value_delimiter = ',')]
        networks: Vec<String>,
        /// How many times the usual share every tenant and principal has.
        #[arg(long, env = "MESHWRIGHT_SHARE", default_value_t = 1)]
        share: u32,
        #[command(flatten)]
        connections: ConnectionArgs,
        #[command(flatten)]
        metrics: MetricsArgs,
    },
    /// Work on operations, with the database role of workers.
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
    /// Bring the schema up to date, with the role that owns it.
    Migrate {
        #[command(flatten)]
        database: StoreArgs,
    },
    /// Print what makes the database roles, for a superuser to run.
    Roles,
    /// Print the service's own description.
    Openapi,
    /// The release catalogue.
    Releases {
        #[command(flatten)]
        database: StoreArgs,
        #[command(subcommand)]
        command: ReleasesCommand,
    },
    /// Hosting clusters.
    Hosting {
        #[command(flatten)]
        database: StoreArgs,
        #[command(subcommand)]
        command: HostingCommand,
    },
    /// Tenants' keys, with the database role of workers.
    Tenants {
        #[command(flatten)]
        database: StoreArgs,
        #[command(subcommand)]
        command: TenantsCommand,
    },
    /// Tenants' audit logs, with the database role of workers.
    Audit {
        #[command(flatten)]
        database: StoreArgs,
        #[command(subcommand)]
        command: AuditCommand,
    },
    /// Everything in one process, with a private Postgres: to try it and to work on it.
    Dev(DevArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct StoreArgs {
    /// Address of the database, with the role in it.
    #[arg(long, env = "MESHWRIGHT_DATABASE_URL", hide_env_values = true)]
    pub(crate) database_url: String,
    /// File with the server's own 32-byte secret, in hexadecimal: it peppers API keys and seals what belongs to no tenant.
    #[arg(long, env = "MESHWRIGHT_VAULT_KEY_FILE")]
    pub(crate) vault_key_file: PathBuf,
    #[command(flatten)]
    pub(crate) master: MasterKeySource,
}

/// What wraps the tenants' data keys. Without any of these it is derived from the server's own secret.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct MasterKeySource {
    /// File with master keys, one in each line: the first wraps, all of them unwrap. To change it, put a new line in front,
    /// restart, run `tenants rewrap-keys`, and take the old line out.
    #[arg(long, env = "MESHWRIGHT_MASTER_KEY_FILE", conflicts_with = "transit_address")]
    pub(crate) master_key_file: Option<PathBuf>,
    /// Address of a Vault whose transit engine wraps them.
    #[arg(long, env = "MESHWRIGHT_TRANSIT_ADDRESS", requires = "transit_token_file")]
    pub(crate) transit_address: Option<String>,
    /// Where the engine is mounted.
    #[arg(long, env = "MESHWRIGHT_TRANSIT_MOUNT", default_value = "transit")]
    pub(crate) transit_mount: String,
    /// The engine's key.
    #[arg(long, env = "MESHWRIGHT_TRANSIT_KEY", default_value = "meshwright")]
    pub(crate) transit_key: String,
    /// File with a token for Vault; it is read before each call.
    #[arg(long, env = "MESHWRIGHT_TRANSIT_TOKEN_FILE")]
    pub(crate) transit_token_file: Option<PathBuf>,
}

/// Where the ends of the audit logs are written down.
#[derive(Debug, Clone, Args)]
pub(crate) struct AuditAnchorArgs {
    /// File that the ends of the audit logs are added to; keep it where the database's administrator cannot write.
    #[arg(long, env = "MESHWRIGHT_AUDIT_ANCHORS")]
    pub(crate) audit_anchors: Option<PathBuf>,
    /// Seconds between two anchors.
    #[arg(long, env = "MESHWRIGHT_ANCHOR_SECONDS", default_value_t = 60)]
    pub(crate) anchor_seconds: u64,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum TenantsCommand {
    /// Make a key for whoever operates the service, who makes tenants with it.
    OperatorKey {
        /// What to call it.
        #[arg(long, default_value = "operator")]
        name: String,
    },
    /// Give a tenant a new data key and seal its secrets with it.
    RotateKey {
        /// Its id.
        #[arg(long)]
        tenant: model::ids::TenantId,
    },
    /// Wrap every tenant's data keys with the present master key.
    RewrapKeys,
    /// Erase a tenant's data keys. Nothing brings its secrets back.
    EraseSecrets {
        /// Its id.
        #[arg(long)]
        tenant: model::ids::TenantId,
        /// Its id once more.
        #[arg(long)]
        confirm: model::ids::TenantId,
    },
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum AuditCommand {
    /// Write down where each audit log ends now.
    Anchor {
        /// The file that is added to.
        #[arg(long)]
        file: PathBuf,
    },
    /// Read every audit log, compute every digest, and compare with the anchors.
    Verify {
        /// A file of anchors.
        #[arg(long)]
        anchors: Option<PathBuf>,
    },
}

#[derive(Debug, Clone, Args)]
pub(crate) struct WorkerArgs {
    /// The helm program; searched on the path by default.
    #[arg(long, env = "MESHWRIGHT_HELM", default_value = "helm")]
    pub(crate) helm: PathBuf,
    /// A private network whose clusters may be called, as address/bits. Repeatable.
    #[arg(long = "allow-network", env = "MESHWRIGHT_ALLOW_NETWORKS", value_delimiter = ',')]
    pub(crate) allow_networks: Vec<String>,
    /// Replicas of each control plane.
    #[arg(long, env = "MESHWRIGHT_REPLICAS", default_value_t = 2)]
    pub(crate) replicas: u32,
    /// How many workloads of a mesh are restarted at once.
    #[arg(long, env = "MESHWRIGHT_WIDTH", default_value_t = 10)]
    pub(crate) width: usize,
    /// Seconds that a claim lasts without a renewal.
    #[arg(long, env = "MESHWRIGHT_LEASE_SECONDS", default_value_t = 30)]
    pub(crate) lease_seconds: u64,
    /// This worker's name in the queue and in the clusters' audit logs; its process number by default.
    #[arg(long, env = "MESHWRIGHT_OWNER")]
    pub(crate) owner: Option<String>,
    /// Seconds over which a revision must be seen unused before it is removed.
    #[arg(long, env = "MESHWRIGHT_UNUSED_SECONDS", default_value_t = 120)]
    pub(crate) unused_seconds: i64,
    /// Seconds that one step may take before a person is asked.
    #[arg(long, env = "MESHWRIGHT_STEP_SECONDS", default_value_t = 600)]
    pub(crate) step_seconds: i64,
    /// Seconds until a dry run must come back as wanted.
    #[arg(long, env = "MESHWRIGHT_DRY_RUN_SECONDS", default_value_t = 120)]
    pub(crate) dry_run_seconds: i64,
    /// Seconds that a cluster may be silent before a person is asked.
    #[arg(long, env = "MESHWRIGHT_SILENT_SECONDS", default_value_t = 120)]
    pub(crate) silent_seconds: i64,
    /// Seconds between two observations of a mesh.
    #[arg(long, env = "MESHWRIGHT_OBSERVE_SECONDS", default_value_t = 10)]
    pub(crate) observe_seconds: u64,
    /// Seconds between two looks after a cluster that answers.
    #[arg(long, env = "MESHWRIGHT_CLUSTER_SECONDS", default_value_t = 60)]
    pub(crate) cluster_seconds: u64,
    /// Days that a credential of ours in a cluster lives; it is renewed after a third of them. The cluster may allow less.
    #[arg(long, env = "MESHWRIGHT_CREDENTIAL_DAYS", default_value_t = 90, value_parser = clap::value_parser!(u64).range(1..=3650))]
    pub(crate) credential_days: u64,
}

impl WorkerArgs {
    pub(crate) fn worker_name(&self) -> String {
        self.owner.clone().unwrap_or_else(|| format!("worker-{}", std::process::id()))
    }

    pub(crate) fn lease_duration(&self) -> Duration {
        Duration::from_secs(self.lease_seconds)
    }
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ReleasesCommand {
    /// Add a release from its own charts.
    Import(Box<ImportReleaseArgs>),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ImportReleaseArgs {
    /// Its version, for example 1.27.9.1.
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
    /// Add a hosting cluster.
    Add {
        /// Its name.
        #[arg(long)]
        name: String,
        /// Its kubeconfig, with everything inline.
        #[arg(long)]
        kubeconfig: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Folder for the database, the sealing key and the first API key.
    #[arg(long, default_value = ".meshwright")]
    pub(crate) dir: PathBuf,
    /// Address to listen on; a listener that was handed over comes first.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub(crate) listen: String,
    /// A hosting cluster to add, by its kubeconfig.
    #[arg(long)]
    pub(crate) hosting_kubeconfig: Option<PathBuf>,
    /// A release to import, as version=folder, or version@tag=folder where its images have another tag. Repeatable.
    #[arg(long = "release")]
    pub(crate) releases: Vec<String>,
    /// Where the imported releases' images are pulled from.
    #[arg(long, default_value = "docker.io/istio")]
    pub(crate) hub: String,
    /// Leave the operations to other processes, started with `work`.
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
