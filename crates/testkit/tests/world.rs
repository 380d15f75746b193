//! Checks that the fake clusters agree with themselves: what admission answers for a workload is
//! what its next pod carries, and what a search for users finds.

use meshwright_model::Name;
use meshwright_model::plan::{Sidecar, WorkloadRef};
use meshwright_rollout::ports::{MeshClusters, NextPod, UserKind, UserSearch};
use meshwright_testkit::FakeClusters;

async fn users(world: &FakeClusters, own_tags: bool) -> Vec<(UserKind, String)> {
    let search = UserSearch {
        revision: &"1-27-9".parse().expect("a name"),
        left_behind: &[],
        own_tags,
        members_only: false,
    };
    let found = world.list_users(&search).await.expect("an answer");
    let users = found.users.into_iter();
    users.map(|user| (user.kind, user.name)).collect()
}

async fn next_pod(world: &FakeClusters, workload: &WorkloadRef) -> NextPod {
    let member: Name = "c1".parse().expect("a name");
    let asked = world.ask_next_pods(&member, std::slice::from_ref(workload));
    asked.await.expect("an answer")[workload].clone()
}

#[tokio::test]
async fn the_next_pod_of_a_workload_is_the_one_that_admission_told_of() {
    let world = FakeClusters::new(&["c1"]);
    let workload = world.add_workload("c1", "shop", None, 2);
    assert_eq!(next_pod(&world, &workload).await, NextPod::NotInjected);
    let pinned = NextPod::Injected(Sidecar {
        revision: "1-27-9".parse().expect("a name"),
        image: "hub/pinned:1".into(),
    });
    world.set_next_pod("c1", &workload, pinned.clone());
    world.evict_pod("c1", &workload);
    assert_eq!(next_pod(&world, &workload).await, pinned);
    let pod = (UserKind::Pod, "shop/web-1".to_owned());
    assert_eq!(users(&world, false).await, vec![pod.clone()]);
    let refused = NextPod::Refused("the quota compute is exceeded".into());
    world.set_next_pod("c1", &workload, refused.clone());
    world.evict_pod("c1", &workload);
    assert_eq!(next_pod(&world, &workload).await, refused);
    assert_eq!(
        users(&world, false).await,
        [pod],
        "the old pod stays while the new one is refused"
    );
}

#[tokio::test]
async fn a_label_and_a_tag_of_ours_use_the_revision_that_they_name() {
    let world = FakeClusters::new(&["c1"]);
    world.add_workload("c1", "shop", Some("istio.io/rev=1-27-9"), 0);
    let tag = meshwright_model::plan::Target::Tag {
        member: "c1".parse().expect("a name"),
        tag: "stable".into(),
    };
    world.change_externally(tag, Some("1-27-9"));
    let namespace = (UserKind::Namespace, "shop".to_owned());
    assert_eq!(users(&world, false).await, vec![namespace.clone()]);
    assert_eq!(
        users(&world, true).await,
        [namespace, (UserKind::Tag, "stable".to_owned())]
    );
}
