//! Sets the faults of the fake clusters: silence, errors, refusals, delays and cuts.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use meshwright_model::Name;
use meshwright_model::plan::{Target, WorkloadRef};
use meshwright_rollout::ports::ClusterError;

use super::{Cut, FakeClusters, RolloutBehaviour};
use crate::ManualClock;

impl FakeClusters {
    /// Changes the behaviour of a workload.
    pub fn set_rollout_behaviour(
        &self,
        member: &str,
        workload: &WorkloadRef,
        temper: RolloutBehaviour,
    ) {
        let key = (member.parse().expect(member), workload.clone());
        self.lock()
            .workloads
            .get_mut(&key)
            .expect("a known workload")
            .behaviour = temper;
    }

    /// Begins or ends the replacement of a workload's pods by another change than ours. A restart
    /// during the replacement would take one more pod away.
    pub fn set_replacing(&self, member: &str, workload: &WorkloadRef, replacing: bool) {
        let key = (member.parse().expect(member), workload.clone());
        self.lock()
            .workloads
            .get_mut(&key)
            .expect("a known workload")
            .replacing = replacing;
    }

    /// Deletes a namespace with all of its workloads, as its owner would.
    pub fn delete_namespace(&self, member: &str, namespace: &str) {
        let member: Name = member.parse().expect(member);
        let mut state = self.lock();
        let target = Target::NamespaceLabel {
            member: member.clone(),
            namespace: namespace.to_owned(),
        };
        state.set_value(target, None);
        state
            .workloads
            .retain(|(at, workload), _| *at != member || workload.namespace != namespace);
        state
            .deleted_namespaces
            .insert((member, namespace.to_owned()));
    }

    /// Sets the duration of each call.
    pub fn set_call_delay(&self, pace: Duration) {
        self.lock().call_delay = pace;
    }

    pub(super) async fn delay_call(&self) {
        let pace = self.lock().call_delay;
        if !pace.is_zero() {
            tokio::time::sleep(pace).await;
        }
    }

    /// Makes a member stop answering, or answer again.
    pub fn set_unreachable(&self, member: &str, silent: bool) {
        let member: Name = member.parse().expect(member);
        let mut state = self.lock();
        if silent {
            state.unreachable.insert(member)
        } else {
            state.unreachable.remove(&member)
        };
    }

    /// Makes this time pass on the clock with each look at a silent member for a deletion.
    pub fn set_silence_duration(&self, clock: &Arc<ManualClock>, duration: SignedDuration) {
        self.lock().silence = Some((clock.clone(), duration));
    }

    /// Makes every call of a member fail with an error, or succeed again.
    pub fn set_member_error(&self, member: &str, error: Option<ClusterError>) {
        let member: Name = member.parse().expect(member);
        let mut state = self.lock();
        match error {
            Some(error) => state.faults.insert(member, error),
            None => state.faults.remove(&member),
        };
    }

    /// Adds a resource that names the current revision.
    pub fn add_revision_pin(&self, resource: &str) {
        self.lock().pinned.push(resource.to_owned());
    }

    /// Sets the webhooks of another Istio in a member, as `kind/name`; an empty list removes them.
    pub fn set_foreign_webhooks(&self, member: &str, webhooks: &[&str]) {
        let webhooks = webhooks
            .iter()
            .map(|webhook| (*webhook).to_owned())
            .collect();
        self.lock()
            .foreign_webhooks
            .insert(member.parse().expect(member), webhooks);
    }

    /// Lets disruption budgets forbid every eviction, or allow evictions again.
    pub fn set_evictions_forbidden(&self, forbidden: bool) {
        self.lock().evictions_forbidden = forbidden;
    }

    /// Makes a target refuse writes, or accept them again.
    pub fn set_writes_refused(&self, target: &Target, refused: bool) {
        let mut state = self.lock();
        if refused {
            state.refused_targets.insert(target.clone())
        } else {
            state.refused_targets.remove(target)
        };
    }

    /// Makes a policy of a member refuse the pods of dry runs.
    pub fn refuse_dry_runs(&self, member: &str) {
        self.lock()
            .refusing_dry_runs
            .insert(member.parse().expect(member));
    }

    /// Makes the next fence fail with this error.
    pub fn fail_next_fence(&self, error: ClusterError) {
        self.lock().fence_faults.push(error);
    }

    /// Returns the targets that were fenced so far, in order.
    pub fn fenced_targets(&self) -> Vec<Target> {
        self.lock().fenced_targets.clone()
    }

    /// Sets the fault that happens at a write. Writes are counted from this call on, and the first
    /// one has number 1.
    pub fn cut_at(&self, write: u64, cut: Cut) {
        let mut state = self.lock();
        (
            state.write_attempts,
            state.push_count,
            state.cut,
            state.cut_reached,
        ) = (0, 0, Some((write, cut)), false);
    }

    /// Waits until a write reaches the cut. Returns `false` if this does not happen within the
    /// time.
    pub async fn wait_for_cut(&self, at_most: Duration) -> bool {
        let reached = async {
            while !self.lock().cut_reached {
                self.cut_notify.notified().await;
            }
        };
        tokio::time::timeout(at_most, reached).await.is_ok()
    }

    /// Removes the cut, so that later writes are accepted.
    pub fn clear_cut(&self) {
        self.lock().cut = None;
    }
}
