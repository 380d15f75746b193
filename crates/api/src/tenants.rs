//! Tenants, for whoever operates the service; and what a tenant uses of what it may have, for itself.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use model::access::{Action, Role};
use model::ids::{KeyId, TenantId};
use model::quota::{Counted, Quotas};
use store::{KeyText, NewKey, NewTenant, Page, StoreError, TenantState};
use wire::{ApiKey, ChangeTenant, CreateOwnerKey, CreateTenant, Tenant, TenantList, Usage, Used};

use crate::auth::Asked;
use crate::change::{Body, Done, Nothing};
use crate::fields::{edition, id, name_field, tag, unmoved};
use crate::keys;
use crate::paging::{Deletable, List};
use crate::problem::{ApiError, Result};
use crate::views::name;

/// The most that a quota can be set to.
const MOST: u32 = 1_000_000;

fn view(tenant: &store::Tenant) -> Tenant {
    Tenant {
        id: tenant.id.to_string(),
        name: tenant.name.clone(),
        state: tenant.state.as_str().into(),
        quotas: Counted::ALL.map(|of| (of.as_str().to_owned(), tenant.quotas.limit(of))).into(),
        edition: name(&tenant.edition),
        created_at: tenant.created_at,
        owner_key: None,
    }
}

fn quotas(wanted: &BTreeMap<String, u32>, known: &Quotas) -> Result<Quotas> {
    let mut quotas = known.clone();
    for (name, limit) in wanted {
        let of = Counted::ALL.into_iter().find(|of| of.as_str() == name);
        let names = Counted::ALL.map(Counted::as_str).join(", ");
        let of = of.ok_or_else(|| ApiError::field(&format!("/quotas/{name}"), format!("what is counted: {names}")))?;
        if *limit > MOST {
            return Err(ApiError::field(&format!("/quotas/{name}"), format!("at most {MOST}")));
        }
        quotas.0.insert(of, *limit);
    }
    Ok(quotas)
}

/// Make a tenant
///
/// With the key of its first owner, whose secret is in this answer and nowhere else. For whoever operates the service.
#[utoipa::path(post, path = "/v1/tenants", operation_id = "createTenant", tag = "tenants", request_body = CreateTenant,
    responses((status = 201, body = Tenant)))]
pub(crate) async fn create_tenant(Asked(caller, database): Asked, body: Body<CreateTenant>) -> Result<Response> {
    caller.may(Action::ChangePlatform)?;
    let (app, now) = (&caller.app, caller.app.clock.now());
    let name = name_field(&body.value.name)?;
    let quotas = quotas(&body.value.quotas, &Quotas::default())?;
    let edition = edition("/edition", &body.value.edition)?;
    let tenant = TenantId(app.clock.uuid());
    let text = KeyText::generate(tenant, KeyId(app.clock.uuid()));
    let (digest, scopes) = (text.digest(&app.vault), Vec::new());
    let key = NewKey { id: text.key, name: "first-owner".into(), role: Role::Owner, scopes, digest, expires_at: None };
    let wrapped = app.vault.first_wrapped_key(tenant).await?;
    let mut change = caller.change(database, "createTenant", &body).await?;
    let new = NewTenant { id: tenant, name: name.as_str(), quotas: &quotas, edition, wrapped: &wrapped };
    change.tx.create_tenant(&new, now).await?;
    change.tx.create_first_key(tenant, &key, now).await?;
    let made = one(&mut change.tx, tenant).await?;
    let done = Done::new(StatusCode::CREATED, tenant).at(format!("/v1/tenants/{tenant}")).tagged(tag(made.generation));
    change.done(done, &Tenant { owner_key: Some(text.reveal()), ..view(&made) }).await
}

/// A tenant that was not deleted.
async fn one(tx: &mut store::Tx<'_>, tenant: TenantId) -> Result<store::Tenant> {
    Ok(tx.tenants(Some(tenant), false, Page::ALL).await?.pop().ok_or(StoreError::NotFound { what: "tenant" })?)
}

/// List tenants
///
/// Oldest first; deleted ones with `show_deleted`. For whoever operates the service.
#[utoipa::path(get, path = "/v1/tenants", operation_id = "listTenants", tag = "tenants",
    params(("show_deleted" = Option<bool>, Query), ("page_size" = Option<i64>, Query, description = "1 to 500"), ("page_token" = Option<String>, Query)),
    responses((status = 200, body = TenantList)))]
pub(crate) async fn list_tenants(Asked(caller, database): Asked, list: List<Deletable>) -> Result<Json<TenantList>> {
    caller.may(Action::ReadPlatform)?;
    let found = database.begin().await?.tenants(None, list.filter.show_deleted, list.page(&caller)?).await?;
    let (shown, next_page_token) = list.cut(&caller, found, |tenant| tenant.id.0);
    Ok(Json(TenantList { items: shown.iter().map(view).collect(), next_page_token }))
}

/// Get a tenant
///
/// For whoever operates the service.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}", operation_id = "getTenant", tag = "tenants",
    params(("tenant_id" = String, Path)), responses((status = 200, body = Tenant)))]
pub(crate) async fn get_tenant(Asked(caller, database): Asked, Path(tenant): Path<String>) -> Result<Response> {
    caller.may(Action::ReadPlatform)?;
    let found = one(&mut database.begin().await?, id(&tenant, "tenant")?).await?;
    Ok(([(header::ETAG, tag(found.generation))], Json(view(&found))).into_response())
}

/// Change a tenant
///
/// Suspend it, let it go on, set its quotas, or grant it an edition. Of a suspended tenant no credential is accepted; its meshes go on serving.
/// `If-Match` with the `ETag` that you looked at is honoured.
#[utoipa::path(patch, path = "/v1/tenants/{tenant_id}", operation_id = "changeTenant", tag = "tenants", request_body = ChangeTenant,
    params(("tenant_id" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 200, body = Tenant)))]
pub(crate) async fn change_tenant(
    Asked(caller, database): Asked,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    body: Body<ChangeTenant>,
) -> Result<Response> {
    caller.may(Action::ChangePlatform)?;
    let mut change = caller.change(database, "changeTenant", &body).await?;
    let seen = one(&mut change.tx, id(&tenant, "tenant")?).await?;
    unmoved(&headers, seen.generation)?;
    let state = match (seen.state, body.value.state.as_deref()) {
        (state, None) => state,
        (_, Some("active")) => TenantState::Active,
        (_, Some("suspended")) => TenantState::Suspended,
        _ => return Err(ApiError::field("/state", "active or suspended")),
    };
    let quotas = quotas(&body.value.quotas, &seen.quotas)?;
    let wanted = body.value.edition.as_ref().map(|text| edition("/edition", text)).transpose()?;
    let wanted = store::Tenant { state, quotas, edition: wanted.unwrap_or(seen.edition), ..seen.clone() };
    change.tx.change_tenant(&seen, &wanted).await?;
    let changed = one(&mut change.tx, seen.id).await?;
    let done = Done::new(StatusCode::OK, seen.id).tagged(tag(changed.generation)).replacing(&view(&seen));
    change.done(done, &view(&changed)).await
}

/// Delete a tenant
///
/// Refused while it has meshes or clusters. Its secrets are erased: nothing brings them back, not from a backup either.
#[utoipa::path(delete, path = "/v1/tenants/{tenant_id}", operation_id = "deleteTenant", tag = "tenants",
    params(("tenant_id" = String, Path), ("If-Match" = Option<String>, Header)), responses((status = 204)))]
pub(crate) async fn delete_tenant(
    Asked(caller, database): Asked,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    body: Body<Nothing>,
) -> Result<Response> {
    caller.may(Action::ChangePlatform)?;
    let mut change = caller.change(database, "deleteTenant", &body).await?;
    let seen = one(&mut change.tx, id(&tenant, "tenant")?).await?;
    unmoved(&headers, seen.generation)?;
    let (meshes, clusters) = change.tx.delete_tenant(&seen).await?;
    if meshes + clusters > 0 {
        let detail = format!("The tenant has {meshes} meshes and {clusters} clusters.");
        let hint = "Suspend it, or have its owners delete them first.";
        return Err(ApiError::new(StatusCode::CONFLICT, "tenant_in_use", detail, hint));
    }
    change.gone(seen.id, &view(&seen)).await
}

/// Make an owner's key for a tenant
///
/// The way in for a tenant that no owner can get into any more. The secret is in this answer and nowhere else; the tenant's own
/// audit log says who made the key. For whoever operates the service.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/owner-keys", operation_id = "createOwnerKey", tag = "tenants", request_body = CreateOwnerKey,
    params(("tenant_id" = String, Path)), responses((status = 201, body = ApiKey)))]
pub(crate) async fn create_owner_key(
    Asked(caller, database): Asked,
    Path(tenant): Path<String>,
    body: Body<CreateOwnerKey>,
) -> Result<Response> {
    caller.may(Action::ChangePlatform)?;
    let (app, name) = (&caller.app, name_field(&body.value.name)?);
    let mut change = caller.change(database, "createOwnerKey", &body).await?;
    let tenant = one(&mut change.tx, id(&tenant, "tenant")?).await?.id;
    let text = KeyText::generate(tenant, KeyId(app.clock.uuid()));
    let (digest, scopes) = (text.digest(&app.vault), Vec::new());
    let key = NewKey { id: text.key, name: name.to_string(), role: Role::Owner, scopes, digest, expires_at: None };
    let entry = change.entry(key.id);
    let made = change.tx.create_owner_key(tenant, &key, entry).await?;
    let shown = ApiKey { secret: Some(text.reveal()), ..keys::view(&made) };
    change.done(Done::new(StatusCode::CREATED, key.id), &shown).await
}

/// What is used
///
/// How much there is of everything that is limited, and how much there may be.
#[utoipa::path(get, path = "/v1/usage", operation_id = "getUsage", tag = "tenants",
    responses((status = 200, body = Usage)))]
pub(crate) async fn get_usage(Asked(caller, database): Asked) -> Result<Json<Usage>> {
    caller.may(Action::Read)?;
    let mut tx = database.begin().await?;
    let tenant = tx.own_tenant().await?;
    let mut items = BTreeMap::new();
    for of in Counted::ALL {
        let used = tx.count(of).await?;
        items.insert(of.as_str().to_owned(), Used { used, limit: tenant.quotas.limit(of) });
    }
    let edition = name(&tenant.edition);
    Ok(Json(Usage { tenant_id: tenant.id.to_string(), tenant: tenant.name, edition, items }))
}
