//! One claim of one operation: look, decide, commit to what is about to happen, push, look again.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use model::ids::OperationId;
use model::operation::{OperationKind, OperationState, Problem};
use model::plan::Target;
use rollout::ports::{FencingToken, ClusterError};
use rollout::step::StepContext;
use store::{Claim, PlannedStep, Operation, OperationUpdate, StoreError, Tx};
use tokio_util::sync::CancellationToken;

use crate::lease::{Lease, RowLock};
use crate::{Engine, vitals};

mod audited;
mod begin;
mod close;
mod connect;
mod fencing;
mod leave;
mod tick;
mod waiting;
mod wishes;

pub(crate) use connect::cluster_unreachable;
use tick::{Samples, LoopControl};

/// How long a claim rests when a cluster did not answer while its plan was built.
const WAIT_INTERVAL: Duration = Duration::from_secs(2);
/// A paused operation is woken by a wish; this is only how long it may sleep otherwise.
const PAUSED_SLEEP: Duration = Duration::from_hours(8760);

/// How a claim ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunEnd {
    /// In order: the operation has ended, stands still, or is due again later.
    Released,
    /// The lease may be over: nothing more was written.
    LeaseLost,
    /// Our own database did not let the mesh or cluster be read: the claim is still held.
    DatabaseUnavailable,
}

/// One claim.
pub(crate) struct Run<'e> {
    engine: &'e Engine,
    claim: Claim,
    lease: &'e Lease,
    operation: Operation,
    steps: Vec<PlannedStep>,
    samples: BTreeMap<i32, Samples>,
    waiting_for: Option<String>,
    /// The mesh's ended operations that this claim has fenced.
    fenced_operations: Vec<OperationId>,
    /// What an earlier claim may still write to, and why it could not be fenced.
    unfenced_targets: BTreeMap<Target, ClusterError>,
}

impl<'e> Run<'e> {
    /// Reads the operation, and shows that it runs. `None`: its plan cannot be read, and it was paused.
    pub(crate) async fn load(engine: &'e Engine, claim: Claim, lease: &'e Lease) -> Result<Option<Self>, StoreError> {
        let mut tx = engine.store.begin(claim.tenant).await?;
        let operation = tx.get_operation(claim.operation).await?;
        vitals::count_claim(operation.kind);
        let (items, looks) = (Vec::new(), BTreeMap::new());
        let (earlier, unfenced) = (Vec::new(), BTreeMap::new());
        let mut run = Self { engine, claim, lease, operation, steps: items, samples: looks, waiting_for: None, fenced_operations: earlier, unfenced_targets: unfenced };
        if run.operation.waves.is_some() {
            match tx.list_steps(claim.operation).await {
                Ok(items) => run.steps = items,
                Err(StoreError::Corrupt { .. }) => {
                    drop(tx);
                    let hint = "A newer server wrote it: run that version again, or roll back.";
                    let problem =
                        Problem::new("unknown_step", "The plan has a step that this server does not know.", hint);
                    run.pause_operation(problem, Vec::new()).await?;
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        if run.operation.state == OperationState::Queued {
            run.operation.state = OperationState::Running;
            let state = Some(OperationState::Running);
            let locked = run.record_state(&mut tx, &OperationUpdate { state, ..OperationUpdate::default() }).await?;
            locked.commit_and_renew(tx).await?;
        }
        lease.mark_progress();
        Ok(Some(run))
    }

    pub(crate) async fn run_operation(&mut self, stop: &CancellationToken) -> Result<RunEnd, StoreError> {
        use OperationKind::{DeregisterCluster, Precheck, RegisterCluster, RenewCredential};
        let kind = self.operation.kind;
        if !matches!(kind, RegisterCluster | RenewCredential | DeregisterCluster | Precheck) {
            return self.run_plan(stop).await;
        }
        if !self.process_signals().await? {
            return Ok(RunEnd::Released);
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

    /// Records within a transaction, which has the queue row's lock from here on.
    async fn record_state(&self, tx: &mut Tx<'_>, record: &OperationUpdate) -> Result<RowLock<'e>, StoreError> {
        let locked = self.lease.lock_row();
        tx.record_operation_update(&self.claim, record, self.now()).await?;
        Ok(locked)
    }

    /// The right to write for as long as the lease is renewed.
    fn fencing_token(&self) -> FencingToken {
        self.lease.fencing_token()
    }

    async fn run_plan(&mut self, stop: &CancellationToken) -> Result<RunEnd, StoreError> {
        let mesh = self.operation.mesh.ok_or(StoreError::NotFound { what: "mesh" })?;
        let opened = self.engine.clusters.open_mesh(self.claim.tenant, mesh).await;
        self.lease.mark_progress();
        // Before anything else, a pause included: what a predecessor still has on its way must be refused.
        if let Ok((world, layout)) = &opened
            && let Some(end) = self.fence_predecessors(layout, world.as_ref(), stop).await?
        {
            return Ok(end);
        }
        if !self.process_signals().await? {
            return Ok(RunEnd::Released);
        }
        let (world, layout) = match opened {
            Ok(opened) => opened,
            Err(problem) => return self.handle_open_failure(problem).await,
        };
        if !self.ensure_plan(layout, world.as_ref()).await? {
            return Ok(RunEnd::Released);
        }
        loop {
            self.lease.mark_progress();
            match self.reconcile_steps(&world).await? {
                LoopControl::AllDone => return self.succeed_operation().await.map(|()| RunEnd::Released),
                LoopControl::Released => return Ok(RunEnd::Released),
                LoopControl::LeaseLost => return Ok(RunEnd::LeaseLost),
                LoopControl::Advanced => {}
                LoopControl::Waiting => world.wait_for_change().await,
            }
            if stop.is_cancelled() {
                return self.release_claim(Duration::ZERO).await.map(|()| RunEnd::Released);
            }
        }
    }

    fn step_context<'a>(&self, item: &'a PlannedStep) -> StepContext<'a> {
        StepContext { operation: self.claim.operation, number: item.number, step: &item.step, progress: &item.progress }
    }
}
