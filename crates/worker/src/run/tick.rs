//! One look at the steps that are open, and what follows from it.

use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use model::operation::{Fact, OperationKind, Problem};
use model::plan::{Step, Target};
use rollout::decide::{Decision, Run as StepRun, decide};
use rollout::ports::{Mark, World, WorldError};
use rollout::step::{Check, irrevocable};
use store::{Item, Record, StoreError};

use super::{Run, close};
use crate::vitals;

/// How many clusters' answers one operation waits for at once.
pub(super) const CALLS: usize = 16;

/// What a step's looks so far add up to. Forgotten with the claim: a successor begins to count anew.
#[derive(Debug, Clone, Copy)]
pub(super) struct Looks {
    first: Timestamp,
    last: Timestamp,
    answered: Timestamp,
    goal: Option<(u32, Timestamp)>,
}

/// How a tick ended.
pub(super) enum Tick {
    /// A step was done or begun: look again at once, for the next thing may be ready.
    Onward,
    /// A step is under way: look again when it may have changed.
    Again,
    /// Every step is done.
    Finished,
    /// A person is needed, and the operation was let go.
    LetGo,
    /// The lease may be over: nothing more may be written.
    LeaseLost,
}

/// How the pushes of one tick ended.
enum Pushed {
    /// Each one was sent or may be repeated.
    All,
    /// A cluster refused one, and the operation was let go.
    LetGo,
    /// The permit has run out.
    LeaseLost,
}

impl Run<'_> {
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

    pub(super) async fn tick(&mut self, world: &Arc<dyn World>) -> Result<Tick, StoreError> {
        if !self.heed_wishes().await? {
            return Ok(Tick::LetGo);
        }
        let chosen = self.candidates();
        if chosen.is_empty() {
            return Ok(Tick::Finished);
        }
        let due = self.due(chosen);
        if due.is_empty() {
            return Ok(Tick::Again);
        }
        if !self.fence_again(world.as_ref()).await {
            return Ok(Tick::LeaseLost);
        }
        let looked = self.look(&due, world.as_ref()).await;
        self.lease.progressed();
        let (mut facts, mut acts, mut found) = (Vec::new(), Vec::new(), Vec::new());
        let (mut problem, mut waits) = (None, None);
        for (index, check) in looked {
            let run = self.count(index, &check);
            let item = &self.items[index];
            match decide(&item.step, check, &run, &self.engine.settings.patience) {
                Decision::Done => found.push(index),
                Decision::Act { capture, mark } => acts.push((index, capture, mark)),
                Decision::Wait(reason) => {
                    waits.get_or_insert_with(|| format!("{}: {reason}", item.step));
                }
                Decision::Pause(met) => {
                    facts.push((item.number, Fact::Failed { problem: met.clone() }));
                    problem.get_or_insert(met);
                }
                Decision::Stop => return Ok(Tick::LeaseLost),
            }
        }
        let Some(done) = self.fence_found(found, world.as_ref()).await else { return Ok(Tick::LeaseLost) };
        facts.extend(done);
        if let Some(problem) = problem {
            self.stop_at(problem, facts).await?;
            return Ok(Tick::LetGo);
        }
        // A push that is repeated is no news: a cluster that takes none of them must not be asked without a pause.
        let onward = !facts.is_empty() || acts.iter().any(|(index, ..)| !self.items[*index].progress.started());
        self.commit_to(facts, &acts, waits).await?;
        self.lease.progressed();
        Ok(match self.push(world.as_ref(), acts).await? {
            Pushed::All if onward => Tick::Onward,
            Pushed::All => Tick::Again,
            Pushed::LetGo => Tick::LetGo,
            Pushed::LeaseLost => Tick::LeaseLost,
        })
    }

    /// Those of the steps whose last look is long enough ago.
    fn due(&self, mut chosen: Vec<usize>) -> Vec<usize> {
        let now = self.now();
        chosen.retain(|index| {
            let item = &self.items[*index];
            let between = self.engine.settings.patience.between_looks(&item.step);
            self.looks.get(&item.number).is_none_or(|looks| now.duration_since(looks.last) >= between)
        });
        chosen
    }

    async fn look(&self, chosen: &[usize], world: &dyn World) -> Vec<(usize, Result<Check, WorldError>)> {
        let mut looks: Vec<BoxFuture<'_, (usize, Result<Check, WorldError>)>> = Vec::with_capacity(chosen.len());
        for index in chosen.iter().copied() {
            let (item, limit) = (&self.items[index], self.engine.settings.look);
            let place = self.place(item);
            let open = self.open(index).cloned();
            looks.push(Box::pin(async move {
                if let Some(error) = open {
                    return (index, Err(error));
                }
                let looked = tokio::time::timeout(limit, place.check(world)).await;
                (index, looked.unwrap_or_else(|_| Err(too_slow(item))))
            }));
        }
        futures::stream::iter(looks).buffer_unordered(CALLS).collect().await
    }

    /// Adds one look to what is known of a step.
    fn count(&mut self, index: usize, check: &Result<Check, WorldError>) -> StepRun {
        let now = self.now();
        let looks = self.looks.entry(self.items[index].number).or_insert(Looks {
            first: now,
            last: now,
            answered: now,
            goal: None,
        });
        looks.last = now;
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
        // A push that is repeated has nothing to commit, but the look before it may have been later than the end of this
        // claim: the record that follows the look proves that it was not.
        if facts.is_empty() && waiting_for.is_none() && acts.is_empty() {
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
        let locked = self.record(&mut tx, &record).await?;
        locked.commit(tx).await?;
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
    async fn push(
        &mut self,
        world: &dyn World,
        acts: Vec<(usize, Option<String>, Mark)>,
    ) -> Result<Pushed, StoreError> {
        let permit = self.permit();
        let mut pushes: Vec<BoxFuture<'_, (&Item, Result<(), WorldError>)>> = Vec::with_capacity(acts.len());
        for (index, _, mark) in &acts {
            let item = &self.items[*index];
            let (place, permit) = (self.place(item), &permit);
            pushes.push(Box::pin(async move { (item, place.act(world, mark, permit).await) }));
        }
        let answers: Vec<_> = futures::stream::iter(pushes).buffer_unordered(CALLS).collect().await;
        let mut refused = None;
        for (item, answer) in answers {
            match answer {
                Ok(()) | Err(WorldError::Changed { .. } | WorldError::Unreachable { .. }) => {}
                Err(WorldError::Expired) => return Ok(Pushed::LeaseLost),
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
            return Ok(Pushed::LetGo);
        }
        Ok(Pushed::All)
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
        if !problem.is_silence() {
            return self.fail(problem, facts).await;
        }
        if tags().all(|item| item.progress.done) {
            return self.pause(problem, facts).await;
        }
        let message = format!("Some tags point to the new revision and some to the old one. {}", problem.message);
        let hint = format!("Both revisions serve and are protected. {}", problem.hint);
        self.pause(Problem::new("tag_split", message, hint), facts).await
    }
}

/// A look that takes longer than any of its calls may: counts as no answer.
fn too_slow(item: &Item) -> WorldError {
    WorldError::Unreachable {
        place: item.step.to_string(),
        code: "look_too_slow",
        cause: "the look took too long".into(),
    }
}
