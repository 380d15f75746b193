//! Objects in a member that was left behind name the former address of their control plane.

use meshwright_kubernetes::KubernetesMesh;
use meshwright_model::plan::Target;
use meshwright_rollout::ports::MeshClusters;
use serde_json::{Value, json};

use super::fake::FakeCluster;
use super::owners::{clusters, member_cluster, permit};

const WEBHOOKS: &str = "/apis/admissionregistration.k8s.io/v1";
const OWN: &str = "demo-00000001";
const PRESENT: &str = "198.18.0.2";

fn webhook(name: &str, address: &str, labels: Value) -> Value {
    let url = format!("https://{address}:15017/inject/cluster/c1/net/c1");
    json!({
        "metadata": { "name": name, "labels": labels },
        "webhooks": [{ "name": "rev.namespace.sidecar-injector.istio.io", "clientConfig": { "url": url } }],
    })
}

/// A mesh at the present address, whose member has the objects of revision 1-25-1, the tag
/// `stable` and the default validator with this address.
async fn mesh_with_objects_at(address: &str) -> (FakeCluster, KubernetesMesh) {
    let (hosting, member) = (
        FakeCluster::new("hosting").await,
        FakeCluster::new("member").await,
    );
    hosting.put(
        &format!("/api/v1/namespaces/{OWN}/services/istiod-1-25-1-address"),
        json!({ "status": { "loadBalancer": { "ingress": [{ "ip": PRESENT }] } } }),
    );
    member.put(
        &format!("/api/v1/namespaces/{OWN}/configmaps/meshwright-objects-1-25-1"),
        json!({ "data": { "value": "1.25.1.1", "objects": "[]" } }),
    );
    let own = format!("istio-sidecar-injector-1-25-1-{OWN}");
    let tag = format!("istio-revision-tag-stable-{OWN}");
    let ours = json!({ "meshwright.dev/mesh": OWN, "istio.io/rev": "1-25-1" });
    let mut canonical = ours.clone();
    canonical["meshwright.dev/bundle"] = "meshwright-objects-1-25-1".into();
    for (kind, name, labels) in [
        ("mutatingwebhookconfigurations", own.as_str(), &canonical),
        ("mutatingwebhookconfigurations", &tag, &ours),
        (
            "validatingwebhookconfigurations",
            "istiod-default-validator",
            &ours,
        ),
    ] {
        member.put(
            &format!("{WEBHOOKS}/{kind}/{name}"),
            webhook(name, address, labels.clone()),
        );
    }
    let world = clusters(&hosting, vec![member_cluster(&member, "c1", 1)], Vec::new());
    (member, world)
}

fn objects() -> Target {
    Target::MemberObjects {
        member: "c1".parse().expect("a name"),
        revision: "1-25-1".parse().expect("a revision"),
    }
}

fn stable() -> Target {
    Target::Tag {
        member: "c1".parse().expect("a name"),
        tag: "stable".into(),
    }
}

fn validator() -> Target {
    Target::Validator {
        member: "c1".parse().expect("a name"),
    }
}

async fn is_outdated(world: &KubernetesMesh, target: &Target) -> bool {
    let seen = world.observe_target(target).await.expect("an answer");
    let value = seen.value.expect("the target has a value");
    let outdated = world.names_former_address(target, &value).await;
    outdated.expect("an answer")
}

#[tokio::test]
async fn objects_that_name_the_present_address_are_up_to_date() {
    let (_member, world) = mesh_with_objects_at(PRESENT).await;
    for target in [objects(), stable(), validator()] {
        assert!(!is_outdated(&world, &target).await, "{target}");
    }
}

#[tokio::test]
async fn objects_that_name_a_former_address_are_outdated_and_a_tag_follows_its_revision() {
    let (member, world) = mesh_with_objects_at("198.18.0.1").await;
    assert!(is_outdated(&world, &objects()).await);
    assert!(is_outdated(&world, &validator()).await);
    assert!(!is_outdated(&world, &stable()).await, "as its revision");
    let own = format!("istio-sidecar-injector-1-25-1-{OWN}");
    let labels = json!({ "meshwright.dev/mesh": OWN, "istio.io/rev": "1-25-1", "meshwright.dev/bundle": "meshwright-objects-1-25-1" });
    member.put(
        &format!("{WEBHOOKS}/mutatingwebhookconfigurations/{own}"),
        webhook(&own, PRESENT, labels),
    );
    assert!(!is_outdated(&world, &objects()).await);
    assert!(is_outdated(&world, &stable()).await);
    let seen = world.observe_target(&stable()).await.expect("an answer");
    world
        .write_target(&stable(), Some("1-25-1"), &seen.version, &permit())
        .await
        .expect("a write");
    assert!(!is_outdated(&world, &stable()).await);
}
