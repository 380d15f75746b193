//! Calls to API servers that run in the test's own process and answer as they are told.

mod connects;
mod fake;
mod hostile;
mod looks;
mod next_pods;
mod quotas;
mod users;
