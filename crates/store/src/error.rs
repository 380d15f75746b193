//! Defines the errors of the store, one for each way in which the caller reacts.

/// An error of the store. The doc of each variant names the HTTP status that it becomes, or what
/// the caller does.
///
/// Any method that runs a statement can return [`Self::Database`] or
/// [`Self::SerializationConflict`].
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// 404: this tenant has no such row.
    #[error("{what} does not exist")]
    NotFound {
        /// Kind of the row that was looked for.
        what: &'static str,
    },
    /// 409: a named database constraint forbids the change.
    #[error("the constraint {constraint} stands in the way")]
    Conflict {
        /// Name of the database constraint.
        constraint: String,
    },
    /// 409: another upgrade or operation is changing the mesh.
    #[error("the mesh is being changed by {holder}")]
    MeshLocked {
        /// Identifier of the upgrade or operation that holds the mesh lock.
        holder: String,
    },
    /// 409: the tenant has reached a quota.
    #[error("the tenant may have {limit} {} at most", of.as_str())]
    QuotaExceeded {
        /// Kind of thing that the quota limits.
        of: meshwright_model::quota::QuotaResource,
        /// Number of things that the tenant may have.
        limit: u32,
    },
    /// 409: the change would leave the tenant without an owner.
    #[error("the tenant would be left without an owner")]
    LastOwner,
    /// 409: another request with the same idempotency key is being worked on.
    #[error("the same request is being worked on")]
    RequestInFlight,
    /// 412: the row has changed since the caller read it.
    #[error("the row has moved on")]
    StaleVersion,
    /// 409: the verb is not allowed in the upgrade's state.
    #[error(transparent)]
    Transition(#[from] meshwright_model::upgrade::InvalidTransition),
    /// Stop working on the operation: another worker has taken it over.
    #[error("the lease is over")]
    Fenced,
    /// 500: a row does not fit the domain. This is a bug or a damaged database.
    #[error("{table}.{column} of {row} does not fit the domain")]
    Corrupt {
        /// Table of the row.
        table: &'static str,
        /// Column of the row.
        column: &'static str,
        /// Key of the row that does not fit.
        row: String,
    },
    /// 500: a sealed value did not open, because the key is wrong or the value is damaged.
    #[error("a sealed value does not open")]
    UnsealFailed,
    /// 409: the tenant's keys were erased. No value that was sealed for it opens again, and none
    /// can be sealed for it.
    #[error("the tenant's keys were erased")]
    KeysErased,
    /// Try again, or look at the key service: it could not wrap or unwrap a tenant's key.
    #[error("a tenant's key is out of reach")]
    KeyService(#[from] crate::sealing::master_key::WrapError),
    /// `serve` and `work` refuse to start with this database role.
    #[error(
        "the database role {role} would see through row-level security; use mw_api or mw_worker"
    )]
    UnsafeRole {
        /// Name of the database role.
        role: String,
    },
    /// The schema could not be brought up to date.
    #[error("a migration failed")]
    Migration(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Retry the whole transaction: it conflicted with another one and was rolled back. Any
    /// serializable transaction can end like this.
    #[error("another transaction was in the way")]
    SerializationConflict,
    /// 400: a text contains the character NUL, which Postgres cannot store. Most fields refuse it
    /// by their own rules; this error covers the others.
    #[error("a text holds a character that cannot be kept")]
    UnstorableText,
    /// Try again: the database does not answer, or cannot run the statement now.
    #[error("the database failed")]
    Database(#[source] sqlx::Error),
}

/// SQLSTATE codes of a conflict between transactions: `serialization_failure` and
/// `deadlock_detected`.
const SERIALIZATION_CONFLICT_SQLSTATES: [&str; 2] = ["40001", "40P01"];

/// SQLSTATE codes of text that Postgres cannot store: `character_not_in_repertoire` for text
/// columns, and `untranslatable_character` for JSON.
const UNSTORABLE_TEXT_SQLSTATES: [&str; 2] = ["22021", "22P05"];

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let code = error
            .as_database_error()
            .and_then(sqlx::error::DatabaseError::code);
        let is_one_of = |codes: [&str; 2]| {
            code.as_ref()
                .is_some_and(|code| codes.contains(&code.as_ref()))
        };
        if is_one_of(SERIALIZATION_CONFLICT_SQLSTATES) {
            return Self::SerializationConflict;
        }
        if is_one_of(UNSTORABLE_TEXT_SQLSTATES) {
            return Self::UnstorableText;
        }
        let constraint = error
            .as_database_error()
            .and_then(|database| database.constraint())
            .map(str::to_owned);
        match constraint {
            Some(constraint) => Self::Conflict { constraint },
            None => Self::Database(error),
        }
    }
}

/// Unwraps a decoded column, and names table, column and row when the stored value does not fit.
pub(crate) fn decode_column<T, E>(
    value: Result<T, E>,
    table: &'static str,
    column: &'static str,
    row: impl ToString,
) -> Result<T, StoreError> {
    value.map_err(|_| StoreError::Corrupt {
        table,
        column,
        row: row.to_string(),
    })
}

/// Serializes a value of ours as JSON for a column.
pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> serde_json::Value {
    serde_json::to_value(value).expect("our own types have string keys and no failing serializers")
}
