//! Handles requests for webhooks, the addresses that events are sent to.

use axum::Json;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::SignedDuration;
use meshwright_model::access::Action;
use meshwright_model::ids::WebhookId;
use meshwright_model::problem::ProblemCode;
use meshwright_model::quota::QuotaResource;
use meshwright_model::webhook::{self, MAX_EVENT_KINDS};
use meshwright_store::{NewWebhook, Tx};
use meshwright_wire::{
    ChangeWebhook, CreateWebhook, RotateWebhookSecret, Webhook, WebhookList, WebhookStop,
};

use crate::error::{ApiError, Result};
use crate::request::caller::Authenticated;
use crate::request::mutation::{Body, EmptyBody, MutationOutcome};
use crate::request::pagination::{ListRequest, Unfiltered};
use crate::request::params::{check_if_match, etag, parse_id, parse_name};
use crate::resources::api_keys::MAX_OVERLAP_SECONDS;

pub(crate) mod deliveries;

/// Maximum length of a webhook's address, in bytes.
pub(crate) const MAX_URL_BYTES: usize = 2048;

/// Builds the view of a webhook without its secret, which only the answers to a creation and a
/// rotation show.
fn webhook_view(webhook: &meshwright_store::Webhook) -> Webhook {
    Webhook {
        id: webhook.id.to_string(),
        name: webhook.name.clone(),
        url: webhook.url.clone(),
        kinds: webhook.kinds.clone(),
        enabled: webhook.enabled,
        stopped: webhook.disabled_reason.as_ref().map(WebhookStop::from_name),
        secret: None,
        former_until: webhook.former_until,
        delivered_at: webhook.delivered_at,
        created_at: webhook.created_at,
    }
}

/// Checks the text of a webhook's address. The worker checks the IP address that it leads to before
/// each connection.
fn parse_url(text: &str) -> Result<String> {
    let uri: Option<Uri> = text
        .parse()
        .ok()
        .filter(|_| text.len() <= MAX_URL_BYTES && !text.contains('#'));
    let plain = uri.is_some_and(|uri| {
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        matches!(uri.scheme_str(), Some("https" | "http"))
            && !authority.is_empty()
            && !authority.contains('@')
    });
    if plain {
        Ok(text.to_owned())
    } else {
        Err(ApiError::invalid_field(
            "/url",
            format!(
                "an http or https address without a user or a fragment, at most {MAX_URL_BYTES} bytes"
            ),
        ))
    }
}

/// Checks the kinds of events that a webhook gets.
fn parse_kinds(wanted: &[String]) -> Result<Vec<String>> {
    if wanted.is_empty() || wanted.len() > MAX_EVENT_KINDS {
        return Err(ApiError::invalid_field(
            "/kinds",
            format!("1 to {MAX_EVENT_KINDS} kinds"),
        ));
    }
    let read = |(index, text): (usize, &String)| {
        webhook::parse_event_kind(text).map_err(|unknown| {
            ApiError::invalid_field(&format!("/kinds/{index}"), unknown.to_string())
        })
    };
    wanted.iter().enumerate().map(read).collect()
}

/// Generates a secret. Returns it in the form that its owner gets, and its bytes.
fn generate_secret() -> (String, Vec<u8>) {
    let bytes = meshwright_store::random_key();
    (format!("whsec_{}", STANDARD.encode(bytes)), bytes.to_vec())
}

/// Reads a webhook of the tenant.
async fn find_webhook(tx: &mut Tx<'_>, text: &str) -> Result<meshwright_store::Webhook> {
    Ok(tx
        .webhooks()
        .get_webhook(parse_id(text, "webhook")?)
        .await?)
}

/// Create a new webhook
///
/// Registers an address that events of the given kinds are sent to. The secret that messages are
/// signed with is shown in this answer only.
#[utoipa::path(post, path = "/v1/webhooks", operation_id = "createWebhook", tag = "webhooks", request_body = CreateWebhook,
    responses((status = 201, body = Webhook)))]
pub(crate) async fn create_webhook(
    Authenticated(caller, database): Authenticated,
    body: Body<CreateWebhook>,
) -> Result<Response> {
    caller.require_permission(Action::ChangeAccess)?;
    let mut change = caller
        .begin_mutation(database, "createWebhook", &body)
        .await?;
    change
        .tx
        .tenants()
        .check_quota(QuotaResource::Webhooks)
        .await?;
    let wanted = &body.value;
    let new = NewWebhook {
        name: parse_name(&wanted.name)?.to_string(),
        url: parse_url(&wanted.url)?,
        kinds: parse_kinds(&wanted.kinds)?,
        enabled: wanted.enabled,
    };
    let id = WebhookId(caller.app.clock.new_uuid());
    let (text, bytes) = generate_secret();
    change
        .tx
        .webhooks()
        .create_webhook(id, &new, &bytes, caller.app.clock.now())
        .await?;
    let made = change.tx.webhooks().get_webhook(id).await?;
    let shown = Webhook {
        secret: Some(text),
        ..webhook_view(&made)
    };
    let done = MutationOutcome::new(StatusCode::CREATED, id)
        .with_location(format!("/v1/webhooks/{id}"))
        .with_etag(etag(made.generation));
    change.commit_response(done, &shown).await
}

/// List the tenant's webhooks
///
/// Returns webhooks without their secrets, from the oldest to the newest.
#[utoipa::path(get, path = "/v1/webhooks", operation_id = "listWebhooks", tag = "webhooks",
    params(("page_size" = Option<i64>, Query, description = "Number of items on a page, from 1 to 500"), ("page_token" = Option<String>, Query)),
    responses((status = 200, body = WebhookList)))]
pub(crate) async fn list_webhooks(
    Authenticated(caller, database): Authenticated,
    list: ListRequest<Unfiltered>,
) -> Result<Json<WebhookList>> {
    caller.require_permission(Action::ReadAccess)?;
    let found = database
        .begin_read()
        .await?
        .webhooks()
        .list_webhooks(list.page(&caller)?)
        .await?;
    let (shown, next_page_token) = list.split_page(&caller, found, |webhook| webhook.id.0);
    Ok(Json(WebhookList {
        items: shown.iter().map(webhook_view).collect(),
        next_page_token,
    }))
}

/// Get a webhook's settings
///
/// Returns the webhook with its address and kinds of events, without its secret.
#[utoipa::path(get, path = "/v1/webhooks/{webhook_id}", operation_id = "getWebhook", tag = "webhooks",
    params(("webhook_id" = String, Path)), responses((status = 200, body = Webhook)))]
pub(crate) async fn get_webhook(
    Authenticated(caller, database): Authenticated,
    Path(webhook): Path<String>,
) -> Result<Response> {
    caller.require_permission(Action::ReadAccess)?;
    let found = find_webhook(&mut database.begin_read().await?, &webhook).await?;
    Ok((
        [(header::ETAG, etag(found.generation))],
        Json(webhook_view(&found)),
    )
        .into_response())
}

/// Change a webhook's settings
///
/// Changes the address or the kinds of events, or enables or disables the webhook. A field that is
/// left out keeps its value. With `If-Match` and an `ETag` from an earlier answer the request is
/// refused if the webhook has changed since.
#[utoipa::path(patch, path = "/v1/webhooks/{webhook_id}", operation_id = "changeWebhook", tag = "webhooks", request_body = ChangeWebhook,
    params(("webhook_id" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 200, body = Webhook)))]
pub(crate) async fn change_webhook(
    Authenticated(caller, database): Authenticated,
    Path(webhook): Path<String>,
    headers: HeaderMap,
    body: Body<ChangeWebhook>,
) -> Result<Response> {
    caller.require_permission(Action::ChangeAccess)?;
    let mut change = caller
        .begin_mutation(database, "changeWebhook", &body)
        .await?;
    let seen = find_webhook(&mut change.tx, &webhook).await?;
    check_if_match(&headers, seen.generation)?;
    let new = NewWebhook {
        name: seen.name.clone(),
        url: body
            .value
            .url
            .as_deref()
            .map_or_else(|| Ok(seen.url.clone()), parse_url)?,
        kinds: body
            .value
            .kinds
            .as_deref()
            .map_or_else(|| Ok(seen.kinds.clone()), parse_kinds)?,
        enabled: body.value.enabled.unwrap_or(seen.enabled),
    };
    change.tx.webhooks().update_webhook(&seen, &new).await?;
    let changed = change.tx.webhooks().get_webhook(seen.id).await?;
    let done = MutationOutcome::new(StatusCode::OK, seen.id)
        .with_etag(etag(changed.generation))
        .with_before(&webhook_view(&seen));
    change.commit_response(done, &webhook_view(&changed)).await
}

/// Delete a webhook and its deliveries
///
/// Deletes the webhook and all deliveries to it, also those that are not sent yet. With `If-Match`
/// and an `ETag` from an earlier answer the request is refused if the webhook has changed since.
#[utoipa::path(delete, path = "/v1/webhooks/{webhook_id}", operation_id = "deleteWebhook", tag = "webhooks",
    params(("webhook_id" = String, Path), ("If-Match" = Option<String>, Header)), responses((status = 204)))]
pub(crate) async fn delete_webhook(
    Authenticated(caller, database): Authenticated,
    Path(webhook): Path<String>,
    headers: HeaderMap,
    body: Body<EmptyBody>,
) -> Result<Response> {
    caller.require_permission(Action::ChangeAccess)?;
    let mut change = caller
        .begin_mutation(database, "deleteWebhook", &body)
        .await?;
    let found = find_webhook(&mut change.tx, &webhook).await?;
    check_if_match(&headers, found.generation)?;
    change.tx.webhooks().delete_webhook(found.id).await?;
    change
        .commit_deletion(found.id, &webhook_view(&found))
        .await
}

/// Rotate a webhook's secret
///
/// Gives the webhook a new secret, which is shown in this answer only. During the overlap, messages
/// carry the signatures of the new and of the former secret.
#[utoipa::path(post, path = "/v1/webhooks/{webhook_id}/rotate", operation_id = "rotateWebhookSecret", tag = "webhooks", request_body = RotateWebhookSecret,
    params(("webhook_id" = String, Path), ("If-Match" = Option<String>, Header)), responses((status = 200, body = Webhook)))]
pub(crate) async fn rotate_webhook_secret(
    Authenticated(caller, database): Authenticated,
    Path(webhook): Path<String>,
    headers: HeaderMap,
    body: Body<RotateWebhookSecret>,
) -> Result<Response> {
    caller.require_permission(Action::ChangeAccess)?;
    let mut change = caller
        .begin_mutation(database, "rotateWebhookSecret", &body)
        .await?;
    let before = find_webhook(&mut change.tx, &webhook).await?;
    check_if_match(&headers, before.generation)?;
    let overlap = body.value.overlap_seconds;
    if overlap > MAX_OVERLAP_SECONDS {
        return Err(ApiError::invalid_field(
            "/overlap_seconds",
            format!("at most {MAX_OVERLAP_SECONDS}"),
        ));
    }
    let (text, bytes) = generate_secret();
    let until = caller.app.clock.now() + SignedDuration::from_secs(overlap.into());
    change
        .tx
        .webhooks()
        .rotate_webhook_secret(before.id, &bytes, until)
        .await?;
    let after = change.tx.webhooks().get_webhook(before.id).await?;
    let shown = Webhook {
        secret: Some(text),
        ..webhook_view(&after)
    };
    change
        .commit_response(
            MutationOutcome::new(StatusCode::OK, before.id)
                .with_etag(etag(after.generation))
                .with_before(&webhook_view(&before)),
            &shown,
        )
        .await
}

/// Send a test event to a webhook
///
/// Sends the event `webhook.test` to the webhook. The deliveries of the webhook show the result.
#[utoipa::path(post, path = "/v1/webhooks/{webhook_id}/test", operation_id = "testWebhook", tag = "webhooks",
    params(("webhook_id" = String, Path)), responses((status = 202, body = Webhook)))]
pub(crate) async fn test_webhook(
    Authenticated(caller, database): Authenticated,
    Path(webhook): Path<String>,
    body: Body<EmptyBody>,
) -> Result<Response> {
    caller.require_permission(Action::ChangeAccess)?;
    let mut change = caller
        .begin_mutation(database, "testWebhook", &body)
        .await?;
    let found = find_webhook(&mut change.tx, &webhook).await?;
    if !found.enabled {
        let said = format!("{} is switched off, so nothing is sent.", found.name);
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            ProblemCode::WebhookDisabled,
            said,
            "Switch it on first.",
        ));
    }
    change
        .tx
        .webhooks()
        .push_test_event(found.id, caller.app.clock.now());
    let done = MutationOutcome::new(StatusCode::ACCEPTED, found.id)
        .with_location(format!("/v1/webhooks/{}/deliveries", found.id));
    change.commit_response(done, &webhook_view(&found)).await
}
