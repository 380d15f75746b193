//! Lists all routes. A route is registered together with its `OpenAPI` documentation and cannot
//! exist without it.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::sensitive_headers::SetSensitiveRequestHeadersLayer;
use tower_http::trace::TraceLayer;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::error::ApiError;
use crate::middleware::MAX_BODY_BYTES;
use crate::middleware::drain;
use crate::middleware::metrics;
use crate::middleware::metrics::RequestSpan;
use crate::middleware::rejection;
use crate::middleware::request_context;
use crate::middleware::retry;
use crate::openapi::conventions;
use crate::openapi::deprecation;
use crate::openapi::deprecation::{DEPRECATED, DeprecationHeaders};
use crate::request::caller::AppState;
use crate::resources::api_keys;
use crate::resources::audit;
use crate::resources::catalogue;
use crate::resources::clusters;
use crate::resources::events;
use crate::resources::identity_providers;
use crate::resources::meshes;
use crate::resources::operations;
use crate::resources::rollouts;
use crate::resources::tenants;
use crate::resources::upgrades;
use crate::resources::webhooks;
use meshwright_model::problem::ProblemCode;

#[derive(OpenApi)]
#[openapi(
    info(title = "Meshwright", version = "1", description = "A managed service mesh: every control plane and every sidecar from one version to the next, and back."),
    components(schemas(meshwright_wire::Problem)),
    modifiers(&BearerKey),
    security(("api_key" = []))
)]
struct Documentation;

struct BearerKey;

impl utoipa::Modify for BearerKey {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(
                "An API key, mwk_…, or a token of an identity provider that the tenant trusts",
            ))
            .build();
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("api_key", SecurityScheme::Http(scheme));
    }
}

/// Builds the routes with their documentation.
fn documented_routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(Documentation::openapi())
        .routes(routes!(
            catalogue::list_hosting_clusters,
            catalogue::add_hosting_cluster
        ))
        .routes(routes!(catalogue::delete_hosting_cluster))
        .routes(routes!(catalogue::list_releases, catalogue::import_release))
        .routes(routes!(catalogue::change_release))
        .routes(routes!(tenants::create_tenant, tenants::list_tenants))
        .routes(routes!(
            tenants::get_tenant,
            tenants::change_tenant,
            tenants::delete_tenant
        ))
        .routes(routes!(tenants::create_owner_key))
        .routes(routes!(tenants::get_usage))
        .routes(routes!(clusters::register_cluster, clusters::list_clusters))
        .routes(routes!(clusters::renewal::renew_credential))
        .routes(routes!(
            clusters::get_cluster,
            clusters::change_cluster,
            clusters::deregistration::delete_cluster
        ))
        .routes(routes!(meshes::creation::create_mesh, meshes::list_meshes))
        .routes(routes!(
            meshes::get_mesh,
            meshes::change_mesh,
            meshes::deletion::delete_mesh
        ))
        .routes(routes!(meshes::deletion::undelete_mesh))
        .routes(routes!(meshes::deletion::retry_mesh))
        .routes(routes!(meshes::upgrade_options::list_upgrade_options))
        .routes(routes!(meshes::data_plane::get_data_plane))
        .routes(routes!(meshes::data_plane::set_injection))
        .routes(routes!(meshes::data_plane::create_restart))
        .routes(routes!(rollouts::create_rollout, rollouts::list_rollouts))
        .routes(routes!(rollouts::get_rollout))
        .routes(routes!(rollouts::list_rollout_items))
        .routes(routes!(rollouts::verbs::rollout_action))
        .routes(routes!(upgrades::create_upgrade, upgrades::list_upgrades))
        .routes(routes!(upgrades::get_upgrade))
        .routes(routes!(upgrades::move_namespaces))
        // All verbs of an upgrade, such as `promote` and `rollback`.
        .routes(routes!(upgrades::upgrade_action))
        .routes(routes!(operations::list_operations))
        .routes(routes!(operations::get_operation))
        .routes(routes!(operations::operation_action))
        .routes(routes!(events::list_events))
        .routes(routes!(webhooks::create_webhook, webhooks::list_webhooks))
        .routes(routes!(
            webhooks::get_webhook,
            webhooks::change_webhook,
            webhooks::delete_webhook
        ))
        .routes(routes!(webhooks::rotate_webhook_secret))
        .routes(routes!(webhooks::test_webhook))
        .routes(routes!(webhooks::deliveries::list_deliveries))
        .routes(routes!(webhooks::deliveries::redeliver_event))
        .routes(routes!(api_keys::create_api_key, api_keys::list_api_keys))
        .routes(routes!(api_keys::get_api_key, api_keys::revoke_api_key))
        .routes(routes!(api_keys::rotate_api_key))
        .routes(routes!(
            identity_providers::create_identity_provider,
            identity_providers::list_identity_providers
        ))
        .routes(routes!(
            identity_providers::get_identity_provider,
            identity_providers::delete_identity_provider
        ))
        .routes(routes!(
            identity_providers::create_role_binding,
            identity_providers::list_role_bindings
        ))
        .routes(routes!(identity_providers::delete_role_binding))
        .routes(routes!(audit::list_audit_entries))
        .routes(routes!(audit::get_audit_head))
}

/// Returns the `OpenAPI` document in the form that is committed to the repository.
pub fn openapi() -> String {
    let (_, document) = documented_routes().split_for_parts();
    let mut text = serde_json::to_string_pretty(&finish_document(&document).0)
        .expect("a document of strings and numbers");
    text.push('\n');
    text
}

/// Adds the shared conventions and the deprecated operations to the document. Returns it with the
/// headers for the answers of deprecated operations.
fn finish_document(document: &utoipa::openapi::OpenApi) -> (serde_json::Value, DeprecationHeaders) {
    let mut document = serde_json::to_value(document).expect("a document of strings and numbers");
    conventions::apply_conventions(&mut document);
    let notices = deprecation::mark_deprecated(&mut document, DEPRECATED);
    (document, notices)
}

/// Builds the router of the API with all its middleware.
pub fn router(app: App) -> axum::Router {
    let (routes, document) = documented_routes().split_for_parts();
    let (document, notices) = finish_document(&document);
    // The document is served without a limit on the rate, so its text is built once and all answers
    // share it.
    let document = Bytes::from(document.to_string());
    let health = metrics::health_routes().with_state(app.store.clone());
    let app = AppState::from(app);
    let around = ServiceBuilder::new()
        .layer(SetSensitiveRequestHeadersLayer::new([
            header::AUTHORIZATION,
        ]))
        .layer(axum::middleware::from_fn(drain::drain_unread_body))
        .layer(axum::middleware::from_fn(metrics::record_metrics))
        .layer(
            TraceLayer::new_for_http()
                .make_span_with(RequestSpan)
                .on_request(metrics::log_request),
        )
        .layer(axum::middleware::from_fn_with_state(
            app.clock.clone(),
            request_context::with_request_context,
        ))
        .layer(axum::middleware::from_fn(rejection::convert_rejections))
        .layer(CatchPanicLayer::custom(panic_response))
        .layer(tower_http::timeout::TimeoutLayer::with_status_code(
            StatusCode::SERVICE_UNAVAILABLE,
            Duration::from_secs(90),
        ))
        .layer(RequestBodyLimitLayer::new(MAX_BODY_BYTES));
    let served = move || {
        let document = document.clone();
        async move { ([(header::CONTENT_TYPE, "application/json")], document) }
    };
    routes
        .route("/openapi.json", get(served))
        .route("/problems/{code}", get(problem_page))
        .merge(health)
        .fallback(async || ApiError::not_found("route"))
        .method_not_allowed_fallback(async || {
            ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                ProblemCode::MethodNotAllowed,
                "This route does not know that method.",
                "Look into /openapi.json.",
            )
        })
        .layer(axum::middleware::from_fn_with_state(
            notices,
            deprecation::add_deprecation_headers,
        ))
        .layer(axum::middleware::from_fn(retry::retry_conflicts))
        .layer(around)
        .with_state(app)
}

/// Answers with the page of a problem code, to which the `type` of a problem document leads.
async fn problem_page(Path(code): Path<String>) -> Response {
    match meshwright_wire::problem_page(&code) {
        Some(page) => {
            let text = format!("# {code}\n\n{page}\n");
            (
                [(header::CONTENT_TYPE, "text/markdown; charset=utf-8")],
                text,
            )
                .into_response()
        }
        None => ApiError::not_found("problem").into_response(),
    }
}

/// Turns a panic into the same answer as any internal error. The log has the panic itself.
fn panic_response(_panic: Box<dyn std::any::Any + Send>) -> Response {
    ApiError::internal().into_response()
}
