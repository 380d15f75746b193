//! What the service shows of a data plane, and how namespaces join a mesh.

use std::time::Duration;

use axum::http::StatusCode;
use meshwright_model::access::Role;
use meshwright_model::operation::OperationKind;
use meshwright_model::plan::Target;
use meshwright_model::rules::Strategy;
use meshwright_model::upgrade::{LabelPolicy, Verb};
use meshwright_testkit::Fleet;
use serde_json::{Value, json};

use crate::support::{Reply, Service};

struct Stage {
    service: Service,
    owner: String,
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

    async fn call(&self, method: &str, path: &str, body: &Value) -> Reply {
        self.service
            .call(
                method,
                path,
                Some(&self.owner),
                &[("If-Match", "*")],
                Some(body),
            )
            .await
    }

    async fn inject(&self, namespace: &str, label: Option<&str>) -> Reply {
        let body = json!({ "cluster": "c1", "namespace": namespace, "label": label });
        self.call(
            "POST",
            &format!("/v1/meshes/{}/injection", self.fleet().mesh),
            &body,
        )
        .await
    }

    /// The data plane after a fresh look.
    async fn seen(&self) -> Value {
        let engine = self
            .fleet()
            .build_worker("observer", Duration::from_secs(30));
        // A look makes the next one due only later.
        self.fleet()
            .db
            .execute("mw_worker", "UPDATE probes SET due_at = now()")
            .await
            .expect("due probes");
        assert!(
            engine.observe_due().await.expect("a readable queue"),
            "the mesh is due"
        );
        self.call(
            "GET",
            &format!("/v1/meshes/{}/data-plane", self.fleet().mesh),
            &json!({}),
        )
        .await
        .body
    }

    /// The time of every operation has come.
    async fn hurry(&self) {
        self.fleet()
            .db
            .execute("mw_worker", "UPDATE work_queue SET due_at = now()")
            .await
            .expect("due operations");
        self.fleet().run_due().await;
    }

    async fn workload(&self, name: &str) -> Value {
        let seen = self.seen().await;
        let all = seen["workloads"].as_array().expect("workloads").clone();
        all.into_iter()
            .find(|one| one["name"] == name && one["cluster"] == "c1")
            .expect(name)
    }

    fn label(&self, namespace: &str) -> String {
        let picture = self.fleet().clusters.snapshot();
        let line = picture
            .lines()
            .find(|line| line.starts_with(&format!("label of namespace {namespace} in c1 = ")));
        line.and_then(|line| line.split_once(" = "))
            .map(|(_, value)| value.to_owned())
            .unwrap_or_default()
    }
}

fn tag(name: &str) -> Target {
    Target::Tag {
        member: "c1".parse().expect("a name"),
        tag: name.into(),
    }
}

#[tokio::test]
async fn d1_a_workload_that_was_not_restarted_after_an_upgrade_in_place_needs_a_restart() {
    let stage = Stage::new().await;
    let fleet = stage.fleet();
    let canary = fleet.plan_upgrade("1.27.8.1", Strategy::Canary, 0).await;
    fleet.apply_verb_and_run(canary, Verb::Start).await;
    fleet.apply_verb_and_run(canary, Verb::Promote).await;
    let name = "stable/deployment/web";
    assert_eq!(stage.workload(name).await["restart_needed"], json!(false));
    let patch = fleet.plan_upgrade("1.27.9.1", Strategy::InPlace, 0).await;
    assert_eq!(
        stage.workload(name).await["restart_needed"],
        json!(false),
        "a plan alone changes nothing"
    );
    let written = fleet.clusters.journal().len();
    let asked = stage
        .call(
            "POST",
            &format!("/v1/meshes/{}/restarts", fleet.mesh),
            &json!({}),
        )
        .await;
    assert_eq!(asked.status, StatusCode::ACCEPTED, "{}", asked.text);
    fleet.run_due().await;
    assert_eq!(
        fleet.clusters.journal().len(),
        written,
        "what is only planned restarts nothing"
    );
    fleet.apply_verb_and_run(patch, Verb::Start).await;
    // The workload was left behind: its pods are of the time before.
    fleet
        .clusters
        .set_sidecars("c1", "stable", "1-27-8", "lab/proxyv2:1.27.8");
    let shown = stage.workload(name).await;
    assert_eq!(
        (
            &shown["restart_needed"],
            &shown["restart_reason"],
            &shown["images"],
            &shown["wanted"]
        ),
        (
            &json!(true),
            &json!("image"),
            &json!(["lab/proxyv2:1.27.8"]),
            &json!("1-27-8")
        ),
    );
}

#[tokio::test]
async fn findings_stay_readable_after_they_were_accepted() {
    let stage = Stage::new().await;
    stage
        .fleet()
        .clusters
        .add_workload("c1", "lost", Some("istio.io/rev=gone"), 1);
    let upgrade = stage
        .fleet()
        .plan_upgrade("1.27.9.1", Strategy::Canary, 3600)
        .await;
    let path = format!("/v1/upgrades/{upgrade}");
    stage.fleet().apply_verb_and_run(upgrade, Verb::Start).await;
    let blocked = stage.call("GET", &path, &json!({})).await.body;
    assert_eq!(
        (&blocked["state"], &blocked["findings_accepted_by"]),
        (&json!("blocked"), &Value::Null)
    );
    let accepted = stage
        .call("POST", &format!("{path}/acknowledge"), &json!({}))
        .await;
    assert_eq!(accepted.status, StatusCode::ACCEPTED, "{}", accepted.text);
    stage.fleet().run_due().await;
    let after = stage.call("GET", &path, &json!({})).await.body;
    assert_eq!(after["state"], json!("verifying"));
    assert_eq!(after["findings"], blocked["findings"]);
    assert_eq!(after["findings"][0]["code"], json!("no_such_revision"));
    let by = after["findings_accepted_by"].as_str().expect("a name");
    assert!(by.starts_with("key"), "{by}");
    assert!(after["findings_accepted_at"].is_string());
}

#[tokio::test]
async fn b4_setting_the_label_that_is_there_takes_a_second_one_off() {
    let stage = Stage::new().await;
    let both = "istio.io/rev=stable,istio-injection=enabled";
    stage
        .fleet()
        .clusters
        .add_workload("c1", "torn", Some(both), 1);
    assert_eq!(stage.label("torn"), both);
    let asked = stage.inject("torn", Some("istio.io/rev=stable")).await;
    assert_eq!(asked.status, StatusCode::ACCEPTED, "{}", asked.text);
    stage.fleet().run_due().await;
    assert_eq!(stage.label("torn"), "istio.io/rev=stable");
}

#[tokio::test]
async fn b4_a_namespace_can_ask_for_an_alias() {
    let mut stage = Stage::new().await;
    stage.service.fleet.labels = LabelPolicy::Alias;
    let upgrade = stage
        .fleet()
        .plan_upgrade("1.27.9.1", Strategy::Canary, 0)
        .await;
    stage.fleet().apply_verb_and_run(upgrade, Verb::Start).await;
    stage
        .fleet()
        .apply_verb_and_run(upgrade, Verb::Promote)
        .await;
    stage.seen().await;
    let asked = stage.inject("plain", Some("istio.io/rev=1-25-1")).await;
    assert_eq!(asked.status, StatusCode::ACCEPTED, "{}", asked.text);
    stage.fleet().run_due().await;
    let refused = stage.inject("plain", Some("istio.io/rev=1-28-0")).await;
    assert_eq!(
        refused.body["errors"][0]["pointer"],
        json!("/label"),
        "{}",
        refused.text
    );
    assert!(
        refused.text.contains("istio.io/rev=1-25-1"),
        "the answer names what there is: {}",
        refused.text
    );
}

#[tokio::test]
async fn the_namespace_of_the_mesh_gets_no_injection_label() {
    let stage = Stage::new().await;
    let mesh = stage.fleet().mesh.to_string();
    let path = format!("/v1/meshes/{mesh}");
    let shown = stage.call("GET", &path, &json!({})).await;
    let name = shown.body["name"].as_str().expect("a name");
    let own = format!("{name}-{}", &mesh[mesh.len() - 8..]);
    let refused = stage.inject(&own, Some("istio.io/rev=stable")).await;
    assert_eq!(
        refused.body["errors"][0]["pointer"],
        json!("/namespace"),
        "{}",
        refused.text
    );
}

#[tokio::test]
async fn namespaces_join_while_an_upgrade_is_planned_or_complete() {
    let stage = Stage::new().await;
    let fleet = stage.fleet();
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 3600).await;
    let joined = stage.inject("plain", Some("istio-injection=enabled")).await;
    assert_eq!(joined.status, StatusCode::ACCEPTED, "{}", joined.text);
    let second = stage.inject("another", None).await;
    assert_eq!(
        second.body["code"],
        json!("mesh_busy"),
        "one at a time: {}",
        second.text
    );
    let operation = joined.body["id"].as_str().expect("an id").to_owned();
    let refused = fleet
        .apply_verb(upgrade, Verb::Start, Value::Null)
        .await
        .expect_err("the label is being set");
    assert!(
        matches!(&refused, meshwright_store::StoreError::MeshLocked { holder } if *holder == operation),
        "{refused:?}"
    );
    fleet.run_due().await;
    assert_eq!(stage.label("plain"), "istio-injection=enabled");
    fleet.apply_verb_and_run(upgrade, Verb::Start).await;
    let refused = stage.inject("plain", None).await;
    assert_eq!(
        refused.body["code"],
        json!("mesh_busy"),
        "both control planes are on their way: {}",
        refused.text
    );
    fleet.apply_verb_and_run(upgrade, Verb::Promote).await;
    fleet.clusters.add_workload("c1", "late", None, 1);
    stage.seen().await;
    let holding = stage.inject("late", Some("istio.io/rev=stable")).await;
    assert_eq!(holding.status, StatusCode::ACCEPTED, "{}", holding.text);
    fleet.run_due().await;
    assert_eq!(stage.label("late"), "istio.io/rev=stable");
    stage.seen().await;
    let refused = stage.inject("plain", None).await;
    assert_eq!(
        refused.body["code"],
        json!("mesh_busy"),
        "the upgrade has moved it: {}",
        refused.text
    );
    assert_eq!(
        fleet
            .apply_verb_and_run(upgrade, Verb::Rollback)
            .await
            .state
            .as_str(),
        "rolled_back"
    );
}

#[tokio::test]
async fn a_retirement_whose_time_has_come_waits_for_a_namespace_that_is_joining() {
    let stage = Stage::new().await;
    let fleet = stage.fleet();
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 3600).await;
    fleet.apply_verb_and_run(upgrade, Verb::Start).await;
    fleet
        .apply_verb(upgrade, Verb::Promote, Value::Null)
        .await
        .expect("promote fits");
    fleet.run_due().await;
    assert_eq!(fleet.upgrade(upgrade).await.state.as_str(), "holding");
    fleet.clusters.set_unreachable("c1", true);
    let joining = stage.inject("plain", Some("istio-injection=enabled")).await;
    assert_eq!(joining.status, StatusCode::ACCEPTED, "{}", joining.text);
    stage.hurry().await;
    assert_eq!(fleet.upgrade(upgrade).await.state.as_str(), "holding");
    fleet.clusters.set_unreachable("c1", false);
    stage.hurry().await;
    stage.hurry().await;
    assert_eq!(fleet.upgrade(upgrade).await.state.as_str(), "succeeded");
}

#[tokio::test]
async fn a_tag_that_was_removed_is_told_shown_and_put_back_by_a_restart() {
    let stage = Stage::new().await;
    assert_eq!(stage.seen().await["missing_tags"], json!([]));
    stage
        .fleet()
        .clusters
        .change_externally(tag("default"), None);
    assert_eq!(
        stage.seen().await["missing_tags"],
        json!([{ "cluster": "c1", "tag": "default" }])
    );
    stage.seen().await;
    let events = stage.call("GET", "/v1/events", &json!({})).await.body;
    let told: Vec<&Value> = events["items"]
        .as_array()
        .expect("events")
        .iter()
        .filter(|one| one["kind"] == "mesh.tags_removed")
        .collect();
    assert_eq!(told.len(), 1, "each removal is told once");
    assert_eq!(
        told[0]["body"]["tags"],
        json!([{ "cluster": "c1", "tag": "default" }])
    );
    stage
        .fleet()
        .queue_operation(OperationKind::Restart, Value::Null)
        .await;
    stage.fleet().run_due().await;
    assert!(
        stage
            .fleet()
            .clusters
            .snapshot()
            .contains("tag default in c1 = 1-25-1")
    );
    assert_eq!(stage.seen().await["missing_tags"], json!([]));
}
