//! Reads the workloads of roll-outs: the steps that replace pods, with their states and times.

use std::collections::BTreeMap;

use jiff::Timestamp;
use meshwright_model::ClosedSet;
use meshwright_model::ids::{OperationId, UpgradeId};
use meshwright_model::operation::{OperationKind, Progress, StepEvent, StepState};
use meshwright_model::plan::Step;
use meshwright_model::rollout::{ReplacedKind, ReplacedObject, RolloutPolicy};

use crate::db::query_areas::OperationQueries;
use crate::db::statements::to_uuids;
use crate::error::decode_column;
use crate::{Operation, StoreError};

/// Newest step of a roll-out for one workload, or for one pod without a workload.
#[derive(Debug, Clone)]
pub struct RolloutItem {
    /// Number of the step within the plan, from 0.
    pub number: i32,
    /// Number of the step's wave within the plan, from 0.
    pub wave: usize,
    /// Step that replaces the pods.
    pub step: Step,
    /// Progress of the step, summed up from its events.
    pub progress: Progress,
    /// Number of times that the roll-out began to replace these pods.
    pub attempts: u32,
    /// Time of the first event that recorded the start of the step; `None` before.
    pub started_at: Option<Timestamp>,
    /// Time at which the step was done, failed, was excluded or was skipped; `None` while it is
    /// pending or under way.
    pub ended_at: Option<Timestamp>,
}

/// Filter of the workloads of a roll-out. A field that is `None` excludes none.
#[derive(Debug, Clone, Default)]
pub struct RolloutItemFilter {
    /// State that the step must be in.
    pub state: Option<StepState>,
    /// Name of the member cluster that must hold the workload.
    pub cluster: Option<String>,
    /// Namespace that the workload must be in.
    pub namespace: Option<String>,
    /// Kind that the workload must have.
    pub kind: Option<ReplacedKind>,
    /// Name that the workload must have.
    pub name: Option<String>,
}

/// Number of workloads of a roll-out's wave that are in one state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutStateCount {
    /// Roll-out that the workloads belong to.
    pub operation: OperationId,
    /// Number of the wave within the plan, from 0.
    pub wave: usize,
    /// State of the workloads; `None` for the entry that only tells that the wave looks for
    /// workloads.
    pub state: Option<StepState>,
    /// Number of workloads in this state.
    pub count: i64,
}

impl OperationQueries<'_, '_> {
    /// Reads the policy of a roll-out. The stages of an upgrade have the one of the upgrade; its waves
    /// belong to the stage `roll`. A restart has its own.
    ///
    /// # Errors
    /// Returns [`StoreError::Corrupt`] when the stored policy does not fit [`RolloutPolicy`].
    pub async fn read_rollout_policy(
        &mut self,
        rollout: &Operation,
    ) -> Result<RolloutPolicy, StoreError> {
        let read = self.read_rollout_policies(std::slice::from_ref(rollout));
        Ok(read.await?.pop().unwrap_or_default())
    }

    /// Reads the policies of roll-outs, in their order, as
    /// [`OperationQueries::read_rollout_policy`] does.
    ///
    /// # Errors
    /// Returns [`StoreError::Corrupt`] when a stored policy does not fit [`RolloutPolicy`].
    pub async fn read_rollout_policies(
        &mut self,
        rollouts: &[Operation],
    ) -> Result<Vec<RolloutPolicy>, StoreError> {
        let ruled = |rollout: &Operation| {
            let upgrade = rollout.upgrade?;
            rollout.kind.is_rollout().then_some(upgrade)
        };
        let upgrades: Vec<uuid::Uuid> = rollouts.iter().filter_map(ruled).map(|id| id.0).collect();
        let mut known: BTreeMap<UpgradeId, RolloutPolicy> = BTreeMap::new();
        if !upgrades.is_empty() {
            let rows = sqlx::query!(
                "SELECT upgrade_id, rollout FROM upgrades WHERE tenant_id = $1 AND upgrade_id = ANY($2)",
                self.tx.tenant.0,
                &upgrades
            )
            .fetch_all(&mut *self.tx.inner)
            .await?;
            for row in rows {
                let id = UpgradeId(row.upgrade_id);
                let policy = serde_json::from_value(row.rollout);
                known.insert(id, decode_column(policy, "upgrades", "rollout", id)?);
            }
        }
        let policy = |rollout: &Operation| match ruled(rollout) {
            Some(upgrade) => {
                let policy = known.get(&upgrade).cloned().unwrap_or_default();
                Ok(if rollout.kind == OperationKind::Roll {
                    policy
                } else {
                    policy.without_waves()
                })
            }
            None => rollout.rollout_policy(),
        };
        rollouts.iter().map(policy).collect()
    }

    /// Counts the workloads of roll-outs by wave and state. A workload with several steps counts
    /// once, with its newest one.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn count_rollout_states(
        &mut self,
        rollouts: &[OperationId],
    ) -> Result<Vec<RolloutStateCount>, StoreError> {
        let rows = sqlx::query!(
            r#"WITH progress AS (
                   SELECT operation_id, number, bool_or(fact ->> 'fact' = 'done') AS done, bool_or(fact ->> 'fact' = 'skipped') AS skipped,
                       bool_or(fact ->> 'fact' = 'started') AS started, coalesce(max(ordinal) FILTER (WHERE fact ->> 'fact' = 'retried'), 0) AS retried,
                       coalesce(max(ordinal) FILTER (WHERE fact ->> 'fact' = 'excluded'), 0) AS excluded,
                       coalesce(max(ordinal) FILTER (WHERE fact ->> 'fact' = 'failed'), 0) AS failed
                   FROM item_facts WHERE tenant_id = $1 AND operation_id = ANY($2) GROUP BY operation_id, number),
               newest AS (
                   -- A workload has a further step for each restart, and every search for workloads has one of its own.
                   SELECT DISTINCT ON (operation_id, step -> 'member', step -> 'workload', step -> 'namespace', step -> 'pod',
                           CASE WHEN step ->> 'step' = 'converge' THEN number END)
                       operation_id, number, wave, step ->> 'step' = 'converge' AS looks
                   FROM operation_items WHERE tenant_id = $1 AND operation_id = ANY($2) AND step ->> 'step' IN ('restart', 'evict', 'converge')
                   ORDER BY operation_id, step -> 'member', step -> 'workload', step -> 'namespace', step -> 'pod',
                       CASE WHEN step ->> 'step' = 'converge' THEN number END, number DESC)
               SELECT operation_id AS "operation_id!", wave AS "wave!", count(*) AS "count!",
                   CASE WHEN looks THEN 'looks' WHEN done THEN 'done' WHEN skipped THEN 'skipped' WHEN excluded > retried THEN 'excluded'
                       WHEN failed > retried THEN 'failed' WHEN started THEN 'started' ELSE 'pending' END AS "state!"
               FROM newest LEFT JOIN progress USING (operation_id, number) GROUP BY 1, 2, 4 ORDER BY 1, 2, 4"#,
            self.tx.tenant.0,
            &to_uuids(rollouts, |id| id.0)
        )
        .fetch_all(&mut *self.tx.inner)
        .await?;
        let read = rows.into_iter().map(|row| {
            let operation = OperationId(row.operation_id);
            let wave = row.wave.try_into();
            Ok(RolloutStateCount {
                operation,
                wave: decode_column(wave, "operation_items", "wave", operation)?,
                state: StepState::from_name(&row.state),
                count: row.count,
            })
        });
        read.collect()
    }

    /// Lists the workloads of a roll-out that pass the filter, in the order of their newest steps,
    /// beginning after the step with the number `after`.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer, and
    /// [`StoreError::Corrupt`] when a step or event does not fit.
    pub async fn list_rollout_items(
        &mut self,
        rollout: OperationId,
        filter: &RolloutItemFilter,
        after: Option<i32>,
        limit: usize,
    ) -> Result<Vec<RolloutItem>, StoreError> {
        let mut found = self.read_rollout_items(rollout).await?;
        found.retain(|item| after.is_none_or(|after| item.number > after) && filter.includes(item));
        found.truncate(limit);
        Ok(found)
    }

    /// Reads the newest step of each workload, in the order of the steps.
    async fn read_rollout_items(
        &mut self,
        rollout: OperationId,
    ) -> Result<Vec<RolloutItem>, StoreError> {
        let rows = sqlx::query!(
            "SELECT number, wave, step FROM operation_items
             WHERE tenant_id = $1 AND operation_id = $2 AND step ->> 'step' IN ('restart', 'evict') ORDER BY number",
            self.tx.tenant.0,
            rollout.0
        )
        .fetch_all(&mut *self.tx.inner)
        .await?;
        let events = sqlx::query!(
            "SELECT number, at, fact FROM item_facts WHERE tenant_id = $1 AND operation_id = $2 ORDER BY number, ordinal",
            self.tx.tenant.0,
            rollout.0
        )
        .fetch_all(&mut *self.tx.inner)
        .await?;
        let mut items: BTreeMap<i32, RolloutItem> = BTreeMap::new();
        for row in rows {
            let item = RolloutItem {
                number: row.number,
                wave: decode_column(row.wave.try_into(), "operation_items", "wave", rollout)?,
                step: decode_column(
                    serde_json::from_value(row.step),
                    "operation_items",
                    "step",
                    rollout,
                )?,
                progress: Progress::default(),
                attempts: 0,
                started_at: None,
                ended_at: None,
            };
            items.insert(row.number, item);
        }
        for row in events {
            if let Some(item) = items.get_mut(&row.number) {
                let event = serde_json::from_value(row.fact);
                let event = decode_column(event, "item_facts", "fact", rollout)?;
                item.apply_event(&event, row.at.to_jiff());
            }
        }
        Ok(keep_newest_items(items.into_values().collect()))
    }
}

/// Keeps the newest step of each workload, with the attempts of all of them.
fn keep_newest_items(items: Vec<RolloutItem>) -> Vec<RolloutItem> {
    let mut newest = BTreeMap::<_, RolloutItem>::new();
    for mut item in items {
        let key = item.object().map(|object| {
            let place = (object.cluster.clone(), object.namespace.to_owned());
            (place, object.kind, object.name.to_owned())
        });
        let earlier = newest.get(&key).map_or(0, |earlier| earlier.attempts);
        item.attempts += earlier;
        newest.insert(key, item);
    }
    let mut newest: Vec<RolloutItem> = newest.into_values().collect();
    newest.sort_by_key(|item| item.number);
    newest
}

impl RolloutItem {
    /// Returns the workload or pod whose pods the step replaces.
    pub fn object(&self) -> Option<ReplacedObject<'_>> {
        ReplacedObject::of_step(&self.step)
    }

    fn apply_event(&mut self, event: &StepEvent, at: Timestamp) {
        match event {
            StepEvent::Started { .. } => {
                self.started_at.get_or_insert(at);
                self.attempts = self.attempts.max(1);
            }
            StepEvent::Retried => {
                self.ended_at = None;
                self.attempts += u32::from(self.started_at.is_some());
            }
            StepEvent::Done
            | StepEvent::Failed { .. }
            | StepEvent::Excluded { .. }
            | StepEvent::Skipped => self.ended_at = Some(at),
        }
        self.progress.apply_event(event);
    }
}

impl RolloutItemFilter {
    fn includes(&self, item: &RolloutItem) -> bool {
        let Some(object) = item.object() else {
            return false;
        };
        let fits = |wanted: &Option<String>, found: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == found)
        };
        self.state
            .is_none_or(|state| state == item.progress.state())
            && fits(&self.cluster, object.cluster.as_str())
            && fits(&self.namespace, object.namespace)
            && self.kind.is_none_or(|kind| kind == object.kind)
            && fits(&self.name, object.shown_name())
    }
}

impl Operation {
    /// Returns the policy in the operation's own arguments, which a restart of a mesh has.
    ///
    /// # Errors
    /// Returns [`StoreError::Corrupt`] when the stored policy does not fit [`RolloutPolicy`].
    pub fn rollout_policy(&self) -> Result<RolloutPolicy, StoreError> {
        let read = RolloutPolicy::from_arguments(&self.arguments);
        decode_column(read, "operations", "arguments", self.id)
    }
}
