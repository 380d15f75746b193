//! One claim of one operation: look, decide, commit to what is about to happen, push, look again.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use model::ids::OperationId;
use model::operation::{OperationKind, OperationState, Problem};
use model::plan::Target;
use rollout::ports::{Permit, WorldError};
use rollout::step::Place;
use store::{Claim, Item, Operation, Record, StoreError, Tx};
use tokio_util::sync::CancellationToken;

use crate::lease::{Lease, Locked};
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

pub(crate) use connect::silent;
use tick::{Looks, Tick};

/// How long a claim rests when a cluster did not answer while its plan was built.
const REST: Duration = Duration::from_secs(2);
/// A paused operation is woken by a wish; this is only how long it may sleep otherwise.
const SLEEP: Duration = Duration::from_hours(8760);

/// How a claim ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunEnd {
    /// In order: the operation has ended, stands still, or is due again later.
    LetGo,
    /// The lease may be over: nothing more was written.
    LeaseLost,
    /// Our own database did not let the mesh or cluster be read: the claim is still held.
    Unreadable,
}

/// One claim.
pub(crate) struct Run<'e> {
    engine: &'e Engine,
    claim: Claim,
    lease: &'e Lease,
    operation: Operation,
    items: Vec<Item>,
    looks: BTreeMap<i32, Looks>,
    waiting_for: Option<String>,
    /// The mesh's ended operations that this claim has fenced.
    earlier: Vec<OperationId>,
    /// What an earlier claim may still write to, and why it could not be fenced.
    unfenced: BTreeMap<Target, WorldError>,
}

impl<'e> Run<'e> {
    /// Reads the operation, and shows that it runs. `None`: its plan cannot be read, and it was paused.
    pub(crate) async fn load(engine: &'e Engine, claim: Claim, lease: &'e Lease) -> Result<Option<Self>, StoreError> {
        let mut tx = engine.store.begin(claim.tenant).await?;
        let operation = tx.operation(claim.operation).await?;
        vitals::claimed(operation.kind);
        let (items, looks) = (Vec::new(), BTreeMap::new());
        let (earlier, unfenced) = (Vec::new(), BTreeMap::new());
        let mut run = Self { engine, claim, lease, operation, items, looks, waiting_for: None, earlier, unfenced };
        if run.operation.waves.is_some() {
            match tx.items(claim.operation).await {
                Ok(items) => run.items = items,
                Err(StoreError::Corrupt { .. }) => {
                    drop(tx);
                    let hint = "A newer server wrote it: run that version again, or roll back.";
                    let problem =
                        Problem::new("unknown_step", "The plan has a step that this server does not know.", hint);
                    run.pause(problem, Vec::new()).await?;
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        if run.operation.state == OperationState::Queued {
            run.operation.state = OperationState::Running;
            let state = Some(OperationState::Running);
            let locked = run.record(&mut tx, &Record { state, ..Record::default() }).await?;
            locked.commit(tx).await?;
        }
        lease.progressed();
        Ok(Some(run))
    }

    pub(crate) async fn drive(&mut self, stop: &CancellationToken) -> Result<RunEnd, StoreError> {
        use OperationKind::{DeregisterCluster, Precheck, RegisterCluster, RenewCredential};
        let kind = self.operation.kind;
        if !matches!(kind, RegisterCluster | RenewCredential | DeregisterCluster | Precheck) {
            return self.run_plan(stop).await;
        }
        if !self.heed_wishes().await? {
            return Ok(RunEnd::LetGo);
        }
        match kind {
            Precheck => self.precheck().await,
            DeregisterCluster => self.leave().await,
            _ => self.connect().await,
        }
    }

    fn now(&self) -> Timestamp {
        self.engine.clock.now()
    }

    /// Records within a transaction, which has the queue row's lock from here on.
    async fn record(&self, tx: &mut Tx<'_>, record: &Record) -> Result<Locked<'e>, StoreError> {
        let locked = self.lease.lock();
        tx.record(&self.claim, record, self.now()).await?;
        Ok(locked)
    }

    /// The right to write for as long as the lease is renewed.
    fn permit(&self) -> Permit {
        self.lease.permit()
    }

    async fn run_plan(&mut self, stop: &CancellationToken) -> Result<RunEnd, StoreError> {
        let mesh = self.operation.mesh.ok_or(StoreError::NotFound { what: "mesh" })?;
        let opened = self.engine.worlds.open(self.claim.tenant, mesh).await;
        self.lease.progressed();
        // Before anything else, a pause included: what a predecessor still has on its way must be refused.
        if let Ok((world, layout)) = &opened
            && let Some(end) = self.fence_earlier(layout, world.as_ref(), stop).await?
        {
            return Ok(end);
        }
        if !self.heed_wishes().await? {
            return Ok(RunEnd::LetGo);
        }
        let (world, layout) = match opened {
            Ok(opened) => opened,
            Err(problem) => return self.not_opened(problem).await,
        };
        if !self.prepare(layout, world.as_ref()).await? {
            return Ok(RunEnd::LetGo);
        }
        loop {
            self.lease.progressed();
            match self.tick(&world).await? {
                Tick::Finished => return self.succeed().await.map(|()| RunEnd::LetGo),
                Tick::LetGo => return Ok(RunEnd::LetGo),
                Tick::LeaseLost => return Ok(RunEnd::LeaseLost),
                Tick::Onward => {}
                Tick::Again => world.changed().await,
            }
            if stop.is_cancelled() {
                return self.let_go(Duration::ZERO).await.map(|()| RunEnd::LetGo);
            }
        }
    }

    fn place<'a>(&self, item: &'a Item) -> Place<'a> {
        Place { operation: self.claim.operation, number: item.number, step: &item.step, progress: &item.progress }
    }
}
