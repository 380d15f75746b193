//! How a claim ends that can do nothing yet: the operation rests for a moment and says what it waits for.
//!
//! How long it has waited stands in its state, so that patience outlives the claim and begins again when a person asked for
//! a retry or the operation went on in between.

use jiff::{SignedDuration, Timestamp};
use model::operation::{OperationKind, OperationState};
use rollout::decide::{Decision, decide_after_planning_failure};
use rollout::ports::ClusterError;
use store::{OperationUpdate, StoreError};

use super::{WAIT_INTERVAL, Run};

impl Run<'_> {
    /// A plan or the findings of a precheck could not be made: waits for an answer, and asks a person after the patience is
    /// over or when waiting does not help.
    pub(super) async fn wait_or_pause(&mut self, error: &ClusterError) -> Result<(), StoreError> {
        match decide_after_planning_failure(error, self.time_unanswered(), &self.engine.settings.timeouts) {
            Decision::Wait(reason) if error.is_lost() => self.wait_for_answer(reason).await,
            Decision::Wait(reason) => self.release_waiting(reason).await,
            Decision::Pause(mut problem) => {
                if self.operation.kind == OperationKind::DeleteMesh && error.is_lost() {
                    problem.hint = "Bring the cluster back or renew its credential, then retry; or leave it behind with `meshwright mesh delete NAME --force --reason TEXT`.".into();
                }
                self.pause_operation(problem, Vec::new()).await
            }
            Decision::Done | Decision::Act { .. } | Decision::Stop => Err(StoreError::Fenced),
        }
    }

    /// Lets the operation go for a short rest, and says what it waits for.
    pub(super) async fn release_waiting(&mut self, reason: String) -> Result<(), StoreError> {
        self.release_waiting_since(reason, None).await
    }

    /// Does the same for a cluster that is silent or does not let us in, and counts since when.
    pub(super) async fn wait_for_answer(&mut self, reason: String) -> Result<(), StoreError> {
        let since = self.wait_times().and_then(|(_, silent)| silent).unwrap_or_else(|| self.now());
        self.release_waiting_since(reason, Some(since)).await
    }

    /// For how long the operation has waited without a break.
    pub(super) fn time_waited(&self) -> SignedDuration {
        self.elapsed_since(self.wait_times().and_then(|(since, _)| since))
    }

    /// For how long no cluster has answered, as far as the operation waits for an answer.
    pub(super) fn time_unanswered(&self) -> SignedDuration {
        self.elapsed_since(self.wait_times().and_then(|(_, silent)| silent))
    }

    fn elapsed_since(&self, since: Option<Timestamp>) -> SignedDuration {
        since.map_or(SignedDuration::ZERO, |since| self.now().duration_since(since))
    }

    fn wait_times(&self) -> Option<(Option<Timestamp>, Option<Timestamp>)> {
        match &self.operation.state {
            OperationState::Waiting { since, silent_since, .. } => Some((*since, *silent_since)),
            _ => None,
        }
    }

    async fn release_waiting_since(&mut self, reason: String, silent_since: Option<Timestamp>) -> Result<(), StoreError> {
        let now = self.now();
        let since = self.wait_times().and_then(|(since, _)| since).unwrap_or(now);
        let until = now + SignedDuration::try_from(WAIT_INTERVAL).expect("a short rest");
        let state = OperationState::Waiting { reason, until, since: Some(since), silent_since };
        // Each record of a state is an event: a wait of days must not tell the same thing every two seconds.
        if same_wait(&self.operation.state, &state) {
            return self.release_claim(WAIT_INTERVAL).await;
        }
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        let _locked = self.record_state(&mut tx, &OperationUpdate { state: Some(state), ..OperationUpdate::default() }).await?;
        tx.end_claim(&self.claim, Some(WAIT_INTERVAL)).await?;
        tx.commit().await
    }
}

/// Whether two states differ only in when the operation is looked at again.
fn same_wait(one: &OperationState, other: &OperationState) -> bool {
    let without_until = |state: &OperationState| match state {
        OperationState::Waiting { reason, since, silent_since, .. } => Some((reason.clone(), *since, *silent_since)),
        _ => None,
    };
    let known = without_until(one);
    known.is_some() && known == without_until(other)
}
