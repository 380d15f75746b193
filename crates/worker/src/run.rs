//! One claim of one operation: look, decide, commit to what is about to happen, push, look again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use model::operation::{Fact, OperationKind, OperationState, Problem, Wish};
use model::plan::{Step, Target};
use rollout::decide::{Decision, Run as StepRun, UNREACHABLE, decide};
use rollout::ports::{Mark, Permit, World, WorldError};
use rollout::step::{Check, Place, irrevocable};
use store::{Claim, Item, Operation, Record, StoreError};
use tokio_util::sync::CancellationToken;

use crate::{Engine, vitals};

mod audited;
mod begin;
mod close;
mod connect;

/// How many clusters' answers one operation waits for at once.
const CALLS: usize = 16;
/// How long a claim rests when a cluster did not answer while its plan was built.
const REST: Duration = Duration::from_secs(2);
/// A paused operation is woken by a wish; this is only how long it may sleep otherwise.
const SLEEP: Duration = Duration::from_hours(8760);

/// What a step's looks so far add up to. Forgotten with the claim: a successor begins to count anew.
#[derive(Debug, Clone, Copy)]
struct Looks {
    first: Timestamp,
    answered: Timestamp,
    goal: Option<(u32, Timestamp)>,
}

/// One claim.
pub(crate) struct Run<'e> {
    engine: &'e Engine,
    claim: Claim,
    /// Before the last renewal was sent.
    since: Instant,
    operation: Operation,
    items: Vec<Item>,
    looks: BTreeMap<i32, Looks>,
    waiting_for: Option<String>,
}

/// How a tick ended.
enum Tick {
    /// Something was done or begun: look again at once, for the next thing may be ready.
    Onward,
    /// Something is under way: look again when it may have changed.
    Again,
    /// Every step is done.
    Finished,
    /// A person is needed, and the operation was let go.
    LetGo,
}

impl<'e> Run<'e> {
    pub(crate) async fn load(engine: &'e Engine, claim: Claim, since: Instant) -> Result<Self, StoreError> {
        let mut tx = engine.store.begin(claim.tenant).await?;
        let operation = tx.operation(claim.operation).await?;
        vitals::claimed(operation.kind);
        let mut run =
            Self { engine, claim, since, operation, items: Vec::new(), looks: BTreeMap::new(), waiting_for: None };
        if run.operation.waves.is_some() {
            match tx.items(claim.operation).await {
                Ok(items) => run.items = items,
                Err(StoreError::Corrupt { .. }) => {
                    drop(tx);
                    let hint = "A newer server wrote it: run that version again, or roll back.";
                    let problem =
                        Problem::new("unknown_step", "The plan has a step that this server does not know.", hint);
                    run.pause(problem, Vec::new()).await?;
                    return Err(StoreError::Fenced);
                }
                Err(error) => return Err(error),
            }
        }
        tx.commit().await?;
        Ok(run)
    }

    pub(crate) async fn drive(&mut self, stop: &CancellationToken) -> Result<(), StoreError> {
        use OperationKind::{Precheck, RegisterCluster, RenewCredential};
        let kind = self.operation.kind;
        if !matches!(kind, RegisterCluster | RenewCredential | Precheck) {
            return self.run_plan(stop).await;
        }
        if !self.heed_wishes().await? {
            return Ok(());
        }
        if kind == Precheck { self.precheck().await } else { self.connect().await }
    }

    fn now(&self) -> Timestamp {
        self.engine.clock.now()
    }

    /// One call may take a sixth of the lease, so nothing is sent in its last sixth.
    fn permit(&self) -> Permit {
        let deadline = self.since + self.engine.settings.lease * 5 / 6;
        Permit { operation: self.claim.operation, epoch: self.claim.epoch, deadline }
    }

    async fn run_plan(&mut self, stop: &CancellationToken) -> Result<(), StoreError> {
        let mesh = self.operation.mesh.ok_or(StoreError::NotFound { what: "mesh" })?;
        let opened = self.engine.worlds.open(self.claim.tenant, mesh).await;
        // Before anything else, a pause included: what a predecessor still has on its way must be refused.
        if let Ok((world, _)) = &opened {
            self.fence_predecessor(world.as_ref()).await;
        }
        if !self.heed_wishes().await? {
            return Ok(());
        }
        let (world, layout) = match opened {
            Ok(opened) => opened,
            Err(problem) => return self.not_opened(problem).await,
        };
        if !self.prepare(layout, world.as_ref()).await? {
            return Ok(());
        }
        loop {
            match self.tick(&world).await? {
                Tick::Finished => return self.succeed().await,
                Tick::LetGo => return Ok(()),
                Tick::Onward => {}
                Tick::Again => world.changed().await,
            }
            if stop.is_cancelled() {
                return self.let_go(Duration::ZERO).await;
            }
            let before = Instant::now();
            self.engine.store.renew(&self.claim, self.engine.settings.lease).await?;
            self.since = before;
        }
    }

    fn place<'a>(&self, item: &'a Item) -> Place<'a> {
        Place { operation: self.claim.operation, number: item.number, step: &item.step, progress: &item.progress }
    }

    /// The steps to look at now: those under way first, then new ones up to the wave's width.
    fn candidates(&self) -> Vec<usize> {
        let open = |item: &&Item| !item.progress.done;
        let Some(wave) = self.items.iter().filter(open).map(|item| item.wave).min() else { return Vec::new() };
        let width =
            self.operation.waves.as_ref().and_then(|waves| waves.get(wave)).map_or(usize::MAX, |head| head.width);
        let mut chosen: Vec<usize> = (0..self.items.len())
            .filter(|index| self.items[*index].wave == wave && !self.items[*index].progress.done)
            .collect();
        chosen.sort_by_key(|index| !self.items[*index].progress.started());
        chosen.truncate(width);
        chosen
    }

    async fn tick(&mut self, world: &Arc<dyn World>) -> Result<Tick, StoreError> {
        if !self.heed_wishes().await? {
            return Ok(Tick::LetGo);
        }
        let chosen = self.candidates();
        if chosen.is_empty() {
            return Ok(Tick::Finished);
        }
        let looked = self.look(&chosen, world.as_ref()).await;
        let mut facts = Vec::new();
        let mut acts = Vec::new();
        let (mut problem, mut waits) = (None, None);
        for (index, check) in looked {
            let run = self.count(index, &check);
            let item = &self.items[index];
            match decide(&item.step, check, &run, &self.engine.settings.patience) {
                Decision::Done => facts.push((item.number, Fact::Done)),
                Decision::Act { capture, mark } => acts.push((index, capture, mark)),
                Decision::Wait(reason) => {
                    waits.get_or_insert_with(|| format!("{}: {reason}", item.step));
                }
                Decision::Pause(found) => {
                    facts.push((item.number, Fact::Failed { problem: found.clone() }));
                    problem.get_or_insert(found);
                }
                Decision::Stop => return Err(StoreError::Fenced),
            }
        }
        if let Some(problem) = problem {
            self.stop_at(problem, facts).await?;
            return Ok(Tick::LetGo);
        }
        // A push that is repeated is no news: a cluster that takes none of them must not be asked without a pause.
        let onward = !facts.is_empty() || acts.iter().any(|(index, ..)| !self.items[*index].progress.started());
        self.commit_to(facts, &acts, waits).await?;
        self.push(world.as_ref(), acts).await?;
        Ok(if onward { Tick::Onward } else { Tick::Again })
    }

    async fn look(&self, chosen: &[usize], world: &dyn World) -> Vec<(usize, Result<Check, WorldError>)> {
        let mut looks: Vec<BoxFuture<'_, (usize, Result<Check, WorldError>)>> = Vec::with_capacity(chosen.len());
        for index in chosen.iter().copied() {
            let place = self.place(&self.items[index]);
            looks.push(Box::pin(async move { (index, place.check(world).await) }));
        }
        futures::stream::iter(looks).buffer_unordered(CALLS).collect().await
    }

    /// Adds one look to what is known of a step.
    fn count(&mut self, index: usize, check: &Result<Check, WorldError>) -> StepRun {
        let now = self.now();
        let looks =
            self.looks.entry(self.items[index].number).or_insert(Looks { first: now, answered: now, goal: None });
        if !matches!(check, Err(WorldError::Unreachable { .. })) {
            looks.answered = now;
        }
        looks.goal = match (check, looks.goal) {
            (Ok(Check::Done), None) => Some((1, now)),
            (Ok(Check::Done), Some((count, since))) => Some((count + 1, since)),
            _ => None,
        };
        let since = |then: Timestamp| now.duration_since(then);
        let goal_seen = looks.goal.map_or((0, SignedDuration::ZERO), |(count, first)| (count, since(first)));
        StepRun { waited: since(looks.first), silent: since(looks.answered), goal_seen }
    }

    /// Commits to what is about to be pushed, with what an undo would restore. Nothing is pushed before.
    async fn commit_to(
        &mut self,
        mut facts: Vec<(i32, Fact)>,
        acts: &[(usize, Option<String>, Mark)],
        waits: Option<String>,
    ) -> Result<(), StoreError> {
        facts.extend(acts.iter().filter(|(index, ..)| !self.items[*index].progress.started()).map(
            |(index, capture, _)| {
                let capture = capture.clone();
                (self.items[*index].number, Fact::Started { capture })
            },
        ));
        let waiting_for = (waits != self.waiting_for).then(|| waits.clone());
        if facts.is_empty() && waiting_for.is_none() {
            return Ok(());
        }
        let no_way_back = self.operation.kind == OperationKind::Retire
            && acts.iter().any(|(index, ..)| irrevocable(&self.items[*index].step));
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        if let (true, Some(upgrade)) = (no_way_back, self.operation.upgrade) {
            tx.lock_upgrade(upgrade).await?;
            tx.upgrade_retiring(upgrade, true, self.engine.clock.as_ref()).await?;
        }
        if !facts.is_empty() {
            tx.tell(close::progress(&self.operation, &facts, self.now()));
            self.audited(&facts).into_iter().for_each(|entry| tx.note(entry));
        }
        let record = Record { facts, waiting_for, ..Record::default() };
        tx.record(&self.claim, &record, self.now()).await?;
        tx.commit().await?;
        vitals::recorded(&self.operation, &record, self.now());
        self.waiting_for = waits;
        for (number, fact) in &record.facts {
            if let Some(item) = self.items.iter_mut().find(|item| item.number == *number) {
                item.progress.add(fact);
            }
        }
        Ok(())
    }

    /// Pushes what was committed to. An answer is no proof of anything: the next look decides.
    async fn push(&mut self, world: &dyn World, acts: Vec<(usize, Option<String>, Mark)>) -> Result<(), StoreError> {
        let permit = self.permit();
        let mut pushes: Vec<BoxFuture<'_, (&Item, Result<(), WorldError>)>> = Vec::with_capacity(acts.len());
        for (index, _, mark) in &acts {
            let item = &self.items[*index];
            let place = self.place(item);
            pushes.push(Box::pin(async move { (item, place.act(world, mark, &permit).await) }));
        }
        let answers: Vec<_> = futures::stream::iter(pushes).buffer_unordered(CALLS).collect().await;
        let mut refused = None;
        for (item, answer) in answers {
            match answer {
                Ok(()) | Err(WorldError::Changed { .. } | WorldError::Unreachable { .. }) => {}
                Err(WorldError::Expired) => return Err(StoreError::Fenced),
                Err(error) => {
                    let decided = decide(&item.step, Err(error), &StepRun::default(), &self.engine.settings.patience);
                    if let Decision::Pause(problem) = decided {
                        refused.get_or_insert((item.number, problem));
                    }
                }
            }
        }
        if let Some((number, problem)) = refused {
            self.stop_at(problem.clone(), vec![(number, Fact::Failed { problem })]).await?;
            return Err(StoreError::Fenced);
        }
        Ok(())
    }

    /// A promotion that stops between its first tag and its last leaves members on different revisions. Where every cluster
    /// answers, what was written is restored at once; a silent one keeps both revisions protected until a person decides.
    async fn stop_at(&mut self, problem: Problem, facts: Vec<(i32, Fact)>) -> Result<(), StoreError> {
        let tags =
            || self.items.iter().filter(|item| matches!(item.step, Step::Set { target: Target::Tag { .. }, .. }));
        let moved = self.operation.kind == OperationKind::Promote && tags().any(|item| item.progress.started());
        if !moved {
            return self.pause(problem, facts).await;
        }
        if problem.code != UNREACHABLE {
            return self.fail(problem, facts).await;
        }
        if tags().all(|item| item.progress.done) {
            return self.pause(problem, facts).await;
        }
        let message = format!("Some tags point to the new revision and some to the old one. {}", problem.message);
        let hint = format!("Both revisions serve and are protected. {}", problem.hint);
        self.pause(Problem::new("tag_split", message, hint), facts).await
    }

    /// Takes in what people asked for. Answers false when the operation was let go.
    async fn heed_wishes(&mut self) -> Result<bool, StoreError> {
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        let unseen = tx.unseen_wishes(&self.claim).await?;
        drop(tx);
        let seen = Some(unseen.seq);
        for wish in &unseen.wishes {
            match wish {
                Wish::Pause => self.operation.state = OperationState::Paused { problem: Problem::paused_by_user() },
                Wish::Resume => self.operation.state = OperationState::Running,
                Wish::Retry => {
                    self.operation.state = OperationState::Running;
                    self.retry().await?;
                }
                Wish::Cancel => {
                    self.cancel(seen).await?;
                    return Ok(false);
                }
            }
        }
        if let OperationState::Paused { problem } = &self.operation.state {
            let problem = problem.clone();
            self.stand_still(problem, Vec::new(), seen, !unseen.wishes.is_empty()).await?;
            return Ok(false);
        }
        if !unseen.wishes.is_empty() {
            let mut tx = self.engine.store.begin(self.claim.tenant).await?;
            let state = Some(self.operation.state.clone());
            tx.record(&self.claim, &Record { seen, state, ..Record::default() }, self.now()).await?;
            tx.commit().await?;
        }
        Ok(true)
    }

    /// Every step that stood still may try again; restarts get a new stamp.
    async fn retry(&mut self) -> Result<(), StoreError> {
        let failed = self.items.iter_mut().filter(|item| item.progress.failed.is_some());
        let mut facts = Vec::new();
        for item in failed {
            item.progress.add(&Fact::Retried);
            facts.push((item.number, Fact::Retried));
        }
        self.looks.clear();
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        let record = Record { facts, ..Record::default() };
        tx.record(&self.claim, &record, self.now()).await?;
        tx.commit().await?;
        vitals::recorded(&self.operation, &record, self.now());
        Ok(())
    }
}
