//! API keys.

use axum::Json;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::Response;
use model::ids::KeyId;
use store::{KeyText, NewKey, Role};
use wire::{ApiKey, ApiKeyList, CreateApiKey, Problem};

use crate::auth::Caller;
use crate::problem::{ApiError, Result};
use crate::reply::{Body, id, name_field};

fn view(key: &store::ApiKey) -> ApiKey {
    ApiKey {
        id: key.id.to_string(),
        name: key.name.clone(),
        role: key.role.as_str().into(),
        created_at: key.created_at,
        expires_at: key.expires_at,
        revoked_at: key.revoked_at,
        secret: None,
    }
}

/// Make an API key
///
/// The secret is in this answer and nowhere else.
#[utoipa::path(post, path = "/v1/api-keys", operation_id = "createApiKey", tag = "keys", request_body = CreateApiKey,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes a repeated request safe")),
    responses((status = 201, body = ApiKey), (status = "default", body = Problem)))]
pub(crate) async fn create_api_key(caller: Caller, body: Body<CreateApiKey>) -> Result<Response> {
    caller.may_own()?;
    let mut tx = caller.begin().await?;
    if let Some(earlier) = body.earlier(&mut tx).await? {
        return Ok(earlier);
    }
    let name = name_field(&body.value.name)?;
    let role = Role::parse(&body.value.role)
        .ok_or_else(|| ApiError::field("/role", "a role is owner, operator, viewer or auditor"))?;
    let text = KeyText::generate(caller.tenant, KeyId(caller.app.clock.uuid()));
    let digest = text.digest(caller.app.store.vault());
    let new = NewKey { id: text.key, name: name.to_string(), role, digest, expires_at: body.value.expires_at };
    tx.create_key(&new, caller.app.clock.now()).await?;
    let shown = ApiKey { secret: Some(text.reveal()), ..view(&tx.key(new.id).await?) };
    body.finish(tx, &caller, StatusCode::CREATED, None, &shown).await
}

/// List API keys
#[utoipa::path(get, path = "/v1/api-keys", operation_id = "listApiKeys", tag = "keys",
    responses((status = 200, body = ApiKeyList), (status = "default", body = Problem)))]
pub(crate) async fn list_api_keys(caller: Caller) -> Result<Json<ApiKeyList>> {
    caller.may_own()?;
    let keys = caller.begin().await?.keys().await?;
    Ok(Json(ApiKeyList { items: keys.iter().map(view).collect(), next_page_token: None }))
}

/// Revoke an API key
///
/// At once.
#[utoipa::path(delete, path = "/v1/api-keys/{key_id}", operation_id = "revokeApiKey", tag = "keys",
    params(("key_id" = String, Path)), responses((status = 204), (status = "default", body = Problem)))]
pub(crate) async fn revoke_api_key(caller: Caller, Path(key): Path<String>) -> Result<StatusCode> {
    caller.may_own()?;
    let mut tx = caller.begin().await?;
    tx.revoke_key(id(&key, "API key")?, caller.app.clock.now()).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
