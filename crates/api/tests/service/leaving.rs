//! Meshes whose creation or deletion ends early: each stays in a state from which a person can go on.

use axum::http::StatusCode;
use jiff::SignedDuration;
use meshwright_model::access::Role;
use meshwright_model::plan::Target;
use meshwright_model::rules::Strategy;
use meshwright_model::upgrade::Verb;
use meshwright_store::embedded_postgres::SUPERUSER;
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
        service.fleet.clusters.clear_workloads();
        Self { service, owner }
    }

    pub(crate) async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Reply {
        self.service
            .call(method, path, Some(&self.owner), &[], body)
            .await
    }

    /// Calls below the mesh, expects a 202 and answers the operation's id.
    pub(crate) async fn begin(&self, method: &str, below: &str, body: Option<&Value>) -> String {
        let path = format!("/v1/meshes/{}{below}", self.service.fleet.mesh);
        let reply = self.call(method, &path, body).await;
        assert_eq!(reply.status, StatusCode::ACCEPTED, "{}", reply.text);
        reply.body["id"].as_str().expect("an id").to_owned()
    }

    pub(crate) async fn run(&self) {
        self.service.fleet.run_due().await;
    }

    pub(crate) async fn cancel(&self, operation: &str) {
        let reply = self
            .call("POST", &format!("/v1/operations/{operation}/cancel"), None)
            .await;
        assert_eq!(reply.status, StatusCode::ACCEPTED, "{}", reply.text);
        self.run().await;
        assert_eq!(self.operation(operation).await["state"], "cancelled");
    }

    pub(crate) async fn operation(&self, id: &str) -> Value {
        self.call("GET", &format!("/v1/operations/{id}"), None)
            .await
            .body
    }

    /// The mesh, deleted or not.
    pub(crate) async fn mesh(&self) -> Value {
        let listed = self
            .call("GET", "/v1/meshes?show_deleted=true", None)
            .await
            .body;
        listed["items"][0].clone()
    }

    /// State, code of the problem, and holder of the slot.
    async fn stands(&self) -> (String, Option<String>, bool) {
        let mesh = self.mesh().await;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        (
            text(&mesh["state"]).expect("a state"),
            text(&mesh["problem"]["code"]),
            mesh["busy_with"].is_null(),
        )
    }
}

fn failed(code: &str) -> (String, Option<String>, bool) {
    ("failed".into(), Some(code.into()), true)
}

fn whole(state: &str) -> (String, Option<String>, bool) {
    (state.into(), None, true)
}

fn member_bootstrap(member: &str) -> Target {
    Target::MemberBootstrap {
        member: member.parse().expect("a name"),
    }
}

#[tokio::test]
async fn b2_a_creation_that_is_cancelled_before_it_began_leaves_a_failed_mesh_that_can_be_built() {
    let stage = Stage::new().await;
    let before = stage.service.fleet.clusters.snapshot();
    stage.begin("DELETE", "", None).await;
    stage.run().await;
    let creation = stage.begin("POST", "/undelete", None).await;
    stage.cancel(&creation).await;
    assert_eq!(stage.stands().await, failed("creation_cancelled"));
    stage.begin("POST", "/retry", None).await;
    stage.run().await;
    assert_eq!(stage.stands().await, whole("ready"));
    assert_eq!(stage.service.fleet.clusters.snapshot(), before);
    let path = format!("/v1/meshes/{}/retry", stage.service.fleet.mesh);
    let again = stage.call("POST", &path, None).await;
    assert_eq!(
        (again.status, &again.body["code"]),
        (StatusCode::CONFLICT, &json!("mesh_not_failed"))
    );
}

#[tokio::test]
async fn b2_deletion_removes_what_a_cancelled_creation_had_started() {
    let stage = Stage::new().await;
    let world = &stage.service.fleet.clusters;
    stage.begin("DELETE", "", None).await;
    stage.run().await;
    let nothing = world.snapshot();
    let last = Target::Validator {
        member: "c1".parse().expect("a name"),
    };
    world.set_writes_refused(&last, true);
    let creation = stage.begin("POST", "/undelete", None).await;
    stage.run().await;
    assert_eq!(stage.operation(&creation).await["state"], "paused");
    stage.cancel(&creation).await;
    assert_eq!(stage.stands().await, failed("creation_cancelled"));
    assert_ne!(world.snapshot(), nothing, "parts of it are there");
    world.set_writes_refused(&last, false);
    stage.begin("DELETE", "", None).await;
    stage.run().await;
    assert_eq!(stage.stands().await, whole("deleted"));
    assert_eq!(world.snapshot(), nothing);
}

#[tokio::test]
async fn d6_a_deletion_that_is_cancelled_before_it_touched_anything_leaves_the_mesh_as_it_was() {
    let stage = Stage::new().await;
    let before = stage.service.fleet.clusters.snapshot();
    for _ in 0..2 {
        let deletion = stage.begin("DELETE", "", None).await;
        stage.cancel(&deletion).await;
        assert_eq!(stage.stands().await, whole("ready"));
    }
    assert_eq!(stage.service.fleet.clusters.snapshot(), before);
}

#[tokio::test]
async fn d6_a_deletion_that_is_cancelled_half_way_leaves_a_failed_mesh_that_can_be_built_or_deleted()
 {
    let stage = Stage::new().await;
    let world = &stage.service.fleet.clusters;
    let before = world.snapshot();
    world.set_writes_refused(&member_bootstrap("c2"), true);
    for _ in 0..2 {
        let deletion = stage.begin("DELETE", "", None).await;
        stage.run().await;
        assert_eq!(stage.operation(&deletion).await["state"], "paused");
        stage.cancel(&deletion).await;
        assert_eq!(stage.stands().await, failed("deletion_cancelled"));
    }
    let refused = stage.begin("DELETE", "", None).await;
    stage.cancel(&refused).await;
    assert_eq!(
        stage.stands().await,
        failed("deletion_cancelled"),
        "a deletion that touched nothing goes back to that"
    );
    world.set_writes_refused(&member_bootstrap("c2"), false);
    stage.begin("POST", "/retry", None).await;
    stage.run().await;
    assert_eq!(stage.stands().await, whole("ready"));
    assert_eq!(world.snapshot(), before);
    stage.begin("DELETE", "", None).await;
    stage.run().await;
    assert_eq!(stage.stands().await, whole("deleted"));
}

#[tokio::test]
async fn a_failed_mesh_has_no_upgrade_and_says_why() {
    let stage = Stage::new().await;
    stage
        .service
        .fleet
        .clusters
        .set_writes_refused(&member_bootstrap("c2"), true);
    let deletion = stage.begin("DELETE", "", None).await;
    stage.run().await;
    stage.cancel(&deletion).await;
    let mesh = stage.mesh().await;
    assert!(
        mesh["problem"]["hint"]
            .as_str()
            .expect("a hint")
            .contains("meshwright mesh retry"),
        "{mesh}"
    );
    let body = json!({ "version": "1.27.9.1", "strategy": "canary" });
    let path = format!("/v1/meshes/{}/upgrades", stage.service.fleet.mesh);
    let refused = stage.call("POST", &path, Some(&body)).await;
    assert_eq!(
        (refused.status, &refused.body["code"]),
        (StatusCode::CONFLICT, &json!("mesh_not_ready"))
    );
}

pub(crate) fn forced() -> Value {
    json!({ "force": true, "reason": "the region is gone" })
}

impl Stage {
    /// Lets time pass, so that what rests is due again.
    pub(crate) async fn later(&self, minutes: i64) {
        self.service
            .fleet
            .clock
            .advance(SignedDuration::from_mins(minutes));
        self.service
            .fleet
            .db
            .execute(SUPERUSER, "UPDATE work_queue SET due_at = now()")
            .await
            .expect("it is due");
        self.run().await;
    }

    /// Targets of the audit entries of an action.
    pub(crate) async fn audited(&self, action: &str) -> Vec<String> {
        let listed = self
            .call("GET", "/v1/audit-entries?page_size=1000", None)
            .await
            .body;
        let entries = listed["items"]
            .as_array()
            .expect("items")
            .iter()
            .filter(|entry| entry["action"] == action);
        entries
            .map(|entry| entry["target"].as_str().expect("a target").to_owned())
            .collect()
    }
}

/// The lines of a picture that a deletion removes: definitions and the users' own labels stay.
fn ours(picture: &str) -> impl Iterator<Item = &str> {
    picture.lines().filter(|line| {
        !line.starts_with("custom resource") && !line.starts_with("label of namespace")
    })
}

/// Clusters and names of leftovers.
pub(crate) fn left(shown: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let all = shown["leftovers"].as_array().expect("leftovers");
    for one in all {
        assert!(
            text(&one["command"]).starts_with("kubectl delete "),
            "{one}"
        );
    }
    all.iter()
        .map(|one| (text(&one["cluster"]), text(&one["name"])))
        .collect()
}

#[tokio::test]
async fn h3_a_mesh_with_a_dead_member_is_deleted_with_force_and_shows_what_stays_there() {
    let stage = Stage::new().await;
    let world = &stage.service.fleet.clusters;
    world.set_unreachable("c2", true);
    let deletion = stage.begin("DELETE", "", None).await;
    stage.run().await;
    stage.later(3).await;
    let stands_still = stage.operation(&deletion).await;
    assert_eq!(
        stands_still["problem"]["code"], "cluster_unreachable",
        "{stands_still}"
    );
    assert!(
        stands_still["problem"]["hint"]
            .as_str()
            .expect("a hint")
            .contains("--force"),
        "{stands_still}"
    );
    let forced = stage.begin("DELETE", "", Some(&forced())).await;
    stage.run().await;
    assert_eq!(
        stage.operation(&forced).await["state"],
        "waiting",
        "a moment of silence leaves no member behind"
    );
    assert_eq!(
        stage.operation(&forced).await["waiting_for"],
        "c2 does not answer",
        "it says why, and which cluster"
    );
    stage.later(3).await;
    assert_eq!(stage.operation(&deletion).await["state"], "superseded");
    assert_eq!(stage.stands().await, whole("deleted"));
    let (operation, mesh) = (stage.operation(&forced).await, stage.mesh().await);
    assert_eq!(operation["reason"], "the region is gone");
    assert_eq!(left(&operation), left(&mesh));
    let behind: Vec<String> = left(&mesh)
        .into_iter()
        .filter(|(cluster, _)| cluster == "c2")
        .map(|(_, name)| name)
        .collect();
    assert!(
        behind.contains(&"tag stable in c2".to_owned()),
        "{behind:?}"
    );
    assert!(
        behind.contains(&"root certificates in the namespaces of c2".to_owned()),
        "{behind:?}"
    );
    let picture = world.snapshot();
    let here: Vec<&str> = ours(&picture).filter(|line| !line.contains("c2")).collect();
    assert_eq!(
        here,
        Vec::<&str>::new(),
        "nothing is left where it could be removed"
    );
    assert!(
        !picture.contains("access of the control planes to c2"),
        "its access lives in the hosting cluster: {picture}"
    );
    let id = stage.service.fleet.mesh;
    assert_eq!(
        stage.audited("force").await,
        [format!("{id}: the region is gone")]
    );
}

#[tokio::test]
async fn h3_what_an_earlier_deletion_began_in_a_dead_member_does_not_keep_force_from_leaving_it_behind()
 {
    let stage = Stage::new().await;
    let world = &stage.service.fleet.clusters;
    world.set_writes_refused(&member_bootstrap("c2"), true);
    let deletion = stage.begin("DELETE", "", None).await;
    stage.run().await;
    assert_eq!(stage.operation(&deletion).await["state"], "paused");
    world.set_unreachable("c2", true);
    let forced = stage.begin("DELETE", "", Some(&forced())).await;
    stage.run().await;
    stage.later(3).await;
    assert_eq!(stage.operation(&forced).await["state"], "succeeded");
    assert_eq!(stage.stands().await, whole("deleted"));
}

#[tokio::test]
async fn h3_a_forced_deletion_that_is_cancelled_does_not_hide_what_the_earlier_one_removed() {
    let stage = Stage::new().await;
    let world = &stage.service.fleet.clusters;
    world.set_writes_refused(&member_bootstrap("c2"), true);
    stage.begin("DELETE", "", None).await;
    stage.run().await;
    let forced = stage.begin("DELETE", "", Some(&forced())).await;
    stage.cancel(&forced).await;
    assert_eq!(stage.stands().await, failed("deletion_cancelled"));
}

/// A member dies before the last of these verbs: the upgrade can go neither on nor back, and its mesh must have an end.
async fn stranded(verbs: &[Verb]) {
    let stage = Stage::new().await;
    let fleet = &stage.service.fleet;
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 3600).await;
    let (last, before) = verbs.split_last().expect("verbs");
    for verb in before {
        fleet.apply_verb_and_run(upgrade, *verb).await;
    }
    fleet.clusters.set_unreachable("c2", true);
    fleet
        .apply_verb(upgrade, *last, Value::Null)
        .await
        .expect("the verb fits");
    let waiting = fleet.run_clock(600);
    stage.run().await;
    drop(waiting);
    let path = format!("/v1/upgrades/{upgrade}");
    let stands = stage.call("GET", &path, None).await.body;
    assert_eq!(stands["state"], "paused", "{stands}");
    assert!(
        !stands["allowed_verbs"].to_string().contains("abandon"),
        "it cannot be asked for: {stands}"
    );
    let mesh = format!("/v1/meshes/{}", fleet.mesh);
    let refused = stage.call("DELETE", &mesh, Some(&forced())).await;
    assert_eq!(
        refused.body["code"], "mesh_busy",
        "no member is shown as unreachable: {}",
        refused.text
    );
    let unreachable = r#"UPDATE clusters SET problem = '{"code":"cluster_unreachable","message":"m","hint":"h"}' WHERE name = 'c2'"#;
    fleet
        .db
        .execute(SUPERUSER, unreachable)
        .await
        .expect("it is shown");
    let deletion = stage.begin("DELETE", "", Some(&forced())).await;
    stage.cancel(&deletion).await;
    assert_eq!(stage.stands().await, failed("upgrade_abandoned"));
    let retried = stage.call("POST", &format!("{mesh}/retry"), None).await;
    assert_eq!(
        retried.body["code"], "upgrade_abandoned",
        "{}",
        retried.text
    );
    stage.begin("DELETE", "", Some(&forced())).await;
    stage.run().await;
    stage.later(3).await;
    assert_eq!(
        stage.call("GET", &path, None).await.body["state"],
        "abandoned"
    );
    assert_eq!(stage.stands().await, whole("deleted"));
    let picture = fleet.clusters.snapshot();
    let here: Vec<&str> = ours(&picture).filter(|line| !line.contains("c2")).collect();
    assert_eq!(
        here,
        Vec::<&str>::new(),
        "nothing of either revision is left where it could be removed"
    );
}

#[tokio::test]
async fn h3_a_promotion_that_a_dead_member_has_stranded_ends_with_the_forced_deletion_of_its_mesh()
{
    stranded(&[Verb::Start, Verb::Promote]).await;
}

#[tokio::test]
async fn h3_a_retirement_that_a_dead_member_has_stranded_ends_with_the_forced_deletion_of_its_mesh()
{
    stranded(&[Verb::Start, Verb::Promote, Verb::Retire]).await;
}

#[tokio::test]
async fn h3_a_running_upgrade_is_not_abandoned_by_force() {
    let stage = Stage::new().await;
    let fleet = &stage.service.fleet;
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 3600).await;
    fleet.apply_verb_and_run(upgrade, Verb::Start).await;
    let path = format!("/v1/meshes/{}", fleet.mesh);
    let refused = stage.call("DELETE", &path, Some(&forced())).await;
    assert_eq!(
        (refused.status, &refused.body["code"]),
        (StatusCode::CONFLICT, &json!("mesh_busy")),
        "{}",
        refused.text
    );
    assert_eq!(fleet.upgrade(upgrade).await.state.as_str(), "verifying");
    assert_eq!(stage.stands().await.0, "ready");
}

#[tokio::test]
async fn the_way_that_a_refused_forced_deletion_names_ends_in_the_deletion_of_the_mesh() {
    let stage = Stage::new().await;
    let fleet = &stage.service.fleet;
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 3600).await;
    fleet.apply_verb_and_run(upgrade, Verb::Start).await;
    let held = fleet.apply_verb_and_run(upgrade, Verb::Promote).await;
    assert_eq!(held.state.as_str(), "holding");
    fleet.clusters.set_unreachable("c2", true);
    let unreachable = r#"UPDATE clusters SET problem = '{"code":"cluster_unreachable","message":"m","hint":"h"}' WHERE name = 'c2'"#;
    fleet
        .db
        .execute(SUPERUSER, unreachable)
        .await
        .expect("it is shown");
    let mesh = format!("/v1/meshes/{}", fleet.mesh);
    let refused = stage.call("DELETE", &mesh, Some(&forced())).await;
    assert_eq!(refused.body["code"], "mesh_busy", "{}", refused.text);
    let hint = refused.body["hint"].as_str().expect("a hint");
    let way = format!("`meshwright upgrade rollback {upgrade}`");
    assert!(hint.contains(&way) && hint.contains("--force"), "{hint}");
    fleet
        .apply_verb(upgrade, Verb::Rollback, Value::Null)
        .await
        .expect("the verb that the hint names");
    stage.run().await;
    stage.later(3).await;
    let shown = stage
        .call("GET", &format!("/v1/upgrades/{upgrade}"), None)
        .await
        .body;
    assert_eq!(shown["state"], "paused", "{shown}");
    assert!(
        !shown["problem"]["hint"].to_string().contains("roll back"),
        "a rollback is not rolled back: {shown}"
    );
    stage.begin("DELETE", "", Some(&forced())).await;
    stage.run().await;
    stage.later(3).await;
    assert_eq!(stage.stands().await, whole("deleted"));
}

#[tokio::test]
async fn h3_force_never_leaves_a_member_behind_that_answers() {
    let stage = Stage::new().await;
    stage.begin("DELETE", "", Some(&forced())).await;
    stage.run().await;
    assert_eq!(stage.stands().await, whole("deleted"));
    let stays = left(&stage.mesh().await);
    assert!(
        stays.iter().all(|(_, name)| name.ends_with(".istio.io")),
        "definitions only: {stays:?}"
    );
    assert_eq!(ours(&stage.service.fleet.clusters.snapshot()).count(), 0);
}

#[tokio::test]
async fn h3_a_member_that_answers_again_before_the_end_is_cleaned_up_after_all() {
    let stage = Stage::new().await;
    let world = &stage.service.fleet.clusters;
    world.set_unreachable("c2", true);
    world.set_writes_refused(&Target::MeshNamespace, true);
    let deletion = stage.begin("DELETE", "", Some(&forced())).await;
    stage.run().await;
    stage.later(3).await;
    world.set_writes_refused(&Target::MeshNamespace, false);
    world.set_unreachable("c2", false);
    stage
        .call("POST", &format!("/v1/operations/{deletion}/retry"), None)
        .await;
    stage.run().await;
    assert_eq!(
        stage.operation(&deletion).await["problem"]["code"],
        "member_answers"
    );
    assert_eq!(
        stage.stands().await.0,
        "deleting",
        "it is not said to be deleted"
    );
    stage.begin("DELETE", "", Some(&forced())).await;
    stage.run().await;
    assert_eq!(stage.stands().await, whole("deleted"));
    assert_eq!(ours(&world.snapshot()).count(), 0, "{}", world.snapshot());
}

/// A service whose mesh was deleted by force without its member c2, which answers again.
async fn left_behind() -> Stage {
    let stage = Stage::new().await;
    stage.service.fleet.clusters.set_unreachable("c2", true);
    stage.begin("DELETE", "", Some(&forced())).await;
    stage.run().await;
    stage.later(3).await;
    assert_eq!(stage.stands().await, whole("deleted"));
    stage.service.fleet.clusters.set_unreachable("c2", false);
    stage
}

#[tokio::test]
async fn a_mesh_is_restored_in_a_member_that_was_left_behind_with_the_former_address() {
    let stage = left_behind().await;
    let creation = stage.begin("POST", "/undelete", None).await;
    stage.run().await;
    stage.later(3).await;
    assert_eq!(
        stage.stands().await,
        whole("ready"),
        "{}",
        stage.operation(&creation).await
    );
    assert_eq!(left(&stage.mesh().await), Vec::new());
}

#[tokio::test]
async fn a_restored_mesh_shows_its_leftovers_until_they_are_proved_to_be_gone() {
    let stage = left_behind().await;
    let stays = left(&stage.mesh().await);
    assert!(stays.iter().any(|(cluster, _)| cluster == "c2"));
    let creation = stage.begin("POST", "/undelete", None).await;
    assert_eq!(left(&stage.mesh().await), stays);
    stage.cancel(&creation).await;
    assert_eq!(left(&stage.mesh().await), stays, "nothing was removed");
    stage.begin("DELETE", "", None).await;
    stage.run().await;
    assert_eq!(stage.stands().await, whole("deleted"));
    let definitions = |(_, name): &(String, String)| name.ends_with(".istio.io");
    assert!(left(&stage.mesh().await).iter().all(definitions));
}

#[tokio::test]
async fn a_mesh_whose_forced_deletion_was_cancelled_is_built_again_in_the_member_that_came_back() {
    let stage = Stage::new().await;
    let world = &stage.service.fleet.clusters;
    let before = world.snapshot();
    world.set_unreachable("c2", true);
    world.set_writes_refused(&Target::MeshNamespace, true);
    let deletion = stage.begin("DELETE", "", Some(&forced())).await;
    stage.run().await;
    stage.later(3).await;
    world.set_writes_refused(&Target::MeshNamespace, false);
    world.set_unreachable("c2", false);
    let path = format!("/v1/operations/{deletion}/retry");
    stage.call("POST", &path, None).await;
    stage.run().await;
    let paused = stage.operation(&deletion).await;
    assert_eq!(paused["problem"]["code"], "member_answers");
    stage.cancel(&deletion).await;
    let creation = stage.begin("POST", "/retry", None).await;
    stage.run().await;
    stage.later(3).await;
    assert_eq!(
        stage.stands().await,
        whole("ready"),
        "{}",
        stage.operation(&creation).await
    );
    assert_eq!(world.snapshot(), before);
}

#[tokio::test]
async fn force_needs_a_reason_and_a_reason_needs_force() {
    let stage = Stage::new().await;
    let path = format!("/v1/meshes/{}", stage.service.fleet.mesh);
    for body in [
        json!({ "force": true }),
        json!({ "force": true, "reason": "  " }),
        json!({ "force": true, "reason": "two\nlines" }),
        json!({ "force": true, "reason": "x".repeat(501) }),
        json!({ "reason": "the region is gone" }),
    ] {
        let refused = stage.call("DELETE", &path, Some(&body)).await;
        assert_eq!(
            refused.status,
            StatusCode::UNPROCESSABLE_ENTITY,
            "{body}: {}",
            refused.text
        );
    }
    assert_eq!(stage.stands().await, whole("ready"));
}

#[tokio::test]
async fn d6_what_istiod_wrote_into_every_namespace_goes_with_the_mesh() {
    let stage = Stage::new().await;
    let world = &stage.service.fleet.clusters;
    assert!(
        world
            .snapshot()
            .contains("root certificates in the namespaces of c1")
    );
    stage.begin("DELETE", "", None).await;
    stage.run().await;
    assert!(
        !world.snapshot().contains("root certificates"),
        "{}",
        world.snapshot()
    );
}
