//! A look at a mesh reads each member once, all members side by side.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use meshwright_kubernetes::{
    Account, Authority, ClusterClient, Helm, KubernetesMesh, KubernetesMeshConfig, MemberCluster,
    ResponseLimits,
};
use meshwright_model::plan::{WorkloadKind, WorkloadRef};
use meshwright_model::problem::ProblemCode;
use meshwright_rollout::ports::{ClusterError, MeshClusters, RevisionUsers, UserSearch};
use serde_json::{Value, json};

use crate::fake::{Answer, FakeCluster, within};

/// Time of each answer. A look that read members one after the other, or twice, would show it.
const SLOW: Duration = Duration::from_millis(250);

fn answer(asked: &str) -> Value {
    let path = asked.split_whitespace().nth(1).unwrap_or_default();
    match path {
        "/version" => json!({ "major": "1", "minor": "33", "gitVersion": "v1.33.0" }),
        path if path.starts_with("/api/v1/pods") => json!({ "items": [{
            "metadata": { "namespace": "shop", "name": "cart-1", "managedFields": ["x".repeat(1_000)] },
        }] }),
        path if path.starts_with("/api/v1/namespaces?") && !path.contains("labelSelector") => {
            json!({ "items": [{ "metadata": { "name": "shop" } }] })
        }
        _ => json!({ "items": [] }),
    }
}

async fn slow() -> FakeCluster {
    FakeCluster::start(|asked, _| Answer::Late(SLOW, answer(asked))).await
}

pub(crate) fn clusters(hosting: &FakeCluster, members: &[FakeCluster]) -> KubernetesMesh {
    let opened = |cluster: &FakeCluster, name: &str| {
        let credential = cluster.credential(&format!("https://{}", cluster.address), "t");
        let client = ClusterClient::open(name, &credential, &within(ResponseLimits::default()))
            .expect("a client");
        (client, credential)
    };
    let member = |(number, cluster): (usize, &FakeCluster)| {
        let name = format!("c{number}");
        let (client, credential) = opened(cluster, &name);
        let account = Account::for_cluster(format!("cluster_{number:026}").parse().expect("an id"));
        MemberCluster {
            name: name.parse().expect("a name"),
            client,
            credential,
            serial: 1,
            account,
            previous: None,
        }
    };
    KubernetesMesh::new(KubernetesMeshConfig {
        namespace: "mesh-a".into(),
        hosting: opened(hosting, "the hosting cluster").0,
        members: members.iter().enumerate().map(member).collect(),
        address_policy: within(ResponseLimits::default()),
        authority: Authority::generate("a", jiff::Timestamp::UNIX_EPOCH).expect("an authority"),
        releases: Vec::new(),
        switches: BTreeMap::new(),
        helm: Helm {
            program: "helm".into(),
        },
        replicas: 2,
        token_lifetime: Duration::from_mins(10),
    })
}

#[tokio::test]
async fn an_observation_reads_each_member_once_and_all_of_them_side_by_side() {
    let (hosting, members) = (slow().await, [slow().await, slow().await, slow().await]);
    let began = Instant::now();
    let survey = clusters(&hosting, &members)
        .observe_mesh()
        .await
        .expect("a survey");
    let took = began.elapsed();
    assert_eq!(survey.members.len(), 3);
    for member in &members {
        let asked = member.asked();
        assert_eq!(
            asked.len(),
            8,
            "three kinds, pods, webhooks of both kinds, namespaces and the version: {asked:#?}"
        );
        assert!(
            asked
                .iter()
                .all(|line| line.contains("/version") || line.contains("limit=")),
            "paged: {asked:#?}"
        );
    }
    assert!(
        took < SLOW * 12,
        "three members one after the other would take 15 answers: {took:?}"
    );
}

#[tokio::test]
async fn a_look_for_users_of_a_revision_reads_each_member_once() {
    let (hosting, members) = (slow().await, [slow().await, slow().await]);
    let search = UserSearch {
        revision: &"1-25-1".parse().expect("a name"),
        left_behind: &[],
        own_tags: true,
        members_only: false,
    };
    let found = clusters(&hosting, &members)
        .list_users(&search)
        .await
        .expect("an answer");
    assert_eq!(found, RevisionUsers::default());
    assert_eq!(
        hosting.asked().len(),
        1,
        "the replicas of the revision: {:#?}",
        hosting.asked()
    );
    for member in &members {
        let asked = member.asked();
        let pods = asked
            .iter()
            .filter(|line| line.contains("/api/v1/pods"))
            .count();
        assert_eq!(pods, 1, "{asked:#?}");
        assert_eq!(
            asked.len(),
            26,
            "four lists, three more kinds of templates, one webhook, namespaces, tags, 15 kinds \
             with labels and orphaned ReplicaSets: {asked:#?}"
        );
    }
}

#[tokio::test]
async fn the_namespace_of_the_mesh_is_observed_only_with_workloads_in_the_mesh() {
    let observed = |labels: Value| async move {
        let hosting = slow().await;
        let member = FakeCluster::start(move |asked, _| {
            let path = asked.split_whitespace().nth(1).unwrap_or_default();
            let items = if path.starts_with("/apis/apps/v1/deployments") {
                let template = json!({ "metadata": { "labels": labels } });
                let named = json!({ "namespace": "mesh-a", "name": "edge" });
                json!([{ "metadata": named, "spec": { "template": template } }])
            } else if path.starts_with("/api/v1/namespaces") {
                json!([{ "metadata": { "name": "mesh-a" } }, { "metadata": { "name": "shop" } }])
            } else {
                json!([])
            };
            Answer::Json(200, json!({ "items": items }))
        })
        .await;
        let survey = clusters(&hosting, &[member]).observe_mesh().await;
        let mut survey = survey.expect("a survey");
        let namespaces = survey.members.remove(0).namespaces;
        let seen = namespaces
            .iter()
            .map(|known| (known.name.clone(), known.of_mesh, known.workloads.len()));
        seen.collect::<Vec<_>>()
    };
    let shop = ("shop".to_owned(), false, 0);
    assert_eq!(
        observed(json!({ "sidecar.istio.io/inject": "true" })).await,
        [("mesh-a".to_owned(), true, 1), shop.clone()]
    );
    assert_eq!(observed(json!({})).await, [shop]);
}

#[tokio::test]
async fn watches_end_with_the_world_that_opened_them() {
    let hosting = slow().await;
    let member = FakeCluster::start(|asked, _| match asked {
        asked if asked.contains("watch=true") => Answer::Drip,
        asked => Answer::Json(200, answer(asked)),
    })
    .await;
    let members = [member];
    let clusters = clusters(&hosting, &members);
    let workload = WorkloadRef {
        namespace: "shop".into(),
        kind: WorkloadKind::Deployment,
        name: "cart".into(),
    };
    let seen = clusters
        .observe_workload(&"c0".parse().expect("a name"), &workload)
        .await;
    assert_eq!(seen, Ok(None));
    let [member] = &members;
    let until = |wanted: fn(&FakeCluster) -> bool| async move {
        while !wanted(member) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let watched = until(|member| {
        member
            .asked()
            .iter()
            .filter(|line| line.contains("watch=true"))
            .count()
            == 4
    });
    tokio::time::timeout(Duration::from_secs(5), watched)
        .await
        .expect("four watches");
    drop(clusters);
    let gone = until(|member| member.connections() == 0);
    tokio::time::timeout(Duration::from_secs(5), gone)
        .await
        .expect("no connection is left");
}

#[tokio::test]
async fn an_event_of_a_watch_without_an_end_is_cut_off() {
    let hosting = slow().await;
    let member = FakeCluster::start(|asked, _| match asked {
        asked if asked.contains("watch=true") => Answer::Endless,
        asked => Answer::Json(200, answer(asked)),
    })
    .await;
    let members = [member];
    let clusters = clusters(&hosting, &members);
    let workload = WorkloadRef {
        namespace: "shop".into(),
        kind: WorkloadKind::Deployment,
        name: "cart".into(),
    };
    let name = "c0".parse().expect("a name");
    let failed = async {
        loop {
            match clusters.observe_workload(&name, &workload).await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(error) => return error,
            }
        }
    };
    let error = tokio::time::timeout(Duration::from_secs(10), failed)
        .await
        .expect("an end");
    assert!(
        matches!(
            error,
            ClusterError::Refused {
                code: ProblemCode::AnswerTooLarge,
                ..
            }
        ),
        "{error:?}"
    );
}
