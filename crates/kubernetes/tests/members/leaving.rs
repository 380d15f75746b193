//! Leaving a cluster: what a refused credential says of our account, and when.

use std::time::Duration;

use meshwright_kubernetes::leave::remove_account;
use meshwright_kubernetes::registration::{RegistrationRequest, register_cluster};
use meshwright_kubernetes::{Account, ClusterClient};
use meshwright_model::leftover::AccountRemoval;
use meshwright_model::problem::ProblemCode;
use meshwright_rollout::ports::{AccountPresence, ClusterError};

use super::fake::{FakeCluster, open, rules};

fn account() -> Account {
    Account::for_cluster(format!("cluster_{:026}", 1).parse().expect("an id"))
}

/// A cluster with our account in it, and our way into it.
async fn registered() -> (FakeCluster, ClusterClient) {
    let cluster = FakeCluster::new("5b0f6a3e-0000-4000-8000-000000000001").await;
    let wanted = RegistrationRequest {
        name: "c",
        account: account(),
        serial: 0,
        token_lifetime: Duration::from_hours(1),
        uid: None,
        now: "2026-11-22T10:00:00Z".parse().expect("a time"),
    };
    let connected = register_cluster(&wanted, &cluster.administrator(), &rules())
        .await
        .expect("a registration");
    let client = open(&connected.credential);
    (cluster, client)
}

async fn look(
    client: &ClusterClient,
    removal: AccountRemoval,
) -> Result<AccountPresence, ClusterError> {
    remove_account(
        client,
        &"c".parse().expect("a name"),
        account().name(),
        removal,
    )
    .await
}

/// Takes away the Secrets that our tokens are bound to, as a person or the garbage collector does.
fn kill_tokens(cluster: &FakeCluster) {
    for path in cluster
        .paths()
        .into_iter()
        .filter(|path| path.contains("/secrets/"))
    {
        cluster.remove(&path);
    }
}

#[tokio::test]
async fn a_refused_credential_does_not_say_that_our_account_is_gone_before_its_removal_was_accepted()
 {
    let (cluster, client) = registered().await;
    assert!(matches!(
        look(&client, AccountRemoval::NotBegun).await,
        Ok(AccountPresence::Present(_))
    ));
    kill_tokens(&cluster);
    for removal in [AccountRemoval::NotBegun, AccountRemoval::Begun] {
        let refused = look(&client, removal).await;
        assert!(
            matches!(
                refused,
                Err(ClusterError::Refused {
                    code: ProblemCode::CredentialExpired,
                    ..
                })
            ),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn an_account_whose_removal_was_accepted_is_seen_by_the_refusal_of_its_credential() {
    let (cluster, client) = registered().await;
    assert!(matches!(
        look(&client, AccountRemoval::Begun).await,
        Ok(AccountPresence::Terminating(_))
    ));
    let role = |path: &String| path.contains("/clusterroles/");
    assert!(
        !cluster.paths().iter().any(role),
        "the deletion was answered"
    );
    assert!(
        matches!(
            look(&client, AccountRemoval::Begun).await,
            Ok(AccountPresence::Terminating(_))
        ),
        "also when that answer was lost"
    );
    kill_tokens(&cluster);
    assert_eq!(
        look(&client, AccountRemoval::Accepted).await,
        Ok(AccountPresence::CredentialRefused)
    );
}
