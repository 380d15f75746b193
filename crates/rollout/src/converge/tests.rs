//! Checks the next action of a roll-out: one odd workload stops no other one, and what is left is
//! named with its reason.

use std::collections::BTreeMap;

use meshwright_model::operation::StepEvent;
use meshwright_model::plan::WorkloadKind;
use meshwright_model::problem::ProblemCode;

use super::*;
use crate::ports::{RevisionUser, UserKind};

fn sidecar(revision: &str) -> Sidecar {
    Sidecar {
        revision: revision.parse().expect("a revision name"),
        image: format!("hub/proxyv2:{revision}"),
    }
}

fn old() -> FormerPods {
    FormerPods {
        revision: "1-25-1".parse().expect("a revision name"),
        image: None,
    }
}

fn new() -> FormerPods {
    FormerPods {
        revision: "1-27-9".parse().expect("a revision name"),
        image: None,
    }
}

/// Returns a workload with pods of the old revision, whose next pod gets the new one.
fn candidate(name: &str) -> Candidate {
    Candidate {
        key: (
            "c1".parse().expect("a name"),
            WorkloadRef {
                namespace: "shop".into(),
                kind: WorkloadKind::Deployment,
                name: name.into(),
            },
        ),
        live: vec![Some(sidecar("1-25-1"))],
        blocker: None,
        of_mesh: false,
        former_stamp: None,
        next: NextPod::Injected(sidecar("1-27-9")),
    }
}

/// Histories of workloads by name; a workload that is not listed has none.
type Histories = BTreeMap<&'static str, RestartHistory>;

fn ended(event: StepEvent) -> RestartHistory {
    let mut last = Progress::default();
    last.apply_event(&event);
    RestartHistory {
        count: 1,
        last,
        ..RestartHistory::default()
    }
}

fn problem(code: ProblemCode) -> Problem {
    Problem::new(code, "Its pods do not start.", "Look at them.")
}

fn failed() -> RestartHistory {
    ended(StepEvent::Failed {
        problem: problem(ProblemCode::WorkloadNotReady),
    })
}

/// Returns the histories of these workloads.
fn histories(candidates: &[Candidate], known: &Histories) -> BTreeMap<WorkloadKey, RestartHistory> {
    candidates
        .iter()
        .filter_map(|candidate| {
            let past = known.get(candidate.key.1.name.as_str())?;
            Some((candidate.key.clone(), past.clone()))
        })
        .collect()
}

fn decide(off: Option<&FormerPods>, candidates: &[Candidate], known: &Histories) -> NextMove {
    next_move(&goal(off), candidates, &histories(candidates, known), &[])
}

/// Returns the goal of a roll-out off the old revision, of a rollback off other pods, or of a restart
/// of everything outdated.
fn goal(off: Option<&FormerPods>) -> Goal<'_> {
    let outdated = off.is_none_or(|off| *off == old());
    Goal {
        off,
        outdated,
        evict: !outdated,
        max_failures: 3,
        failures: 0,
    }
}

/// Returns the names of the workloads that are restarted and of those that are excluded.
fn planned(next: NextMove) -> (Vec<String>, Vec<String>) {
    let NextMove::Restart(new) = next else {
        panic!("{next:?}");
    };
    let name = |restart: &NewRestart| match &restart.step {
        Step::Restart { workload, .. } => workload.name.clone(),
        step => panic!("{step}"),
    };
    let (excluded, restarted): (Vec<_>, Vec<_>) =
        new.iter().partition(|restart| restart.excluded.is_some());
    (
        restarted.into_iter().map(name).collect(),
        excluded.into_iter().map(name).collect(),
    )
}

#[test]
fn d1_an_odd_workload_stops_no_other_one_and_is_listed_with_its_reason() {
    let paused = Candidate {
        blocker: Some(RestartBlocker::Paused),
        ..candidate("paused")
    };
    let refused = Candidate {
        next: NextPod::Refused("the quota is used up".into()),
        ..candidate("refused")
    };
    let opted_out = Candidate {
        next: NextPod::NotInjected,
        ..candidate("opted-out")
    };
    let pinned = Candidate {
        next: NextPod::Injected(sidecar("1-25-1")),
        ..candidate("pinned")
    };
    let all = [paused, refused, opted_out, pinned, candidate("web")];
    let (restarted, excluded) = planned(decide(Some(&old()), &all, &Histories::new()));
    assert_eq!(restarted, ["web"]);
    assert_eq!(excluded, ["paused", "refused", "opted-out", "pinned"]);
}

#[test]
fn d1_what_is_left_at_the_end_is_named_and_nothing_is_restarted_twice() {
    let paused = Candidate {
        blocker: Some(RestartBlocker::Paused),
        ..candidate("paused")
    };
    let known = Histories::from([
        (
            "paused",
            ended(StepEvent::Excluded {
                problem: problem(ProblemCode::CannotRestart),
            }),
        ),
        ("broken", failed()),
    ]);
    let NextMove::Partial(left) = decide(Some(&old()), &[paused, candidate("broken")], &known)
    else {
        panic!("two workloads are left");
    };
    assert_eq!(left.code, ProblemCode::RolloutPartial);
    assert!(
        left.message.contains("shop/deployment/paused in c1")
            && left.message.contains("Its pods do not start"),
        "{}",
        left.message
    );
}

#[test]
fn d4_a_workload_that_a_roll_out_has_broken_is_named_although_no_old_pod_is_left() {
    let broken = Candidate {
        live: vec![Some(sidecar("1-27-9"))],
        ..candidate("web")
    };
    let known = Histories::from([("web", failed())]);
    let NextMove::Partial(left) = decide(Some(&old()), &[broken], &known) else {
        panic!("its pods do not serve");
    };
    assert!(
        left.message.contains("shop/deployment/web"),
        "{}",
        left.message
    );
}

#[test]
fn b7_a_rollback_does_not_wait_for_a_workload_that_has_left_the_new_revision() {
    let back = Candidate {
        live: vec![Some(sidecar("1-25-1"))],
        next: NextPod::Injected(sidecar("1-25-1")),
        ..candidate("web")
    };
    let known = Histories::from([("web", failed())]);
    assert_eq!(decide(Some(&new()), &[back], &known), NextMove::Done);
}

#[test]
fn d4_no_further_restart_begins_after_too_many_failures() {
    let known = Histories::from([("a", failed()), ("b", failed()), ("c", failed())]);
    let all = ["a", "b", "c", "d"].map(candidate);
    let former = old();
    let stopped = Goal {
        failures: 3,
        ..goal(Some(&former))
    };
    let NextMove::Partial(left) = next_move(&stopped, &all, &histories(&all, &known), &[]) else {
        panic!("three workloads have failed");
    };
    assert!(
        left.message
            .contains("1 restarts were not begun after 3 had failed"),
        "{}",
        left.message
    );
}

#[test]
fn b7_a_former_stamp_is_restored_once() {
    let stamped = Candidate {
        live: vec![Some(sidecar("1-25-1"))],
        former_stamp: Some(None),
        next: NextPod::Injected(sidecar("1-25-1")),
        ..candidate("web")
    };
    let known = Histories::from([("web", ended(StepEvent::Done))]);
    assert_eq!(decide(Some(&new()), &[stamped], &known), NextMove::Done);
}

#[test]
fn gateways_of_the_mesh_wait_for_all_others() {
    let gateway = Candidate {
        of_mesh: true,
        ..candidate("gateway")
    };
    let both = [gateway.clone(), candidate("web")];
    let (restarted, _) = planned(decide(Some(&old()), &both, &Histories::new()));
    assert_eq!(restarted, ["web"]);
    let under_way = RestartHistory {
        count: 1,
        ..RestartHistory::default()
    };
    let known = Histories::from([("web", under_way)]);
    assert!(matches!(
        decide(Some(&old()), &both, &known),
        NextMove::Wait(_)
    ));
    let (restarted, _) = planned(decide(Some(&old()), &[gateway], &Histories::new()));
    assert_eq!(restarted, ["gateway"]);
}

#[test]
fn b6_a_rollback_restores_a_former_stamp_even_without_a_new_pod() {
    let stamped = Candidate {
        live: vec![Some(sidecar("1-25-1"))],
        former_stamp: Some(None),
        next: NextPod::Injected(sidecar("1-25-1")),
        ..candidate("web")
    };
    let new = FormerPods {
        revision: "1-27-9".parse().expect("a revision name"),
        image: None,
    };
    let NextMove::Restart(restarts) = decide(Some(&new), &[stamped], &Histories::new()) else {
        panic!("the stamp is to be restored");
    };
    assert!(
        matches!(
            &restarts[0].step,
            Step::Restart {
                stamp: Stamp::Former { value: None },
                ..
            }
        ),
        "{restarts:?}"
    );
}

#[test]
fn d1_without_a_former_revision_every_pod_is_compared_with_the_next_one() {
    let right = Candidate {
        live: vec![Some(sidecar("1-27-9"))],
        ..candidate("right")
    };
    let bare = Candidate {
        live: vec![None],
        ..candidate("bare")
    };
    let opted_out = Candidate {
        live: vec![None],
        next: NextPod::NotInjected,
        ..candidate("opted-out")
    };
    let all = [right, bare, opted_out];
    let (restarted, excluded) = planned(decide(None, &all, &Histories::new()));
    assert_eq!((restarted, excluded), (vec!["bare".to_owned()], Vec::new()));
}

#[test]
fn pods_without_a_workload_are_left() {
    let bare = RevisionUser {
        member: "c1".into(),
        kind: UserKind::Pod,
        name: "shop/one-off".into(),
        sidecar: None,
        workload: None,
        evictable: None,
    };
    let none = BTreeMap::new();
    let NextMove::Partial(left) = next_move(&goal(Some(&old())), &[], &none, &[pod_of(bare)])
    else {
        panic!("a pod is left");
    };
    assert!(
        left.message.contains("pod shop/one-off in c1"),
        "{}",
        left.message
    );
}

#[test]
fn b7_a_pod_born_in_the_mixed_window_is_restarted_by_the_rollback() {
    let mixed = Candidate {
        live: vec![Some(sidecar("1-25-1")), Some(sidecar("1-27-9"))],
        next: NextPod::Injected(sidecar("1-25-1")),
        ..candidate("web")
    };
    let new = FormerPods {
        revision: "1-27-9".parse().expect("a revision name"),
        image: None,
    };
    let NextMove::Restart(restarts) = decide(Some(&new), &[mixed], &Histories::new()) else {
        panic!("a pod of the new revision is left");
    };
    assert!(
        matches!(
            &restarts[0].step,
            Step::Restart {
                stamp: Stamp::Fresh,
                ..
            }
        ),
        "{restarts:?}"
    );
}

#[test]
fn d1_in_place_only_pods_with_the_image_of_the_new_release_are_taken_back() {
    let with_image = |image: &str| Sidecar {
        image: image.into(),
        ..sidecar("1-25-1")
    };
    let new = FormerPods {
        revision: "1-25-1".parse().expect("a revision name"),
        image: Some("new".into()),
    };
    let next = NextPod::Injected(with_image("old"));
    let rolled = Candidate {
        live: vec![Some(with_image("new"))],
        next: next.clone(),
        ..candidate("rolled")
    };
    let pinned = Candidate {
        live: vec![Some(with_image("pinned"))],
        next,
        ..candidate("pinned")
    };
    let (restarted, _) = planned(decide(Some(&new), &[rolled, pinned], &Histories::new()));
    assert_eq!(restarted, ["rolled"]);
}

#[test]
fn d1_a_pod_without_a_sidecar_in_a_labelled_namespace_needs_a_restart() {
    let bare = Candidate {
        live: vec![Some(sidecar("1-27-9")), None],
        ..candidate("web")
    };
    let former = old();
    let none = BTreeMap::new();
    let (restarted, _) = planned(next_move(&goal(Some(&former)), &[bare], &none, &[]));
    assert_eq!(restarted, ["web"]);
}

fn pod_of(user: RevisionUser) -> OtherPod {
    OtherPod {
        user,
        eviction: None,
    }
}

#[test]
fn b7_a_rollback_evicts_pods_of_controllers_that_it_cannot_restart_one_by_one() {
    let pod = |name: &str| {
        pod_of(RevisionUser {
            member: "c1".into(),
            kind: UserKind::Pod,
            name: format!("shop/{name}"),
            sidecar: None,
            workload: None,
            evictable: Some(crate::ports::ObjectVersion(format!("{name}/uid"))),
        })
    };
    let none = BTreeMap::new();
    let pods = [pod("a"), pod("b")];
    let new = FormerPods {
        revision: "1-27-9".parse().expect("a revision name"),
        image: None,
    };
    let NextMove::Restart(evictions) = next_move(&goal(Some(&new)), &[], &none, &pods) else {
        panic!("a pod is to be evicted");
    };
    assert!(
        matches!(&evictions[..], [NewRestart { step: Step::Evict { pod, .. }, .. }] if pod == "a/uid"),
        "{evictions:?}"
    );
    let former = old();
    let NextMove::Partial(left) = next_move(&goal(Some(&former)), &[], &none, &pods) else {
        panic!("a roll-out leaves them to their owners");
    };
    assert!(
        left.message.contains("2 pods of namespace shop in c1"),
        "{}",
        left.message
    );
}

#[test]
fn b7_a_rollback_evicts_the_pods_of_a_workload_that_a_changed_template_does_not_move() {
    let paused = Candidate {
        live: vec![Some(sidecar("1-27-9"))],
        next: NextPod::Injected(sidecar("1-25-1")),
        blocker: Some(RestartBlocker::Paused),
        ..candidate("paused")
    };
    let new = FormerPods {
        revision: "1-27-9".parse().expect("a revision name"),
        image: None,
    };
    let NextMove::Restart(restarts) = decide(Some(&new), &[paused], &Histories::new()) else {
        panic!("its pod is to be evicted");
    };
    assert!(
        matches!(
            &restarts[0].step,
            Step::Restart {
                stamp: Stamp::Evict,
                ..
            }
        ),
        "{restarts:?}"
    );
}

/// A roll-out leaves such workloads to their owners, unless its policy says otherwise.
#[test]
fn d2_a_policy_lets_a_roll_out_evict_pods_that_a_changed_template_does_not_replace() {
    let off = old();
    let on_delete = [Candidate {
        blocker: Some(RestartBlocker::OnDelete),
        ..candidate("broker")
    }];
    let next = decide(Some(&off), &on_delete, &Histories::new());
    assert_eq!(planned(next).1, ["broker"], "it is excluded");
    let goal = Goal {
        evict: true,
        ..goal(Some(&off))
    };
    let evicted = next_move(&goal, &on_delete, &BTreeMap::new(), &[]);
    assert!(
        matches!(&evicted, NextMove::Restart(new) if matches!(&new[..], [NewRestart { step: Step::Restart { stamp: Stamp::Evict, .. }, excluded: None }])),
        "{evicted:?}"
    );
}

/// Its next pod would have no sidecar, so no restart is ever added for it.
#[test]
fn d4_an_excluded_workload_that_a_person_skips_is_left_out() {
    let off = old();
    let opted_out = [Candidate {
        next: NextPod::NotInjected,
        ..candidate("opted-out")
    }];
    let mut past = ended(StepEvent::Excluded {
        problem: problem(ProblemCode::NotInjected),
    });
    let known = |past: &RestartHistory| Histories::from([("opted-out", past.clone())]);
    let left = decide(Some(&off), &opted_out, &known(&past));
    assert!(matches!(left, NextMove::Partial(_)), "{left:?}");
    past.last.apply_event(&StepEvent::Skipped);
    assert_eq!(
        decide(Some(&off), &opted_out, &known(&past)),
        NextMove::Done
    );
}

#[test]
fn b7_the_eviction_after_a_failed_restart_passes_the_failure_limit_of_a_rollback() {
    let off = new();
    let broken = [Candidate {
        live: vec![Some(sidecar("1-27-9"))],
        next: NextPod::Injected(sidecar("1-25-1")),
        ..candidate("broken")
    }];
    let known = Histories::from([("broken", failed())]);
    let goal = Goal {
        max_failures: 1,
        failures: 1,
        ..goal(Some(&off))
    };
    let next = next_move(&goal, &broken, &histories(&broken, &known), &[]);
    assert!(
        matches!(&next, NextMove::Restart(new) if new[0].step.evicts_pods()),
        "{next:?}"
    );
}

#[test]
fn d4_a_pod_that_a_person_skips_is_left_out() {
    let off = old();
    let mut progress = Progress::default();
    let pod = |progress: &Progress| OtherPod {
        eviction: Some(progress.clone()),
        ..pod_of(RevisionUser {
            member: "c1".into(),
            kind: UserKind::Pod,
            name: "shop/odd".into(),
            workload: None,
            sidecar: None,
            evictable: Some(crate::ports::ObjectVersion("odd/uid".into())),
        })
    };
    progress.apply_event(&StepEvent::Failed {
        problem: problem(ProblemCode::WorkloadNotReady),
    });
    let none = BTreeMap::new();
    let left = next_move(&goal(Some(&off)), &[], &none, &[pod(&progress)]);
    assert!(matches!(left, NextMove::Partial(_)), "{left:?}");
    progress.apply_event(&StepEvent::Skipped);
    let left = next_move(&goal(Some(&off)), &[], &none, &[pod(&progress)]);
    assert_eq!(left, NextMove::Done);
}
