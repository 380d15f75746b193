//! Waiting with the steps in sight: one line for each step that begins or ends.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use wire::{Operation, Trouble, Upgrade};

use crate::client::Client;
use crate::options::Format;
use crate::output::note;
use crate::{Failure, Result};

/// Prints what has changed since the last look.
#[derive(Default)]
struct Steps {
    shown: BTreeMap<(String, i32), String>,
    waiting_for: Option<String>,
}

impl Steps {
    fn show(&mut self, operation: &Operation) {
        if operation.waiting_for.is_some() && operation.waiting_for != self.waiting_for {
            note(&format!("  … {}", operation.waiting_for.as_deref().unwrap_or_default()));
        }
        self.waiting_for.clone_from(&operation.waiting_for);
        for wave in &operation.waves {
            for step in &wave.steps {
                let key = (operation.id.clone(), step.number);
                if step.state != "pending" && self.shown.get(&key) != Some(&step.state) {
                    let mark = match step.state.as_str() {
                        "done" => "✓",
                        "failed" => "✗",
                        _ => "…",
                    };
                    note(&format!("  {mark} [{}] {}", operation.kind, step.title));
                    self.shown.insert(key, step.state.clone());
                }
            }
        }
    }
}

fn trouble(problem: &Trouble) -> Failure {
    Failure::new(6, format!("{} ({})\n{}", problem.message, problem.code, problem.hint))
}

/// Says beside a table why something stands still, and what helps.
pub(crate) fn explain(format: Format, problem: Option<&Trouble>) {
    if let Some(problem) = problem.filter(|_| format == Format::Table) {
        note(&format!("{} ({})\n  {}", problem.message, problem.code, problem.hint));
    }
}

/// Says beside the table of an operation's steps how far the operation is, and why it stands still.
pub(crate) fn standing(operation: &Operation) {
    note(&format!("{} is {}", operation.kind, operation.state));
    if !operation.pending_verbs.is_empty() {
        note(&format!("asked for and not taken up yet: {}", operation.pending_verbs.join(", ")));
    }
    if let Some(reason) = &operation.waiting_for {
        note(&format!("waiting for: {reason}"));
    }
    explain(Format::Table, operation.problem.as_ref());
}

fn still_running(what: &str) -> Failure {
    Failure::new(7, format!("{what} is still running; watch it again, or raise --timeout"))
}

/// Follows an operation to its end.
pub(crate) async fn operation(client: &Client, id: &str, timeout: u64) -> Result<Operation> {
    let deadline = Instant::now() + Duration::from_secs(timeout);
    let mut steps = Steps::default();
    loop {
        let now: Operation = client.get(&format!("/v1/operations/{id}?wait_seconds=1")).await?;
        steps.show(&now);
        // A verb that no worker has taken up yet may end the pause that is still shown.
        if let Some(problem) = now.problem.as_ref().filter(|_| now.done || now.pending_verbs.is_empty()) {
            return Err(trouble(problem));
        }
        if now.done {
            return Ok(now);
        }
        if Instant::now() > deadline {
            return Err(still_running(id));
        }
    }
}

/// What the precheck found, two lines for each finding.
pub(crate) fn findings(upgrade: &Upgrade) -> String {
    upgrade.findings.iter().map(finding_line).collect::<Vec<_>>().join("\n")
}

/// Follows an upgrade until a person is needed or it has ended.
pub(crate) async fn upgrade(client: &Client, id: &str, timeout: u64) -> Result<Upgrade> {
    let deadline = Instant::now() + Duration::from_secs(timeout);
    let (mut steps, mut state, mut followed) = (Steps::default(), String::new(), None::<String>);
    loop {
        let now: Upgrade = client.get(&format!("/v1/upgrades/{id}?wait_seconds=1")).await?;
        if now.state != state {
            note(&now.state);
            state.clone_from(&now.state);
        }
        // The stage before ended between two looks: its last steps are shown before those of the next one.
        if let Some(before) = followed.take().filter(|before| now.operation_id.as_ref() != Some(before)) {
            steps.show(&client.get(&format!("/v1/operations/{before}")).await?);
        }
        if let Some(operation) = &now.operation_id {
            steps.show(&client.get(&format!("/v1/operations/{operation}")).await?);
        }
        followed.clone_from(&now.operation_id);
        if let Some(problem) = &now.problem {
            return Err(trouble(problem));
        }
        if now.state == "blocked" {
            return Err(Failure::new(6, format!("the precheck found:\n{}", findings(&now))));
        }
        if now.done
            || matches!(now.state.as_str(), "planned" | "holding")
            || (now.state == "verifying" && now.allowed_verbs.iter().any(|verb| verb == "promote"))
        {
            return Ok(now);
        }
        if Instant::now() > deadline {
            return Err(still_running(id));
        }
    }
}

/// A finding for people: what it is about, what is wrong and what helps.
pub(crate) fn finding_line(finding: &wire::Finding) -> String {
    format!("{} {}: {} ({})\n  {}", finding.severity, finding.object, finding.message, finding.code, finding.hint)
}
