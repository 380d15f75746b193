//! Leaving a cluster: what a refused credential says of our account, and when.

use std::time::Duration;

use cluster::leave::leave;
use cluster::register::{Wanted, register};
use cluster::{Account, Door};
use model::leftover::Removal;
use rollout::ports::{Presence, WorldError};

use super::fake::{FakeCluster, open, rules};

fn account() -> Account {
    Account::of(format!("cluster_{:026}", 1).parse().expect("an id"))
}

/// A cluster with our account in it, and our way into it.
async fn registered() -> (FakeCluster, Door) {
    let cluster = FakeCluster::new("5b0f6a3e-0000-4000-8000-000000000001").await;
    let wanted = Wanted {
        name: "c",
        account: account(),
        serial: 0,
        life: Duration::from_hours(1),
        uid: None,
        now: "2026-11-22T10:00:00Z".parse().expect("a time"),
    };
    let connected = register(&wanted, &cluster.administrator(), &rules()).await.expect("a registration");
    let door = open(&connected.credential);
    (cluster, door)
}

async fn look(door: &Door, removal: Removal) -> Result<Presence, WorldError> {
    leave(door, &"c".parse().expect("a name"), account().name(), removal).await
}

/// Takes away the Secrets that our tokens are bound to, as a person or the garbage collector does.
fn kill_tokens(cluster: &FakeCluster) {
    for path in cluster.paths().into_iter().filter(|path| path.contains("/secrets/")) {
        cluster.remove(&path);
    }
}

#[tokio::test]
async fn a_refused_credential_does_not_say_that_our_account_is_gone_before_its_removal_was_accepted() {
    let (cluster, door) = registered().await;
    assert!(matches!(look(&door, Removal::NotBegun).await, Ok(Presence::There(_))));
    kill_tokens(&cluster);
    for removal in [Removal::NotBegun, Removal::Begun] {
        let refused = look(&door, removal).await;
        assert!(matches!(refused, Err(WorldError::Refused { code: "credential_expired", .. })), "{refused:?}");
    }
}

#[tokio::test]
async fn an_account_whose_removal_was_accepted_is_seen_by_the_refusal_of_its_credential() {
    let (cluster, door) = registered().await;
    assert!(matches!(look(&door, Removal::Begun).await, Ok(Presence::Going(_))));
    let role = |path: &String| path.contains("/clusterroles/");
    assert!(!cluster.paths().iter().any(role), "the deletion was answered");
    assert!(matches!(look(&door, Removal::Begun).await, Ok(Presence::Going(_))), "also when that answer was lost");
    kill_tokens(&cluster);
    assert_eq!(look(&door, Removal::Accepted).await, Ok(Presence::Refused));
}
