//! Stores the plans of operations and the events of their steps.

use std::collections::BTreeMap;

use meshwright_model::ids::{OperationId, UpgradeId};
use meshwright_model::operation::{OperationKind, Progress, StepEvent};
pub use meshwright_model::plan::PlannedStep;
use meshwright_model::plan::{Plan, Step};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::db::query_areas::OperationQueries;
use crate::db::statements::require_one_row;
use crate::error::{decode_column, to_json};
use crate::{AccessFilter, NewStep, Page, StoreError};

/// A wave of a plan, without its steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaveSummary {
    /// Title of the wave, which tells people its purpose.
    pub title: String,
    /// Number of steps of the wave that may be under way at once.
    pub width: usize,
}

/// Number of steps that one INSERT statement writes at most.
const MAX_STEPS_PER_INSERT: usize = 500;

impl OperationQueries<'_, '_> {
    /// Stores the plan that a worker built. A plan is written once.
    ///
    /// # Errors
    /// Returns [`StoreError::Fenced`] when the operation already has a plan, because then another
    /// worker has taken it over.
    pub async fn store_plan(&mut self, id: OperationId, plan: &Plan) -> Result<(), StoreError> {
        let heads: Vec<WaveSummary> = plan
            .waves
            .iter()
            .map(|wave| WaveSummary {
                title: wave.title.clone(),
                width: wave.width,
            })
            .collect();
        let done = sqlx::query!(
            "UPDATE operations SET waves = $3 WHERE tenant_id = $1 AND operation_id = $2 AND waves IS NULL",
            self.tx.tenant.0,
            id.0,
            to_json(&heads)
        )
        .execute(&mut *self.tx.inner)
        .await?;
        require_one_row(done.rows_affected(), StoreError::Fenced)?;
        let waves = (0i32..).zip(&plan.waves);
        let steps: Vec<NewStep> = waves
            .flat_map(|(wave, steps)| steps.steps.iter().map(move |step| (wave, step)))
            .zip(0i32..)
            .map(|((wave, step), number)| NewStep {
                number,
                wave,
                step: step.clone(),
            })
            .collect();
        self.insert_steps(id, &steps).await
    }

    /// Inserts steps of a plan.
    pub(super) async fn insert_steps(
        &mut self,
        id: OperationId,
        steps: &[NewStep],
    ) -> Result<(), StoreError> {
        for chunk in steps.chunks(MAX_STEPS_PER_INSERT) {
            let numbers: Vec<i32> = chunk.iter().map(|step| step.number).collect();
            let waves: Vec<i32> = chunk.iter().map(|step| step.wave).collect();
            let bodies: Vec<Value> = chunk.iter().map(|step| to_json(&step.step)).collect();
            sqlx::query!(
                "INSERT INTO operation_items (tenant_id, operation_id, number, wave, step)
                 SELECT $1, $2, item.* FROM unnest($3::integer[], $4::integer[], $5::jsonb[]) AS item",
                self.tx.tenant.0,
                id.0,
                &numbers,
                &waves,
                &bodies
            )
            .execute(&mut *self.tx.inner)
            .await?;
        }
        Ok(())
    }

    /// Lists the steps of a plan with their progress.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer, and
    /// [`StoreError::Corrupt`] when a step or event does not fit, for example because a newer
    /// version of Meshwright wrote it.
    pub async fn list_steps(&mut self, id: OperationId) -> Result<Vec<PlannedStep>, StoreError> {
        let facts = sqlx::query!(
            "SELECT number, fact FROM item_facts WHERE tenant_id = $1 AND operation_id = $2 ORDER BY number, ordinal",
            self.tx.tenant.0,
            id.0
        )
        .fetch_all(&mut *self.tx.inner)
        .await?;
        let mut progress: BTreeMap<i32, Progress> = BTreeMap::new();
        for row in facts {
            let fact: StepEvent =
                decode_column(serde_json::from_value(row.fact), "item_facts", "fact", id)?;
            progress.entry(row.number).or_default().apply_event(&fact);
        }
        let rows = sqlx::query!(
            "SELECT number, wave, step FROM operation_items WHERE tenant_id = $1 AND operation_id = $2 ORDER BY number",
            self.tx.tenant.0,
            id.0
        )
        .fetch_all(&mut *self.tx.inner)
        .await?;
        let read = rows.into_iter().map(|row| {
            Ok(PlannedStep {
                number: row.number,
                wave: decode_column(row.wave.try_into(), "operation_items", "wave", id)?,
                step: decode_column(
                    serde_json::from_value(row.step),
                    "operation_items",
                    "step",
                    id,
                )?,
                progress: progress.remove(&row.number).unwrap_or_default(),
            })
        });
        read.collect()
    }

    /// Lists every step that the stages of an upgrade started, oldest first, with the stage's kind
    /// and the capture. Steps of rollbacks are left out.
    ///
    /// # Errors
    /// Returns the errors of [`OperationQueries::list_steps`].
    pub async fn list_started_steps(
        &mut self,
        upgrade: UpgradeId,
    ) -> Result<Vec<(OperationKind, Step, Option<String>)>, StoreError> {
        let mut operations = self
            .list_operations(&AccessFilter::ALL, Some(upgrade), Page::ALL)
            .await?;
        operations.reverse();
        let mut started = Vec::new();
        for operation in operations
            .iter()
            .filter(|operation| operation.kind != OperationKind::Rollback)
        {
            let items = self.list_steps(operation.id).await?;
            started.extend(
                items
                    .into_iter()
                    .filter_map(|item| Some((operation.kind, item.step, item.progress.capture?))),
            );
        }
        Ok(started)
    }
}
