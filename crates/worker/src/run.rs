//! Runs one claim of one operation in a loop: checks the steps, decides, records the intent, writes
//! to the clusters, and checks again.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use meshwright_model::ids::OperationId;
use meshwright_model::operation::{OperationKind, OperationState, Problem};
use meshwright_model::plan::Target;
use meshwright_model::problem::ProblemCode;
use meshwright_rollout::converge::WorkloadKey;
use meshwright_rollout::ports::{ClusterError, FencingToken};
use meshwright_rollout::round::Samples;
use meshwright_store::{Claim, Operation, OperationUpdate, PlannedStep, StoreError, Tx};
use tokio_util::sync::CancellationToken;

use crate::Engine;
use crate::lease::{Lease, RowLock};
use crate::metrics;

mod audit;
mod cluster_credential;
mod converge;
mod fencing;
mod leave;
mod outcome;
mod plan_storage;
mod samples;
mod signals;
mod tick;
mod waiting;

pub(crate) use cluster_credential::cluster_unreachable;
use tick::LoopControl;

/// Delay before the next attempt when a cluster did not answer while the plan was built.
const WAIT_INTERVAL: Duration = Duration::from_secs(2);
/// Longest time that a paused operation sleeps. A signal wakes it earlier.
const PAUSED_SLEEP: Duration = Duration::from_hours(8760);

/// Result of running a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunEnd {
    /// The operation has ended.
    Finished,
    /// The claim was given up in order: the operation is paused, or is due again later.
    Released,
    /// Another claim has taken the operation over, or may do so because the lease has ended. Nothing
    /// more was written.
    LeaseLost,
    /// Our own database did not answer while the mesh or the cluster was read. The claim is still
    /// held.
    DatabaseUnavailable,
}

/// State of one claim while it runs.
pub(crate) struct Run<'e> {
    engine: &'e Engine,
    claim: Claim,
    lease: &'e Lease,
    operation: Operation,
    steps: Vec<PlannedStep>,
    samples: BTreeMap<i32, Samples>,
    waiting_for: Option<String>,
    /// Ended operations of the mesh that this claim has fenced.
    fenced_operations: Vec<OperationId>,
    /// Targets that an earlier claim may still write to, with the reason why each could not be
    /// fenced.
    unfenced_targets: BTreeMap<Target, ClusterError>,
    /// Restart stamps from before the upgrade, which a rollback restores; empty for other
    /// operations.
    former_stamps: BTreeMap<WorkloadKey, Option<String>>,
}

impl<'e> Run<'e> {
    /// Loads the operation and records that it runs. Returns `None` when the plan cannot be read;
    /// the operation was paused then.
    pub(crate) async fn load(
        engine: &'e Engine,
        claim: Claim,
        lease: &'e Lease,
    ) -> Result<Option<Self>, StoreError> {
        let mut tx = engine.store.begin(claim.tenant).await?;
        let operation = tx.operations().get_operation(claim.operation).await?;
        metrics::count_claim(operation.kind);
        let (items, looks) = (Vec::new(), BTreeMap::new());
        let (earlier, unfenced) = (Vec::new(), BTreeMap::new());
        let waiting_for = operation.waiting_for.clone();
        let mut run = Self {
            engine,
            claim,
            lease,
            operation,
            steps: items,
            samples: looks,
            waiting_for,
            fenced_operations: earlier,
            unfenced_targets: unfenced,
            former_stamps: BTreeMap::new(),
        };
        if run.operation.waves.is_some() {
            match tx.operations().list_steps(claim.operation).await {
                Ok(items) => run.steps = items,
                Err(StoreError::Corrupt { .. }) => {
                    drop(tx);
                    let hint = "A newer server wrote it: run that version again, or roll back.";
                    let problem = Problem::new(
                        ProblemCode::UnknownStep,
                        "The plan has a step that this server does not know.",
                        hint,
                    );
                    run.pause_operation(problem, Vec::new()).await?;
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        if run.operation.state == OperationState::Queued {
            run.operation.state = OperationState::Running;
            let state = Some(OperationState::Running);
            let locked = run
                .record_state(
                    &mut tx,
                    &OperationUpdate {
                        state,
                        ..OperationUpdate::default()
                    },
                )
                .await?;
            locked.commit_and_renew(tx).await?;
        }
        lease.mark_progress();
        Ok(Some(run))
    }

    /// Runs the operation until the claim ends. Operations on a cluster and prechecks have no plan
    /// and take their own path.
    pub(crate) async fn run_operation(
        &mut self,
        stop: &CancellationToken,
    ) -> Result<RunEnd, StoreError> {
        use OperationKind::{DeregisterCluster, Precheck, RegisterCluster, RenewCredential};
        let kind = self.operation.kind;
        if !matches!(
            kind,
            RegisterCluster | RenewCredential | DeregisterCluster | Precheck
        ) {
            return self.run_plan(stop).await;
        }
        if let Some(end) = self.process_signals().await? {
            return Ok(end);
        }
        match kind {
            Precheck => self.run_precheck().await,
            DeregisterCluster => self.run_deregistration().await,
            _ => self.run_credential_issue().await,
        }
    }

    fn now(&self) -> Timestamp {
        self.engine.clock.now()
    }

    /// Records an update of the operation within a transaction. The transaction holds the lock of
    /// the queue row from here on.
    async fn record_state(
        &self,
        tx: &mut Tx<'_>,
        record: &OperationUpdate,
    ) -> Result<RowLock<'e>, StoreError> {
        let locked = self.lease.lock_row();
        tx.operations()
            .record_operation_update(&self.claim, record, self.now())
            .await?;
        Ok(locked)
    }

    /// Returns the right to write to clusters, which lasts while the lease is renewed.
    fn fencing_token(&self) -> FencingToken {
        self.lease.fencing_token()
    }

    /// Opens the mesh, fences earlier writers, and runs the plan until the claim ends.
    async fn run_plan(&mut self, stop: &CancellationToken) -> Result<RunEnd, StoreError> {
        let mesh = self
            .operation
            .mesh
            .ok_or(StoreError::NotFound { what: "mesh" })?;
        let opened = self
            .engine
            .clusters
            .open_mesh(self.claim.tenant, mesh)
            .await;
        self.lease.mark_progress();
        // Fence before anything else, even before a pause: a write that a predecessor still has on
        // its way must be refused.
        if let Ok((world, layout)) = &opened
            && let Some(end) = self
                .fence_predecessors(layout, world.as_ref(), stop)
                .await?
        {
            return Ok(end);
        }
        if let Some(end) = self.process_signals().await? {
            return Ok(end);
        }
        let (world, layout) = match opened {
            Ok(opened) => opened,
            Err(problem) => return self.handle_open_failure(problem).await,
        };
        if let Some(end) = self.ensure_plan(layout, world.as_ref()).await? {
            return Ok(end);
        }
        loop {
            self.lease.mark_progress();
            match self.reconcile_steps(&world).await? {
                LoopControl::AllDone => return self.succeed_operation().await,
                LoopControl::Ended(end) => return Ok(end),
                LoopControl::Advanced => {}
                LoopControl::Waiting => world.wait_for_change().await,
            }
            if stop.is_cancelled() {
                return self.release_claim(Duration::ZERO).await;
            }
        }
    }
}
