//! Takes an upgrade to a stage and starts its rollback, as a person does by the command line.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::Value;

use super::odd_workloads::{Expectation, ODD_WORKLOADS, OddWorkload};
use super::{RollbackStart, ZOO_CLUSTER, pods, workload_of};
use crate::Result;
use crate::assertions::MESHED_NAMESPACES;
use crate::lab::wait_until;
use crate::scenario::rollback::SECOND_TAG_STEP;
use crate::scenario::start_state::SuiteLab;
use crate::scenario::{NEW_RELEASE, text_field};

/// Workload that the roll-out moves one pod after another; it is the last one to end.
const SLOW_WORKLOAD: &str = "broker";
/// Pods of the slow workload after which the roll-out is paused in its middle.
const SLOW_PODS_BEFORE_PAUSE: usize = 2;
/// Pods of the zoo that evictions bring to the new revision while the promotion is split.
const MIXED_PODS: usize = 3;
const STATE_TIMEOUT: Duration = Duration::from_mins(1);
/// One workload takes 80 seconds, and others stand aside after a limit of 60 seconds.
const ROLLOUT_TIMEOUT: Duration = Duration::from_mins(4);
/// A rollback from the middle lets the slow workload end its way there before it takes it back.
const ROLLBACK_TIMEOUT: Duration = Duration::from_mins(6);

/// An upgrade that goes to a stage and back.
pub(super) struct UpgradeStory<'a> {
    pub(super) on: &'a SuiteLab,
    /// Held while the command line asks for something, and while the database is restarted: an
    /// answer that is lost would leave open whether the request was accepted.
    pub(super) calls: Mutex<()>,
}

impl<'a> UpgradeStory<'a> {
    pub(super) fn new(on: &'a SuiteLab) -> Self {
        Self {
            on,
            calls: Mutex::new(()),
        }
    }

    /// Takes a canary to the stage, rolls it back, and waits until the rollback has ended.
    pub(super) fn go_there_and_back(&self, start: RollbackStart) -> Result<()> {
        let upgrade = self.deploy_canary()?;
        match start {
            RollbackStart::SplitPromotion => self.split_promotion(&upgrade)?,
            RollbackStart::MiddleOfRollout => self.stop_mid_rollout(&upgrade)?,
            RollbackStart::PartialRollout => self.end_partially(&upgrade)?,
        }
        let start = Instant::now();
        let ended = self.wait_for(&upgrade, ROLLBACK_TIMEOUT, |now| now["done"] == true)?;
        if ended["state"] != "rolled_back" {
            bail!("the rollback is {}: {}", ended["state"], ended["problem"]);
        }
        println!("  rolled back after {} s", start.elapsed().as_secs());
        Ok(())
    }

    fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let _held = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        self.on.server.run_json(arguments)
    }

    fn send_verb(&self, verb: &str, upgrade: &str) -> Result<()> {
        self.ask(&["upgrade", verb, upgrade]).map(drop)
    }

    /// Waits until an upgrade is as wanted or needs a person. Requests that fail are repeated.
    fn wait_for(
        &self,
        upgrade: &str,
        limit: Duration,
        wanted: fn(&Value) -> bool,
    ) -> Result<Value> {
        let mut last = Value::Null;
        let found = wait_until("the upgrade goes on", limit, || {
            last = self.ask(&["upgrade", "get", upgrade]).ok()?;
            (wanted(&last) || last["state"] == "paused").then(|| last.clone())
        });
        found.or_else(|error| {
            bail!(
                "{error:#}: the upgrade is {}: {}",
                last["state"],
                last["problem"]
            )
        })
    }

    /// Plans a canary with the warnings accepted, and waits until the new revision is up.
    fn deploy_canary(&self) -> Result<String> {
        let planned = [
            "upgrade",
            "plan",
            "demo",
            "--version",
            NEW_RELEASE.0,
            "--strategy",
            "canary",
            "--hold-seconds",
            "3600",
        ];
        let upgrade = text_field(&self.ask(&planned)?, "id")?;
        self.send_verb("start", &upgrade)?;
        self.wait_for(&upgrade, STATE_TIMEOUT, |now| now["state"] == "blocked")?;
        self.send_verb("acknowledge", &upgrade)?;
        let ready = |now: &Value| now["state"] == "verifying";
        let deployed = self.wait_for(&upgrade, STATE_TIMEOUT, ready)?;
        if !ready(&deployed) {
            bail!("the canary is not up: {}", deployed["problem"]);
        }
        Ok(upgrade)
    }

    /// Promotes, checks that the roll-out ends with the workloads that it left and with nothing
    /// else undone, and starts the rollback.
    fn end_partially(&self, upgrade: &str) -> Result<()> {
        self.send_verb("promote", upgrade)?;
        let start = Instant::now();
        let ended = self.wait_for(upgrade, ROLLOUT_TIMEOUT, |now| now["state"] == "holding")?;
        println!(
            "  {} after {} s: {}",
            ended["state"],
            start.elapsed().as_secs(),
            ended["problem"]
        );
        check_partial_problem(&ended)?;
        let left = |expected| matches!(expected, Expectation::Left(_));
        pods::check_revisions(&self.on.lab, NEW_RELEASE, left)?;
        self.send_verb("rollback", upgrade)
    }

    /// Stops the worker after it has moved the tags of the first member, and starts the rollback
    /// when evictions have brought pods to the new revision that no restart has touched.
    fn split_promotion(&self, upgrade: &str) -> Result<()> {
        let held = self
            .on
            .worker
            .pause_before(SECOND_TAG_STEP, || self.send_verb("promote", upgrade))?;
        let what = "evicted pods come back on the new revision";
        wait_until(what, STATE_TIMEOUT, || {
            let pods = pods::list_pods(&self.on.lab, ZOO_CLUSTER).ok()?;
            let mixed = pods
                .iter()
                .filter(|pod| pod.revision == NEW_RELEASE.1 && workload_of(pod).is_some());
            (mixed.count() >= MIXED_PODS).then_some(())
        })?;
        self.send_verb("rollback", upgrade)?;
        drop(held);
        Ok(())
    }

    /// Pauses the upgrade while the pods of the slow workload are replaced, and starts the rollback.
    fn stop_mid_rollout(&self, upgrade: &str) -> Result<()> {
        self.send_verb("promote", upgrade)?;
        wait_until("the slow workload is being moved", STATE_TIMEOUT, || {
            let pods = pods::list_pods(&self.on.lab, ZOO_CLUSTER).ok()?;
            let moved = pods.iter().filter(|pod| {
                pod.revision == NEW_RELEASE.1
                    && workload_of(pod).is_some_and(|odd| odd.name == SLOW_WORKLOAD)
            });
            (moved.count() >= SLOW_PODS_BEFORE_PAUSE).then_some(())
        })?;
        self.send_verb("pause", upgrade)?;
        self.wait_for(upgrade, STATE_TIMEOUT, |_| false)?;
        self.send_verb("rollback", upgrade)
    }
}

/// Checks that the problem of a roll-out names exactly the workloads that it left, each with its
/// reason.
fn check_partial_problem(upgrade: &Value) -> Result<()> {
    let problem = &upgrade["problem"];
    if upgrade["state"] != "paused" || problem["code"] != "rollout_partial" {
        bail!(
            "the upgrade is {} with {problem}, and not paused with rollout_partial",
            upgrade["state"]
        );
    }
    let message = text_field(problem, "message")?.to_lowercase();
    let mut places: BTreeMap<usize, &OddWorkload> = BTreeMap::new();
    for odd in &ODD_WORKLOADS {
        let named = message.find(odd.name);
        match (odd.expected, named) {
            (Expectation::Left(_), Some(place)) => drop(places.insert(place, odd)),
            (Expectation::Left(_), None) => bail!("{} is not named in: {message}", odd.name),
            (_, Some(_)) => bail!("{} is named in: {message}", odd.name),
            (_, None) => {}
        }
    }
    let sample = MESHED_NAMESPACES.map(|namespace| format!("{namespace}/"));
    if let Some(named) = sample.iter().find(|named| message.contains(*named)) {
        bail!("a workload of {named} is named in: {message}");
    }
    // The reason of a workload stands between its name and the name of the next one.
    for (place, odd) in &places {
        let next = places.range(place + 1..).next();
        let text = &message[*place..next.map_or(message.len(), |(next, _)| *next)];
        let Expectation::Left(reasons) = odd.expected else {
            continue;
        };
        let given = reasons
            .iter()
            .any(|reason| text.contains(&reason.to_lowercase()));
        if !given {
            bail!("{} is left without {reasons:?}: {text}", odd.name);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Returns a partial roll-out whose message has these entries beside those of all workloads
    /// that are left, except for `without`.
    fn partial(more: &str, without: &str) -> Value {
        let left = ODD_WORKLOADS.iter().filter(|odd| odd.name != without);
        let entry = |odd: &OddWorkload| match odd.expected {
            Expectation::Left(reasons) => {
                Some(format!("{}/{}: {}", odd.namespace, odd.name, reasons[0]))
            }
            _ => None,
        };
        let entries: Vec<String> = left.filter_map(entry).chain([more.to_owned()]).collect();
        json!({ "state": "paused", "problem": { "code": "rollout_partial", "message": entries.join("; ") } })
    }

    #[test]
    fn a_message_that_names_exactly_the_left_workloads_is_right() {
        check_partial_problem(&partial("", "")).expect("all are named with their reasons");
    }

    #[test]
    fn planted_a_workload_that_is_missing_or_too_much_is_found() {
        assert!(check_partial_problem(&partial("", "pricing")).is_err());
        assert!(check_partial_problem(&partial("pricing: later", "pricing")).is_err());
        assert!(check_partial_problem(&partial("stream/broker: slow", "")).is_err());
        assert!(check_partial_problem(&partial("shop/web: slow", "")).is_err());
    }

    #[test]
    fn planted_another_end_of_the_rollout_is_found() {
        let mut other = partial("", "");
        other["state"] = json!("holding");
        assert!(check_partial_problem(&other).is_err());
    }
}
