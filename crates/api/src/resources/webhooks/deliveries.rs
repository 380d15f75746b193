//! Handles requests for the deliveries of events to webhooks.

use axum::Json;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::Response;
use meshwright_model::access::Action;
use meshwright_model::ids::WebhookId;
use meshwright_model::webhook;
use meshwright_wire::{Delivery, DeliveryError, DeliveryList, EventKind};

use super::find_webhook;
use crate::error::{ApiError, Result};
use crate::request::caller::Authenticated;
use crate::request::mutation::{Body, EmptyBody, MutationOutcome};
use crate::request::pagination::{ListRequest, Unfiltered};
use crate::request::params::parse_id;

/// Builds the view of a delivery to a webhook.
fn delivery_view(webhook: WebhookId, delivery: &meshwright_store::Delivery) -> Delivery {
    Delivery {
        seq: delivery.event.seq,
        message_id: webhook::message_id(webhook, delivery.event.seq),
        kind: EventKind::from_name(&delivery.event.kind),
        state: delivery.state.into(),
        attempts: delivery.attempts,
        next_at: delivery.due_at,
        last_at: delivery.last_at,
        last_status: delivery.last_status,
        last_error: delivery.last_error.as_ref().map(DeliveryError::from_name),
    }
}

/// List a webhook's deliveries
///
/// Returns the deliveries to the webhook, sent and due, newest first, as far back as events are
/// kept.
#[utoipa::path(get, path = "/v1/webhooks/{webhook_id}/deliveries", operation_id = "listDeliveries", tag = "webhooks",
    params(("webhook_id" = String, Path), ("page_size" = Option<i64>, Query, description = "Number of items on a page, from 1 to 500"), ("page_token" = Option<String>, Query)),
    responses((status = 200, body = DeliveryList)))]
pub(crate) async fn list_deliveries(
    Authenticated(caller, database): Authenticated,
    Path(webhook): Path<String>,
    list: ListRequest<Unfiltered>,
) -> Result<Json<DeliveryList>> {
    caller.require_permission(Action::ReadAccess)?;
    let mut tx = database.begin_read().await?;
    let id: WebhookId = parse_id(&webhook, "webhook")?;
    let page = list.page(&caller)?;
    let before = page
        .after
        .map(|after| i64::try_from(after.as_u128()).unwrap_or(i64::MAX));
    let found = tx
        .deliveries()
        .list_deliveries(id, before, page.limit)
        .await?;
    if found.is_empty() {
        // An empty list does not tell whether the webhook exists, so read the webhook. A list with
        // deliveries proves that it does.
        find_webhook(&mut tx, &webhook).await?;
    }
    let number = |seq: i64| uuid::Uuid::from_u128(u128::try_from(seq).unwrap_or_default());
    let (shown, next_page_token) =
        list.split_page(&caller, found, |delivery| number(delivery.event.seq));
    let items = shown
        .iter()
        .map(|delivery| delivery_view(id, delivery))
        .collect();
    Ok(Json(DeliveryList {
        items,
        next_page_token,
    }))
}

/// Send a message again
///
/// Sends the message of an event to the webhook again, in any state of its delivery, as long as the
/// event is kept.
#[utoipa::path(post, path = "/v1/webhooks/{webhook_id}/deliveries/{seq}/redeliver", operation_id = "redeliver", tag = "webhooks",
    params(("webhook_id" = String, Path), ("seq" = i64, Path, description = "The number of the event")),
    responses((status = 202, body = Delivery)))]
pub(crate) async fn redeliver_event(
    Authenticated(caller, database): Authenticated,
    Path((webhook, seq)): Path<(String, String)>,
    body: Body<EmptyBody>,
) -> Result<Response> {
    caller.require_permission(Action::ChangeAccess)?;
    let mut change = caller.begin_mutation(database, "redeliver", &body).await?;
    let found = find_webhook(&mut change.tx, &webhook).await?;
    let seq: i64 = seq.parse().map_err(|_| ApiError::not_found("delivery"))?;
    change
        .tx
        .deliveries()
        .requeue_delivery(found.id, seq)
        .await?;
    let shown = delivery_view(
        found.id,
        &change.tx.deliveries().get_delivery(found.id, seq).await?,
    );
    change
        .commit_response(MutationOutcome::new(StatusCode::ACCEPTED, found.id), &shown)
        .await
}
