//! Declares the arguments of the commands on API keys, the audit log, access and tenants.

use std::path::PathBuf;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// List the API keys, without their secrets.
    List {
        /// List revoked keys as well.
        #[arg(long)]
        all: bool,
    },
    /// Create an API key. Its secret is printed once.
    Create {
        /// Name of the key: a DNS label.
        name: String,
        /// Role of the key: owner, operator, viewer or auditor.
        #[arg(long, default_value = "viewer")]
        role: String,
        /// Id of a mesh or cluster that the role is limited to (repeatable); by default the role
        /// holds for the whole tenant.
        #[arg(long = "scope")]
        scopes: Vec<String>,
        /// Time at which the key expires, for example 2027-01-31T00:00:00Z; by default it does not
        /// expire.
        #[arg(long)]
        expires_at: Option<jiff::Timestamp>,
    },
    /// Give an API key a new secret, which is printed once.
    Rotate {
        /// Id of the key, from `key list`.
        key: String,
        /// Seconds that the former secret is still accepted, from 0 to 604800 (7 days).
        #[arg(long, default_value_t = 3600)]
        overlap_seconds: u32,
    },
    /// Revoke an API key at once.
    Revoke {
        /// Id of the key, from `key list`.
        key: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// List 100 entries of the audit log, oldest first.
    List {
        /// Number of the entry after which the list begins.
        #[arg(long, default_value_t = 0)]
        after: i64,
    },
    /// Print the whole audit log, one JSON object per line.
    Export,
    /// Print the number and digest of the newest entry as one line of JSON. Keep it where no one
    /// can change it.
    Anchor,
    /// Verify the audit log: read it whole, compute each digest, and compare it with the anchors.
    Verify {
        /// File of audit anchors, one JSON object per line.
        #[arg(long)]
        anchors: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AccessCommand {
    /// List the trusted identity providers, with the audience that their tokens must have.
    Providers,
    /// Trust an issuer of `OpenID` Connect tokens.
    Trust {
        /// Name of the identity provider: a DNS label.
        name: String,
        /// Value of the claim `iss` in its tokens: an https address.
        #[arg(long)]
        issuer: String,
        /// Signature algorithm of its tokens (repeatable).
        #[arg(long = "algorithm", default_values_t = ["RS256".to_owned()])]
        algorithms: Vec<String>,
        /// Claim that lists the groups of a person.
        #[arg(long, default_value = "groups")]
        groups_claim: String,
        /// Claim that every token must have, as NAME=VALUE (repeatable).
        #[arg(long = "require")]
        required: Vec<String>,
    },
    /// Stop trusting an identity provider. Its people lose the roles that they were granted.
    Distrust {
        /// Id of the identity provider, from `access providers`.
        provider: String,
    },
    /// List the roles that were granted.
    List,
    /// Grant a role to one person or program, or to a group.
    Grant {
        /// Role to grant: owner, operator, viewer or auditor.
        role: String,
        /// Id of the identity provider, from `access providers`.
        #[arg(long)]
        provider: String,
        /// Claim `sub` in the tokens of the person or program.
        #[arg(long, conflicts_with = "group", required_unless_present = "group")]
        subject: Option<String>,
        /// Group that the tokens of its members list.
        #[arg(long)]
        group: Option<String>,
        /// Scope of the role: tenant, or the id of a mesh or cluster.
        #[arg(long, default_value = "tenant")]
        scope: String,
    },
    /// Revoke a role that was granted.
    Revoke {
        /// Id of the role binding, from `access list`.
        binding: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TenantCommand {
    /// List the tenants of the service.
    List {
        /// List deleted tenants as well.
        #[arg(long)]
        all: bool,
    },
    /// Create a tenant. The key of its first owner is printed once.
    Create {
        /// Name of the tenant: a DNS label.
        name: String,
        /// Quota that differs from the default, for example meshes=5 (repeatable).
        #[arg(long = "quota")]
        quotas: Vec<String>,
        /// Highest edition that meshes of the tenant can have: standard, enterprise or ultimate.
        #[arg(long, default_value = "standard")]
        edition: String,
    },
    /// Change the quotas or the edition of a tenant.
    Limit {
        /// Id of the tenant, from `tenant list`.
        tenant: String,
        /// Quota to set, for example meshes=5 (repeatable).
        #[arg(long = "quota", required_unless_present = "edition")]
        quotas: Vec<String>,
        /// Highest edition that new meshes can have: standard, enterprise or ultimate.
        #[arg(long)]
        edition: Option<String>,
    },
    /// Create an owner's key for a tenant that has no usable key. Its secret is printed once.
    OwnerKey {
        /// Id of the tenant, from `tenant list`.
        tenant: String,
        /// Name of the key: a DNS label.
        #[arg(long, default_value = "recovery")]
        name: String,
    },
    /// Suspend a tenant: its credentials are refused until it is resumed. Its meshes go on serving.
    Suspend {
        /// Id of the tenant, from `tenant list`.
        tenant: String,
    },
    /// Resume a tenant: its credentials are accepted again.
    Resume {
        /// Id of the tenant, from `tenant list`.
        tenant: String,
    },
    /// Delete a tenant that has no meshes and clusters, and erase its secrets for good.
    Delete {
        /// Id of the tenant, from `tenant list`.
        tenant: String,
    },
}
