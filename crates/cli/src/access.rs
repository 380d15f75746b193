//! Runs the commands on API keys, identity providers, role bindings and tenants.

use std::collections::BTreeMap;

use meshwright_wire::{
    ApiKey, ChangeTenant, CreateApiKey, CreateIdentityProvider, CreateOwnerKey, CreateRoleBinding,
    CreateTenant, Edition, IdentityProvider, RequestedTenantStateValue, Role, RoleBinding,
    RotateApiKey, SignatureAlgorithm, Tenant as TenantView, Usage,
};

use crate::arguments::parse_key_values;
use crate::client::Client;
use crate::options::{AccessCommand, KeyCommand, OutputFormat, TenantCommand};
use crate::output::{or_dash, print_line, print_value};
use crate::{Failure, Result};

const KEY_COLUMNS: [&str; 7] = [
    "name",
    "role",
    "scopes",
    "state",
    "expires",
    "last used",
    "id",
];

fn key_row(key: &ApiKey) -> Vec<String> {
    let time = |time: Option<jiff::Timestamp>| or_dash(time.map(|time| time.to_string()).as_ref());
    let state = if key.revoked_at.is_some() {
        "revoked"
    } else {
        "active"
    };
    let scopes = if key.scopes.is_empty() {
        "tenant".into()
    } else {
        key.scopes.join(",")
    };
    vec![
        key.name.clone(),
        key.role.to_string(),
        scopes,
        state.into(),
        time(key.expires_at),
        time(key.last_used_at),
        key.id.clone(),
    ]
}

pub(crate) async fn run_key_command(
    client: &Client,
    format: OutputFormat,
    command: KeyCommand,
) -> Result<()> {
    match command {
        KeyCommand::List { all } => print_value(
            format,
            &client
                .list_all::<ApiKey>(&format!("/v1/api-keys?show_deleted={all}"))
                .await?,
            &KEY_COLUMNS,
            |list| list.items.iter().map(key_row).collect(),
        ),
        KeyCommand::Create {
            name,
            role,
            scopes,
            expires_at,
        } => {
            let body = CreateApiKey {
                name,
                role: Role::from_name(role),
                scopes,
                expires_at,
            };
            print_key_secret(format, &client.post("/v1/api-keys", &body, None).await?)
        }
        KeyCommand::Rotate {
            key,
            overlap_seconds,
        } => {
            let body = RotateApiKey { overlap_seconds };
            print_key_secret(
                format,
                &client
                    .post(&format!("/v1/api-keys/{key}/rotate"), &body, None)
                    .await?,
            )
        }
        KeyCommand::Revoke { key } => {
            client.delete(&format!("/v1/api-keys/{key}")).await?;
            print_line("revoked")
        }
    }
}

/// Prints the secret of a key. The service shows it in this answer only.
fn print_key_secret(format: OutputFormat, key: &ApiKey) -> Result<()> {
    print_value(format, key, &["id", "secret, shown once"], |key| {
        vec![vec![key.id.clone(), or_dash(key.secret.as_ref())]]
    })
}

const PROVIDER_COLUMNS: [&str; 4] = ["name", "issuer", "audience", "id"];

fn provider_row(provider: &IdentityProvider) -> Vec<String> {
    vec![
        provider.name.clone(),
        provider.issuer.clone(),
        provider.audience.clone(),
        provider.id.clone(),
    ]
}

const BINDING_COLUMNS: [&str; 5] = ["who", "role", "scope", "provider", "id"];

fn binding_row(binding: &RoleBinding) -> Vec<String> {
    let group = binding.group.as_ref().map(|group| format!("group {group}"));
    let who = or_dash(binding.subject.as_ref().or(group.as_ref()));
    vec![
        who,
        binding.role.to_string(),
        binding.scope.clone(),
        binding.provider_id.clone(),
        binding.id.clone(),
    ]
}

pub(crate) async fn run_access_command(
    client: &Client,
    format: OutputFormat,
    command: AccessCommand,
) -> Result<()> {
    match command {
        AccessCommand::Providers => {
            let list = client
                .list_all::<IdentityProvider>("/v1/identity-providers")
                .await?;
            print_value(format, &list, &PROVIDER_COLUMNS, |list| {
                list.items.iter().map(provider_row).collect()
            })
        }
        AccessCommand::Trust {
            name,
            issuer,
            algorithms,
            groups_claim,
            required,
        } => {
            let required_claims = parse_key_values("--require", &required)?;
            let body = CreateIdentityProvider {
                name,
                issuer,
                algorithms: algorithms
                    .into_iter()
                    .map(SignatureAlgorithm::from_name)
                    .collect(),
                groups_claim,
                required_claims,
            };
            let made: IdentityProvider = client.post("/v1/identity-providers", &body, None).await?;
            print_value(format, &made, &PROVIDER_COLUMNS, |made| {
                vec![provider_row(made)]
            })
        }
        AccessCommand::Distrust { provider } => {
            delete_resource(client, &format!("/v1/identity-providers/{provider}")).await
        }
        AccessCommand::List => {
            let list = client.list_all::<RoleBinding>("/v1/role-bindings").await?;
            print_value(format, &list, &BINDING_COLUMNS, |list| {
                list.items.iter().map(binding_row).collect()
            })
        }
        AccessCommand::Grant {
            role,
            provider,
            subject,
            group,
            scope,
        } => {
            let body = CreateRoleBinding {
                provider_id: provider,
                subject,
                group,
                role: Role::from_name(role),
                scope,
            };
            let made: RoleBinding = client.post("/v1/role-bindings", &body, None).await?;
            print_value(format, &made, &BINDING_COLUMNS, |made| {
                vec![binding_row(made)]
            })
        }
        AccessCommand::Revoke { binding } => {
            delete_resource(client, &format!("/v1/role-bindings/{binding}")).await
        }
    }
}

async fn delete_resource(client: &Client, path: &str) -> Result<()> {
    client.delete(path).await?;
    print_line("done")
}

fn parse_quotas(texts: &[String]) -> Result<BTreeMap<String, u32>> {
    let read = |(name, value): (String, String)| {
        let number = value
            .parse()
            .map_err(|_| Failure::new(2, format!("--quota {name}: {value} is no number")))?;
        Ok((name, number))
    };
    parse_key_values("--quota", texts)?
        .into_iter()
        .map(read)
        .collect()
}

const TENANT_COLUMNS: [&str; 5] = ["name", "state", "edition", "created", "id"];

fn tenant_row(tenant: &TenantView) -> Vec<String> {
    let created = tenant.created_at.to_string();
    vec![
        tenant.name.clone(),
        tenant.state.to_string(),
        tenant.edition.to_string(),
        created,
        tenant.id.clone(),
    ]
}

pub(crate) async fn run_tenant_command(
    client: &Client,
    format: OutputFormat,
    command: TenantCommand,
) -> Result<()> {
    let (tenant, change) = match command {
        TenantCommand::List { all } => {
            let list = client
                .list_all::<TenantView>(&format!("/v1/tenants?show_deleted={all}"))
                .await?;
            return print_value(format, &list, &TENANT_COLUMNS, |list| {
                list.items.iter().map(tenant_row).collect()
            });
        }
        TenantCommand::Create {
            name,
            quotas: texts,
            edition,
        } => {
            let body = CreateTenant {
                name,
                quotas: parse_quotas(&texts)?,
                edition: Edition::from_name(edition),
            };
            let made: TenantView = client.post("/v1/tenants", &body, None).await?;
            let row =
                |made: &TenantView| vec![vec![made.id.clone(), or_dash(made.owner_key.as_ref())]];
            return print_value(format, &made, &["id", "first owner's key, shown once"], row);
        }
        TenantCommand::Delete { tenant } => {
            return delete_resource(client, &format!("/v1/tenants/{tenant}")).await;
        }
        TenantCommand::OwnerKey { tenant, name } => {
            let made = client
                .post(
                    &format!("/v1/tenants/{tenant}/owner-keys"),
                    &CreateOwnerKey { name },
                    None,
                )
                .await?;
            return print_key_secret(format, &made);
        }
        TenantCommand::Limit {
            tenant,
            quotas: texts,
            edition,
        } => (
            tenant,
            ChangeTenant {
                quotas: parse_quotas(&texts)?,
                edition: edition.map(Edition::from_name),
                ..ChangeTenant::default()
            },
        ),
        TenantCommand::Suspend { tenant } => (
            tenant,
            ChangeTenant {
                state: Some(RequestedTenantStateValue::Suspended.into()),
                ..Default::default()
            },
        ),
        TenantCommand::Resume { tenant } => (
            tenant,
            ChangeTenant {
                state: Some(RequestedTenantStateValue::Active.into()),
                ..Default::default()
            },
        ),
    };
    let changed: TenantView = client
        .patch(&format!("/v1/tenants/{tenant}"), &change)
        .await?;
    print_value(format, &changed, &TENANT_COLUMNS, |changed| {
        vec![tenant_row(changed)]
    })
}

pub(crate) async fn print_usage(client: &Client, format: OutputFormat) -> Result<()> {
    let usage: Usage = client.get("/v1/usage").await?;
    print_value(format, &usage, &["what", "used", "limit"], |usage| {
        let row = |(what, used): (&String, &meshwright_wire::QuotaUsage)| {
            vec![what.clone(), used.used.to_string(), used.limit.to_string()]
        };
        let granted = vec![
            "edition".to_owned(),
            String::new(),
            usage.edition.to_string(),
        ];
        usage.items.iter().map(row).chain([granted]).collect()
    })
}
