//! What can be typed about keys, people, tenants and the audit log.

use std::path::PathBuf;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// All of them, without their secrets.
    List {
        /// Revoked ones too.
        #[arg(long)]
        all: bool,
    },
    /// Make a key; its secret is printed once.
    Create {
        /// What to call it: a DNS label.
        name: String,
        /// owner, operator, viewer or auditor.
        #[arg(long, default_value = "viewer")]
        role: String,
        /// The id of a mesh or a cluster that it is narrowed to. Repeatable.
        #[arg(long = "scope")]
        scopes: Vec<String>,
        /// When it ends, for example 2027-01-31T00:00:00Z.
        #[arg(long)]
        expires_at: Option<jiff::Timestamp>,
    },
    /// Give a key another secret, which is printed once.
    Rotate {
        /// Its id.
        key: String,
        /// For how many seconds the former secret is still accepted.
        #[arg(long, default_value_t = 3600)]
        overlap_seconds: u32,
    },
    /// End a key at once.
    Revoke {
        /// Its id.
        key: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// A part of it, oldest first.
    List {
        /// Begin after this number.
        #[arg(long, default_value_t = 0)]
        after: i64,
    },
    /// All of it, one JSON object in each line.
    Export,
    /// One line that says where it ends now, to be kept where nobody can change it.
    Anchor,
    /// Read all of it, compute every digest, and compare with the anchors.
    Verify {
        /// A file of anchors, one in each line.
        #[arg(long)]
        anchors: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AccessCommand {
    /// Identity providers that are trusted, with the audience that their tokens need.
    Providers,
    /// Trust an identity provider.
    Trust {
        /// What to call it: a DNS label.
        name: String,
        /// What its tokens say in `iss`: an https address.
        #[arg(long)]
        issuer: String,
        /// A signature algorithm that it uses. Repeatable.
        #[arg(long = "algorithm", default_values_t = ["RS256".to_owned()])]
        algorithms: Vec<String>,
        /// The claim that lists groups.
        #[arg(long, default_value = "groups")]
        groups_claim: String,
        /// A claim that every token must have, as name=value. Repeatable.
        #[arg(long = "require")]
        required: Vec<String>,
    },
    /// Trust an identity provider no longer; its people lose what they were granted.
    Distrust {
        /// Its id.
        provider: String,
    },
    /// What was granted to whom.
    List,
    /// Grant a role to one person or to a group.
    Grant {
        /// owner, operator, viewer or auditor.
        role: String,
        /// The identity provider's id.
        #[arg(long)]
        provider: String,
        /// One person or program: what their tokens say in `sub`.
        #[arg(long, conflicts_with = "group", required_unless_present = "group")]
        subject: Option<String>,
        /// Everybody whose tokens list this group.
        #[arg(long)]
        group: Option<String>,
        /// tenant, or the id of a mesh or a cluster.
        #[arg(long, default_value = "tenant")]
        scope: String,
    },
    /// Take a role back.
    Revoke {
        /// The binding's id.
        binding: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TenantCommand {
    /// All of them.
    List {
        /// Deleted ones too.
        #[arg(long)]
        all: bool,
    },
    /// Make a tenant; its first owner's key is printed once.
    Create {
        /// What to call it: a DNS label.
        name: String,
        /// How much of something it may have, for example meshes=5. Repeatable.
        #[arg(long = "quota")]
        quotas: Vec<String>,
        /// The highest edition that its meshes can have: standard, enterprise or ultimate.
        #[arg(long, default_value = "standard")]
        edition: String,
    },
    /// Set quotas, or grant an edition.
    Limit {
        /// Its id.
        tenant: String,
        /// How much of something it may have, for example meshes=5. Repeatable.
        #[arg(long = "quota", required_unless_present = "edition")]
        quotas: Vec<String>,
        /// The highest edition that new meshes can have: standard, enterprise or ultimate.
        #[arg(long)]
        edition: Option<String>,
    },
    /// Make an owner's key for a tenant that has locked itself out; its secret is printed once.
    OwnerKey {
        /// Its id.
        tenant: String,
        /// What to call the key: a DNS label.
        #[arg(long, default_value = "recovery")]
        name: String,
    },
    /// Accept no credential of a tenant until it is resumed; its meshes go on serving.
    Suspend {
        /// Its id.
        tenant: String,
    },
    /// Accept a tenant's credentials again.
    Resume {
        /// Its id.
        tenant: String,
    },
    /// Delete a tenant without meshes and clusters, and erase its secrets for good.
    Delete {
        /// Its id.
        tenant: String,
    },
}
