//! Keys, people and tenants.

use std::collections::BTreeMap;

use wire::{
    ApiKey, ChangeTenant, CreateApiKey, CreateIdentityProvider, CreateOwnerKey, CreateRoleBinding, CreateTenant,
    IdentityProvider, RoleBinding, RotateApiKey, Tenant as TenantView, Usage,
};

use crate::client::Client;
use crate::options::{Access, Format, Key, Tenant};
use crate::output::{or_dash, print, say};
use crate::{Failure, Result};

const KEY: [&str; 7] = ["name", "role", "scopes", "state", "expires", "last used", "id"];

fn key_row(key: &ApiKey) -> Vec<String> {
    let time = |time: Option<jiff::Timestamp>| or_dash(time.map(|time| time.to_string()).as_ref());
    let state = if key.revoked_at.is_some() { "revoked" } else { "active" };
    let scopes = if key.scopes.is_empty() { "tenant".into() } else { key.scopes.join(",") };
    vec![
        key.name.clone(),
        key.role.clone(),
        scopes,
        state.into(),
        time(key.expires_at),
        time(key.last_used_at),
        key.id.clone(),
    ]
}

pub(crate) async fn key(client: &Client, format: Format, command: Key) -> Result<()> {
    match command {
        Key::List { all } => {
            print(format, &client.all::<ApiKey>(&format!("/v1/api-keys?show_deleted={all}")).await?, &KEY, |list| {
                list.items.iter().map(key_row).collect()
            })
        }
        Key::Create { name, role, scopes, expires_at } => {
            let body = CreateApiKey { name, role, scopes, expires_at };
            reveal(format, &client.post("/v1/api-keys", &body, None).await?)
        }
        Key::Rotate { key, overlap_seconds } => {
            let body = RotateApiKey { overlap_seconds };
            reveal(format, &client.post(&format!("/v1/api-keys/{key}/rotate"), &body, None).await?)
        }
        Key::Revoke { key } => {
            client.delete(&format!("/v1/api-keys/{key}")).await?;
            say("revoked")
        }
    }
}

/// The only time that anybody sees the secret.
fn reveal(format: Format, key: &ApiKey) -> Result<()> {
    print(format, key, &["id", "secret, shown once"], |key| vec![vec![key.id.clone(), or_dash(key.secret.as_ref())]])
}

const PROVIDER: [&str; 4] = ["name", "issuer", "audience", "id"];

fn provider_row(provider: &IdentityProvider) -> Vec<String> {
    vec![provider.name.clone(), provider.issuer.clone(), provider.audience.clone(), provider.id.clone()]
}

const BINDING: [&str; 5] = ["who", "role", "scope", "provider", "id"];

fn binding_row(binding: &RoleBinding) -> Vec<String> {
    let group = binding.group.as_ref().map(|group| format!("group {group}"));
    let who = or_dash(binding.subject.as_ref().or(group.as_ref()));
    vec![who, binding.role.clone(), binding.scope.clone(), binding.provider_id.clone(), binding.id.clone()]
}

pub(crate) async fn access(client: &Client, format: Format, command: Access) -> Result<()> {
    match command {
        Access::Providers => {
            let list = client.all::<IdentityProvider>("/v1/identity-providers").await?;
            print(format, &list, &PROVIDER, |list| list.items.iter().map(provider_row).collect())
        }
        Access::Trust { name, issuer, algorithms, groups_claim, required } => {
            let required_claims = pairs("--require", &required)?;
            let body = CreateIdentityProvider { name, issuer, algorithms, groups_claim, required_claims };
            let made: IdentityProvider = client.post("/v1/identity-providers", &body, None).await?;
            print(format, &made, &PROVIDER, |made| vec![provider_row(made)])
        }
        Access::Distrust { provider } => gone(client, &format!("/v1/identity-providers/{provider}")).await,
        Access::List => {
            let list = client.all::<RoleBinding>("/v1/role-bindings").await?;
            print(format, &list, &BINDING, |list| list.items.iter().map(binding_row).collect())
        }
        Access::Grant { role, provider, subject, group, scope } => {
            let body = CreateRoleBinding { provider_id: provider, subject, group, role, scope };
            let made: RoleBinding = client.post("/v1/role-bindings", &body, None).await?;
            print(format, &made, &BINDING, |made| vec![binding_row(made)])
        }
        Access::Revoke { binding } => gone(client, &format!("/v1/role-bindings/{binding}")).await,
    }
}

async fn gone(client: &Client, path: &str) -> Result<()> {
    client.delete(path).await?;
    say("done")
}

/// Reads name=value.
pub(crate) fn pairs(option: &str, texts: &[String]) -> Result<BTreeMap<String, String>> {
    let read = |text: &String| {
        let (name, value) =
            text.split_once('=').ok_or_else(|| Failure::new(2, format!("{option} is name=value, not {text}")))?;
        Ok((name.to_owned(), value.to_owned()))
    };
    texts.iter().map(read).collect()
}

fn quotas(texts: &[String]) -> Result<BTreeMap<String, u32>> {
    let read = |(name, value): (String, String)| {
        let number = value.parse().map_err(|_| Failure::new(2, format!("--quota {name}: {value} is no number")))?;
        Ok((name, number))
    };
    pairs("--quota", texts)?.into_iter().map(read).collect()
}

const TENANT: [&str; 5] = ["name", "state", "edition", "created", "id"];

fn tenant_row(tenant: &TenantView) -> Vec<String> {
    let created = tenant.created_at.to_string();
    vec![tenant.name.clone(), tenant.state.clone(), tenant.edition.clone(), created, tenant.id.clone()]
}

pub(crate) async fn tenant(client: &Client, format: Format, command: Tenant) -> Result<()> {
    let (tenant, change) = match command {
        Tenant::List { all } => {
            let list = client.all::<TenantView>(&format!("/v1/tenants?show_deleted={all}")).await?;
            return print(format, &list, &TENANT, |list| list.items.iter().map(tenant_row).collect());
        }
        Tenant::Create { name, quotas: texts, edition } => {
            let body = CreateTenant { name, quotas: quotas(&texts)?, edition };
            let made: TenantView = client.post("/v1/tenants", &body, None).await?;
            let row = |made: &TenantView| vec![vec![made.id.clone(), or_dash(made.owner_key.as_ref())]];
            return print(format, &made, &["id", "first owner's key, shown once"], row);
        }
        Tenant::Delete { tenant } => return gone(client, &format!("/v1/tenants/{tenant}")).await,
        Tenant::OwnerKey { tenant, name } => {
            let made = client.post(&format!("/v1/tenants/{tenant}/owner-keys"), &CreateOwnerKey { name }, None).await?;
            return reveal(format, &made);
        }
        Tenant::Limit { tenant, quotas: texts, edition } => {
            (tenant, ChangeTenant { quotas: quotas(&texts)?, edition, ..ChangeTenant::default() })
        }
        Tenant::Suspend { tenant } => (tenant, ChangeTenant { state: Some("suspended".into()), ..Default::default() }),
        Tenant::Resume { tenant } => (tenant, ChangeTenant { state: Some("active".into()), ..Default::default() }),
    };
    let changed: TenantView = client.patch(&format!("/v1/tenants/{tenant}"), &change).await?;
    print(format, &changed, &TENANT, |changed| vec![tenant_row(changed)])
}

pub(crate) async fn usage(client: &Client, format: Format) -> Result<()> {
    let usage: Usage = client.get("/v1/usage").await?;
    print(format, &usage, &["what", "used", "limit"], |usage| {
        let row =
            |(what, used): (&String, &wire::Used)| vec![what.clone(), used.used.to_string(), used.limit.to_string()];
        let granted = vec!["edition".to_owned(), String::new(), usage.edition.clone()];
        usage.items.iter().map(row).chain([granted]).collect()
    })
}
