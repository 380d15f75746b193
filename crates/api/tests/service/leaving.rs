//! Meshes whose creation or deletion ends early: each stays in a state from which a person can go on.

use axum::http::StatusCode;
use model::access::Role;
use model::plan::Target;
use serde_json::{Value, json};

use crate::support::{Reply, Service};

/// A service with one mesh that nothing uses, and its owner's key.
pub(crate) struct Stage {
    pub service: Service,
    owner: String,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        let service = Service::new().await;
        let owner = service.key(Role::Owner).await;
        service.fleet.world.clear_workloads();
        Self { service, owner }
    }

    pub(crate) async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Reply {
        self.service.call(method, path, Some(&self.owner), &[], body).await
    }

    /// Calls below the mesh, expects a 202 and answers the operation's id.
    pub(crate) async fn begin(&self, method: &str, below: &str, body: Option<&Value>) -> String {
        let path = format!("/v1/meshes/{}{below}", self.service.fleet.mesh);
        let reply = self.call(method, &path, body).await;
        assert_eq!(reply.status, StatusCode::ACCEPTED, "{}", reply.text);
        reply.body["id"].as_str().expect("an id").to_owned()
    }

    pub(crate) async fn run(&self) {
        self.service.fleet.run().await;
    }

    pub(crate) async fn cancel(&self, operation: &str) {
        let reply = self.call("POST", &format!("/v1/operations/{operation}/cancel"), None).await;
        assert_eq!(reply.status, StatusCode::ACCEPTED, "{}", reply.text);
        self.run().await;
        assert_eq!(self.operation(operation).await["state"], "cancelled");
    }

    pub(crate) async fn operation(&self, id: &str) -> Value {
        self.call("GET", &format!("/v1/operations/{id}"), None).await.body
    }

    /// The mesh, deleted or not.
    pub(crate) async fn mesh(&self) -> Value {
        let listed = self.call("GET", "/v1/meshes?show_deleted=true", None).await.body;
        listed["items"][0].clone()
    }

    /// State, code of the problem, and holder of the slot.
    async fn stands(&self) -> (String, Option<String>, bool) {
        let mesh = self.mesh().await;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        (text(&mesh["state"]).expect("a state"), text(&mesh["problem"]["code"]), mesh["busy_with"].is_null())
    }
}

fn failed(code: &str) -> (String, Option<String>, bool) {
    ("failed".into(), Some(code.into()), true)
}

fn whole(state: &str) -> (String, Option<String>, bool) {
    (state.into(), None, true)
}

fn foothold(member: &str) -> Target {
    Target::Foothold { member: member.parse().expect("a name") }
}

#[tokio::test]
async fn b2_a_creation_that_is_cancelled_before_it_began_leaves_a_failed_mesh_that_can_be_built() {
    let stage = Stage::new().await;
    let before = stage.service.fleet.world.picture();
    stage.begin("DELETE", "", None).await;
    stage.run().await;
    let creation = stage.begin("POST", "/undelete", None).await;
    stage.cancel(&creation).await;
    assert_eq!(stage.stands().await, failed("creation_cancelled"));
    stage.begin("POST", "/retry", None).await;
    stage.run().await;
    assert_eq!(stage.stands().await, whole("ready"));
    assert_eq!(stage.service.fleet.world.picture(), before);
    let path = format!("/v1/meshes/{}/retry", stage.service.fleet.mesh);
    let again = stage.call("POST", &path, None).await;
    assert_eq!((again.status, &again.body["code"]), (StatusCode::CONFLICT, &json!("mesh_not_failed")));
}

#[tokio::test]
async fn b2_deletion_removes_what_a_cancelled_creation_had_started() {
    let stage = Stage::new().await;
    let world = &stage.service.fleet.world;
    stage.begin("DELETE", "", None).await;
    stage.run().await;
    let nothing = world.picture();
    let last = Target::Validator { member: "c1".parse().expect("a name") };
    world.refuse(&last, true);
    let creation = stage.begin("POST", "/undelete", None).await;
    stage.run().await;
    assert_eq!(stage.operation(&creation).await["state"], "paused");
    stage.cancel(&creation).await;
    assert_eq!(stage.stands().await, failed("creation_cancelled"));
    assert_ne!(world.picture(), nothing, "parts of it are there");
    world.refuse(&last, false);
    stage.begin("DELETE", "", None).await;
    stage.run().await;
    assert_eq!(stage.stands().await, whole("deleted"));
    assert_eq!(world.picture(), nothing);
}

#[tokio::test]
async fn d6_a_deletion_that_is_cancelled_before_it_touched_anything_leaves_the_mesh_as_it_was() {
    let stage = Stage::new().await;
    let before = stage.service.fleet.world.picture();
    for _ in 0..2 {
        let deletion = stage.begin("DELETE", "", None).await;
        stage.cancel(&deletion).await;
        assert_eq!(stage.stands().await, whole("ready"));
    }
    assert_eq!(stage.service.fleet.world.picture(), before);
}

#[tokio::test]
async fn d6_a_deletion_that_is_cancelled_half_way_leaves_a_failed_mesh_that_can_be_built_or_deleted() {
    let stage = Stage::new().await;
    let world = &stage.service.fleet.world;
    let before = world.picture();
    world.refuse(&foothold("c2"), true);
    for _ in 0..2 {
        let deletion = stage.begin("DELETE", "", None).await;
        stage.run().await;
        assert_eq!(stage.operation(&deletion).await["state"], "paused");
        stage.cancel(&deletion).await;
        assert_eq!(stage.stands().await, failed("deletion_cancelled"));
    }
    let refused = stage.begin("DELETE", "", None).await;
    stage.cancel(&refused).await;
    assert_eq!(stage.stands().await, failed("deletion_cancelled"), "a deletion that touched nothing goes back to that");
    world.refuse(&foothold("c2"), false);
    stage.begin("POST", "/retry", None).await;
    stage.run().await;
    assert_eq!(stage.stands().await, whole("ready"));
    assert_eq!(world.picture(), before);
    stage.begin("DELETE", "", None).await;
    stage.run().await;
    assert_eq!(stage.stands().await, whole("deleted"));
}

#[tokio::test]
async fn a_failed_mesh_has_no_upgrade_and_says_why() {
    let stage = Stage::new().await;
    stage.service.fleet.world.refuse(&foothold("c2"), true);
    let deletion = stage.begin("DELETE", "", None).await;
    stage.run().await;
    stage.cancel(&deletion).await;
    let mesh = stage.mesh().await;
    assert!(mesh["problem"]["hint"].as_str().expect("a hint").contains("meshwright mesh retry"), "{mesh}");
    let body = json!({ "version": "1.27.9.1", "strategy": "canary" });
    let path = format!("/v1/meshes/{}/upgrades", stage.service.fleet.mesh);
    let refused = stage.call("POST", &path, Some(&body)).await;
    assert_eq!((refused.status, &refused.body["code"]), (StatusCode::CONFLICT, &json!("mesh_not_ready")));
}
