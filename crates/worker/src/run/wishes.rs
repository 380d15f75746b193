//! What people asked of an operation, taken in between two looks.

use model::operation::{Fact, OperationState, Problem, Wish};
use store::{Record, StoreError};

use super::Run;
use crate::vitals;

impl Run<'_> {
    /// Takes in what people asked for. Answers false when the operation was let go.
    pub(super) async fn heed_wishes(&mut self) -> Result<bool, StoreError> {
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        let unseen = tx.unseen_wishes(&self.claim).await?;
        drop(tx);
        let seen = Some(unseen.seq);
        for wish in &unseen.wishes {
            match wish {
                // What stands still already keeps the reason that it stands still for.
                Wish::Pause if matches!(self.operation.state, OperationState::Paused { .. }) => {}
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
            let locked = self.record(&mut tx, &Record { seen, state, ..Record::default() }).await?;
            locked.commit(tx).await?;
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
        let locked = self.record(&mut tx, &record).await?;
        locked.commit(tx).await?;
        vitals::recorded(&self.operation, &record, self.now());
        Ok(())
    }
}
