//! Postgres: the only crate that names sqlx.
