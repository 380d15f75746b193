//! Retries single statements after conflicts, checks how many rows they changed, and prepares their
//! parameters.

use uuid::Uuid;

use crate::StoreError;

/// Number of times that a single statement is retried after a serialization conflict.
const MAX_CONFLICT_RETRIES: usize = 20;

/// Retries a short piece of work after each serialization conflict, up to a limit.
pub(crate) async fn retry_on_conflict<T, F>(work: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    for _ in 0..MAX_CONFLICT_RETRIES {
        match work().await {
            Err(StoreError::SerializationConflict) => tokio::task::yield_now().await,
            other => return other,
        }
    }
    work().await
}

/// Returns the range of identifiers that a query reads: a single identifier or all of them. A range
/// condition uses the index also in a generic plan, while a condition that is skipped when its
/// parameter is NULL does not.
pub(crate) fn id_bounds(only: Option<Uuid>) -> (Uuid, Uuid) {
    only.map_or((Uuid::nil(), Uuid::max()), |id| (id, id))
}

/// Returns `missing` unless a write changed exactly one row.
pub(crate) fn require_one_row(rows: u64, missing: StoreError) -> Result<(), StoreError> {
    if rows == 1 { Ok(()) } else { Err(missing) }
}

/// Returns the UUIDs of typed identifiers, for an array parameter.
pub(crate) fn to_uuids<T>(of: &[T], id: impl Fn(&T) -> Uuid) -> Vec<Uuid> {
    of.iter().map(id).collect()
}
