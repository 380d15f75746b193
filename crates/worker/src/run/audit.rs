//! Audit entries of a worker's changes in clusters: the intent before the first write, and the
//! outcome when it was observed.

use meshwright_model::audit::{Digest, Entry};
use meshwright_model::operation::StepEvent;
use meshwright_model::plan::Step;
use meshwright_store::{PlannedStep, sha256};

use super::Run;

impl Run<'_> {
    /// Builds the audit entries of step events. Steps that only read change nothing and have no
    /// entry.
    pub(super) fn audit_entries(&self, facts: &[(i32, StepEvent)]) -> Vec<Entry> {
        let entry = |(number, fact): &(i32, StepEvent)| {
            let item = self.steps.iter().find(|item| item.number == *number)?;
            let target = match &item.step {
                evicts @ Step::Evict { .. } => evicts.to_string(),
                other => other.written_target()?.to_string(),
            };
            let digest = |value: Option<&str>| value.map(|value| sha256(value.as_bytes()));
            let (action, before) = match fact {
                StepEvent::Started { capture } => {
                    ("cluster.write.intended", digest(capture.as_deref()))
                }
                StepEvent::Done if item.progress.is_started() => (
                    "cluster.write.done",
                    digest(item.progress.capture.clone().flatten().as_deref()),
                ),
                _ => return None,
            };
            Some(Entry {
                at: self.now(),
                actor: self.engine.settings.worker_name.clone(),
                action: action.into(),
                target: self
                    .operation
                    .mesh
                    .map_or_else(|| target.clone(), |mesh| format!("{mesh}: {target}")),
                request_id: Some(self.claim.operation.to_string()),
                before,
                after: goal_digest(item),
            })
        };
        facts.iter().filter_map(entry).collect()
    }
}

/// Returns the digest of a step's goal: the value of its target, or the sidecar image that every
/// pod has afterwards.
fn goal_digest(item: &PlannedStep) -> Option<Digest> {
    let value = match &item.step {
        Step::Set { to, .. } => to.as_deref(),
        Step::Restart { wanted, .. } => Some(wanted.image.as_str()),
        Step::Converge { .. }
        | Step::Soak { .. }
        | Step::Evict { .. }
        | Step::Probe { .. }
        | Step::AwaitReady { .. }
        | Step::AwaitUnused { .. }
        | Step::AwaitGone { .. }
        | Step::LeaveBehind { .. } => None,
    };
    value.map(|value| sha256(value.as_bytes()))
}
