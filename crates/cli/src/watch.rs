//! Waits for operations and upgrades, and prints one line for each step that starts or ends.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use meshwright_model::operation;
use meshwright_model::upgrade::UpgradeStateName;
use meshwright_wire::{
    Operation, OperationProblem, StepState, Upgrade, UpgradeState, UpgradeVerbValue,
};

use crate::client::Client;
use crate::options::OutputFormat;
use crate::output::{eprint_line, join_names};
use crate::{Failure, Result};

/// Prints the steps that have changed since the last call.
#[derive(Default)]
struct StepPrinter {
    shown: BTreeMap<(String, i32), StepState>,
    waiting_for: Option<String>,
}

impl StepPrinter {
    fn print_changes(&mut self, operation: &Operation) {
        if operation.waiting_for.is_some() && operation.waiting_for != self.waiting_for {
            eprint_line(&format!(
                "  … {}",
                operation.waiting_for.as_deref().unwrap_or_default()
            ));
        }
        self.waiting_for.clone_from(&operation.waiting_for);
        for wave in &operation.waves {
            for step in &wave.steps {
                let key = (operation.id.clone(), step.number);
                if step.state != operation::StepState::Pending
                    && self.shown.get(&key) != Some(&step.state)
                {
                    let mark = match step.state.known() {
                        Some(operation::StepState::Done) => "✓",
                        Some(operation::StepState::Failed) => "✗",
                        Some(operation::StepState::Excluded | operation::StepState::Skipped) => "–",
                        _ => "…",
                    };
                    let reason = step
                        .problem
                        .as_ref()
                        .map_or(String::new(), |problem| format!(": {}", problem.message));
                    eprint_line(&format!(
                        "  {mark} [{}] {}{reason}",
                        operation.kind, step.title
                    ));
                    self.shown.insert(key, step.state.clone());
                }
            }
        }
    }
}

fn problem_failure(problem: &OperationProblem) -> Failure {
    Failure::new(
        6,
        format!("{} ({})\n{}", problem.message, problem.code, problem.hint),
    )
}

/// Prints to standard error, beside a table, the problem of a resource and its hint.
pub(crate) fn print_problem(format: OutputFormat, problem: Option<&OperationProblem>) {
    if let Some(problem) = problem.filter(|_| format == OutputFormat::Table) {
        eprint_line(&format!(
            "{} ({})\n  {}",
            problem.message, problem.code, problem.hint
        ));
    }
}

/// Prints to standard error, beside the table of its steps, the state of an operation and the
/// reason why it waits or is paused.
pub(crate) fn print_operation_state(operation: &Operation) {
    eprint_line(&format!("{} is {}", operation.kind, operation.state));
    if !operation.pending_verbs.is_empty() {
        eprint_line(&format!(
            "asked for and not taken up yet: {}",
            join_names(&operation.pending_verbs, ", ")
        ));
    }
    if let Some(reason) = &operation.waiting_for {
        eprint_line(&format!("waiting for: {reason}"));
    }
    print_problem(OutputFormat::Table, operation.problem.as_ref());
}

fn timeout_failure(what: &str) -> Failure {
    Failure::new(
        7,
        format!("{what} is still running; watch it again, or raise --timeout"),
    )
}

/// Polls an operation and prints its steps until it ends, has a problem, or the timeout is over.
pub(crate) async fn wait_for_operation(
    client: &Client,
    id: &str,
    timeout: u64,
) -> Result<Operation> {
    let deadline = Instant::now() + Duration::from_secs(timeout);
    let mut steps = StepPrinter::default();
    loop {
        let now: Operation = client
            .get(&format!("/v1/operations/{id}?wait_seconds=1"))
            .await?;
        steps.print_changes(&now);
        // A verb that no worker has taken up yet can end the pause that is still shown.
        if let Some(problem) = now
            .problem
            .as_ref()
            .filter(|_| now.done || now.pending_verbs.is_empty())
        {
            return Err(problem_failure(problem));
        }
        if now.done {
            return Ok(now);
        }
        if Instant::now() > deadline {
            return Err(timeout_failure(id));
        }
    }
}

/// Formats the findings of the precheck, two lines for each.
pub(crate) fn format_findings(upgrade: &Upgrade) -> String {
    upgrade
        .findings
        .iter()
        .map(format_finding)
        .collect::<Vec<_>>()
        .join("\n")
}

/// Polls an upgrade and prints its steps until it has ended or a person has to act.
pub(crate) async fn wait_for_upgrade(client: &Client, id: &str, timeout: u64) -> Result<Upgrade> {
    let deadline = Instant::now() + Duration::from_secs(timeout);
    let (mut steps, mut state, mut followed) =
        (StepPrinter::default(), None::<UpgradeState>, None::<String>);
    loop {
        let now: Upgrade = client
            .get(&format!("/v1/upgrades/{id}?wait_seconds=1"))
            .await?;
        if state.as_ref() != Some(&now.state) {
            eprint_line(now.state.as_str());
            state = Some(now.state.clone());
        }
        // A stage can end between two polls. Its last steps are printed before the steps of the
        // next stage.
        if let Some(before) = followed
            .take()
            .filter(|before| now.operation_id.as_ref() != Some(before))
        {
            steps.print_changes(&client.get(&format!("/v1/operations/{before}")).await?);
        }
        if let Some(operation) = &now.operation_id {
            steps.print_changes(&client.get(&format!("/v1/operations/{operation}")).await?);
        }
        followed.clone_from(&now.operation_id);
        if let Some(problem) = &now.problem {
            return Err(problem_failure(problem));
        }
        if now.state == UpgradeStateName::Blocked {
            return Err(Failure::new(
                6,
                format!("the precheck found:\n{}", format_findings(&now)),
            ));
        }
        if now.done
            || now.state == UpgradeStateName::Planned
            || now.state == UpgradeStateName::Holding
            || (now.state == UpgradeStateName::Verifying && can_promote(&now))
        {
            return Ok(now);
        }
        if Instant::now() > deadline {
            return Err(timeout_failure(id));
        }
    }
}

fn can_promote(upgrade: &Upgrade) -> bool {
    let mut verbs = upgrade.allowed_verbs.iter();
    verbs.any(|verb| *verb == UpgradeVerbValue::Promote)
}

/// Formats a finding for people: the object, what is wrong and what the user can do.
pub(crate) fn format_finding(finding: &meshwright_wire::Finding) -> String {
    format!(
        "{} {}: {} ({})\n  {}",
        finding.severity, finding.object, finding.message, finding.code, finding.hint
    )
}
