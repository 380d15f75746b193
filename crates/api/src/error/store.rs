//! Turns errors of the store into problems.

use axum::http::StatusCode;
use meshwright_model::problem::ProblemCode;
use meshwright_model::upgrade::InvalidTransition;
use meshwright_store::StoreError;

use crate::error::{ApiError, ApiProblem};

/// Builds the problem for a database constraint that was violated.
fn constraint_error(constraint: &str) -> ApiError {
    let taken = |what: &str| {
        ApiError::new(
            StatusCode::CONFLICT,
            ProblemCode::NameTaken,
            format!("Another {what} has this name."),
            "Choose another name.",
        )
    };
    match constraint {
        // A registration that was refused keeps its name, and most of its problems are solved by
        // another registration under the same name.
        "clusters_name_unique" => ApiError::new(
            StatusCode::CONFLICT,
            ProblemCode::NameTaken,
            "Another cluster has this name.",
            "If its registration was refused, remove it with `meshwright cluster delete`; otherwise choose another name.",
        ),
        "meshes_name_unique" => taken("mesh"),
        "api_keys_name_unique" => taken("API key"),
        "tenants_name_unique" => taken("tenant"),
        "identity_providers_name_unique" => taken("identity provider"),
        "webhooks_name_unique" => taken("webhook"),
        "hosting_clusters_name_unique" => taken("hosting cluster"),
        "releases_pk" => ApiError::new(
            StatusCode::CONFLICT,
            ProblemCode::ReleaseKnown,
            "The catalogue has this version already.",
            "A release never changes: import what is different under another build number.",
        ),
        "meshes_hosting_fk" => ApiError::new(
            StatusCode::CONFLICT,
            ProblemCode::HostingClusterInUse,
            "Control planes run in this cluster, or ran there once.",
            "Delete its meshes; the cluster itself stays in the catalogue, because what was deleted refers to it.",
        ),
        "identity_providers_issuer_unique" => ApiError::new(
            StatusCode::CONFLICT,
            ProblemCode::IssuerKnown,
            "This issuer is trusted already.",
            "Delete the identity provider that it belongs to first.",
        ),
        "role_bindings_unique" => ApiError::new(
            StatusCode::CONFLICT,
            ProblemCode::GrantedAlready,
            "Exactly this was granted before.",
            "There is nothing left to do.",
        ),
        "memberships_one_mesh" => ApiError::new(
            StatusCode::CONFLICT,
            ProblemCode::ClusterInAMesh,
            "One of the clusters is in a mesh already.",
            "A cluster belongs to one mesh at most.",
        ),
        "memberships_cluster_fk" => ApiError::new(
            StatusCode::CONFLICT,
            ProblemCode::ClusterInUse,
            "The cluster is a member of a mesh.",
            "Delete the mesh first.",
        ),
        _ => {
            tracing::error!(
                constraint,
                "a database constraint without a problem of its own was violated"
            );
            ApiError::internal()
        }
    }
}

/// Builds the problem for a verb that the state of an upgrade does not allow.
fn transition_error(refused: &InvalidTransition) -> ApiError {
    let allowed: Vec<&str> = refused.allowed.iter().map(|verb| verb.as_str()).collect();
    let verb = refused.verb.as_str();
    let hint = if allowed.is_empty() {
        "It has ended.".to_owned()
    } else {
        format!("Now it can: {}.", allowed.join(", "))
    };
    ApiError::new(
        StatusCode::CONFLICT,
        ProblemCode::InvalidTransition,
        format!("An upgrade that is {} cannot {verb}.", refused.state),
        hint,
    )
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound { what } => Self::not_found(what),
            StoreError::Conflict { constraint } => constraint_error(&constraint),
            StoreError::QuotaExceeded { of, limit } => Self::new(
                StatusCode::CONFLICT,
                ProblemCode::QuotaExceeded,
                format!(
                    "The tenant may have {limit} {} at most.",
                    of.as_str().replace('_', " ")
                ),
                "Remove what is not needed, or ask the operator of the service for more. GET /v1/usage shows how much there is.",
            ),
            StoreError::LastOwner => Self::new(
                StatusCode::CONFLICT,
                ProblemCode::LastOwner,
                "No other key of an owner that never ends would be left.",
                "Make another key with the role owner and without an end first.",
            ),
            StoreError::RequestInFlight => Self::new(
                StatusCode::CONFLICT,
                ProblemCode::RequestInFlight,
                "The same request is being worked on right now.",
                "Wait a moment and send it again for the stored answer.",
            ),
            StoreError::MeshLocked { holder } => Self::new(
                StatusCode::CONFLICT,
                ProblemCode::MeshBusy,
                format!("The mesh is being changed by {holder}."),
                "Wait until that has ended, or end it.",
            ),
            StoreError::StaleVersion => Self::new(
                StatusCode::PRECONDITION_FAILED,
                ProblemCode::MovedOn,
                "It has changed since you looked.",
                "Read it again and decide on what you see then.",
            ),
            StoreError::Transition(refused) => transition_error(&refused),
            StoreError::SerializationConflict => match Self::service_unavailable() {
                Self::Problem(refusal) => Self::Problem(Box::new(ApiProblem {
                    retryable_conflict: true,
                    ..*refusal
                })),
                answered @ Self::Replay(_) => answered,
            },
            StoreError::KeysErased => Self::new(
                StatusCode::CONFLICT,
                ProblemCode::SecretsErased,
                "The secrets of this tenant were erased: nothing opens them any more, and no new ones are kept.",
                "Ask the operator of the service.",
            ),
            StoreError::UnstorableText => {
                Self::malformed_body("a text in it holds the character NUL")
            }
            StoreError::Database(source) => {
                tracing::error!(
                    error = &source as &dyn std::error::Error,
                    "could not answer a request: the database failed"
                );
                Self::service_unavailable()
            }
            StoreError::KeyService(source) => {
                tracing::error!(
                    error = &source as &dyn std::error::Error,
                    "could not answer a request: the key service failed"
                );
                Self::service_unavailable()
            }
            other => {
                tracing::error!(
                    error = &other as &dyn std::error::Error,
                    "could not answer a request: internal error"
                );
                Self::internal()
            }
        }
    }
}
