//! What another mesh holds is foreign: nothing is written over it, nothing of it is deleted.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use meshwright_kubernetes::{
    Account, AddressPolicy, Authority, Helm, KubernetesMesh, KubernetesMeshConfig, MemberCluster,
};
use meshwright_model::ids::OperationId;
use meshwright_model::plan::Target;
use meshwright_model::problem::ProblemCode;
use meshwright_rollout::ports::{
    ClusterError, Deadline, FencingToken, MeshClusters, ObjectVersion,
};
use serde_json::json;

use super::fake::{FakeCluster, open, rules};

const WEBHOOKS: &str = "/apis/admissionregistration.k8s.io/v1";
const OWN: &str = "demo-00000001";

pub(crate) fn permit() -> FencingToken {
    let operation: OperationId = format!("op_{:026}", 1).parse().expect("an id");
    FencingToken {
        operation,
        epoch: 1,
        deadline: Deadline::at(Instant::now() + Duration::from_mins(1)),
    }
}

pub(crate) fn member_cluster(cluster: &FakeCluster, name: &str, serial: i64) -> MemberCluster {
    let credential = cluster.administrator();
    let account = Account::for_cluster(format!("cluster_{:026}", 1).parse().expect("an id"));
    let client = open(&credential);
    MemberCluster {
        name: name.parse().expect("a name"),
        client,
        credential,
        serial,
        account,
        previous: None,
    }
}

pub(crate) fn clusters(
    hosting: &FakeCluster,
    members: Vec<MemberCluster>,
    releases: Vec<(
        meshwright_model::release::Release,
        meshwright_kubernetes::Charts,
    )>,
) -> KubernetesMesh {
    clusters_with_policy(hosting, members, releases, rules())
}

pub(crate) fn clusters_with_policy(
    hosting: &FakeCluster,
    members: Vec<MemberCluster>,
    releases: Vec<(
        meshwright_model::release::Release,
        meshwright_kubernetes::Charts,
    )>,
    policy: AddressPolicy,
) -> KubernetesMesh {
    let now = "2026-11-22T10:00:00Z".parse().expect("a time");
    KubernetesMesh::new(KubernetesMeshConfig {
        namespace: OWN.into(),
        hosting: open(&hosting.administrator()),
        members,
        address_policy: policy,
        authority: Authority::generate("demo", now).expect("an authority"),
        releases,
        switches: BTreeMap::new(),
        helm: Helm {
            program: "helm".into(),
        },
        replicas: 2,
        token_lifetime: Duration::from_hours(1),
    })
}

async fn one_member() -> (FakeCluster, KubernetesMesh) {
    let (hosting, member) = (
        FakeCluster::new("hosting").await,
        FakeCluster::new("member").await,
    );
    let own = format!("istio-sidecar-injector-1-25-1-{OWN}");
    let canonical = json!({ "metadata": { "name": own, "labels": { "meshwright.dev/mesh": OWN, "istio.io/rev": "1-25-1" } }, "webhooks": [{ "name": "rev.namespace.sidecar-injector.istio.io" }] });
    member.put(
        &format!("{WEBHOOKS}/mutatingwebhookconfigurations/{own}"),
        canonical,
    );
    let clusters = clusters(&hosting, vec![member_cluster(&member, "c1", 1)], Vec::new());
    (member, clusters)
}

fn singletons() -> [(Target, String); 3] {
    let member = "c1".parse().expect("a name");
    let member = || Clone::clone(&member);
    let tag = |tag: &str| Target::Tag {
        member: member(),
        tag: tag.into(),
    };
    [
        (
            tag("default"),
            format!("{WEBHOOKS}/mutatingwebhookconfigurations/istio-revision-tag-default"),
        ),
        (
            tag("stable"),
            format!("{WEBHOOKS}/mutatingwebhookconfigurations/istio-revision-tag-stable-{OWN}"),
        ),
        (
            Target::Validator { member: member() },
            format!("{WEBHOOKS}/validatingwebhookconfigurations/istiod-default-validator"),
        ),
    ]
}

#[tokio::test]
async fn a_webhook_that_another_mesh_or_another_istio_holds_is_neither_seen_as_ours_nor_written_nor_deleted()
 {
    for owner in [
        json!({ "meshwright.dev/mesh": "other-00000002", "istio.io/rev": "1-25-1" }),
        json!({ "istio.io/rev": "1-25-1" }),
    ] {
        let (member, clusters) = one_member().await;
        for (target, path) in singletons() {
            let name = path.rsplit('/').next().expect("a name");
            member.put(
                &path,
                json!({ "metadata": { "name": name, "labels": owner }, "webhooks": [] }),
            );
            let before = member.object(&path);
            let seen = clusters.observe_target(&target).await.expect("an answer");
            assert_eq!(seen.value, None, "{target}: ours is absent");
            clusters
                .write_target(&target, None, &seen.version, &permit())
                .await
                .expect("nothing to remove");
            clusters
                .fence_target(&target, None, &permit())
                .await
                .expect("nothing to fence");
            if matches!(target, Target::Tag { .. }) {
                let refused = clusters
                    .write_target(&target, Some("1-25-1"), &seen.version, &permit())
                    .await;
                assert!(
                    matches!(
                        refused,
                        Err(ClusterError::Refused {
                            code: ProblemCode::ForeignIstio,
                            ..
                        })
                    ),
                    "{target}: {refused:?}"
                );
            }
            assert_eq!(member.object(&path), before, "{target}");
        }
    }
}

#[tokio::test]
async fn a_tag_of_this_mesh_is_made_and_removed() {
    let (member, clusters) = one_member().await;
    for (target, path) in singletons().into_iter().take(2) {
        clusters
            .write_target(
                &target,
                Some("1-25-1"),
                &ObjectVersion::default(),
                &permit(),
            )
            .await
            .expect("a free name");
        let seen = clusters.observe_target(&target).await.expect("an answer");
        assert_eq!(seen.value.as_deref(), Some("1-25-1"));
        clusters
            .write_target(&target, None, &seen.version, &permit())
            .await
            .expect("a removal");
        assert_eq!(member.object(&path), None, "{target}");
    }
}

#[tokio::test]
async fn an_inventory_that_names_what_is_not_ours_has_nothing_of_it_deleted() {
    let (member, clusters) = one_member().await;
    let target = Target::MemberBootstrap {
        member: "c1".parse().expect("a name"),
    };
    let foreign = [
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin",
        "/api/v1/namespaces/other/secrets/theirs",
    ];
    for path in foreign {
        member.put(
            path,
            json!({ "metadata": { "name": path.rsplit('/').next() } }),
        );
    }
    let listed = json!([
        { "kind": "ClusterRole", "metadata": { "name": "cluster-admin" } },
        { "kind": "Secret", "metadata": { "name": "theirs", "namespace": "other" } },
        { "kind": "Secret", "metadata": { "name": "meshwright-access-1", "namespace": OWN } },
    ]);
    let ours = format!("/api/v1/namespaces/{OWN}/secrets/meshwright-access-1");
    member.put(
        &ours,
        json!({ "metadata": { "name": "meshwright-access-1", "namespace": OWN } }),
    );
    member.put(
        &format!("/api/v1/namespaces/{OWN}"),
        json!({ "metadata": { "name": OWN, "labels": { "meshwright.dev/mesh": "other-00000002" } } }),
    );
    let inventory = json!({ "metadata": { "name": "meshwright-foothold", "namespace": OWN }, "data": { "value": "present", "objects": listed.to_string() } });
    member.put(
        &format!("/api/v1/namespaces/{OWN}/configmaps/meshwright-foothold"),
        inventory,
    );
    let seen = clusters.observe_target(&target).await.expect("an answer");
    clusters
        .write_target(&target, None, &seen.version, &permit())
        .await
        .expect("a removal");
    for path in foreign
        .into_iter()
        .chain([format!("/api/v1/namespaces/{OWN}").as_str()])
    {
        assert!(member.object(path).is_some(), "{path} is not this mesh's");
    }
    assert_eq!(member.object(&ours), None);
}

#[tokio::test]
async fn a_namespace_that_is_gone_is_told_apart_from_one_without_a_label() {
    let (member, clusters) = one_member().await;
    let target = Target::NamespaceLabel {
        member: "c1".parse().expect("a name"),
        namespace: "shop".into(),
    };
    let path = "/api/v1/namespaces/shop";
    member.put(path, json!({ "metadata": { "name": "shop" } }));
    let bare = clusters.observe_target(&target).await.expect("an answer");
    assert_eq!((bare.value, bare.gone), (None, false));
    member.remove(path);
    let missing = clusters.observe_target(&target).await.expect("an answer");
    assert_eq!((missing.value, missing.gone), (None, true));
    let (webhook, _) = &singletons()[0];
    let absent = clusters.observe_target(webhook).await.expect("an answer");
    assert!(
        !absent.gone,
        "a webhook of ours is created when it is absent"
    );
}
