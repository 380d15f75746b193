//! Handles requests for the audit log: its entries and its head.

use axum::Json;
use axum::extract::Query;
use meshwright_model::access::Action;
use meshwright_model::audit::{ChainedEntry, hex};
use meshwright_wire::{AuditEntry, AuditEntryList, AuditHead};
use serde::Deserialize;

use crate::error::{ApiError, Result};
use crate::request::caller::Authenticated;

/// Number of entries in a page when the request does not give `page_size`.
pub(crate) const DEFAULT_PAGE_SIZE: i64 = 100;
/// Largest number of entries that a request can ask for in one page.
pub(crate) const MAX_PAGE_SIZE: i64 = 1000;

/// Query of the list of audit entries: the number to continue after, and the size of the page.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuditQuery {
    #[serde(default)]
    after: i64,
    page_size: Option<i64>,
}

fn entry_view(linked: ChainedEntry) -> AuditEntry {
    let ChainedEntry { seq, entry, hash } = linked;
    AuditEntry {
        seq,
        at: entry.at,
        actor: entry.actor,
        action: entry.action,
        target: entry.target,
        request_id: entry.request_id,
        before_sha256: entry.before.as_ref().map(hex::encode),
        after_sha256: entry.after.as_ref().map(hex::encode),
        hash: hex::encode(&hash),
    }
}

/// Read the tenant's audit log
///
/// Lists audit entries from the oldest to the newest, starting after the number `after`. The `hash`
/// of each entry covers the entry before it: `meshwright audit verify` reads the log from its
/// beginning and tells whether an entry was changed or removed.
#[utoipa::path(get, path = "/v1/audit-entries", operation_id = "listAuditEntries", tag = "audit",
    params(("after" = Option<i64>, Query), ("page_size" = Option<i64>, Query, description = "Number of items on a page, from 1 to 1000")),
    responses((status = 200, body = AuditEntryList)))]
pub(crate) async fn list_audit_entries(
    Authenticated(caller, database): Authenticated,
    Query(part): Query<AuditQuery>,
) -> Result<Json<AuditEntryList>> {
    caller.require_permission(Action::ReadAudit)?;
    let size = part.page_size.unwrap_or(DEFAULT_PAGE_SIZE);
    if !(1..=MAX_PAGE_SIZE).contains(&size) {
        return Err(ApiError::invalid_field(
            "?page_size",
            format!("1 to {MAX_PAGE_SIZE}"),
        ));
    }
    let found = database
        .begin_read()
        .await?
        .audit()
        .list_audit_entries(part.after, size)
        .await?;
    let full = i64::try_from(found.len()) == Ok(size);
    let next_after = found.last().filter(|_| full).map(|last| last.seq);
    Ok(Json(AuditEntryList {
        items: found.into_iter().map(entry_view).collect(),
        next_after,
    }))
}

/// Get the audit log's head
///
/// Returns the number and the hash of the newest audit entry. Keep a copy outside the service: a
/// copy shows later whether an entry up to this number was rewritten.
#[utoipa::path(get, path = "/v1/audit-head", operation_id = "getAuditHead", tag = "audit",
    responses((status = 200, body = AuditHead)))]
pub(crate) async fn get_audit_head(
    Authenticated(caller, database): Authenticated,
) -> Result<Json<AuditHead>> {
    caller.require_permission(Action::ReadAudit)?;
    let head = database.begin_read().await?.audit().audit_head().await?;
    let (tenant_id, at) = (caller.tenant.to_string(), caller.app.clock.now());
    Ok(Json(AuditHead {
        tenant_id,
        seq: head.seq,
        hash: hex::encode(&head.hash),
        at,
    }))
}
