//! Stores upgrades, and applies verbs of people and outcomes of stages. Each of these runs in one
//! transaction together with all of its consequences.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use meshwright_model::Clock;
use meshwright_model::ids::{MeshId, OperationId, UpgradeId};
use meshwright_model::operation::{OperationState, Signal};
use meshwright_model::rules::{Severity, Strategy};
use meshwright_model::upgrade::{
    Effect, Finding, StageOutcome, UpgradePolicyChoice, UpgradeState, Verb,
};
use meshwright_model::version::{RevisionName, Version};
use serde_json::Value;

use crate::db::statements::id_bounds;
use crate::error::{decode_column, to_json};
use crate::{NewEvent, NewOperation, Page, StoreError, Tx};

/// An upgrade to be planned.
#[derive(Debug, Clone)]
pub struct NewUpgrade {
    /// Identifier of the upgrade.
    pub id: UpgradeId,
    /// Mesh that is upgraded.
    pub mesh: MeshId,
    /// Version that the mesh runs before the upgrade.
    pub from: Version,
    /// Version that the upgrade leads to.
    pub to: Version,
    /// Revision that runs the target version.
    pub revision: RevisionName,
    /// Choices that the caller made for the upgrade, such as the strategy.
    pub choice: UpgradePolicyChoice,
}

/// An upgrade as the service knows it.
#[derive(Debug, Clone)]
pub struct Upgrade {
    /// Identifier of the upgrade.
    pub id: UpgradeId,
    /// Mesh that is upgraded.
    pub mesh: MeshId,
    /// Version that the mesh runs before the upgrade.
    pub from: Version,
    /// Version that the upgrade leads to.
    pub to: Version,
    /// Choices that the caller made for the upgrade, such as the strategy.
    pub choice: UpgradePolicyChoice,
    /// State of the upgrade; see [`UpgradeState`].
    pub state: UpgradeState,
    /// Number of state changes so far, which serves as the version of the upgrade.
    pub transitions: i64,
    /// Operation of the current stage, or of the last one; `None` before the first.
    pub operation: Option<OperationId>,
    /// Findings of the last precheck, whether or not it stopped the upgrade.
    pub findings: Vec<Finding>,
    /// Caller that accepted the findings, as the audit log names it, and the time; the caller is
    /// `policy` when the upgrade's own `accept_warnings` did.
    pub acceptance: Option<(String, Timestamp)>,
    /// Time when the upgrade was requested.
    pub created_at: Timestamp,
    /// Time when the upgrade ended.
    pub ended_at: Option<Timestamp>,
}

/// Name that is stored as the caller when the upgrade's own policy accepted the findings.
const ACCEPTED_BY_POLICY: &str = "policy";

impl Tx<'_> {
    /// Adds an upgrade in state `planned`, and acquires the mesh lock for it.
    ///
    /// # Errors
    /// Returns [`StoreError::MeshLocked`] when another upgrade or operation is changing the mesh.
    pub async fn create_upgrade(
        &mut self,
        new: &NewUpgrade,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.acquire_mesh_lock(new.mesh, &new.id.to_string())
            .await?;
        self.set_target_revision(new.mesh, &new.revision, &new.to)
            .await?;
        let state = UpgradeState::Planned;
        sqlx::query!(
            "INSERT INTO upgrades (tenant_id, upgrade_id, mesh_id, from_version, to_version, choice, state, state_body, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            self.tenant.0,
            new.id.0,
            new.mesh.0,
            new.from.to_string(),
            new.to.to_string(),
            to_json(&new.choice),
            state.as_str(),
            to_json(&state),
            now.to_sqlx() as _
        )
        .execute(&mut *self.inner)
        .await?;
        self.push_upgrade_event(new.id, new.mesh, &state, now);
        Ok(())
    }

    fn push_upgrade_event(
        &mut self,
        id: UpgradeId,
        mesh: MeshId,
        state: &UpgradeState,
        now: Timestamp,
    ) {
        self.push_event(NewEvent {
            at: now,
            kind: "upgrade.state",
            mesh: Some(mesh),
            upgrade: Some(id),
            operation: None,
            body: to_json(state),
        });
    }

    /// Reads one upgrade.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when this tenant has no such upgrade.
    pub async fn get_upgrade(&mut self, id: UpgradeId) -> Result<Upgrade, StoreError> {
        self.read_upgrade(id, false).await
    }

    /// Reads one upgrade and locks it. Callers lock the upgrade before anything else, so that verbs
    /// and outcomes cannot deadlock.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when this tenant has no such upgrade.
    pub async fn lock_upgrade(&mut self, id: UpgradeId) -> Result<Upgrade, StoreError> {
        self.read_upgrade(id, true).await
    }

    async fn read_upgrade(&mut self, id: UpgradeId, locked: bool) -> Result<Upgrade, StoreError> {
        if locked {
            // Verbs and outcomes of one upgrade run one after the other.
            sqlx::query!(
                "SELECT 1 AS one FROM upgrades WHERE tenant_id = $1 AND upgrade_id = $2 FOR UPDATE",
                self.tenant.0,
                id.0
            )
            .fetch_optional(&mut *self.inner)
            .await?;
        }
        self.read_upgrades(Some(id), None, Page::ALL)
            .await?
            .pop()
            .ok_or(StoreError::NotFound { what: "upgrade" })
    }

    async fn read_upgrades(
        &mut self,
        only: Option<UpgradeId>,
        mesh: Option<MeshId>,
        page: Page,
    ) -> Result<Vec<Upgrade>, StoreError> {
        let (from, to) = id_bounds(only.map(|id| id.0));
        let rows = sqlx::query!(
            "SELECT upgrade_id, mesh_id, from_version, to_version, choice, state_body, transitions, operation_id, created_at, ended_at,
                 findings, findings_accepted_by, findings_accepted_at
             FROM upgrades WHERE tenant_id = $1 AND upgrade_id BETWEEN $2 AND $6
                 AND ($3::uuid IS NULL OR (mesh_id = $3 AND EXISTS (
                     SELECT FROM meshes m WHERE m.tenant_id = $1 AND m.mesh_id = $3 AND m.state <> 'deleted')))
                 AND ($4::uuid IS NULL OR upgrade_id < $4)
             ORDER BY upgrade_id DESC LIMIT $5",
            self.tenant.0,
            from,
            mesh.map(|id| id.0),
            page.after,
            page.limit,
            to
        )
        .fetch_all(&mut *self.inner)
        .await?;
        let read = rows.into_iter().map(|row| {
            let id = UpgradeId(row.upgrade_id);
            Ok(Upgrade {
                id,
                mesh: MeshId(row.mesh_id),
                from: decode_column(row.from_version.parse(), "upgrades", "from_version", id)?,
                to: decode_column(row.to_version.parse(), "upgrades", "to_version", id)?,
                choice: decode_column(
                    serde_json::from_value(row.choice),
                    "upgrades",
                    "choice",
                    id,
                )?,
                state: decode_column(
                    serde_json::from_value(row.state_body),
                    "upgrades",
                    "state_body",
                    id,
                )?,
                transitions: row.transitions,
                operation: row.operation_id.map(OperationId),
                findings: decode_column(
                    serde_json::from_value(row.findings),
                    "upgrades",
                    "findings",
                    id,
                )?,
                acceptance: row
                    .findings_accepted_by
                    .zip(row.findings_accepted_at.map(jiff_sqlx::Timestamp::to_jiff)),
                created_at: row.created_at.to_jiff(),
                ended_at: row.ended_at.map(jiff_sqlx::Timestamp::to_jiff),
            })
        });
        read.collect()
    }

    /// Lists the upgrades of a mesh, newest first. The list is empty for a mesh that is deleted or
    /// does not exist.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer, and
    /// [`StoreError::Corrupt`] when a row does not fit [`Upgrade`].
    pub async fn list_upgrades(
        &mut self,
        mesh: MeshId,
        page: Page,
    ) -> Result<Vec<Upgrade>, StoreError> {
        self.read_upgrades(None, Some(mesh), page).await
    }

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
        (verb, actor): (Verb, &str),
        expected: Option<i64>,
        arguments: Value,
        clock: &dyn Clock,
    ) -> Result<Upgrade, StoreError> {
        let mut upgrade = self.read_upgrade(id, true).await?;
        if expected.is_some_and(|expected| expected != upgrade.transitions) {
            return Err(StoreError::StaleVersion);
        }
        let (state, effect) = upgrade.state.clone().on_verb(verb)?;
        if let (true, Some(guest)) = (
            upgrade.must_wait_for_data_plane(&effect),
            self.data_plane_holder(upgrade.mesh).await?,
        ) {
            return Err(StoreError::MeshLocked { holder: guest });
        }
        if verb == Verb::Acknowledge {
            upgrade.acceptance = Some((actor.to_owned(), clock.now()));
        }
        self.apply_transition(upgrade, state, effect, arguments, clock)
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
        self.apply_transition(upgrade, state, effect, Value::Null, clock)
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
            Value::Null,
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
        arguments: Value,
        clock: &dyn Clock,
    ) -> Result<Upgrade, StoreError> {
        let now = clock.now();
        let (id, mesh) = (upgrade.id, upgrade.mesh);
        match effect {
            Effect::StartOperation(kind) => {
                if let Some(earlier) = upgrade.operation {
                    self.supersede_operation(earlier, &OperationState::Superseded, now)
                        .await?;
                }
                let operation = OperationId(clock.new_uuid());
                let hold = if let UpgradeState::Holding { until } = state {
                    until.duration_since(now)
                } else {
                    jiff::SignedDuration::ZERO
                };
                let due_in = hold.try_into().unwrap_or_default();
                let new = NewOperation {
                    id: operation,
                    kind,
                    mesh: Some(mesh),
                    cluster: None,
                    upgrade: Some(id),
                    arguments,
                    due_in,
                };
                self.create_operation(&new, now).await?;
                upgrade.operation = Some(operation);
            }
            Effect::Signal(wish) => {
                let operation = upgrade.operation.ok_or(StoreError::NotFound {
                    what: "running operation",
                })?;
                let again = match wish {
                    Signal::Resume | Signal::Retry => self.read_ended_stage(operation).await?,
                    Signal::Pause | Signal::Cancel => None,
                };
                match again {
                    None => self.signal_operation(operation, wish, now).await?,
                    Some(again) => {
                        let new = NewOperation {
                            id: OperationId(clock.new_uuid()),
                            mesh: Some(mesh),
                            upgrade: Some(id),
                            ..again
                        };
                        self.create_operation(&new, now).await?;
                        upgrade.operation = Some(new.id);
                    }
                }
            }
            Effect::RunNow => {
                let operation = upgrade.operation.ok_or(StoreError::NotFound {
                    what: "running operation",
                })?;
                self.make_operation_due(operation).await?;
            }
            Effect::Finish => {
                if let Some(earlier) = upgrade.operation {
                    self.supersede_operation(earlier, &OperationState::Cancelled, now)
                        .await?;
                }
                self.free_mesh_lock(mesh, &id.to_string()).await?;
                // An abandoned upgrade leaves its target revision in the clusters, and the deletion
                // of the mesh has to know it.
                if !matches!(state, UpgradeState::Abandoned { .. }) {
                    self.resolve_target_revision(mesh, state == UpgradeState::Succeeded)
                        .await?;
                }
                upgrade.ended_at = Some(now);
            }
            Effect::Nothing => {}
        }
        if upgrade.state != state {
            upgrade.transitions += 1;
            self.push_upgrade_event(id, mesh, &state, now);
        }
        upgrade.state = state;
        self.write_upgrade(&upgrade).await?;
        Ok(upgrade)
    }

    async fn write_upgrade(&mut self, upgrade: &Upgrade) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE upgrades SET state = $3, state_body = $4, transitions = $5, operation_id = $6, ended_at = $7,
                 findings = $8, findings_accepted_by = $9, findings_accepted_at = $10
             WHERE tenant_id = $1 AND upgrade_id = $2",
            self.tenant.0,
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
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }
}

impl Upgrade {
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

    /// Returns true when the target version runs in a revision of its own.
    pub fn is_canary(&self) -> bool {
        self.choice.strategy == Strategy::Canary
    }
}
