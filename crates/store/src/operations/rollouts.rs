//! Reads the workloads of roll-outs: the steps that replace pods, with their states and times.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use meshwright_model::OpenEnum;
use meshwright_model::ids::{MeshId, OperationId};
use meshwright_model::operation::{OperationKind, Progress, StepEvent, StepState};
use meshwright_model::plan::Step;
use meshwright_model::rollout::{ReplacedKind, ReplacedObject, RolloutPolicy};
use serde::Deserialize;

use crate::db::query_areas::OperationQueries;
use crate::error::decode_column;
use crate::operations::operation::OperationChoice;
use crate::{AccessFilter, Operation, Page, StoreError};

/// Error for a roll-out that the mesh does not have.
const ABSENT: StoreError = StoreError::NotFound { what: "roll-out" };

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

/// Operation that replaces pods, with its policy and the numbers of its workloads.
#[derive(Debug, Clone)]
pub struct Rollout {
    /// Operation of the roll-out.
    pub operation: Operation,
    /// Waves and limits of the roll-out.
    pub policy: RolloutPolicy,
    /// Numbers of workloads by wave and state. A workload with several steps counts once, with its
    /// newest one.
    pub states: Vec<RolloutStateCount>,
}

/// Workloads of a roll-out, and the places of its waves.
#[derive(Debug, Clone, Default)]
pub struct RolloutItems {
    /// Workloads that pass the filter, in the order of their newest steps.
    pub items: Vec<RolloutItem>,
    /// Numbers within the plan, from 0, of the waves that replace pods, in order.
    pub waves: Vec<usize>,
}

/// Number of workloads of a roll-out's wave that are in one state.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RolloutStateCount {
    /// Number of the wave within the plan, from 0.
    pub wave: usize,
    /// State of the workloads; unknown for the entry that only tells that the wave looks for
    /// workloads.
    pub state: OpenEnum<StepState>,
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
        let Some(upgrade) = rollout.upgrade else {
            return rollout.rollout_policy();
        };
        let policy = self.tx.upgrades().get_upgrade(upgrade).await?.rollout;
        Ok(policy_of_stage(policy, rollout.kind))
    }

    /// Lists the roll-outs of a mesh, newest first. The list is empty for a mesh that is deleted or
    /// does not exist.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer, and
    /// [`StoreError::Corrupt`] when a row does not fit [`Rollout`].
    pub async fn list_rollouts(
        &mut self,
        mesh: MeshId,
        page: Page,
    ) -> Result<Vec<Rollout>, StoreError> {
        self.read_rollouts(mesh, None, page).await
    }

    /// Reads one roll-out of a mesh that is not deleted.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when the mesh has no such roll-out.
    pub async fn get_rollout(
        &mut self,
        mesh: MeshId,
        id: OperationId,
    ) -> Result<Rollout, StoreError> {
        let found = self.read_rollouts(mesh, Some(id), Page::ALL).await?.pop();
        found.ok_or(ABSENT)
    }

    async fn read_rollouts(
        &mut self,
        mesh: MeshId,
        only: Option<OperationId>,
        page: Page,
    ) -> Result<Vec<Rollout>, StoreError> {
        let chosen = OperationChoice {
            only,
            upgrade: None,
            rollouts_of: Some(mesh),
        };
        let rows = self
            .read_operations(chosen, &AccessFilter::ALL, page)
            .await?;
        let read = rows.into_iter().map(|row| {
            let id = row.operation.id;
            let policy = match row.upgrade_policy {
                Some(policy) => {
                    let policy = serde_json::from_value(policy);
                    let policy = decode_column(policy, "upgrades", "rollout", id)?;
                    policy_of_stage(policy, row.operation.kind)
                }
                None => row.operation.rollout_policy()?,
            };
            let states = row.states.map(serde_json::from_value).transpose();
            Ok(Rollout {
                policy,
                states: decode_column(states, "item_facts", "fact", id)?.unwrap_or_default(),
                operation: row.operation,
            })
        });
        read.collect()
    }

    /// Lists the workloads of a roll-out that pass the filter, in the order of their newest steps,
    /// beginning after the step with the number `after`.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when the mesh has no such roll-out, and
    /// [`StoreError::Corrupt`] when a step or event does not fit.
    pub async fn list_rollout_items(
        &mut self,
        (mesh, rollout): (MeshId, OperationId),
        filter: &RolloutItemFilter,
        after: Option<i32>,
        limit: usize,
    ) -> Result<RolloutItems, StoreError> {
        let (items, waves) = self.read_rollout_items(mesh, rollout).await?;
        let mut items = keep_newest_items(items);
        items.retain(|item| after.is_none_or(|after| item.number > after) && filter.includes(item));
        items.truncate(limit);
        Ok(RolloutItems {
            items,
            waves: waves.into_iter().collect(),
        })
    }

    /// Reads the steps that replace pods, and the places of their waves.
    async fn read_rollout_items(
        &mut self,
        mesh: MeshId,
        rollout: OperationId,
    ) -> Result<(Vec<RolloutItem>, BTreeSet<usize>), StoreError> {
        let kinds = OperationKind::ROLLOUTS.map(|kind| kind.as_str().to_owned());
        // A roll-out without a plan is one row without a step.
        let rows = sqlx::query!(
            r#"SELECT i.number AS "number?", i.wave AS "wave?", i.step AS "step?",
                   ARRAY(SELECT f.fact FROM item_facts f WHERE f.tenant_id = $1 AND f.operation_id = $2 AND f.number = i.number
                       ORDER BY f.ordinal) AS "events!: Vec<serde_json::Value>",
                   ARRAY(SELECT (extract(epoch FROM f.at) * 1000000)::bigint FROM item_facts f
                       WHERE f.tenant_id = $1 AND f.operation_id = $2 AND f.number = i.number ORDER BY f.ordinal) AS "times!: Vec<i64>"
               FROM operations o LEFT JOIN operation_items i ON i.tenant_id = o.tenant_id AND i.operation_id = o.operation_id
                   AND i.step ->> 'step' IN ('restart', 'evict', 'converge')
               WHERE o.tenant_id = $1 AND o.operation_id = $2 AND o.mesh_id = $3 AND o.kind = ANY($4)
                   AND EXISTS (SELECT FROM meshes m WHERE m.tenant_id = $1 AND m.mesh_id = $3 AND m.state <> 'deleted')
               ORDER BY i.number"#,
            self.tx.tenant.0,
            rollout.0,
            mesh.0,
            &kinds
        )
        .fetch_all(&mut *self.tx.inner)
        .await?;
        if rows.is_empty() {
            return Err(ABSENT);
        }
        let (mut items, mut waves) = (Vec::new(), BTreeSet::new());
        for row in rows {
            let (Some(number), Some(wave), Some(step)) = (row.number, row.wave, row.step) else {
                continue;
            };
            let wave = decode_column(wave.try_into(), "operation_items", "wave", rollout)?;
            waves.insert(wave);
            let step = serde_json::from_value(step);
            let step = decode_column(step, "operation_items", "step", rollout)?;
            if ReplacedObject::of_step(&step).is_none() {
                continue;
            }
            let mut item = RolloutItem::new(number, wave, step);
            for (event, at) in row.events.into_iter().zip(row.times) {
                let event = serde_json::from_value(event);
                let event = decode_column(event, "item_facts", "fact", rollout)?;
                let at = Timestamp::from_microsecond(at);
                item.apply_event(&event, decode_column(at, "item_facts", "at", rollout)?);
            }
            items.push(item);
        }
        Ok((items, waves))
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
    fn new(number: i32, wave: usize, step: Step) -> Self {
        Self {
            number,
            wave,
            step,
            progress: Progress::default(),
            attempts: 0,
            started_at: None,
            ended_at: None,
        }
    }

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

/// Returns the part of an upgrade's policy that rules a stage: the waves rule the stage `roll` only.
fn policy_of_stage(policy: RolloutPolicy, stage: OperationKind) -> RolloutPolicy {
    if stage == OperationKind::Roll {
        policy
    } else {
        policy.without_waves()
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
