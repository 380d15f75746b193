//! Handles requests for tenants, which are for the operator of the service, and for the usage of
//! the caller's own tenant.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use meshwright_model::ClosedSet;
use meshwright_model::access::{Action, Role};
use meshwright_model::fleet::TenantState;
use meshwright_model::ids::{KeyId, TenantId};
use meshwright_model::problem::ProblemCode;
use meshwright_model::quota::{QuotaResource, Quotas};
use meshwright_store::{ApiKeyToken, NewApiKey, NewTenant, Page, StoreError};
use meshwright_wire::{
    ApiKey, ChangeTenant, CreateOwnerKey, CreateTenant, QuotaUsage, RequestedTenantStateValue,
    Tenant, TenantList, Usage,
};

use crate::error::{ApiError, Result};
use crate::request::caller::Authenticated;
use crate::request::mutation::{Body, EmptyBody, MutationOutcome};
use crate::request::pagination::{DeletedFilter, ListRequest};
use crate::request::params::{
    check_if_match, etag, known_edition, known_value, parse_id, parse_name,
};
use crate::resources::api_keys;

/// Largest value of a quota.
const MAX_QUOTA: u32 = 1_000_000;

fn tenant_view(tenant: &meshwright_store::Tenant) -> Tenant {
    Tenant {
        id: tenant.id.to_string(),
        name: tenant.name.clone(),
        state: tenant.state.into(),
        quotas: QuotaResource::ALL
            .map(|of| (of.as_str().to_owned(), tenant.quotas.limit_for(of)))
            .into(),
        edition: tenant.edition.into(),
        created_at: tenant.created_at,
        owner_key: None,
    }
}

/// Applies the requested quotas to the known ones. A quota that is left out keeps its value.
fn merge_quotas(wanted: &BTreeMap<String, u32>, known: &Quotas) -> Result<Quotas> {
    let mut quotas = known.clone();
    for (name, limit) in wanted {
        let of = QuotaResource::from_name(name);
        let names = QuotaResource::ALL.map(QuotaResource::as_str).join(", ");
        let of = of.ok_or_else(|| {
            ApiError::invalid_field(
                &format!("/quotas/{name}"),
                format!("what is counted: {names}"),
            )
        })?;
        if *limit > MAX_QUOTA {
            return Err(ApiError::invalid_field(
                &format!("/quotas/{name}"),
                format!("at most {MAX_QUOTA}"),
            ));
        }
        quotas.0.insert(of, *limit);
    }
    Ok(quotas)
}

/// Create a new tenant
///
/// Creates a tenant and the API key of its first owner. The secret of the key is shown in this
/// answer only. This operation is for the operator of the service.
#[utoipa::path(post, path = "/v1/tenants", operation_id = "createTenant", tag = "tenants", request_body = CreateTenant,
    responses((status = 201, body = Tenant)))]
pub(crate) async fn create_tenant(
    Authenticated(caller, database): Authenticated,
    body: Body<CreateTenant>,
) -> Result<Response> {
    caller.require_permission(Action::ChangePlatform)?;
    let (app, now) = (&caller.app, caller.app.clock.now());
    let name = parse_name(&body.value.name)?;
    let quotas = merge_quotas(&body.value.quotas, &Quotas::default())?;
    let edition = known_edition("/edition", &body.value.edition)?;
    let tenant = TenantId(app.clock.new_uuid());
    let text = ApiKeyToken::generate(tenant, KeyId(app.clock.new_uuid()));
    let (digest, scopes) = (text.secret_digest(&app.vault), Vec::new());
    let key = NewApiKey {
        id: text.key,
        name: "first-owner".into(),
        role: Role::Owner,
        scopes,
        digest,
        expires_at: None,
    };
    let wrapped = app.vault.generate_wrapped_key(tenant).await?;
    let mut change = caller
        .begin_mutation(database, "createTenant", &body)
        .await?;
    let new = NewTenant {
        id: tenant,
        name: name.as_str(),
        quotas: &quotas,
        edition,
        wrapped_key: &wrapped,
    };
    change.tx.tenants().create_tenant(&new, now).await?;
    change
        .tx
        .tenants()
        .create_first_api_key(tenant, &key, now)
        .await?;
    let made = find_tenant(&mut change.tx, tenant).await?;
    let done = MutationOutcome::new(StatusCode::CREATED, tenant)
        .with_location(format!("/v1/tenants/{tenant}"))
        .with_etag(etag(made.generation));
    change
        .commit_response(
            done,
            &Tenant {
                owner_key: Some(text.reveal()),
                ..tenant_view(&made)
            },
        )
        .await
}

/// Reads a tenant that was not deleted.
async fn find_tenant(
    tx: &mut meshwright_store::Tx<'_>,
    tenant: TenantId,
) -> Result<meshwright_store::Tenant> {
    Ok(tx
        .tenants()
        .list_tenants(Some(tenant), false, Page::ALL)
        .await?
        .pop()
        .ok_or(StoreError::NotFound { what: "tenant" })?)
}

/// List the service's tenants
///
/// Returns the tenants from the oldest to the newest. With `show_deleted` the list includes deleted
/// tenants. This operation is for the operator of the service.
#[utoipa::path(get, path = "/v1/tenants", operation_id = "listTenants", tag = "tenants",
    params(("show_deleted" = Option<bool>, Query), ("page_size" = Option<i64>, Query, description = "Number of items on a page, from 1 to 500"), ("page_token" = Option<String>, Query)),
    responses((status = 200, body = TenantList)))]
pub(crate) async fn list_tenants(
    Authenticated(caller, database): Authenticated,
    list: ListRequest<DeletedFilter>,
) -> Result<Json<TenantList>> {
    caller.require_permission(Action::ReadPlatform)?;
    let found = database
        .begin_read()
        .await?
        .tenants()
        .list_tenants(None, list.filter.show_deleted, list.page(&caller)?)
        .await?;
    let (shown, next_page_token) = list.split_page(&caller, found, |tenant| tenant.id.0);
    Ok(Json(TenantList {
        items: shown.iter().map(tenant_view).collect(),
        next_page_token,
    }))
}

/// Get a tenant's state
///
/// Returns the tenant with its state, quotas and edition. This operation is for the operator of the
/// service.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}", operation_id = "getTenant", tag = "tenants",
    params(("tenant_id" = String, Path)), responses((status = 200, body = Tenant)))]
pub(crate) async fn get_tenant(
    Authenticated(caller, database): Authenticated,
    Path(tenant): Path<String>,
) -> Result<Response> {
    caller.require_permission(Action::ReadPlatform)?;
    let found = find_tenant(
        &mut database.begin_read().await?,
        parse_id(&tenant, "tenant")?,
    )
    .await?;
    Ok((
        [(header::ETAG, etag(found.generation))],
        Json(tenant_view(&found)),
    )
        .into_response())
}

/// Change a tenant's settings
///
/// Suspends the tenant, activates it again, sets its quotas, or grants it an edition. The
/// credentials of a suspended tenant are refused; its meshes keep serving. With `If-Match` and an
/// `ETag` from an earlier answer the request is refused if the tenant has changed since. This
/// operation is for the operator of the service.
#[utoipa::path(patch, path = "/v1/tenants/{tenant_id}", operation_id = "changeTenant", tag = "tenants", request_body = ChangeTenant,
    params(("tenant_id" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 200, body = Tenant)))]
pub(crate) async fn change_tenant(
    Authenticated(caller, database): Authenticated,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    body: Body<ChangeTenant>,
) -> Result<Response> {
    caller.require_permission(Action::ChangePlatform)?;
    let mut change = caller
        .begin_mutation(database, "changeTenant", &body)
        .await?;
    let seen = find_tenant(&mut change.tx, parse_id(&tenant, "tenant")?).await?;
    check_if_match(&headers, seen.generation)?;
    let state = match &body.value.state {
        None => seen.state,
        Some(wanted) => match known_value("/state", wanted, "active or suspended")? {
            RequestedTenantStateValue::Active => TenantState::Active,
            RequestedTenantStateValue::Suspended => TenantState::Suspended,
        },
    };
    let quotas = merge_quotas(&body.value.quotas, &seen.quotas)?;
    let wanted = body
        .value
        .edition
        .as_ref()
        .map(|sent| known_edition("/edition", sent))
        .transpose()?;
    let wanted = meshwright_store::Tenant {
        state,
        quotas,
        edition: wanted.unwrap_or(seen.edition),
        ..seen.clone()
    };
    change.tx.tenants().update_tenant(&seen, &wanted).await?;
    let changed = find_tenant(&mut change.tx, seen.id).await?;
    let done = MutationOutcome::new(StatusCode::OK, seen.id)
        .with_etag(etag(changed.generation))
        .with_before(&tenant_view(&seen));
    change.commit_response(done, &tenant_view(&changed)).await
}

/// Delete a tenant for good
///
/// Deletes the tenant and erases the keys of its secrets, so that the secrets cannot be restored,
/// not even from a backup. The request is refused while the tenant has meshes or clusters. This
/// operation is for the operator of the service.
#[utoipa::path(delete, path = "/v1/tenants/{tenant_id}", operation_id = "deleteTenant", tag = "tenants",
    params(("tenant_id" = String, Path), ("If-Match" = Option<String>, Header)), responses((status = 204)))]
pub(crate) async fn delete_tenant(
    Authenticated(caller, database): Authenticated,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    body: Body<EmptyBody>,
) -> Result<Response> {
    caller.require_permission(Action::ChangePlatform)?;
    let mut change = caller
        .begin_mutation(database, "deleteTenant", &body)
        .await?;
    let seen = find_tenant(&mut change.tx, parse_id(&tenant, "tenant")?).await?;
    check_if_match(&headers, seen.generation)?;
    let (meshes, clusters) = change.tx.tenants().delete_tenant(&seen).await?;
    if meshes + clusters > 0 {
        let detail = format!("The tenant has {meshes} meshes and {clusters} clusters.");
        let hint = "Suspend it, or have its owners delete them first.";
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            ProblemCode::TenantInUse,
            detail,
            hint,
        ));
    }
    change.commit_deletion(seen.id, &tenant_view(&seen)).await
}

/// Create an owner's key for a tenant
///
/// Creates an API key with the role `owner` for a tenant whose owners have lost all their keys. The
/// secret is shown in this answer only. The audit log of the tenant says who created the key. This
/// operation is for the operator of the service.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/owner-keys", operation_id = "createOwnerKey", tag = "tenants", request_body = CreateOwnerKey,
    params(("tenant_id" = String, Path)), responses((status = 201, body = ApiKey)))]
pub(crate) async fn create_owner_key(
    Authenticated(caller, database): Authenticated,
    Path(tenant): Path<String>,
    body: Body<CreateOwnerKey>,
) -> Result<Response> {
    caller.require_permission(Action::ChangePlatform)?;
    let (app, name) = (&caller.app, parse_name(&body.value.name)?);
    let mut change = caller
        .begin_mutation(database, "createOwnerKey", &body)
        .await?;
    let tenant = find_tenant(&mut change.tx, parse_id(&tenant, "tenant")?)
        .await?
        .id;
    let text = ApiKeyToken::generate(tenant, KeyId(app.clock.new_uuid()));
    let (digest, scopes) = (text.secret_digest(&app.vault), Vec::new());
    let key = NewApiKey {
        id: text.key,
        name: name.to_string(),
        role: Role::Owner,
        scopes,
        digest,
        expires_at: None,
    };
    let entry = change.audit_entry(key.id);
    let made = change
        .tx
        .tenants()
        .create_owner_api_key(tenant, &key, entry)
        .await?;
    let shown = ApiKey {
        secret: Some(text.reveal()),
        ..api_keys::api_key_view(&made)
    };
    change
        .commit_response(MutationOutcome::new(StatusCode::CREATED, key.id), &shown)
        .await
}

/// Get the tenant's usage
///
/// Returns how many objects of each limited kind the tenant has, and how many it may have.
#[utoipa::path(get, path = "/v1/usage", operation_id = "getUsage", tag = "tenants",
    responses((status = 200, body = Usage)))]
pub(crate) async fn get_usage(
    Authenticated(caller, database): Authenticated,
) -> Result<Json<Usage>> {
    caller.require_permission(Action::Read)?;
    let mut tx = database.begin_read().await?;
    let tenant = tx.tenants().current_tenant().await?;
    let mut items = BTreeMap::new();
    for of in QuotaResource::ALL {
        let used = tx.tenants().count_objects(of).await?;
        items.insert(
            of.as_str().to_owned(),
            QuotaUsage {
                used,
                limit: tenant.quotas.limit_for(of),
            },
        );
    }
    Ok(Json(Usage {
        tenant_id: tenant.id.to_string(),
        tenant: tenant.name,
        edition: tenant.edition.into(),
        items,
    }))
}
