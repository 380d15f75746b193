//! Runs the commands on roll-outs.

use meshwright_wire::{
    AskRollout, ForecastActionValue, ForecastWorkload, Operation, Rollout, RolloutCounts,
    RolloutForecast, RolloutItem,
};

use crate::client::{Client, percent_encode};
use crate::options::{
    ItemVerbArgs, ItemsArgs, OutputFormat, PolicyArgs, RolloutCommand, RolloutVerbArgs, WaitArgs,
};
use crate::output::{eprint_line, join_names, or_dash, print_value};
use crate::rollout_policy::parse_policy;
use crate::{Failure, Result, watch};

pub(crate) async fn run_rollout_command(
    client: &Client,
    format: OutputFormat,
    command: RolloutCommand,
) -> Result<()> {
    match command {
        RolloutCommand::Start { mesh, policy, wait } => {
            start_rollout(client, format, &mesh, &policy, &wait).await
        }
        RolloutCommand::Plan { mesh, policy } => plan_rollout(client, format, &mesh, &policy).await,
        RolloutCommand::List { mesh } => list_rollouts(client, format, &mesh).await,
        RolloutCommand::Get { rollout } => {
            print_rollout(format, &read_rollout(client, &rollout).await?)
        }
        RolloutCommand::Items(it) => list_items(client, format, it).await,
        RolloutCommand::Watch { rollout, timeout } => {
            watch::wait_for_operation(client, &rollout, timeout).await?;
            print_rollout(format, &read_rollout(client, &rollout).await?)
        }
        RolloutCommand::Pause(it) => ask_whole(client, format, "pause", it).await,
        RolloutCommand::Resume(it) => ask_whole(client, format, "resume", it).await,
        RolloutCommand::Cancel(it) => ask_whole(client, format, "cancel", it).await,
        RolloutCommand::Retry(it) => ask_rollout(client, format, "retry", it).await,
        RolloutCommand::Skip(it) => ask_rollout(client, format, "skip", it).await,
    }
}

/// Returns the path of a roll-out below its mesh. The operation of the same id names the mesh.
async fn rollout_path(client: &Client, id: &str) -> Result<String> {
    let operation: Operation = client.get(&format!("/v1/operations/{id}")).await?;
    let mesh = operation
        .mesh_id
        .ok_or_else(|| Failure::new(3, format!("{id} is no roll-out of a mesh")))?;
    Ok(format!("/v1/meshes/{mesh}/rollouts/{id}"))
}

async fn read_rollout(client: &Client, id: &str) -> Result<Rollout> {
    client.get(&rollout_path(client, id).await?).await
}

async fn start_rollout(
    client: &Client,
    format: OutputFormat,
    mesh: &str,
    policy: &PolicyArgs,
    wait: &WaitArgs,
) -> Result<()> {
    let policy = parse_policy(policy)?.unwrap_or_default();
    let mesh = client.resolve_mesh_id(mesh).await?;
    let path = format!("/v1/meshes/{mesh}/rollouts");
    let started: Rollout = client.post(&path, &policy, None).await?;
    if let (OutputFormat::Table, Some(forecast)) = (format, &started.forecast) {
        print_forecast_waves(forecast);
    }
    wait_and_print(client, format, started, wait).await
}

async fn wait_and_print(
    client: &Client,
    format: OutputFormat,
    rollout: Rollout,
    wait: &WaitArgs,
) -> Result<()> {
    if !wait.wait {
        return print_list(format, &rollout, |rollout| vec![rollout_row(rollout)]);
    }
    watch::wait_for_operation(client, &rollout.id, wait.timeout).await?;
    print_rollout(format, &read_rollout(client, &rollout.id).await?)
}

async fn plan_rollout(
    client: &Client,
    format: OutputFormat,
    mesh: &str,
    policy: &PolicyArgs,
) -> Result<()> {
    let policy = parse_policy(policy)?.unwrap_or_default();
    let mesh = client.resolve_mesh_id(mesh).await?;
    let path = format!("/v1/meshes/{mesh}/rollouts?validate_only=true");
    let planned: Rollout = client.post(&path, &policy, None).await?;
    let forecast = planned
        .forecast
        .ok_or_else(|| Failure::new(1, "the service answered without a forecast"))?;
    let header = ["wave", "action", "cluster", "workload", "pods", "reason"];
    if format == OutputFormat::Table && touched(&forecast).next().is_none() {
        let reason = match forecast.observed_at {
            Some(at) => format!("No workload needed a restart at {at}."),
            None => "The mesh was not observed yet. Ask again in a minute.".to_owned(),
        };
        eprint_line(&reason);
        return Ok(());
    }
    print_value(format, &forecast, &header, |forecast| {
        touched(forecast).map(forecast_row).collect()
    })?;
    if format == OutputFormat::Table {
        print_forecast_waves(&forecast);
    }
    Ok(())
}

/// Returns the workloads of a forecast that are restarted, or need a restart and are left.
fn touched(forecast: &RolloutForecast) -> impl Iterator<Item = &ForecastWorkload> {
    let workloads = forecast.workloads.iter();
    workloads.filter(|workload| workload.action != ForecastActionValue::None)
}

fn forecast_row(workload: &ForecastWorkload) -> Vec<String> {
    vec![
        workload.wave.to_string(),
        workload.action.to_string(),
        workload.cluster.clone(),
        format!("{}/{}/{}", workload.namespace, workload.kind, workload.name),
        workload.pods.to_string(),
        or_dash(workload.reason.as_ref().map(|reason| &reason.message)),
    ]
}

/// Prints one line for each wave of a forecast to standard error.
fn print_forecast_waves(forecast: &RolloutForecast) {
    for wave in &forecast.waves {
        let soak = match wave.soak_seconds {
            0 => String::new(),
            seconds => format!(", then {seconds} seconds until the next wave"),
        };
        eprint_line(&format!(
            "wave {} ({}): {} restarts of {} pods, {} left{soak}",
            wave.number, wave.title, wave.restarts, wave.pods, wave.left
        ));
    }
    if let Some(at) = forecast.observed_at {
        eprint_line(&format!("as the mesh was observed at {at}"));
    }
}

async fn list_rollouts(client: &Client, format: OutputFormat, mesh: &str) -> Result<()> {
    let mesh = client.resolve_mesh_id(mesh).await?;
    let list = client
        .list_all::<Rollout>(&format!("/v1/meshes/{mesh}/rollouts"))
        .await?;
    if format == OutputFormat::Table && list.items.is_empty() {
        eprint_line("The mesh had no roll-out yet. See what one would do with `rollout plan`.");
        return Ok(());
    }
    print_list(format, &list, |list| {
        list.items.iter().map(rollout_row).collect()
    })
}

fn print_list<T: serde::Serialize>(
    format: OutputFormat,
    value: &T,
    rows: impl FnOnce(&T) -> Vec<Vec<String>>,
) -> Result<()> {
    let header = ["kind", "state", "done", "left", "created", "id"];
    print_value(format, value, &header, rows)
}

fn rollout_row(rollout: &Rollout) -> Vec<String> {
    let counts = &rollout.counts;
    vec![
        rollout.kind.to_string(),
        rollout.state.to_string(),
        format!("{}/{}", counts.done, total(counts)),
        (counts.failed + counts.excluded).to_string(),
        rollout.created_at.to_string(),
        rollout.id.clone(),
    ]
}

fn total(counts: &RolloutCounts) -> i64 {
    let begun = counts.started + counts.done + counts.failed;
    counts.pending + begun + counts.excluded + counts.skipped
}

/// Prints the waves of a roll-out. Beside a table, its state goes to standard error.
fn print_rollout(format: OutputFormat, rollout: &Rollout) -> Result<()> {
    let table = format == OutputFormat::Table;
    if table && rollout.waves.is_empty() {
        eprint_line(if rollout.state.as_str() == "queued" {
            "No worker has built the plan yet."
        } else {
            "This roll-out replaces no pods."
        });
    } else {
        let header = [
            "wave", "title", "pending", "started", "done", "failed", "excluded", "skipped",
        ];
        print_value(format, rollout, &header, wave_rows)?;
    }
    if table {
        eprint_line(&format!("{} is {}", rollout.kind, rollout.state));
        if !rollout.pending_verbs.is_empty() {
            let verbs = join_names(&rollout.pending_verbs, ", ");
            eprint_line(&format!("asked for and not taken up yet: {verbs}"));
        }
        if let Some(reason) = &rollout.waiting_for {
            eprint_line(&format!("waiting for: {reason}"));
        }
    }
    watch::print_problem(format, rollout.problem.as_ref());
    Ok(())
}

fn wave_rows(rollout: &Rollout) -> Vec<Vec<String>> {
    let row = |wave: &meshwright_wire::RolloutWaveProgress| {
        let counts = &wave.counts;
        let numbers = [
            counts.pending,
            counts.started,
            counts.done,
            counts.failed,
            counts.excluded,
            counts.skipped,
        ];
        let head = [wave.number.to_string(), wave.title.clone()];
        head.into_iter()
            .chain(numbers.map(|number| number.to_string()))
            .collect()
    };
    rollout.waves.iter().map(row).collect()
}

async fn list_items(client: &Client, format: OutputFormat, it: ItemsArgs) -> Result<()> {
    let filters = [
        ("state", &it.state),
        ("cluster", &it.cluster),
        ("namespace", &it.namespace),
        ("kind", &it.kind),
        ("name", &it.name),
    ];
    let filters: Vec<String> = filters
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", percent_encode(value.as_ref()?))))
        .collect();
    let mut path = format!("{}/items", rollout_path(client, &it.rollout).await?);
    if !filters.is_empty() {
        path = format!("{path}?{}", filters.join("&"));
    }
    let list = client.list_all::<RolloutItem>(&path).await?;
    if format == OutputFormat::Table && list.items.is_empty() {
        eprint_line("No workload of the roll-out is in this list. It finds them while it runs.");
        return Ok(());
    }
    let header = [
        "item", "wave", "cluster", "workload", "action", "state", "attempts", "reason",
    ];
    print_value(format, &list, &header, |list| {
        list.items.iter().map(item_row).collect()
    })
}

fn item_row(item: &RolloutItem) -> Vec<String> {
    vec![
        item.number.to_string(),
        item.wave.to_string(),
        item.cluster.clone(),
        format!("{}/{}/{}", item.namespace, item.kind, item.name),
        item.action.to_string(),
        item.state.to_string(),
        item.attempts.to_string(),
        or_dash(item.problem.as_ref().map(|problem| &problem.message)),
    ]
}

async fn ask_whole(
    client: &Client,
    format: OutputFormat,
    verb: &str,
    ask: RolloutVerbArgs,
) -> Result<()> {
    ask_rollout(client, format, verb, ItemVerbArgs { ask, item: None }).await
}

/// Sends a verb to a roll-out or to one workload of it. The answer shows the roll-out as it was
/// before a worker took the verb up.
async fn ask_rollout(
    client: &Client,
    format: OutputFormat,
    verb: &str,
    it: ItemVerbArgs,
) -> Result<()> {
    let path = rollout_path(client, &it.ask.rollout).await?;
    let body = AskRollout { item: it.item };
    let asked: Rollout = client.post(&format!("{path}/{verb}"), &body, None).await?;
    wait_and_print(client, format, asked, &it.ask.wait).await
}
