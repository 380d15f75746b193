//! Applies verbs of people and outcomes of stages to upgrades. Each of these runs in one transaction
//! together with all of its consequences.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use meshwright_model::Clock;
use meshwright_model::ids::{OperationId, UpgradeId};
use meshwright_model::operation::{OperationKind, OperationState, RequestedSignal, Signal};
use meshwright_model::rules::Severity;
use meshwright_model::upgrade::{Effect, StageOutcome, UpgradeState, Verb};
use serde_json::Value;

use crate::db::query_areas::UpgradeQueries;
use crate::error::to_json;
use crate::{NewOperation, StoreError, Upgrade};

/// Name that is stored as the caller when the upgrade's own policy accepted the findings.
const ACCEPTED_BY_POLICY: &str = "policy";

/// Values that a verb brings besides the next state.
#[derive(Debug, Default)]
struct VerbInput {
    /// Arguments of the operation that the verb starts.
    arguments: Value,
    /// Number of the only step that the verb is about; `None` for the whole stage.
    item: Option<i32>,
}

impl UpgradeQueries<'_, '_> {
    /// Applies a verb of a person. `actor` names the person as the audit log does, and `expected`
    /// is the number of transitions that the person saw.
    ///
    /// # Errors
    /// Returns [`StoreError::Transition`] when the state does not allow the verb,
    /// [`StoreError::StaleVersion`] when the upgrade has changed since, and
    /// [`StoreError::MeshLocked`] when an operation on the data plane has to end first.
    pub async fn apply_verb(
        &mut self,
        id: UpgradeId,
        actor: (Verb, &str),
        expected: Option<i64>,
        arguments: Value,
        clock: &dyn Clock,
    ) -> Result<Upgrade, StoreError> {
        let input = VerbInput {
            arguments,
            item: None,
        };
        self.apply_verb_with(id, actor, expected, input, clock)
            .await
    }

    /// Applies the verb `retry` or `skip` of a person to one step of the current stage. The upgrade
    /// leaves its pause, and the other steps stay as they are.
    ///
    /// # Errors
    /// Returns the errors of [`UpgradeQueries::apply_verb`].
    pub async fn apply_verb_to_item(
        &mut self,
        id: UpgradeId,
        actor: (Verb, &str),
        item: i32,
        clock: &dyn Clock,
    ) -> Result<Upgrade, StoreError> {
        let input = VerbInput {
            arguments: Value::Null,
            item: Some(item),
        };
        self.apply_verb_with(id, actor, None, input, clock).await
    }

    async fn apply_verb_with(
        &mut self,
        id: UpgradeId,
        (verb, actor): (Verb, &str),
        expected: Option<i64>,
        input: VerbInput,
        clock: &dyn Clock,
    ) -> Result<Upgrade, StoreError> {
        let mut upgrade = self.read_upgrade(id, true).await?;
        if expected.is_some_and(|expected| expected != upgrade.transitions) {
            return Err(StoreError::StaleVersion);
        }
        let (state, effect) = upgrade.state.clone().on_verb(verb)?;
        if let (true, Some(guest)) = (
            upgrade.must_wait_for_data_plane(&effect),
            self.tx.meshes().data_plane_holder(upgrade.mesh).await?,
        ) {
            return Err(StoreError::MeshLocked { holder: guest });
        }
        if verb == Verb::Acknowledge {
            upgrade.acceptance = Some((actor.to_owned(), clock.now()));
        }
        self.apply_transition(upgrade, state, effect, input, clock)
            .await
    }

    /// Applies the outcome of a stage's operation.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn apply_outcome(
        &mut self,
        id: UpgradeId,
        outcome: StageOutcome,
        clock: &dyn Clock,
    ) -> Result<Upgrade, StoreError> {
        let mut upgrade = self.read_upgrade(id, true).await?;
        if let StageOutcome::Found(findings) = &outcome {
            upgrade.findings.clone_from(findings);
            upgrade.acceptance = None;
        }
        let (state, effect) =
            upgrade
                .state
                .clone()
                .on_outcome(outcome, upgrade.choice, clock.now());
        let warned = upgrade
            .findings
            .iter()
            .any(|finding| finding.severity == Severity::Warn);
        // The upgrade deploys with warnings that no person accepted, so its own policy accepted
        // them.
        if state == UpgradeState::Deploying && warned && upgrade.acceptance.is_none() {
            upgrade.acceptance = Some((ACCEPTED_BY_POLICY.into(), clock.now()));
        }
        self.apply_transition(upgrade, state, effect, VerbInput::default(), clock)
            .await
    }

    /// Records that a retirement has begun, or that the start of its first irrevocable step was
    /// recorded.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn mark_retiring(
        &mut self,
        id: UpgradeId,
        irrevocable: bool,
        clock: &dyn Clock,
    ) -> Result<Upgrade, StoreError> {
        let upgrade = self.read_upgrade(id, true).await?;
        self.apply_transition(
            upgrade,
            UpgradeState::Retiring { irrevocable },
            Effect::Nothing,
            VerbInput::default(),
            clock,
        )
        .await
    }

    /// Applies a transition: executes its effect on operations and the mesh lock, pushes the event
    /// of a new state, and writes the row.
    async fn apply_transition(
        &mut self,
        mut upgrade: Upgrade,
        state: UpgradeState,
        effect: Effect,
        input: VerbInput,
        clock: &dyn Clock,
    ) -> Result<Upgrade, StoreError> {
        let now = clock.now();
        match effect {
            Effect::StartOperation(kind) => {
                self.start_stage(&mut upgrade, &state, (kind, input.arguments), clock)
                    .await?;
            }
            Effect::Signal(signal) => {
                let item = input.item;
                self.signal_stage(&mut upgrade, RequestedSignal { signal, item }, clock)
                    .await?;
            }
            Effect::RunNow => {
                self.tx
                    .operations()
                    .make_operation_due(upgrade.stage()?)
                    .await?;
            }
            Effect::Finish => self.finish_upgrade(&mut upgrade, &state, now).await?,
            Effect::Nothing => {}
        }
        if upgrade.state != state {
            upgrade.transitions += 1;
            self.push_upgrade_event(upgrade.id, upgrade.mesh, &state, now);
        }
        upgrade.state = state;
        self.write_upgrade(&upgrade).await?;
        Ok(upgrade)
    }

    /// Starts the operation of the next stage. It supersedes the operation of the last stage, and a
    /// stage that follows a hold is due at the end of the hold.
    async fn start_stage(
        &mut self,
        upgrade: &mut Upgrade,
        state: &UpgradeState,
        (kind, arguments): (OperationKind, Value),
        clock: &dyn Clock,
    ) -> Result<(), StoreError> {
        let now = clock.now();
        if let Some(earlier) = upgrade.operation {
            self.tx
                .operations()
                .supersede_operation(earlier, &OperationState::Superseded, now)
                .await?;
        }
        let hold = if let UpgradeState::Holding { until } = state {
            until.duration_since(now)
        } else {
            jiff::SignedDuration::ZERO
        };
        let new = NewOperation {
            id: OperationId(clock.new_uuid()),
            kind,
            mesh: Some(upgrade.mesh),
            cluster: None,
            upgrade: Some(upgrade.id),
            arguments,
            due_in: hold.try_into().unwrap_or_default(),
        };
        self.tx.operations().create_operation(&new, now).await?;
        upgrade.operation = Some(new.id);
        Ok(())
    }

    /// Signals the operation of the current stage. A stage that has ended is started again when the
    /// signal resumes or retries it.
    async fn signal_stage(
        &mut self,
        upgrade: &mut Upgrade,
        wish: RequestedSignal,
        clock: &dyn Clock,
    ) -> Result<(), StoreError> {
        let now = clock.now();
        let operation = upgrade.stage()?;
        let ended = match wish.signal {
            Signal::Resume | Signal::Retry => {
                self.tx.operations().read_ended_stage(operation).await?
            }
            Signal::Pause | Signal::Cancel | Signal::Skip => None,
        };
        let Some(ended) = ended else {
            return self
                .tx
                .operations()
                .signal_operation(operation, wish, now)
                .await;
        };
        let new = NewOperation {
            id: OperationId(clock.new_uuid()),
            mesh: Some(upgrade.mesh),
            upgrade: Some(upgrade.id),
            ..ended
        };
        self.tx.operations().create_operation(&new, now).await?;
        upgrade.operation = Some(new.id);
        Ok(())
    }

    /// Ends an upgrade: cancels its last operation, frees the mesh lock, and resolves the target
    /// revision.
    async fn finish_upgrade(
        &mut self,
        upgrade: &mut Upgrade,
        state: &UpgradeState,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if let Some(earlier) = upgrade.operation {
            self.tx
                .operations()
                .supersede_operation(earlier, &OperationState::Cancelled, now)
                .await?;
        }
        self.tx
            .meshes()
            .free_mesh_lock(upgrade.mesh, &upgrade.id.to_string())
            .await?;
        // An abandoned upgrade leaves its target revision in the clusters, and the deletion of the
        // mesh has to know it.
        if !matches!(state, UpgradeState::Abandoned { .. }) {
            self.tx
                .meshes()
                .resolve_target_revision(upgrade.mesh, *state == UpgradeState::Succeeded)
                .await?;
        }
        upgrade.ended_at = Some(now);
        Ok(())
    }

    async fn write_upgrade(&mut self, upgrade: &Upgrade) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE upgrades SET state = $3, state_body = $4, transitions = $5, operation_id = $6, ended_at = $7,
                 findings = $8, findings_accepted_by = $9, findings_accepted_at = $10
             WHERE tenant_id = $1 AND upgrade_id = $2",
            self.tx.tenant.0,
            upgrade.id.0,
            upgrade.state.as_str(),
            to_json(&upgrade.state),
            upgrade.transitions,
            upgrade.operation.map(|id| id.0),
            upgrade.ended_at.map(ToSqlx::to_sqlx) as _,
            to_json(&upgrade.findings),
            upgrade.acceptance.as_ref().map(|(by, _)| by.as_str()),
            upgrade.acceptance.as_ref().map(|(_, at)| at.to_sqlx()) as _
        )
        .execute(&mut *self.tx.inner)
        .await?;
        Ok(())
    }
}

impl Upgrade {
    /// Returns the operation of the current stage.
    fn stage(&self) -> Result<OperationId, StoreError> {
        self.operation.ok_or(StoreError::NotFound {
            what: "running operation",
        })
    }

    /// Returns true when an operation on the data plane may be running beside this upgrade, and the
    /// effect must wait for its end.
    fn must_wait_for_data_plane(&self, effect: &Effect) -> bool {
        let stage = if let UpgradeState::Paused { from, .. } = &self.state {
            from
        } else {
            &self.state
        };
        let still = matches!(
            stage,
            UpgradeState::Planned | UpgradeState::Blocked { .. } | UpgradeState::Holding { .. }
        );
        still && matches!(effect, Effect::StartOperation(_) | Effect::RunNow)
    }
}
