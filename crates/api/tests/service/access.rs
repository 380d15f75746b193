//! Who gets past which operation: every one of them, every role.

use axum::http::StatusCode;
use meshwright_model::access::{Role, Scope};
use meshwright_model::ids::{MeshId, TenantId};
use serde_json::json;
use uuid::Uuid;

use crate::support::{Service, routes, seen};

#[tokio::test]
async fn nobody_gets_past_any_operation() {
    let service = Service::new().await;
    service.key(Role::Owner).await;
    for route in routes() {
        for forged in [None, Some("mwk_x"), Some("Bearer")] {
            let reply = service.call_route(&route, forged).await;
            let answer = (reply.status, reply.body["code"].as_str());
            assert_eq!(
                answer,
                (StatusCode::UNAUTHORIZED, Some("unauthenticated")),
                "{}",
                route.id
            );
        }
    }
}

#[tokio::test]
async fn every_role_gets_past_exactly_the_operations_of_the_table() {
    for role in Role::ALL {
        let service = Service::new().await;
        let tenant = service.fleet.db.tenant;
        for (of, key) in [
            (tenant, service.key(role).await),
            (TenantId::PLATFORM, service.operator(role).await),
        ] {
            for route in routes() {
                let reply = service.call_route(&route, Some(&key)).await;
                let answer = (reply.status, reply.body["code"].as_str());
                let refused = answer == (StatusCode::FORBIDDEN, Some("role_missing"));
                let allowed = route.action.applies_to_tenant(of) && role.allows(route.action);
                // An object of another tenant is not found, whichever role the caller has at home.
                let hidden = of == TenantId::PLATFORM && reply.status == StatusCode::NOT_FOUND;
                assert!(
                    hidden || refused != allowed,
                    "{} as {role:?} of {of}: {reply:?}",
                    route.id
                );
                assert!(
                    !reply.status.is_server_error(),
                    "{} as {role:?} of {of}: {reply:?}",
                    route.id
                );
            }
        }
    }
}

/// What is about a thing that the path names.
fn is_about_one(path: &str) -> bool {
    path.contains("_id}")
}

/// A mesh's operator works with that mesh, sees nothing else, and has no say in the tenant.
#[tokio::test]
async fn a_key_that_is_narrowed_to_a_mesh_reaches_that_mesh_only() {
    for own in [true, false] {
        let service = Service::new().await;
        service.key(Role::Owner).await;
        let mesh = if own {
            service.fleet.mesh
        } else {
            MeshId(Uuid::from_u128(77))
        };
        let key = service
            .narrow_key(Role::Operator, &[Scope::Mesh(mesh)])
            .await;
        for route in routes() {
            let reply = service.call_route(&route, Some(&key)).await;
            let of_mesh = ["{mesh_id}", "{upgrade_id}", "{operation_id}"]
                .iter()
                .any(|part| route.path.contains(part));
            let catalogue = route.id == "listReleases" || route.id == "listHostingClusters";
            let listed = ["listClusters", "listMeshes", "listOperations", "listEvents"]
                .contains(&route.id.as_str());
            let (id, status) = (&route.id, reply.status);
            if catalogue || listed {
                assert_eq!(status, StatusCode::OK, "{id}");
            } else if of_mesh && own {
                assert!(
                    ![StatusCode::NOT_FOUND, StatusCode::FORBIDDEN].contains(&status),
                    "{id}: {reply:?}"
                );
            } else if of_mesh || route.path.contains("{cluster_id}") {
                assert_eq!(status, StatusCode::NOT_FOUND, "{id}: {reply:?}");
            } else {
                assert_eq!(status, StatusCode::FORBIDDEN, "{id}: {reply:?}");
            }
            if listed {
                let count = reply.body["items"].as_array().expect("a list").len();
                let visible = own && id != "listClusters";
                assert_eq!(count > 0, visible, "{id}: {reply:?}");
            }
        }
    }
}

#[tokio::test]
async fn another_tenant_finds_nothing_and_learns_nothing() {
    let service = Service::new().await;
    service.key(Role::Owner).await;
    let stranger = service.stranger().await;
    let tenant = service.fleet.db.tenant;
    for route in routes()
        .iter()
        .filter(|route| is_about_one(&route.path) && route.action.applies_to_tenant(tenant))
    {
        let foreign = service.call_route(route, Some(&stranger)).await;
        assert_eq!(
            foreign.status,
            StatusCode::NOT_FOUND,
            "{}: {foreign:?}",
            route.id
        );
        // An id that does not exist at all sounds exactly the same, and so does one that is not an id.
        let path = service.path(&route.path, route.verb).await;
        let malformed = path
            .split('/')
            .map(|part| if part.contains('_') { "mesh_x" } else { part });
        for other in [
            path.replace('8', "9"),
            malformed.collect::<Vec<_>>().join("/"),
        ] {
            let body = Some(&route.body);
            let absent = service
                .call(
                    &route.method,
                    &other,
                    Some(&stranger),
                    &[("If-Match", "\"0\"")],
                    body,
                )
                .await;
            assert_eq!(seen(&absent), seen(&foreign), "{} {other}", route.id);
        }
    }
    for list in [
        "/v1/meshes",
        "/v1/clusters",
        "/v1/operations",
        "/v1/events",
        "/v1/audit-entries",
    ] {
        let reply = service.call("GET", list, Some(&stranger), &[], None).await;
        assert_eq!(reply.body["items"], json!([]), "{list}");
    }
}
