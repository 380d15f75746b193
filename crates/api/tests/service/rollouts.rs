//! Roll-outs: their plan before anything moves, their progress, and one workload at a time.

use std::time::Duration;

use axum::http::StatusCode;
use meshwright_model::access::Role;
use meshwright_model::ids::{MeshId, OperationId, UpgradeId};
use meshwright_model::operation::OperationKind;
use meshwright_model::plan::{WorkloadKind, WorkloadRef};
use meshwright_model::rules::Strategy;
use meshwright_model::upgrade::Verb;
use meshwright_testkit::Fleet;
use meshwright_testkit::world::RolloutBehaviour;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Reply, Service};

/// A service with one mesh, and its owner's key.
struct Stage {
    service: Service,
    owner: String,
}

fn web(namespace: &str) -> WorkloadRef {
    WorkloadRef {
        namespace: namespace.into(),
        kind: WorkloadKind::Deployment,
        name: "web".into(),
    }
}

impl Stage {
    async fn new() -> Self {
        let service = Service::new().await;
        let owner = service.key(Role::Owner).await;
        Self { service, owner }
    }

    fn fleet(&self) -> &Fleet {
        &self.service.fleet
    }

    /// Calls below the mesh.
    async fn call(&self, method: &str, below: &str, body: Option<&Value>) -> Reply {
        let path = format!("/v1/meshes/{}{below}", self.fleet().mesh);
        self.service
            .call(method, &path, Some(&self.owner), &[], body)
            .await
    }

    async fn get(&self, below: &str) -> Value {
        let reply = self.call("GET", below, None).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        reply.body
    }

    /// Gives the pods of a namespace a sidecar that is outdated.
    fn outdate(&self, member: &str, namespace: &str) {
        let image = "lab/proxyv2:1.24.1";
        self.fleet()
            .clusters
            .set_sidecars(member, namespace, "1-24-1", image);
    }

    fn set_behaviour(&self, member: &str, namespace: &str, behaviour: RolloutBehaviour) {
        self.fleet()
            .clusters
            .set_rollout_behaviour(member, &web(namespace), behaviour);
    }

    async fn observe(&self) {
        let engine = self
            .fleet()
            .build_worker("observer", Duration::from_secs(30));
        self.fleet()
            .db
            .execute("mw_worker", "UPDATE probes SET due_at = now()")
            .await
            .expect("due probes");
        assert!(engine.observe_due().await.expect("a readable queue"));
    }

    /// Starts a roll-out, and runs it to its end or to its pause.
    async fn roll(&self, policy: &Value) -> String {
        let started = self.call("POST", "/rollouts", Some(policy)).await;
        assert_eq!(started.status, StatusCode::ACCEPTED, "{}", started.text);
        let id = started.body["id"].as_str().expect("an id").to_owned();
        let location = started.headers["location"].to_str().expect("text");
        let mesh = self.fleet().mesh;
        assert_eq!(location, format!("/v1/meshes/{mesh}/rollouts/{id}"));
        self.fleet().run_due().await;
        id
    }

    /// Restarts two workloads of which one never becomes ready.
    async fn partial(&self) -> String {
        self.outdate("c1", "stable");
        self.outdate("c2", "stable");
        self.set_behaviour("c2", "stable", RolloutBehaviour::NeverReady);
        let id = self.roll(&json!({})).await;
        let shown = self.shown(&id).await;
        assert_eq!(shown["state"], "paused", "{shown}");
        assert_eq!(shown["problem"]["code"], "rollout_partial", "{shown}");
        id
    }

    async fn ask(&self, rollout: &str, verb: &str, item: Option<i64>) -> Reply {
        let body = item.map_or_else(|| json!({}), |item| json!({ "item": item }));
        let path = format!("/rollouts/{rollout}/{verb}");
        self.call("POST", &path, Some(&body)).await
    }

    /// Returns the roll-out. Its counts must agree with the list of its items.
    async fn shown(&self, rollout: &str) -> Value {
        let shown = self.get(&format!("/rollouts/{rollout}")).await;
        for (state, count) in shown["counts"].as_object().expect("counts") {
            let listed = self.numbers(rollout, &format!("state={state}")).await;
            assert_eq!(*count, json!(listed.len()), "{state}: {shown}");
        }
        shown
    }

    /// Returns the numbers of the items that pass a filter.
    async fn numbers(&self, rollout: &str, filter: &str) -> Vec<i64> {
        let list = self
            .get(&format!("/rollouts/{rollout}/items?{filter}"))
            .await;
        let items = list["items"].as_array().expect("items");
        let numbers = items.iter().map(|item| item["number"].as_i64());
        numbers.collect::<Option<_>>().expect("numbers")
    }
}

fn refusal(reply: &Reply) -> (StatusCode, &Value, &Value) {
    (
        reply.status,
        &reply.body["code"],
        &reply.body["errors"][0]["pointer"],
    )
}

/// Policies that are refused, each with the place of the field that is wrong.
fn refused_policies() -> Vec<(Value, &'static str)> {
    let workload = |cluster: &str, kind: &str, namespace: &str, name: &str| {
        json!({ "waves": [{ "workloads": [
        { "cluster": cluster, "kind": kind, "namespace": namespace, "name": name }
    ] }] })
    };
    vec![
        (json!({ "max_concurrent": 0 }), "/max_concurrent"),
        (
            json!({ "max_concurrent_per_cluster": 10_001 }),
            "/max_concurrent_per_cluster",
        ),
        (
            json!({ "max_concurrent_per_namespace": 0 }),
            "/max_concurrent_per_namespace",
        ),
        (json!({ "max_failures": 0 }), "/max_failures"),
        (json!({ "on_failure": "hope" }), "/on_failure"),
        (
            json!({ "waves": vec![json!({ "percent": 1 }); 21] }),
            "/waves",
        ),
        (json!({ "waves": [{}] }), "/waves/0"),
        (json!({ "waves": [{ "soak_seconds": 60 }] }), "/waves/0"),
        (json!({ "waves": [{ "percent": 101 }] }), "/waves/0/percent"),
        (json!({ "waves": [{ "percent": 0 }] }), "/waves/0/percent"),
        (
            json!({ "waves": [{ "percent": 5, "soak_seconds": 604_801 }] }),
            "/waves/0/soak_seconds",
        ),
        (
            json!({ "waves": [{ "percent": 5 }, { "clusters": ["c1", "c9"] }] }),
            "/waves/1/clusters/1",
        ),
        (
            json!({ "waves": [{ "namespaces": ["shop", "No/Name"] }] }),
            "/waves/0/namespaces/1",
        ),
        (
            json!({ "waves": [{ "namespaces": vec!["shop"; 501] }] }),
            "/waves/0/namespaces",
        ),
        (
            workload("c9", "deployment", "shop", "web"),
            "/waves/0/workloads/0/cluster",
        ),
        (
            workload("c1", "cron_job", "shop", "web"),
            "/waves/0/workloads/0/kind",
        ),
        (
            workload("c1", "deployment", "", "web"),
            "/waves/0/workloads/0/namespace",
        ),
        (
            workload("c1", "deployment", "shop", "../web"),
            "/waves/0/workloads/0/name",
        ),
    ]
}

#[tokio::test]
async fn a_policy_out_of_its_limits_is_refused_by_the_name_of_the_field() {
    let stage = Stage::new().await;
    for (policy, pointer) in &refused_policies() {
        let reply = stage.call("POST", "/rollouts", Some(policy)).await;
        let expected = (
            StatusCode::UNPROCESSABLE_ENTITY,
            &json!("invalid_field"),
            &json!(pointer),
        );
        assert_eq!(refusal(&reply), expected, "{policy}: {}", reply.text);
        let upgrade = json!({ "version": "1.27.9.1", "strategy": "canary", "rollout": policy });
        let reply = stage.call("POST", "/upgrades", Some(&upgrade)).await;
        let below = json!(format!("/rollout{pointer}"));
        assert_eq!(reply.body["errors"][0]["pointer"], below, "{}", reply.text);
    }
    for unreadable in [
        json!({ "waves": {} }),
        json!({ "waves": [[]] }),
        json!({ "waves": [{ "percent": 5, "size": 3 }] }),
        json!({ "max_concurrent": "5" }),
        json!({ "max_concurrent": 1.5 }),
        json!({ "width": 5 }),
    ] {
        let reply = stage.call("POST", "/rollouts", Some(&unreadable)).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{unreadable}");
    }
    assert_eq!(stage.get("/rollouts").await["items"], json!([]));
}

#[tokio::test]
async fn d3_the_plan_is_shown_before_anything_moves_and_changes_nothing() {
    let stage = Stage::new().await;
    stage.outdate("c1", "stable");
    stage.outdate("c2", "stable");
    stage.observe().await;
    let policy =
        json!({ "waves": [{ "clusters": ["c2"], "soak_seconds": 60.0 }], "max_concurrent": 5 });
    let reply = stage
        .call("POST", "/rollouts?validate_only=true", Some(&policy))
        .await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    assert_eq!(reply.headers["meshwright-validated-only"], "true");
    let forecast = &reply.body["forecast"];
    assert!(forecast["observed_at"].is_string(), "{forecast}");
    let waves: Vec<(&Value, &Value)> = forecast["waves"]
        .as_array()
        .expect("waves")
        .iter()
        .map(|wave| (&wave["restarts"], &wave["soak_seconds"]))
        .collect();
    assert_eq!(
        waves,
        [(&json!(1), &json!(60)), (&json!(1), &json!(0))],
        "{forecast}"
    );
    let restarts: Vec<(&Value, &Value, &Value)> = forecast["workloads"]
        .as_array()
        .expect("workloads")
        .iter()
        .filter(|workload| workload["action"] == "restart")
        .map(|workload| {
            (
                &workload["cluster"],
                &workload["name"],
                &workload["reason"]["code"],
            )
        })
        .collect();
    let (name, code) = (json!("web"), json!("revision"));
    assert_eq!(
        restarts,
        [(&json!("c2"), &name, &code), (&json!("c1"), &name, &code)]
    );
    assert_eq!(stage.get("/rollouts").await["items"], json!([]));
    assert_eq!(stage.get("").await["busy_with"], Value::Null);
}

#[tokio::test]
async fn a_roll_out_shows_its_policy_its_counts_and_its_workloads() {
    let stage = Stage::new().await;
    stage.outdate("c1", "stable");
    stage.outdate("c2", "enabled");
    let policy = json!({ "max_concurrent": 5, "max_failures": 2, "on_failure": "continue" });
    let id = stage.roll(&policy).await;
    let shown = stage.get(&format!("/rollouts/{id}?wait_seconds=1")).await;
    assert_eq!(shown["state"], "succeeded", "{shown}");
    assert_eq!(
        (&shown["counts"]["done"], &shown["forecast"]),
        (&json!(2), &Value::Null),
        "{shown}"
    );
    assert_eq!(shown["waves"][0]["counts"]["done"], json!(2), "{shown}");
    assert_eq!(
        (
            &shown["policy"]["max_failures"],
            &shown["policy"]["on_failure"]
        ),
        (&json!(2), &json!("continue"))
    );
    let first = stage
        .get(&format!("/rollouts/{id}/items?page_size=1"))
        .await;
    let item = &first["items"][0];
    assert_eq!(
        (
            &item["state"],
            &item["action"],
            &item["attempts"],
            &item["wave"]
        ),
        (&json!("done"), &json!("restart"), &json!(1), &json!(1))
    );
    assert!(item["started_at"].is_string() && item["ended_at"].is_string());
    let token = first["next_page_token"].as_str().expect("another page");
    let second = stage
        .get(&format!(
            "/rollouts/{id}/items?page_size=1&page_token={token}"
        ))
        .await;
    assert_ne!(second["items"][0]["number"], item["number"]);
    assert!(second.get("next_page_token").is_none());
    for (filter, count) in [
        ("", 2),
        ("cluster=c1", 1),
        ("namespace=enabled", 1),
        ("namespace=enabled&cluster=c1", 0),
        ("kind=deployment&name=web", 2),
        ("kind=pod", 0),
        ("state=done", 2),
        ("state=failed", 0),
    ] {
        assert_eq!(stage.numbers(&id, filter).await.len(), count, "{filter}");
    }
    for (wrong, status) in [
        ("state=sleeping", StatusCode::UNPROCESSABLE_ENTITY),
        ("kind=job", StatusCode::UNPROCESSABLE_ENTITY),
        ("page_size=0", StatusCode::UNPROCESSABLE_ENTITY),
        ("page_token=x", StatusCode::UNPROCESSABLE_ENTITY),
        ("colour=red", StatusCode::BAD_REQUEST),
    ] {
        let path = format!("/rollouts/{id}/items?{wrong}");
        let reply = stage.call("GET", &path, None).await;
        assert_eq!(reply.status, status, "{wrong}: {}", reply.text);
    }
    let ended = stage.ask(&id, "pause", None).await;
    assert_eq!(ended.body["code"], "operation_ended", "{}", ended.text);
}

#[tokio::test]
async fn the_list_of_roll_outs_has_those_of_the_mesh_newest_first() {
    let stage = Stage::new().await;
    stage
        .fleet()
        .queue_operation(
            OperationKind::SetInjection,
            json!({ "member": "c1", "namespace": "plain", "label": null }),
        )
        .await;
    stage.fleet().run_due().await;
    let mut started = Vec::new();
    for _ in 0..3 {
        started.insert(0, stage.roll(&json!({})).await);
    }
    let list = stage.get("/rollouts?page_size=2").await;
    let ids = |list: &Value| {
        let items = list["items"].as_array().expect("items").clone();
        items
            .iter()
            .map(|item| item["id"].as_str().expect("an id").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&list), started[..2]);
    let token = list["next_page_token"].as_str().expect("another page");
    let rest = stage
        .get(&format!("/rollouts?page_size=2&page_token={token}"))
        .await;
    assert_eq!(ids(&rest), started[2..]);
}

#[tokio::test]
async fn d2_one_workload_is_tried_again_or_skipped_alone() {
    let stage = Stage::new().await;
    let id = stage.partial().await;
    let done = stage.numbers(&id, "state=done").await;
    let failed = stage.numbers(&id, "state=failed").await;
    assert_eq!((done.len(), failed.len()), (1, 1));
    for (verb, item, status, code) in [
        ("retry", 9999, StatusCode::NOT_FOUND, "not_found"),
        ("retry", 4_000_000_000, StatusCode::NOT_FOUND, "not_found"),
        ("retry", done[0], StatusCode::CONFLICT, "invalid_transition"),
        ("skip", done[0], StatusCode::CONFLICT, "invalid_transition"),
        (
            "pause",
            failed[0],
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid_field",
        ),
        ("retry", -1, StatusCode::BAD_REQUEST, "malformed_body"),
    ] {
        let reply = stage.ask(&id, verb, Some(item)).await;
        let answer = (reply.status, reply.body["code"].as_str());
        assert_eq!(answer, (status, Some(code)), "{verb} {item}");
    }
    let retried = stage.ask(&id, "retry", Some(failed[0])).await;
    assert_eq!(retried.status, StatusCode::ACCEPTED, "{}", retried.text);
    assert_eq!(retried.body["pending_verbs"], json!(["retry"]));
    stage.fleet().run_due().await;
    let list = stage
        .get(&format!("/rollouts/{id}/items?state=failed"))
        .await;
    assert_eq!(list["items"][0]["attempts"], json!(2), "{list}");
    let skipped = stage.ask(&id, "skip", Some(failed[0])).await;
    assert_eq!(skipped.status, StatusCode::ACCEPTED, "{}", skipped.text);
    stage.fleet().run_due().await;
    let shown = stage.shown(&id).await;
    assert_eq!(shown["state"], "succeeded", "{shown}");
    assert_eq!(
        (&shown["counts"]["done"], &shown["counts"]["skipped"]),
        (&json!(1), &json!(1))
    );
    let ended = stage.ask(&id, "skip", Some(failed[0])).await;
    assert_eq!(ended.body["code"], "operation_ended", "{}", ended.text);
}

#[tokio::test]
async fn a_person_who_paused_a_roll_out_resumes_it_before_one_workload_is_asked_for() {
    let stage = Stage::new().await;
    let id = stage.partial().await;
    let failed = stage.numbers(&id, "state=failed").await[0];
    assert_eq!(
        stage.ask(&id, "retry", None).await.status,
        StatusCode::ACCEPTED
    );
    assert_eq!(
        stage.ask(&id, "pause", None).await.status,
        StatusCode::ACCEPTED
    );
    stage.fleet().run_due().await;
    let shown = stage.shown(&id).await;
    assert_eq!(shown["problem"]["code"], "paused_by_user", "{shown}");
    let refused = stage.ask(&id, "skip", Some(failed)).await;
    assert_eq!(refused.body["code"], "invalid_transition");
    let hint = refused.body["hint"].as_str().expect("a hint");
    assert!(hint.contains("Resume it first"), "{hint}");
}

/// Promotes a canary whose workload `stable/web` in c2 never becomes ready.
async fn promoted(stage: &Stage) -> (UpgradeId, String) {
    let body =
        json!({ "version": "1.27.9.1", "strategy": "canary", "rollout": { "max_failures": 7 } });
    let planned = stage.call("POST", "/upgrades", Some(&body)).await;
    assert_eq!(planned.status, StatusCode::CREATED, "{}", planned.text);
    assert_eq!(planned.body["rollout"]["max_failures"], json!(7));
    let upgrade: UpgradeId = planned.body["id"]
        .as_str()
        .expect("an id")
        .parse()
        .expect("an id");
    let fleet = stage.fleet();
    fleet.apply_verb_and_run(upgrade, Verb::Start).await;
    stage.set_behaviour("c2", "stable", RolloutBehaviour::NeverReady);
    let promoted = fleet.apply_verb_and_run(upgrade, Verb::Promote).await;
    assert_eq!(promoted.state.as_str(), "paused", "{promoted:?}");
    let roll = promoted.operation.expect("a stage");
    (upgrade, roll.to_string())
}

#[tokio::test]
async fn d2_a_stage_of_an_upgrade_is_a_roll_out_whose_verbs_go_to_the_upgrade() {
    let stage = Stage::new().await;
    let (upgrade, id) = promoted(&stage).await;
    let shown = stage.shown(&id).await;
    assert_eq!(
        (
            &shown["kind"],
            &shown["upgrade_id"],
            &shown["policy"]["max_failures"]
        ),
        (&json!("roll"), &json!(upgrade.to_string()), &json!(7)),
        "{shown}"
    );
    let failed = stage.numbers(&id, "state=failed").await;
    assert_eq!(failed.len(), 1);
    let skip = stage.ask(&id, "skip", Some(failed[0])).await;
    assert_eq!(skip.status, StatusCode::ACCEPTED, "{}", skip.text);
    assert_eq!(
        stage.fleet().upgrade(upgrade).await.state.as_str(),
        "rolling"
    );
    stage.fleet().run_due().await;
    assert_eq!(
        stage.fleet().upgrade(upgrade).await.state.as_str(),
        "holding"
    );
    let late = stage.ask(&id, "retry", None).await;
    assert_eq!(late.body["code"], "operation_ended", "{}", late.text);
}

#[tokio::test]
async fn d2_a_verb_without_an_item_is_the_verb_of_the_upgrade() {
    let stage = Stage::new().await;
    let (upgrade, id) = promoted(&stage).await;
    let refused = stage.ask(&id, "resume", Some(1)).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    let refused = stage.ask(&id, "cancel", None).await;
    assert_eq!(
        refused.body["code"], "invalid_transition",
        "{}",
        refused.text
    );
    let skip = stage.ask(&id, "skip", None).await;
    assert_eq!(skip.status, StatusCode::ACCEPTED, "{}", skip.text);
    stage.fleet().run_due().await;
    assert_eq!(
        stage.fleet().upgrade(upgrade).await.state.as_str(),
        "holding"
    );
}

#[tokio::test]
async fn what_is_no_roll_out_of_the_mesh_is_not_found() {
    let stage = Stage::new().await;
    let id = stage.roll(&json!({})).await;
    let other = stage
        .fleet()
        .queue_operation(
            OperationKind::SetInjection,
            json!({ "member": "c1", "namespace": "plain", "label": null }),
        )
        .await
        .to_string();
    let unknown = OperationId(Uuid::from_u128(77)).to_string();
    for wrong in [other.as_str(), unknown.as_str(), "op_x", "x"] {
        for below in ["", "/items"] {
            let path = format!("/rollouts/{wrong}{below}");
            let reply = stage.call("GET", &path, None).await;
            assert_eq!(reply.status, StatusCode::NOT_FOUND, "{path}");
        }
        let reply = stage.ask(wrong, "pause", None).await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{wrong}");
    }
    let verb = stage.ask(&id, "explode", None).await;
    assert_eq!(verb.status, StatusCode::NOT_FOUND);
    let elsewhere = format!("/v1/meshes/{}/rollouts/{id}", MeshId(Uuid::from_u128(5)));
    let reply = stage
        .service
        .call("GET", &elsewhere, Some(&stage.owner), &[], None)
        .await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_viewer_sees_roll_outs_and_asks_nothing_of_them() {
    let stage = Stage::new().await;
    let id = stage.roll(&json!({})).await;
    let viewer = stage.service.key(Role::Viewer).await;
    let mesh = stage.fleet().mesh;
    let call = async |method: &str, below: &str| {
        let path = format!("/v1/meshes/{mesh}/rollouts{below}");
        let service = &stage.service;
        service.call(method, &path, Some(&viewer), &[], None).await
    };
    assert_eq!(call("GET", "").await.status, StatusCode::OK);
    assert_eq!(
        call("GET", &format!("/{id}/items")).await.status,
        StatusCode::OK
    );
    for (method, below) in [("POST", String::new()), ("POST", format!("/{id}/retry"))] {
        let reply = call(method, &below).await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN, "{below}");
    }
    let upgrade = stage
        .fleet()
        .plan_upgrade("1.27.9.1", Strategy::Canary, 0)
        .await;
    assert!(
        stage
            .fleet()
            .upgrade(upgrade)
            .await
            .rollout
            .waves
            .is_empty()
    );
}
