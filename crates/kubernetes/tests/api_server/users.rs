//! A search for the users of a revision, against members that hold one user each.

use std::collections::BTreeMap;

use meshwright_rollout::ports::{MeshClusters, RevisionUsers, UserKind, UserSearch};
use serde_json::{Value, json};

use crate::fake::{Answer, FakeCluster};
use crate::looks::clusters;

/// Revision whose users are searched.
const REVISION: &str = "1-25-1";
const WEBHOOKS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";

/// Path of a request, without its query.
fn path_of(asked: &str) -> &str {
    let uri = asked.split_whitespace().nth(1).unwrap_or_default();
    uri.split('?').next().unwrap_or_default()
}

/// A cluster whose lists hold these objects. Every other list is empty, and other objects do not
/// exist.
async fn member(lists: &[(&str, Value)]) -> FakeCluster {
    let lists: BTreeMap<String, Value> = lists
        .iter()
        .map(|(path, items)| ((*path).to_owned(), items.clone()))
        .collect();
    FakeCluster::start(move |asked, _| match path_of(asked) {
        path if path.starts_with(WEBHOOKS) && path != WEBHOOKS => Answer::Json(404, json!({})),
        path => {
            let items = lists.get(path).cloned().unwrap_or_else(|| json!([]));
            Answer::Json(200, json!({ "items": items }))
        }
    })
    .await
}

async fn search(members: &[FakeCluster], own_tags: bool) -> RevisionUsers {
    let hosting = member(&[]).await;
    let search = UserSearch {
        revision: &REVISION.parse().expect("a name"),
        left_behind: &[],
        own_tags,
        members_only: false,
    };
    clusters(&hosting, members)
        .list_users(&search)
        .await
        .expect("an answer")
}

/// Users that a member with these lists has, as text.
async fn users(lists: &[(&str, Value)], own_tags: bool) -> Vec<String> {
    let found = search(&[member(lists).await], own_tags).await;
    assert_eq!(found.silent, Vec::<String>::new());
    found.users.iter().map(ToString::to_string).collect()
}

fn template() -> Value {
    json!({ "metadata": { "labels": { "istio.io/rev": REVISION } } })
}

fn named(name: &str, mut rest: Value) -> Value {
    rest["metadata"]["namespace"] = "shop".into();
    rest["metadata"]["name"] = name.into();
    rest
}

#[tokio::test]
async fn a_live_pod_counts_with_its_workload_and_a_finished_one_does_not() {
    let carries = json!({ "annotations": { "istio.io/rev": REVISION } });
    let pod = |name: &str, phase: &str, owner: Value| {
        let proxy = json!({ "name": "istio-proxy", "image": "hub/proxyv2:1.25.1" });
        let object = json!({
            "metadata": carries, "status": { "phase": phase }, "spec": { "containers": [proxy] },
        });
        let mut object = named(name, object);
        object["metadata"]["ownerReferences"] = owner;
        object
    };
    let set = json!([{ "kind": "StatefulSet", "name": "db", "controller": true }]);
    let pods = json!([
        pod("db-0", "Running", set),
        pod("bare", "Pending", json!([])),
        pod("done", "Succeeded", json!([])),
    ]);
    let sets = json!([named("db", json!({}))]);
    let lists = [("/api/v1/pods", pods), ("/apis/apps/v1/statefulsets", sets)];
    let found = search(&[member(&lists).await], false).await;
    let seen: Vec<_> = found
        .users
        .iter()
        .map(|user| (user.to_string(), user.workload.is_some()))
        .collect();
    assert_eq!(
        seen,
        [
            ("pod shop/bare in c0".to_owned(), false),
            ("pod shop/db-0 in c0".to_owned(), true),
        ]
    );
    let images = found
        .users
        .iter()
        .map(|user| Some(&user.sidecar.as_ref()?.image));
    assert!(images.flatten().eq(["hub/proxyv2:1.25.1"; 2]));
}

#[tokio::test]
async fn templates_of_jobs_that_go_on_cron_jobs_and_bare_replica_sets_count() {
    let ended = |kind: &str| json!({ "conditions": [{ "type": kind, "status": "True" }] });
    let job = |name: &str, status: Value| {
        named(
            name,
            json!({ "spec": { "template": template() }, "status": status }),
        )
    };
    let jobs = json!([
        job("import", json!({ "active": 1 })),
        job("done", ended("Complete")),
        job("broken", ended("Failed")),
    ]);
    let nightly = json!({ "spec": { "jobTemplate": { "spec": { "template": template() } } } });
    let set = |name: &str, owners: Value| {
        let mut object = named(name, json!({ "spec": { "template": template() } }));
        object["metadata"]["ownerReferences"] = owners;
        object
    };
    let sets = json!([
        set("bare", json!([])),
        set(
            "web-1",
            json!([{ "kind": "Deployment", "name": "web", "controller": true }])
        ),
    ]);
    let lists = [
        ("/apis/batch/v1/jobs", jobs),
        (
            "/apis/batch/v1/cronjobs",
            json!([named("nightly", nightly)]),
        ),
        ("/apis/apps/v1/replicasets", sets),
    ];
    assert_eq!(
        users(&lists, false).await,
        [
            "pod template of shop/replicaset/bare in c0",
            "pod template of shop/job/import in c0",
            "pod template of shop/cronjob/nightly in c0",
        ]
    );
}

#[tokio::test]
async fn a_replica_set_whose_deployment_was_deleted_counts_although_nothing_else_does() {
    let cluster = FakeCluster::start(|asked, _| match path_of(asked) {
        path if path.starts_with(WEBHOOKS) && path != WEBHOOKS => Answer::Json(404, json!({})),
        "/apis/apps/v1/replicasets" if asked.contains("=pod-template-hash") => {
            let set = named("web-1", json!({ "spec": { "template": template() } }));
            Answer::Json(200, json!({ "items": [set] }))
        }
        _ => Answer::Json(200, json!({ "items": [] })),
    })
    .await;
    let found = search(&[cluster], false).await;
    let users: Vec<String> = found.users.iter().map(ToString::to_string).collect();
    assert_eq!(users, ["pod template of shop/replicaset/web-1 in c0"]);
}

#[tokio::test]
async fn our_own_tag_counts_only_if_it_is_asked_for_and_a_foreign_one_always() {
    let webhook = |name: &str, tag: &str, mesh: &str| {
        let labels =
            json!({ "istio.io/rev": REVISION, "istio.io/tag": tag, "meshwright.dev/mesh": mesh });
        json!({ "metadata": { "name": name, "labels": labels } })
    };
    let own = "istio-sidecar-injector-1-25-1-mesh-a";
    let lists = [(
        WEBHOOKS,
        json!([
            webhook("istio-revision-tag-default", "default", "mesh-a"),
            webhook("istio-revision-tag-theirs", "theirs", "another"),
            webhook(own, REVISION, "mesh-a"),
            { "metadata": { "name": own, "labels": { "istio.io/rev": REVISION } } },
        ]),
    )];
    assert_eq!(
        users(&lists, false).await,
        ["tag istio-revision-tag-theirs in c0"]
    );
    assert_eq!(
        users(&lists, true).await,
        ["tag default in c0", "tag istio-revision-tag-theirs in c0"]
    );
}

#[tokio::test]
async fn resources_with_the_label_count_beside_other_users() {
    let lists = [
        (
            "/api/v1/namespaces",
            json!([{ "metadata": { "name": "shop" } }]),
        ),
        (
            "/apis/gateway.networking.k8s.io/v1/gateways",
            json!([named("edge", json!({}))]),
        ),
    ];
    assert_eq!(
        users(&lists, false).await,
        ["namespace shop in c0", "gateways shop/edge in c0"]
    );
}

#[tokio::test]
async fn labels_with_an_alias_of_another_revision_are_no_users() {
    let cluster = FakeCluster::start(|asked, _| match path_of(asked) {
        path if path.starts_with(WEBHOOKS) && path != WEBHOOKS => Answer::Json(
            200,
            json!({ "metadata": { "labels": { "istio.io/rev": "1-27-9" } } }),
        ),
        "/api/v1/namespaces" => Answer::Json(
            200,
            json!({ "items": [{ "metadata": { "name": "shop" } }] }),
        ),
        "/apis/batch/v1/jobs" => {
            let job = named("import", json!({ "spec": { "template": template() } }));
            Answer::Json(200, json!({ "items": [job] }))
        }
        _ => Answer::Json(200, json!({ "items": [] })),
    })
    .await;
    assert!(search(&[cluster], false).await.is_unused());
}

#[tokio::test]
async fn a_list_that_is_forbidden_makes_the_member_silent_and_hides_no_other_user() {
    let denied = FakeCluster::start(|asked, _| match path_of(asked) {
        "/apis/batch/v1/cronjobs" => {
            let message = "cronjobs.batch is forbidden: User \"a\" cannot list resource";
            Answer::Json(403, json!({ "reason": "Forbidden", "message": message }))
        }
        path if path.starts_with(WEBHOOKS) && path != WEBHOOKS => Answer::Json(404, json!({})),
        "/api/v1/namespaces" => Answer::Json(
            200,
            json!({ "items": [{ "metadata": { "name": "shop" } }] }),
        ),
        _ => Answer::Json(200, json!({ "items": [] })),
    })
    .await;
    let down = FakeCluster::start(|_, _| Answer::Text(503, "later".into())).await;
    let found = search(&[denied, down], false).await;
    assert_eq!(
        found.silent,
        [
            "c0 (our account may not list its cronjobs; `meshwright cluster renew c0` grants what \
             this version needs)",
            "c1 does not answer",
        ]
    );
    let kinds: Vec<UserKind> = found.users.iter().map(|user| user.kind).collect();
    assert_eq!(kinds, [UserKind::Namespace]);
}
