//! Webhooks: events that are sent to an address.

use axum::Json;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::SignedDuration;
use model::access::Action;
use model::ids::WebhookId;
use model::quota::Counted;
use model::webhook::{self, MOST_KINDS};
use store::{NewWebhook, Tx};
use wire::{ChangeWebhook, CreateWebhook, Delivery, DeliveryList, RotateWebhookSecret, Webhook, WebhookList};

use crate::auth::Asked;
use crate::change::{Body, Done, Nothing};
use crate::fields::{id, name_field, tag, unmoved};
use crate::keys::LONGEST_OVERLAP;
use crate::paging::{List, Unfiltered};
use crate::problem::{ApiError, Result};

/// The longest address.
pub(crate) const LONGEST_URL: usize = 2048;

fn view(webhook: &store::Webhook) -> Webhook {
    Webhook {
        id: webhook.id.to_string(),
        name: webhook.name.clone(),
        url: webhook.url.clone(),
        kinds: webhook.kinds.clone(),
        enabled: webhook.enabled,
        stopped: webhook.stopped.clone(),
        secret: None,
        former_until: webhook.former_until,
        delivered_at: webhook.delivered_at,
        created_at: webhook.created_at,
    }
}

fn delivery_view(webhook: WebhookId, delivery: &store::Delivery) -> Delivery {
    Delivery {
        seq: delivery.event.seq,
        message_id: webhook::message_id(webhook, delivery.event.seq),
        kind: delivery.event.kind.clone(),
        state: delivery.state.as_str().into(),
        attempts: delivery.attempts,
        next_at: delivery.due_at,
        last_at: delivery.last_at,
        last_status: delivery.last_status,
        last_error: delivery.last_error.clone(),
    }
}

/// An address that a worker may dial, as far as its text says. Where it leads is checked whenever it is dialled.
fn url(text: &str) -> Result<String> {
    let uri: Option<Uri> = text.parse().ok().filter(|_| text.len() <= LONGEST_URL && !text.contains('#'));
    let plain = uri.is_some_and(|uri| {
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        matches!(uri.scheme_str(), Some("https" | "http")) && !authority.is_empty() && !authority.contains('@')
    });
    if plain {
        Ok(text.to_owned())
    } else {
        Err(ApiError::field(
            "/url",
            format!("an http or https address without a user or a fragment, at most {LONGEST_URL} bytes"),
        ))
    }
}

fn kinds(wanted: &[String]) -> Result<Vec<String>> {
    if wanted.is_empty() || wanted.len() > MOST_KINDS {
        return Err(ApiError::field("/kinds", format!("1 to {MOST_KINDS} kinds")));
    }
    let read = |(index, text): (usize, &String)| {
        webhook::kind(text).map_err(|unknown| ApiError::field(&format!("/kinds/{index}"), unknown.to_string()))
    };
    wanted.iter().enumerate().map(read).collect()
}

/// A secret as its owner gets it, with its bytes.
fn secret() -> (String, Vec<u8>) {
    let bytes = store::random_key();
    (format!("whsec_{}", STANDARD.encode(bytes)), bytes.to_vec())
}

async fn known(tx: &mut Tx<'_>, text: &str) -> Result<store::Webhook> {
    Ok(tx.webhook(id(text, "webhook")?).await?)
}

/// Make a webhook
///
/// The answer holds the secret that messages are signed with, and nothing else ever does.
#[utoipa::path(post, path = "/v1/webhooks", operation_id = "createWebhook", tag = "webhooks", request_body = CreateWebhook,
    responses((status = 201, body = Webhook)))]
pub(crate) async fn create_webhook(Asked(caller, database): Asked, body: Body<CreateWebhook>) -> Result<Response> {
    caller.may(Action::ChangeAccess)?;
    let mut change = caller.change(database, "createWebhook", &body).await?;
    change.tx.room_for(Counted::Webhooks).await?;
    let wanted = &body.value;
    let new = NewWebhook {
        name: name_field(&wanted.name)?.to_string(),
        url: url(&wanted.url)?,
        kinds: kinds(&wanted.kinds)?,
        enabled: wanted.enabled,
    };
    let id = WebhookId(caller.app.clock.uuid());
    let (text, bytes) = secret();
    change.tx.create_webhook(id, &new, &bytes, caller.app.clock.now()).await?;
    let made = change.tx.webhook(id).await?;
    let shown = Webhook { secret: Some(text), ..view(&made) };
    let done = Done::new(StatusCode::CREATED, id).at(format!("/v1/webhooks/{id}")).tagged(tag(made.generation));
    change.done(done, &shown).await
}

/// List webhooks
///
/// Oldest first, without their secrets.
#[utoipa::path(get, path = "/v1/webhooks", operation_id = "listWebhooks", tag = "webhooks",
    params(("page_size" = Option<i64>, Query, description = "1 to 500"), ("page_token" = Option<String>, Query)),
    responses((status = 200, body = WebhookList)))]
pub(crate) async fn list_webhooks(Asked(caller, database): Asked, list: List<Unfiltered>) -> Result<Json<WebhookList>> {
    caller.may(Action::ReadAccess)?;
    let found = database.begin().await?.webhooks(list.page(&caller)?).await?;
    let (shown, next_page_token) = list.cut(&caller, found, |webhook| webhook.id.0);
    Ok(Json(WebhookList { items: shown.iter().map(view).collect(), next_page_token }))
}

/// Get a webhook
///
/// Without its secret.
#[utoipa::path(get, path = "/v1/webhooks/{webhook_id}", operation_id = "getWebhook", tag = "webhooks",
    params(("webhook_id" = String, Path)), responses((status = 200, body = Webhook)))]
pub(crate) async fn get_webhook(Asked(caller, database): Asked, Path(webhook): Path<String>) -> Result<Response> {
    caller.may(Action::ReadAccess)?;
    let found = known(&mut database.begin().await?, &webhook).await?;
    Ok(([(header::ETAG, tag(found.generation))], Json(view(&found))).into_response())
}

/// Change a webhook
///
/// `If-Match` with the `ETag` that you looked at is honoured.
#[utoipa::path(patch, path = "/v1/webhooks/{webhook_id}", operation_id = "changeWebhook", tag = "webhooks", request_body = ChangeWebhook,
    params(("webhook_id" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 200, body = Webhook)))]
pub(crate) async fn change_webhook(
    Asked(caller, database): Asked,
    Path(webhook): Path<String>,
    headers: HeaderMap,
    body: Body<ChangeWebhook>,
) -> Result<Response> {
    caller.may(Action::ChangeAccess)?;
    let mut change = caller.change(database, "changeWebhook", &body).await?;
    let seen = known(&mut change.tx, &webhook).await?;
    unmoved(&headers, seen.generation)?;
    let new = NewWebhook {
        name: seen.name.clone(),
        url: body.value.url.as_deref().map_or_else(|| Ok(seen.url.clone()), url)?,
        kinds: body.value.kinds.as_deref().map_or_else(|| Ok(seen.kinds.clone()), kinds)?,
        enabled: body.value.enabled.unwrap_or(seen.enabled),
    };
    change.tx.write_webhook(&seen, &new).await?;
    let changed = change.tx.webhook(seen.id).await?;
    let done = Done::new(StatusCode::OK, seen.id).tagged(tag(changed.generation)).replacing(&view(&seen));
    change.done(done, &view(&changed)).await
}

/// Delete a webhook
///
/// With everything that was to be sent to it.
#[utoipa::path(delete, path = "/v1/webhooks/{webhook_id}", operation_id = "deleteWebhook", tag = "webhooks",
    params(("webhook_id" = String, Path), ("If-Match" = Option<String>, Header)), responses((status = 204)))]
pub(crate) async fn delete_webhook(
    Asked(caller, database): Asked,
    Path(webhook): Path<String>,
    headers: HeaderMap,
    body: Body<Nothing>,
) -> Result<Response> {
    caller.may(Action::ChangeAccess)?;
    let mut change = caller.change(database, "deleteWebhook", &body).await?;
    let found = known(&mut change.tx, &webhook).await?;
    unmoved(&headers, found.generation)?;
    change.tx.delete_webhook(found.id).await?;
    change.gone(found.id, &view(&found)).await
}

/// Rotate a webhook's secret
///
/// The new one is in this answer and nowhere else. For the overlap messages carry the signatures of both.
#[utoipa::path(post, path = "/v1/webhooks/{webhook_id}/rotate", operation_id = "rotateWebhookSecret", tag = "webhooks", request_body = RotateWebhookSecret,
    params(("webhook_id" = String, Path), ("If-Match" = Option<String>, Header)), responses((status = 200, body = Webhook)))]
pub(crate) async fn rotate_webhook_secret(
    Asked(caller, database): Asked,
    Path(webhook): Path<String>,
    headers: HeaderMap,
    body: Body<RotateWebhookSecret>,
) -> Result<Response> {
    caller.may(Action::ChangeAccess)?;
    let mut change = caller.change(database, "rotateWebhookSecret", &body).await?;
    let before = known(&mut change.tx, &webhook).await?;
    unmoved(&headers, before.generation)?;
    let overlap = body.value.overlap_seconds;
    if overlap > LONGEST_OVERLAP {
        return Err(ApiError::field("/overlap_seconds", format!("at most {LONGEST_OVERLAP}")));
    }
    let (text, bytes) = secret();
    let until = caller.app.clock.now() + SignedDuration::from_secs(overlap.into());
    change.tx.rotate_webhook(before.id, &bytes, until).await?;
    let after = change.tx.webhook(before.id).await?;
    let shown = Webhook { secret: Some(text), ..view(&after) };
    change
        .done(Done::new(StatusCode::OK, before.id).tagged(tag(after.generation)).replacing(&view(&before)), &shown)
        .await
}

/// Test a webhook
///
/// Sends it a `webhook.test` event; its deliveries show what became of it.
#[utoipa::path(post, path = "/v1/webhooks/{webhook_id}/test", operation_id = "testWebhook", tag = "webhooks",
    params(("webhook_id" = String, Path)), responses((status = 202, body = Webhook)))]
pub(crate) async fn test_webhook(
    Asked(caller, database): Asked,
    Path(webhook): Path<String>,
    body: Body<Nothing>,
) -> Result<Response> {
    caller.may(Action::ChangeAccess)?;
    let mut change = caller.change(database, "testWebhook", &body).await?;
    let found = known(&mut change.tx, &webhook).await?;
    if !found.enabled {
        let said = format!("{} is switched off, so nothing is sent.", found.name);
        return Err(ApiError::new(StatusCode::CONFLICT, "webhook_disabled", said, "Switch it on first."));
    }
    change.tx.test_webhook(found.id, caller.app.clock.now());
    let done = Done::new(StatusCode::ACCEPTED, found.id).at(format!("/v1/webhooks/{}/deliveries", found.id));
    change.done(done, &view(&found)).await
}

/// List deliveries
///
/// What was and is to be sent to a webhook, newest first, as far back as events are kept.
#[utoipa::path(get, path = "/v1/webhooks/{webhook_id}/deliveries", operation_id = "listDeliveries", tag = "webhooks",
    params(("webhook_id" = String, Path), ("page_size" = Option<i64>, Query, description = "1 to 500"), ("page_token" = Option<String>, Query)),
    responses((status = 200, body = DeliveryList)))]
pub(crate) async fn list_deliveries(
    Asked(caller, database): Asked,
    Path(webhook): Path<String>,
    list: List<Unfiltered>,
) -> Result<Json<DeliveryList>> {
    caller.may(Action::ReadAccess)?;
    let mut tx = database.begin().await?;
    let id: WebhookId = id(&webhook, "webhook")?;
    let page = list.page(&caller)?;
    let before = page.after.map(|after| i64::try_from(after.as_u128()).unwrap_or(i64::MAX));
    let found = tx.deliveries(id, before, page.limit).await?;
    if found.is_empty() {
        // Only an empty list leaves the question open whether there is such a webhook.
        known(&mut tx, &webhook).await?;
    }
    let number = |seq: i64| uuid::Uuid::from_u128(u128::try_from(seq).unwrap_or_default());
    let (shown, next_page_token) = list.cut(&caller, found, |delivery| number(delivery.event.seq));
    let items = shown.iter().map(|delivery| delivery_view(id, delivery)).collect();
    Ok(Json(DeliveryList { items, next_page_token }))
}

/// Send a message again
///
/// Whatever became of it, as long as its event is kept.
#[utoipa::path(post, path = "/v1/webhooks/{webhook_id}/deliveries/{seq}/redeliver", operation_id = "redeliver", tag = "webhooks",
    params(("webhook_id" = String, Path), ("seq" = i64, Path, description = "The number of the event")),
    responses((status = 202, body = Delivery)))]
pub(crate) async fn redeliver(
    Asked(caller, database): Asked,
    Path((webhook, seq)): Path<(String, String)>,
    body: Body<Nothing>,
) -> Result<Response> {
    caller.may(Action::ChangeAccess)?;
    let mut change = caller.change(database, "redeliver", &body).await?;
    let found = known(&mut change.tx, &webhook).await?;
    let seq: i64 = seq.parse().map_err(|_| ApiError::not_found("delivery"))?;
    change.tx.redeliver(found.id, seq).await?;
    let shown = delivery_view(found.id, &change.tx.delivery(found.id, seq).await?);
    change.done(Done::new(StatusCode::ACCEPTED, found.id), &shown).await
}
