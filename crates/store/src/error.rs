//! What can go wrong with the database, by what the caller does about it.

/// Each variant says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// 404: there is no such row for this tenant.
    #[error("{what} does not exist")]
    NotFound {
        /// What was looked for.
        what: &'static str,
    },
    /// 409: a named constraint stands in the way.
    #[error("the constraint {constraint} stands in the way")]
    Conflict {
        /// Its name.
        constraint: String,
    },
    /// 409: somebody else changes the mesh.
    #[error("the mesh is being changed by {holder}")]
    MeshLocked {
        /// Who.
        holder: String,
    },
    /// 409: the tenant has as much of something as it may have.
    #[error("the tenant may have {limit} {} at most", of.as_str())]
    QuotaExceeded {
        /// Of what.
        of: model::quota::QuotaResource,
        /// How much.
        limit: u32,
    },
    /// 409: the tenant would be left without an owner.
    #[error("the tenant would be left without an owner")]
    LastOwner,
    /// 409: a copy of the request is being worked on.
    #[error("the same request is being worked on")]
    RequestInFlight,
    /// 412: the row has moved on since the caller looked.
    #[error("the row has moved on")]
    StaleVersion,
    /// 409: the verb does not fit the state.
    #[error(transparent)]
    Transition(#[from] model::upgrade::InvalidTransition),
    /// Stop: another worker has taken over.
    #[error("the lease is over")]
    Fenced,
    /// A row does not fit the domain: a bug or a damaged database.
    #[error("{table}.{column} of {row} does not fit the domain")]
    Corrupt {
        /// Table.
        table: &'static str,
        /// Column.
        column: &'static str,
        /// The row's key.
        row: String,
    },
    /// A sealed value did not open: wrong key or damaged.
    #[error("a sealed value does not open")]
    UnsealFailed,
    /// Nothing that was sealed for the tenant will ever open again, and nothing can be sealed for it.
    #[error("the tenant's keys were erased")]
    KeysErased,
    /// Try again, or look at the key service: a tenant's key could not be wrapped or unwrapped.
    #[error("a tenant's key is out of reach")]
    KeyService(#[from] crate::envelope::WrapError),
    /// `serve` and `work` refuse to start.
    #[error("the database role {role} would see through row-level security; use mw_api or mw_worker")]
    UnsafeRole {
        /// The role.
        role: String,
    },
    /// The schema could not be brought up to date.
    #[error("a migration failed")]
    Migration(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Do the whole transaction again: another one was in its way, and nothing was changed. Where transactions are
    /// serializable, any of them may end so.
    #[error("another transaction was in the way")]
    SerializationConflict,
    /// A text holds the character NUL, which Postgres keeps nowhere. Fields refuse it by their own rules; this is what is
    /// left.
    #[error("a text holds a character that cannot be kept")]
    UnstorableText,
    /// Try again: the database does not answer or refused for the moment.
    #[error("the database failed")]
    Database(#[source] sqlx::Error),
}

/// `serialization_failure` and `deadlock_detected`.
const SERIALIZATION_CONFLICT_SQLSTATES: [&str; 2] = ["40001", "40P01"];

/// `character_not_in_repertoire` of a text, and `untranslatable_character` of a text in JSON.
const UNSTORABLE_TEXT_SQLSTATES: [&str; 2] = ["22021", "22P05"];

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        let is_one_of = |codes: [&str; 2]| code.as_ref().is_some_and(|code| codes.contains(&code.as_ref()));
        if is_one_of(SERIALIZATION_CONFLICT_SQLSTATES) {
            return Self::SerializationConflict;
        }
        if is_one_of(UNSTORABLE_TEXT_SQLSTATES) {
            return Self::UnstorableText;
        }
        let constraint = error.as_database_error().and_then(|database| database.constraint()).map(str::to_owned);
        match constraint {
            Some(constraint) => Self::Conflict { constraint },
            None => Self::Database(error),
        }
    }
}

/// Reads a stored value, or says which row does not fit.
pub(crate) fn decode_column<T, E>(
    value: Result<T, E>,
    table: &'static str,
    column: &'static str,
    row: impl ToString,
) -> Result<T, StoreError> {
    value.map_err(|_| StoreError::Corrupt { table, column, row: row.to_string() })
}

/// A value of ours as JSON for a column.
pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> serde_json::Value {
    serde_json::to_value(value).expect("our own types have string keys and no failing serializers")
}
