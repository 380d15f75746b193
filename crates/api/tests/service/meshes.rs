//! Meshes that are deleted and brought back.

use axum::http::StatusCode;
use jiff::SignedDuration;
use meshwright_model::access::Role;
use meshwright_store::embedded_postgres::SUPERUSER;
use serde_json::{Value, json};

use crate::support::{Reply, Service};

struct Stage {
    service: Service,
    owner: String,
}

impl Stage {
    /// The mesh is up, and then it is deleted.
    async fn deleted() -> Self {
        let service = Service::new().await;
        let owner = service.key(Role::Owner).await;
        let stage = Self { service, owner };
        stage.service.fleet.clusters.clear_workloads();
        let gone = stage.call("DELETE", "").await;
        assert_eq!(gone.status, StatusCode::ACCEPTED, "{}", gone.text);
        stage.service.fleet.run_due().await;
        assert_eq!(stage.call("GET", "").await.status, StatusCode::NOT_FOUND);
        stage
    }

    async fn call(&self, method: &str, below: &str) -> Reply {
        let path = format!("/v1/meshes/{}{below}", self.service.fleet.mesh);
        self.service
            .call(method, &path, Some(&self.owner), &[], None)
            .await
    }

    async fn listed(&self, query: &str) -> Vec<Value> {
        let reply = self
            .service
            .call(
                "GET",
                &format!("/v1/meshes{query}"),
                Some(&self.owner),
                &[],
                None,
            )
            .await;
        reply.body["items"].as_array().expect("items").clone()
    }

    async fn refused(&self, code: &str) {
        let reply = self.call("POST", "/undelete").await;
        assert_eq!(
            (reply.status, &reply.body["code"]),
            (StatusCode::CONFLICT, &json!(code)),
            "{}",
            reply.text
        );
    }
}

#[tokio::test]
async fn a_deleted_mesh_comes_back_as_it_was() {
    let stage = Stage::deleted().await;
    assert!(stage.listed("").await.is_empty());
    let listed = stage.listed("?show_deleted=true").await;
    assert_eq!(listed[0]["state"], "deleted");
    assert!(listed[0]["deleted_at"].is_string());
    let back = stage.call("POST", "/undelete").await;
    assert_eq!(back.status, StatusCode::ACCEPTED, "{}", back.text);
    stage.service.fleet.run_due().await;
    let mesh = stage.call("GET", "").await.body;
    assert_eq!(
        (&mesh["state"], &mesh["deleted_at"]),
        (&json!("ready"), &Value::Null)
    );
    let members: Vec<&Value> = mesh["members"]
        .as_array()
        .expect("members")
        .iter()
        .map(|member| &member["name"])
        .collect();
    assert_eq!(members, ["c1", "c2"]);
    stage.refused("mesh_not_deleted").await;
}

#[tokio::test]
async fn what_stands_in_the_way_of_a_return_is_said() {
    let stage = Stage::deleted().await;
    let owner = &stage.owner;
    let clusters = stage
        .service
        .call("GET", "/v1/clusters", Some(owner), &[], None)
        .await
        .body;
    let ids: Vec<&str> = clusters["items"]
        .as_array()
        .expect("items")
        .iter()
        .filter_map(|one| one["id"].as_str())
        .collect();
    let create = async |name: &str, clusters: &[&str]| {
        let body = json!({ "name": name, "version": "1.25.1.1", "clusters": clusters });
        let made = stage
            .service
            .call("POST", "/v1/meshes", Some(owner), &[], Some(&body))
            .await;
        assert_eq!(made.status, StatusCode::ACCEPTED, "{}", made.text);
    };
    create("other", &ids[1..]).await;
    stage.refused("cluster_in_a_mesh").await;
    let free = "DELETE FROM memberships WHERE cluster_id = (SELECT cluster_id FROM clusters WHERE name = 'c2')";
    stage
        .service
        .fleet
        .db
        .execute(SUPERUSER, free)
        .await
        .expect("it is free");
    let gone = stage
        .service
        .call(
            "DELETE",
            &format!("/v1/clusters/{}", ids[1]),
            Some(owner),
            &[],
            None,
        )
        .await;
    assert_eq!(gone.status, StatusCode::ACCEPTED);
    stage.service.fleet.run_due().await;
    // Two refusals of our credential, some time apart, prove that our account is gone.
    for _ in 0..2 {
        stage
            .service
            .fleet
            .clock
            .advance(SignedDuration::from_mins(1));
        stage
            .service
            .fleet
            .db
            .execute(SUPERUSER, "UPDATE work_queue SET due_at = now()")
            .await
            .expect("it is due");
        stage.service.fleet.run_due().await;
    }
    stage.refused("cluster_gone").await;
    stage
        .service
        .fleet
        .db
        .execute(
            SUPERUSER,
            "UPDATE meshes SET authority = '' WHERE state = 'deleted'",
        )
        .await
        .expect("erased");
    stage.refused("undelete_too_late").await;
}

#[tokio::test]
async fn after_thirty_days_what_it_could_come_back_with_is_erased() {
    let stage = Stage::deleted().await;
    let kept = "SELECT length(authority)::text FROM meshes WHERE state = 'deleted'";
    let db = &stage.service.fleet.db;
    assert_ne!(db.query_text(SUPERUSER, kept).await, ["0"]);
    stage
        .service
        .fleet
        .clock
        .advance(SignedDuration::from_hours(30 * 24 + 1));
    // Events are swept with every hundredth one, and what is kept as long with them.
    for number in 0..100 {
        let body = json!({ "name": format!("c{number}x"), "kubeconfig": "good" });
        let made = stage
            .service
            .call("POST", "/v1/clusters", Some(&stage.owner), &[], Some(&body))
            .await;
        assert!(
            made.status.is_success() || made.body["code"] == "quota_exceeded",
            "{}",
            made.text
        );
    }
    assert_eq!(db.query_text(SUPERUSER, kept).await, ["0"]);
}
