//! HTTP: the only crate that names axum.
