//! Handles requests for API keys: creation, rotation and revocation.

use axum::Json;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::Response;
use jiff::SignedDuration;
use meshwright_model::access::{Action, Role, Scope, UnknownRole};
use meshwright_model::ids::KeyId;
use meshwright_model::problem::ProblemCode;
use meshwright_model::quota::QuotaResource;
use meshwright_store::{ApiKeyToken, NewApiKey, Tx};
use meshwright_wire::{ApiKey, ApiKeyList, CreateApiKey, RotateApiKey};

use crate::error::{ApiError, Result};
use crate::request::caller::Authenticated;
use crate::request::mutation::{Body, EmptyBody, MutationOutcome};
use crate::request::pagination::{DeletedFilter, ListRequest};
use crate::request::params::{known_value, parse_id, parse_name, require_known_scope};

/// Maximum number of meshes and clusters that the scopes of a key may name.
const MAX_SCOPES: usize = 50;
/// Maximum time for which a former secret is accepted after a rotation, in seconds (7 days).
pub(crate) const MAX_OVERLAP_SECONDS: u32 = 7 * 24 * 3600;

/// Builds the view of a key without its secret, which only the answers to a creation and a rotation
/// show.
pub(crate) fn api_key_view(key: &meshwright_store::ApiKey) -> ApiKey {
    ApiKey {
        id: key.id.to_string(),
        name: key.name.clone(),
        role: key.role.into(),
        scopes: key.scopes.iter().map(ToString::to_string).collect(),
        created_at: key.created_at,
        expires_at: key.expires_at,
        revoked_at: key.revoked_at,
        last_used_at: key.last_used_at,
        former_secret_until: key.former_until(),
        secret: None,
    }
}

/// Create an API key
///
/// Creates a key with a role, on the whole tenant or on the given scopes. The secret is shown in
/// this answer only.
#[utoipa::path(post, path = "/v1/api-keys", operation_id = "createApiKey", tag = "keys", request_body = CreateApiKey,
    responses((status = 201, body = ApiKey)))]
pub(crate) async fn create_api_key(
    Authenticated(caller, database): Authenticated,
    body: Body<CreateApiKey>,
) -> Result<Response> {
    caller.require_permission(Action::ChangeAccess)?;
    let mut change = caller
        .begin_mutation(database, "createApiKey", &body)
        .await?;
    change
        .tx
        .tenants()
        .check_quota(QuotaResource::ApiKeys)
        .await?;
    let (wanted, now) = (&body.value, caller.app.clock.now());
    let name = parse_name(&wanted.name)?;
    let role: Role = known_value("/role", &wanted.role, &UnknownRole.to_string())?;
    if wanted.expires_at.is_some_and(|end| end <= now) {
        return Err(ApiError::invalid_field(
            "/expires_at",
            "it lies in the past",
        ));
    }
    let scopes = parse_scopes(&mut change.tx, &wanted.scopes).await?;
    let text = ApiKeyToken::generate(caller.tenant, KeyId(caller.app.clock.new_uuid()));
    let digest = text.secret_digest(&caller.app.vault);
    let new = NewApiKey {
        id: text.key,
        name: name.to_string(),
        role,
        scopes,
        digest,
        expires_at: wanted.expires_at,
    };
    change.tx.api_keys().create_api_key(&new, now).await?;
    let shown = ApiKey {
        secret: Some(text.reveal()),
        ..api_key_view(&change.tx.api_keys().get_api_key(new.id).await?)
    };
    change
        .commit_response(MutationOutcome::new(StatusCode::CREATED, new.id), &shown)
        .await
}

/// Parses the scopes of a key, which must be meshes and clusters of this tenant.
async fn parse_scopes(tx: &mut Tx<'_>, wanted: &[String]) -> Result<Vec<Scope>> {
    if wanted.len() > MAX_SCOPES {
        return Err(ApiError::invalid_field(
            "/scopes",
            format!("at most {MAX_SCOPES}"),
        ));
    }
    let mut scopes = Vec::new();
    for (index, text) in wanted.iter().enumerate() {
        let wrong = || {
            ApiError::invalid_field(
                &format!("/scopes/{index}"),
                "there is no such mesh or cluster",
            )
        };
        let scope: Scope = text.parse().map_err(|_| wrong())?;
        if scope == Scope::Tenant {
            return Err(ApiError::invalid_field(
                &format!("/scopes/{index}"),
                "leave scopes out for the whole tenant",
            ));
        }
        require_known_scope(tx, scope, wrong).await?;
        scopes.push(scope);
    }
    Ok(scopes)
}

/// Reads a key, and answers 404 if it was revoked.
async fn find_active_key(tx: &mut Tx<'_>, key: &str) -> Result<meshwright_store::ApiKey> {
    let found = tx.api_keys().get_api_key(parse_id(key, "API key")?).await?;
    if found.revoked_at.is_some() {
        Err(ApiError::not_found("API key"))
    } else {
        Ok(found)
    }
}

/// List the tenant's API keys
///
/// Returns API keys without their secrets, from the oldest to the newest. With `show_deleted` the
/// list includes revoked keys.
#[utoipa::path(get, path = "/v1/api-keys", operation_id = "listApiKeys", tag = "keys",
    params(("show_deleted" = Option<bool>, Query), ("page_size" = Option<i64>, Query, description = "Number of items on a page, from 1 to 500"), ("page_token" = Option<String>, Query)),
    responses((status = 200, body = ApiKeyList)))]
pub(crate) async fn list_api_keys(
    Authenticated(caller, database): Authenticated,
    list: ListRequest<DeletedFilter>,
) -> Result<Json<ApiKeyList>> {
    caller.require_permission(Action::ReadAccess)?;
    let found = database
        .begin_read()
        .await?
        .api_keys()
        .list_api_keys(list.filter.show_deleted, list.page(&caller)?)
        .await?;
    let (shown, next_page_token) = list.split_page(&caller, found, |key| key.id.0);
    Ok(Json(ApiKeyList {
        items: shown.iter().map(api_key_view).collect(),
        next_page_token,
    }))
}

/// Get an API key
///
/// Returns a key that was not revoked, without its secret.
#[utoipa::path(get, path = "/v1/api-keys/{key_id}", operation_id = "getApiKey", tag = "keys",
    params(("key_id" = String, Path)), responses((status = 200, body = ApiKey)))]
pub(crate) async fn get_api_key(
    Authenticated(caller, database): Authenticated,
    Path(key): Path<String>,
) -> Result<Json<ApiKey>> {
    caller.require_permission(Action::ReadAccess)?;
    Ok(Json(api_key_view(
        &find_active_key(&mut database.begin_read().await?, &key).await?,
    )))
}

/// Rotate an API key
///
/// Gives the key a new secret, which is shown in this answer only. The former secret is accepted
/// for the overlap, so that its users can change over without a pause. During the overlap only a
/// rotation with `overlap_seconds` 0 is possible.
#[utoipa::path(post, path = "/v1/api-keys/{key_id}/rotate", operation_id = "rotateApiKey", tag = "keys", request_body = RotateApiKey,
    params(("key_id" = String, Path)),
    responses((status = 200, body = ApiKey)))]
pub(crate) async fn rotate_api_key(
    Authenticated(caller, database): Authenticated,
    Path(key): Path<String>,
    body: Body<RotateApiKey>,
) -> Result<Response> {
    caller.require_permission(Action::ChangeAccess)?;
    let mut change = caller
        .begin_mutation(database, "rotateApiKey", &body)
        .await?;
    let before = find_active_key(&mut change.tx, &key).await?;
    let overlap = body.value.overlap_seconds;
    if overlap > MAX_OVERLAP_SECONDS {
        return Err(ApiError::invalid_field(
            "/overlap_seconds",
            format!("at most {MAX_OVERLAP_SECONDS}"),
        ));
    }
    let now = caller.app.clock.now();
    // A key stores one former secret, and users of that secret were promised the whole overlap.
    if let Some(until) = before
        .former_until()
        .filter(|until| *until > now && overlap > 0)
    {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            ProblemCode::RotationUnderWay,
            format!("The secret before the last rotation is accepted until {until}."),
            "Wait until then, or rotate with overlap_seconds 0, which ends every former secret at once.",
        ));
    }
    let text = ApiKeyToken::generate(caller.tenant, before.id);
    let until = now + SignedDuration::from_secs(overlap.into());
    change
        .tx
        .api_keys()
        .rotate_api_key(before.id, &text.secret_digest(&caller.app.vault), until)
        .await?;
    let shown = ApiKey {
        secret: Some(text.reveal()),
        ..api_key_view(&change.tx.api_keys().get_api_key(before.id).await?)
    };
    change
        .commit_response(
            MutationOutcome::new(StatusCode::OK, before.id).with_before(&api_key_view(&before)),
            &shown,
        )
        .await
}

/// Revoke an API key
///
/// Revokes the key and its former secret at once. The last key of an owner cannot be revoked,
/// because no other key could be created without it. A key that expires does not count as another
/// key of an owner.
#[utoipa::path(delete, path = "/v1/api-keys/{key_id}", operation_id = "revokeApiKey", tag = "keys",
    params(("key_id" = String, Path)), responses((status = 204)))]
pub(crate) async fn revoke_api_key(
    Authenticated(caller, database): Authenticated,
    Path(key): Path<String>,
    body: Body<EmptyBody>,
) -> Result<Response> {
    caller.require_permission(Action::ChangeAccess)?;
    let mut change = caller
        .begin_mutation(database, "revokeApiKey", &body)
        .await?;
    let before = find_active_key(&mut change.tx, &key).await?;
    change
        .tx
        .api_keys()
        .revoke_api_key(before.id, caller.app.clock.now())
        .await?;
    change
        .commit_deletion(before.id, &api_key_view(&before))
        .await
}
