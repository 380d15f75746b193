//! The command line against a service whose answers a test writes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// Runs a command against a service that gives these answers in this order, and returns what came of it and what was asked.
fn run(arguments: &[&str], answers: &[Value]) -> (Output, Vec<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (seen, answers) = (asked.clone(), answers.to_vec());
    // The thread ends with the last answer, or with the test's process.
    std::thread::spawn(move || {
        for answer in answers {
            let (stream, _) = listener.accept().expect("a connection");
            seen.lock()
                .expect("no panic")
                .push(answered(stream, &answer));
        }
    });
    let output = Command::new(env!("CARGO_BIN_EXE_meshwright"))
        .args([
            "--server",
            &format!("http://{address}"),
            "--key-file",
            "/dev/null",
        ])
        .args(arguments)
        .env("HOME", env!("CARGO_TARGET_TMPDIR"))
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    let asked = asked.lock().expect("no panic").clone();
    (output, asked)
}

/// Answers one request, and returns its method and path.
fn answered(stream: std::net::TcpStream, answer: &Value) -> String {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).expect("a request");
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a header");
        if let Some(said) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = said.trim().parse().expect("a number");
        }
        if line.trim().is_empty() {
            break;
        }
    }
    reader.read_exact(&mut vec![0; length]).expect("a body");
    let body = answer.to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}",
        body.len()
    );
    write!(
        reader.get_mut(),
        "{head}\r\nConnection: close\r\n\r\n{body}"
    )
    .expect("an answer");
    first.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn problem() -> Value {
    json!({ "code": "cluster_unreachable", "message": "c1 does not answer.", "hint": "Bring the cluster back." })
}

fn operation(state: &str, pending: &[&str]) -> Value {
    json!({
        "id": "op_1", "kind": "restart", "state": state, "done": state == "succeeded", "pending_verbs": pending,
        "problem": (state == "paused").then(problem), "mesh_id": null, "cluster_id": null, "upgrade_id": null,
        "progress": { "completed": 0, "total": 1 }, "waiting_for": "c1 to answer", "reason": null, "leftovers": [],
        "waves": [{ "title": "c1", "steps": [{ "number": 1, "title": "restart", "state": "pending", "problem": null }] }],
        "created_at": "2026-01-01T00:00:00Z", "ended_at": null,
    })
}

fn upgrade() -> Value {
    json!({
        "id": "upgrade_1", "mesh_id": "mesh_1", "from_version": "1.25.1.1", "to_version": "1.27.9.1",
        "strategy": "canary", "state": "paused", "allowed_verbs": ["retry"], "findings": [], "problem": problem(),
        "holding_until": null, "operation_id": null, "done": false, "created_at": "2026-01-01T00:00:00Z", "ended_at": null,
    })
}

fn cluster() -> Value {
    json!({
        "id": "cluster_1", "name": "c1", "display_name": "", "labels": {}, "state": "unreachable", "problem": problem(),
        "credential": null, "findings": [], "server": "https://c1.example", "kubernetes_version": null,
        "created_at": "2026-01-01T00:00:00Z", "observed_at": null,
    })
}

fn mesh(state: &str, deleted_at: Option<&str>) -> Value {
    json!({
        "id": format!("mesh_{state}"), "name": "m1", "display_name": "", "labels": {}, "deletion_protection": false,
        "namespace": "mw-1", "edition": "standard", "state": state, "problem": (state == "failed").then(problem),
        "current": { "name": "1-25-1", "version": "1.25.1.1", "switches": {} }, "target": null, "members": [],
        "busy_with": null, "created_at": "2026-01-01T00:00:00Z", "deleted_at": deleted_at, "leftovers": [],
    })
}

#[test]
fn a_retry_waits_until_a_worker_has_taken_it_up() {
    let answers = [
        operation("paused", &["retry"]),
        operation("paused", &["retry"]),
        operation("running", &[]),
        operation("succeeded", &[]),
    ];
    let (output, asked) = run(&["operation", "retry", "op_1", "--wait"], &answers);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(
        text(&output.stdout).contains("succeeded"),
        "{}",
        text(&output.stdout)
    );
    let look = "GET /v1/operations/op_1?wait_seconds=1";
    assert_eq!(asked, ["POST /v1/operations/op_1/retry", look, look, look]);
    let (output, _) = run(&["operation", "watch", "op_1"], &[operation("paused", &[])]);
    assert_eq!(
        output.status.code(),
        Some(6),
        "a pause that nobody asked to end needs a person"
    );
}

#[test]
fn one_that_stands_still_is_shown_with_the_reason_and_what_helps() {
    let commands: [(&[&str], Value); 4] = [
        (&["operation", "get", "op_1"], operation("paused", &[])),
        (&["upgrade", "get", "upgrade_1"], upgrade()),
        (&["cluster", "get", "cluster_1"], cluster()),
        (&["mesh", "get", "mesh_1"], mesh("failed", None)),
    ];
    for (command, answer) in commands {
        let (output, _) = run(command, &[answer]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{command:?}: {said}");
        assert!(
            said.contains("c1 does not answer. (cluster_unreachable)\n  Bring the cluster back."),
            "{command:?}: {said}"
        );
    }
    let (output, _) = run(
        &["operation", "get", "op_1"],
        &[operation("paused", &["retry"])],
    );
    let said = text(&output.stderr);
    for line in [
        "restart is paused",
        "asked for and not taken up yet: retry",
        "waiting for: c1 to answer",
    ] {
        assert!(said.contains(line), "{said}");
    }
}

fn deletion(state: &str) -> Value {
    let mut shown = operation(state, &[]);
    shown["kind"] = json!("delete_mesh");
    shown["leftovers"] = json!([{
        "cluster": "c2", "kind": "Secret", "namespace": "mw-1", "name": "cacerts",
        "command": "kubectl delete secret cacerts --namespace mw-1",
    }]);
    shown
}

#[test]
fn leftovers_are_a_forecast_without_commands_until_the_deletion_has_succeeded() {
    let command = "c2: kubectl delete secret cacerts --namespace mw-1";
    let get = ["operation", "get", "op_1"];
    let (output, _) = run(&get, &[deletion("succeeded")]);
    let said = text(&output.stderr);
    assert!(
        said.contains("These objects stay in the clusters."),
        "{said}"
    );
    assert!(said.contains(command), "{said}");
    for state in ["running", "paused", "cancelled"] {
        let (output, _) = run(&get, &[deletion(state)]);
        let said = text(&output.stderr);
        assert!(
            said.contains("would stay in the clusters"),
            "{state}: {said}"
        );
        assert!(
            said.contains("c2: Secret cacerts in namespace mw-1"),
            "{state}: {said}"
        );
        assert!(!said.contains("kubectl"), "{state}: {said}");
    }
}

#[test]
fn a_mesh_shows_why_the_operation_that_changes_it_is_paused() {
    let mut shown = mesh("deleting", None);
    shown["busy_with"] = json!("op_1");
    let answers = [shown.clone(), deletion("paused")];
    let (output, asked) = run(&["mesh", "get", "mesh_1"], &answers);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("delete_mesh is paused"), "{said}");
    assert!(
        said.contains("c1 does not answer. (cluster_unreachable)\n  Bring the cluster back."),
        "{said}"
    );
    assert_eq!(asked, ["GET /v1/meshes/mesh_1", "GET /v1/operations/op_1"]);
    let (_, asked) = run(&["--output", "json", "mesh", "get", "mesh_1"], &[shown]);
    assert_eq!(
        asked,
        ["GET /v1/meshes/mesh_1"],
        "its answer is printed alone"
    );
}

#[test]
fn deleted_meshes_are_listed_with_the_ids_that_undelete_takes() {
    let items =
        json!({ "items": [mesh("ready", None), mesh("deleted", Some("2026-01-02T00:00:00Z"))] });
    let (output, asked) = run(
        &["mesh", "list", "--deleted", "--selector", "team=a"],
        &[items],
    );
    let said = text(&output.stdout);
    assert!(
        said.contains("mesh_deleted") && !said.contains("mesh_ready"),
        "{said} {}",
        text(&output.stderr)
    );
    assert_eq!(
        asked,
        ["GET /v1/meshes?show_deleted=true&label_selector=team%3Da&page_size=500"]
    );
}

fn counts(done: i64, failed: i64) -> Value {
    json!({ "pending": 0, "started": 0, "done": done, "failed": failed, "excluded": 0, "skipped": 0 })
}

fn rollout(state: &str, forecast: &Value) -> Value {
    json!({
        "id": "op_1", "kind": "restart", "mesh_id": "mesh_1", "upgrade_id": null, "state": state,
        "problem": (state == "paused").then(problem), "done": state == "succeeded", "waiting_for": null, "pending_verbs": [],
        "policy": { "waves": [], "max_failures": null, "on_failure": "pause" }, "counts": counts(3, 1),
        "waves": [{ "number": 1, "title": "10 %", "counts": counts(3, 1) }], "forecast": forecast,
        "created_at": "2026-01-01T00:00:00Z", "ended_at": null,
    })
}

fn forecast_of(workloads: &Value) -> Value {
    json!({
        "observed_at": "2026-01-01T00:00:00Z", "workloads": workloads,
        "waves": [{ "number": 1, "title": "10 %", "restarts": 1, "pods": 2, "left": 1, "soak_seconds": 600 }],
    })
}

/// The operation of a roll-out, which names its mesh.
fn operation_of_mesh() -> Value {
    let mut shown = operation("running", &[]);
    shown["mesh_id"] = json!("mesh_1");
    shown
}

#[test]
fn d3_the_plan_of_a_roll_out_names_what_cannot_be_restarted_and_why() {
    let workload = |name: &str, action: &str, reason: &str| {
        json!({
            "wave": 1, "cluster": "c1", "namespace": "shop", "kind": "deployment", "name": name, "pods": 2, "action": action,
            "reason": { "code": "x", "message": reason },
        })
    };
    let told = forecast_of(&json!([
        workload("web", "restart", "Another revision injected a pod."),
        workload("db", "left", "The Deployment is paused."),
        workload("fine", "none", "It is fine."),
    ]));
    let command = ["rollout", "plan", "mesh_1", "--wave", "percent=10 soak=10m"];
    let (output, asked) = run(&command, &[rollout("queued", &told)]);
    let (shown, said) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(shown.contains("shop/deployment/web"), "{shown}");
    assert!(shown.contains("The Deployment is paused."), "{shown}");
    assert!(!shown.contains("fine"), "{shown}");
    assert!(
        said.contains(
            "wave 1 (10 %): 1 restarts of 2 pods, 1 left, then 600 seconds until the next wave"
        ),
        "{said}"
    );
    assert_eq!(
        asked,
        ["POST /v1/meshes/mesh_1/rollouts?validate_only=true"]
    );
    let nothing = rollout("queued", &forecast_of(&json!([])));
    let (output, _) = run(&command, &[nothing]);
    assert!(text(&output.stderr).contains("No workload needed a restart"));
    let (output, asked) = run(&["rollout", "plan", "m", "--wave", "soak=soon"], &[]);
    assert_eq!((output.status.code(), asked.len()), (Some(2), 0));
}

#[test]
fn d2_roll_outs_are_shown_and_one_workload_is_tried_again() {
    let (output, asked) = run(
        &["rollout", "get", "op_1"],
        &[operation_of_mesh(), rollout("paused", &Value::Null)],
    );
    let said = text(&output.stderr);
    assert!(said.contains("restart is paused"), "{said}");
    assert!(said.contains("Bring the cluster back."), "{said}");
    assert!(text(&output.stdout).contains("10 %"));
    let path = "/v1/meshes/mesh_1/rollouts/op_1";
    assert_eq!(
        asked,
        ["GET /v1/operations/op_1".to_owned(), format!("GET {path}")]
    );
    let (output, asked) = run(
        &["rollout", "retry", "op_1", "--item", "4"],
        &[operation_of_mesh(), rollout("paused", &Value::Null)],
    );
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(asked[1], format!("POST {path}/retry"));
    let none = json!({ "items": [] });
    let (output, asked) = run(
        &["rollout", "items", "op_1", "--state", "failed"],
        &[operation_of_mesh(), none.clone()],
    );
    assert!(text(&output.stderr).contains("It finds them while it runs."));
    assert_eq!(
        asked[1],
        format!("GET {path}/items?state=failed&page_size=500")
    );
    let (output, _) = run(&["rollout", "list", "mesh_1"], &[none]);
    assert!(text(&output.stderr).contains("no roll-out yet"));
    let list = json!({ "items": [rollout("succeeded", &Value::Null)] });
    let (output, _) = run(&["--output", "json", "rollout", "list", "mesh_1"], &[list]);
    let read: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(read["items"][0]["counts"]["done"], json!(3));
}
