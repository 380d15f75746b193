//! The audit log: complete, chained, and out of reach.

use std::collections::BTreeSet;

use meshwright_model::access::Role;
use meshwright_model::audit::{ChainVerifier, ChainedEntry};
use meshwright_model::rules::Strategy;
use meshwright_model::upgrade::Verb;

use crate::support::{Service, routes};

async fn log(service: &Service) -> Vec<ChainedEntry> {
    let db = &service.fleet.db;
    let mut tx = db.begin_beside_workers().await;
    tx.audit()
        .list_audit_entries(0, i64::MAX)
        .await
        .expect("entries")
}

fn verified(
    service: &Service,
    log: &[ChainedEntry],
) -> Result<(), meshwright_model::audit::ChainError> {
    let mut verifier = ChainVerifier::new(service.fleet.db.tenant, &[], meshwright_store::sha256);
    log.iter()
        .try_for_each(|linked| verifier.verify_next(linked))
}

/// Every changing operation that succeeds leaves exactly one entry under its own name; one that fails leaves none.
#[tokio::test]
async fn every_change_leaves_one_entry() {
    let service = Service::new().await;
    let owner = service.key(Role::Owner).await;
    let mut noted = BTreeSet::new();
    for route in routes().iter().filter(|route| route.method != "GET") {
        let before = log(&service).await.len();
        let reply = service.call_route(route, Some(&owner)).await;
        let entries = log(&service).await.split_off(before);
        let actions: Vec<&str> = entries
            .iter()
            .map(|linked| linked.entry.action.as_str())
            .collect();
        if reply.status.is_success() {
            assert_eq!(actions, [route.id.as_str()], "{reply:?}");
            assert!(
                entries[0].entry.actor.starts_with("key_") && entries[0].entry.request_id.is_some()
            );
            noted.insert(route.id.clone());
        } else {
            assert!(actions.is_empty(), "{}: {reply:?}", route.id);
        }
    }
    assert!(noted.len() >= 5, "{noted:?}");
    assert_eq!(verified(&service, &log(&service).await), Ok(()));
}

#[tokio::test]
async fn whatever_a_worker_writes_into_a_cluster_was_announced_before_and_confirmed_afterwards() {
    let service = Service::new().await;
    let upgrade = service
        .fleet
        .plan_upgrade("1.27.9.1", Strategy::Canary, 0)
        .await;
    service.fleet.apply_verb_and_run(upgrade, Verb::Start).await;
    service
        .fleet
        .apply_verb_and_run(upgrade, Verb::Promote)
        .await;
    let log = log(&service).await;
    assert_eq!(verified(&service, &log), Ok(()));
    let of = |action: &str| {
        let entries = log.iter().filter(|linked| linked.entry.action == action);
        let mut targets: Vec<String> = entries.map(|linked| linked.entry.target.clone()).collect();
        targets.sort();
        targets
    };
    let mesh = service.fleet.mesh;
    for write in service.fleet.clusters.journal() {
        let target = format!("{mesh}: {}", write.target);
        assert!(
            of("cluster.write.intended").contains(&target),
            "{target} was not announced"
        );
    }
    assert_eq!(of("cluster.write.intended"), of("cluster.write.done"));
}

/// Neither role of the service can change what was logged, and what a superuser changes is found.
#[tokio::test]
async fn the_log_is_out_of_reach_and_tampering_is_found() {
    let service = Service::new().await;
    let db = &service.fleet.db;
    for role in ["mw_api", "mw_worker"] {
        for attack in [
            "UPDATE audit_entries SET actor = 'me'",
            "DELETE FROM audit_entries",
            "TRUNCATE audit_entries",
        ] {
            let refused = db.execute(role, attack).await.expect_err("no privilege");
            assert!(refused.contains("permission denied"), "{role}: {refused}");
        }
    }
    assert_eq!(verified(&service, &log(&service).await), Ok(()));
    db.execute(
        meshwright_store::embedded_postgres::SUPERUSER,
        "UPDATE audit_entries SET target = target || 'x' WHERE seq = 2",
    )
    .await
    .expect("a superuser");
    assert_eq!(
        verified(&service, &log(&service).await),
        Err(meshwright_model::audit::ChainError::Changed { seq: 2 })
    );
}
