//! Ends a claim that cannot continue yet: the operation is due again after a short delay and shows
//! what it waits for.
//!
//! The start of the wait is stored in the operation's state. Timeouts therefore count across
//! claims, and start again after a retry signal or after the operation has continued in between.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use meshwright_model::operation::{OperationKind, OperationState};
use meshwright_rollout::decide::{Decision, decide_after_planning_failure};
use meshwright_rollout::ports::ClusterError;
use meshwright_store::{OperationUpdate, StoreError};

use super::{Run, RunEnd, WAIT_INTERVAL};

/// Minimum time until a known end for which a claim is given up. A shorter wait is not worth
/// another claim.
const MIN_RELEASED_WAIT: SignedDuration = SignedDuration::from_secs(30);
/// Maximum time until the operation is due again. The clocks of workers and of the database may
/// differ.
const MAX_RELEASED_WAIT: SignedDuration = SignedDuration::from_mins(10);

/// Hint of the problem of a deletion that waits for a member. A forced deletion leaves the member
/// behind and does not get it.
const LEAVE_BEHIND_HINT: &str = "Bring the cluster back or renew its credential, then retry; or leave it behind with `meshwright mesh delete NAME --force --reason TEXT`.";

impl Run<'_> {
    /// Handles an error that prevented a plan or the findings of a precheck. The operation waits
    /// for an answer, and is paused after the timeout or when waiting does not help. `unanswered`
    /// is the time without an answer at the moment of the error.
    pub(super) async fn wait_or_pause(
        &mut self,
        error: &ClusterError,
        unanswered: SignedDuration,
    ) -> Result<RunEnd, StoreError> {
        let timeouts = &self.engine.settings.timeouts;
        match decide_after_planning_failure(error, unanswered, timeouts) {
            Decision::Wait(reason) if error.is_lost() => self.wait_for_answer(reason).await,
            Decision::Wait(reason) => self.release_waiting(reason).await,
            Decision::Pause(mut problem) => {
                let deletes = self.operation.kind == OperationKind::DeleteMesh;
                if deletes && error.is_lost() && !self.operation.is_forced() {
                    problem.hint = LEAVE_BEHIND_HINT.into();
                }
                self.pause_operation(problem, Vec::new()).await
            }
            // Only a step can be done or act. Its decision says nothing about a plan.
            Decision::Done
            | Decision::Act { .. }
            | Decision::AddRestarts(_)
            | Decision::WaitUntil { .. }
            | Decision::Stop => Ok(RunEnd::LeaseLost),
        }
    }

    /// Gives the claim up for a short delay and records the reason of the wait.
    pub(super) async fn release_waiting(&mut self, reason: String) -> Result<RunEnd, StoreError> {
        self.release_waiting_since(reason, None).await
    }

    /// Gives the claim up until a time that is known, so that a long wait takes no worker's capacity.
    /// A signal ends the wait early. Returns `None` for a short wait, which the claim outlasts.
    pub(super) async fn release_until(
        &mut self,
        reason: &str,
        until: Timestamp,
    ) -> Result<Option<RunEnd>, StoreError> {
        let left = until.duration_since(self.now());
        if left < MIN_RELEASED_WAIT {
            return Ok(None);
        }
        let state = OperationState::Waiting {
            reason: reason.to_owned(),
            until,
            since: Some(self.now()),
            silent_since: None,
        };
        let due_in = Duration::try_from(left.min(MAX_RELEASED_WAIT)).expect("a positive time");
        self.release_in_state(state, due_in).await.map(Some)
    }

    /// Gives the claim up as [`Self::release_waiting`] does, for a cluster that is silent or
    /// refuses access, and records since when.
    pub(super) async fn wait_for_answer(&mut self, reason: String) -> Result<RunEnd, StoreError> {
        let since = self
            .wait_times()
            .and_then(|(_, silent)| silent)
            .unwrap_or_else(|| self.now());
        self.release_waiting_since(reason, Some(since)).await
    }

    /// Gives the claim up as [`Self::wait_for_answer`] does, and counts the time without an answer
    /// from now on, even if the cluster was silent before.
    pub(super) async fn restart_wait_for_answer(
        &mut self,
        reason: String,
    ) -> Result<RunEnd, StoreError> {
        let now = self.now();
        self.release_waiting_since(reason, Some(now)).await
    }

    /// Returns how long the operation has waited without a break.
    pub(super) fn time_waited(&self) -> SignedDuration {
        self.elapsed_since(self.wait_times().and_then(|(since, _)| since))
    }

    /// Returns how long the operation has waited for an answer of a cluster. The time is zero while
    /// it waits for something else.
    pub(super) fn time_unanswered(&self) -> SignedDuration {
        self.elapsed_since(self.wait_times().and_then(|(_, silent)| silent))
    }

    fn elapsed_since(&self, since: Option<Timestamp>) -> SignedDuration {
        since.map_or(SignedDuration::ZERO, |since| {
            self.now().duration_since(since)
        })
    }

    /// Returns the start of the wait and the start of the silence, if the operation waits.
    fn wait_times(&self) -> Option<(Option<Timestamp>, Option<Timestamp>)> {
        match &self.operation.state {
            OperationState::Waiting {
                since,
                silent_since,
                ..
            } => Some((*since, *silent_since)),
            _ => None,
        }
    }

    /// Records the wait, unless the same wait is recorded already, and gives the claim up.
    async fn release_waiting_since(
        &mut self,
        reason: String,
        silent_since: Option<Timestamp>,
    ) -> Result<RunEnd, StoreError> {
        let now = self.now();
        let since = self
            .wait_times()
            .and_then(|(since, _)| since)
            .unwrap_or(now);
        let until = now + SignedDuration::try_from(WAIT_INTERVAL).expect("a short rest");
        let state = OperationState::Waiting {
            reason,
            until,
            since: Some(since),
            silent_since,
        };
        // Each record of a state creates an event. A wait of several days must not create the same
        // event every two seconds.
        if same_wait(&self.operation.state, &state) {
            return self.release_claim(WAIT_INTERVAL).await;
        }
        self.release_in_state(state, WAIT_INTERVAL).await
    }

    async fn release_in_state(
        &mut self,
        state: OperationState,
        due_in: Duration,
    ) -> Result<RunEnd, StoreError> {
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        let _locked = self
            .record_state(
                &mut tx,
                &OperationUpdate {
                    state: Some(state),
                    ..OperationUpdate::default()
                },
            )
            .await?;
        tx.operations().end_claim(&self.claim, Some(due_in)).await?;
        tx.commit().await?;
        Ok(RunEnd::Released)
    }
}

/// Returns true if two states describe the same wait and differ only in the time of the next
/// attempt.
fn same_wait(one: &OperationState, other: &OperationState) -> bool {
    let without_until = |state: &OperationState| match state {
        OperationState::Waiting {
            reason,
            since,
            silent_since,
            ..
        } => Some((reason.clone(), *since, *silent_since)),
        _ => None,
    };
    let known = without_until(one);
    known.is_some() && known == without_until(other)
}
