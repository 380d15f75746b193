//! Runs the commands on upgrades.

use meshwright_wire::{
    CreateUpgrade, LabelPolicy, MoveNamespaces, NamespaceRef, Strategy, Upgrade as UpgradeView,
};
use serde_json::Value;

use crate::client::Client;
use crate::options::{
    ConfirmedVerbArgs, OutputFormat, PlanUpgradeArgs, UpgradeCommand, UpgradeVerbArgs, WaitArgs,
};
use crate::output::{eprint_line, join_names, print_value};
use crate::rollout_policy::parse_policy;
use crate::{Failure, Result, watch};

const UPGRADE_COLUMNS: [&str; 6] = ["from", "to", "strategy", "state", "you can", "id"];

fn upgrade_row(upgrade: &UpgradeView) -> Vec<String> {
    let verbs = join_names(&upgrade.allowed_verbs, ",");
    vec![
        upgrade.from_version.clone(),
        upgrade.to_version.clone(),
        upgrade.strategy.to_string(),
        upgrade.state.to_string(),
        verbs,
        upgrade.id.clone(),
    ]
}

pub(crate) async fn run_upgrade_command(
    client: &Client,
    format: OutputFormat,
    command: UpgradeCommand,
) -> Result<()> {
    match command {
        UpgradeCommand::List { mesh } => list_upgrades(client, format, &mesh).await,
        UpgradeCommand::Get { upgrade } => get_upgrade(client, format, &upgrade).await,
        UpgradeCommand::Plan(arguments) => plan_upgrade(client, format, arguments).await,
        UpgradeCommand::Start(it) => post_verb(client, format, "start", it).await,
        UpgradeCommand::Cancel(it) => post_verb(client, format, "cancel", it).await,
        UpgradeCommand::Acknowledge(it) => post_verb(client, format, "acknowledge", it).await,
        UpgradeCommand::Retry(it) => post_verb(client, format, "retry", it).await,
        UpgradeCommand::Skip(it) => post_verb(client, format, "skip", it).await,
        UpgradeCommand::Promote(it) => post_confirmed_verb(client, format, "promote", it).await,
        UpgradeCommand::Pause(it) => post_verb(client, format, "pause", it).await,
        UpgradeCommand::Resume(it) => post_verb(client, format, "resume", it).await,
        UpgradeCommand::Rollback(it) => post_confirmed_verb(client, format, "rollback", it).await,
        UpgradeCommand::Retire(it) => post_confirmed_verb(client, format, "retire", it).await,
        UpgradeCommand::Move { ask, namespaces } => {
            move_namespaces(client, format, ask, &namespaces).await
        }
        UpgradeCommand::Watch(it) => print_upgrade(
            format,
            &watch::wait_for_upgrade(client, &it.upgrade, it.wait.timeout).await?,
        ),
    }
}

async fn list_upgrades(client: &Client, format: OutputFormat, mesh: &str) -> Result<()> {
    let id = client.resolve_mesh_id(mesh).await?;
    let list = client
        .list_all::<UpgradeView>(&format!("/v1/meshes/{id}/upgrades"))
        .await?;
    print_value(format, &list, &UPGRADE_COLUMNS, |list| {
        list.items.iter().map(upgrade_row).collect()
    })
}

async fn get_upgrade(client: &Client, format: OutputFormat, id: &str) -> Result<()> {
    let (found, tag): (UpgradeView, _) = client.get_tagged(&format!("/v1/upgrades/{id}")).await?;
    print_upgrade(format, &found)?;
    watch::print_problem(format, found.problem.as_ref());
    if let Some(tag) = tag {
        eprint_line(&format!(
            "The tag of this state, for --if-match: {}",
            tag.trim_matches('"')
        ));
    }
    Ok(())
}

async fn plan_upgrade(
    client: &Client,
    format: OutputFormat,
    arguments: PlanUpgradeArgs,
) -> Result<()> {
    let id = client.resolve_mesh_id(&arguments.mesh).await?;
    let body = CreateUpgrade {
        version: arguments.version,
        strategy: Strategy::from_name(arguments.strategy),
        auto: arguments.auto,
        hold_seconds: arguments.hold_seconds,
        accept_warnings: arguments.accept_warnings,
        labels: LabelPolicy::from_name(arguments.labels),
        rollout: parse_policy(&arguments.rollout)?,
    };
    let planned: UpgradeView = client
        .post(&format!("/v1/meshes/{id}/upgrades"), &body, None)
        .await?;
    if !arguments.start {
        return print_upgrade(format, &planned);
    }
    let start = UpgradeVerbArgs {
        upgrade: planned.id,
        wait: arguments.wait,
    };
    post_verb(client, format, "start", start).await
}

async fn move_namespaces(
    client: &Client,
    format: OutputFormat,
    it: UpgradeVerbArgs,
    namespaces: &[String],
) -> Result<()> {
    let parse = |text: &String| {
        let (cluster, namespace) = text
            .split_once('/')
            .ok_or_else(|| Failure::new(2, "--namespace is cluster/namespace"))?;
        Ok(NamespaceRef {
            cluster: cluster.into(),
            namespace: namespace.into(),
        })
    };
    let body = MoveNamespaces {
        namespaces: namespaces.iter().map(parse).collect::<Result<_>>()?,
    };
    let path = format!("/v1/upgrades/{}/moves", it.upgrade);
    let moved: UpgradeView = client.post(&path, &body, None).await?;
    wait_and_print_upgrade(client, format, moved, &it.wait).await
}

fn print_upgrade(format: OutputFormat, upgrade: &UpgradeView) -> Result<()> {
    if format == OutputFormat::Table && !upgrade.findings.is_empty() {
        let accepted = upgrade
            .findings_accepted_by
            .as_ref()
            .map(|by| format!(", accepted by {by}"));
        eprint_line(&format!(
            "the precheck found{}:\n{}",
            accepted.unwrap_or_default(),
            watch::format_findings(upgrade)
        ));
    }
    print_value(format, upgrade, &UPGRADE_COLUMNS, |upgrade| {
        vec![upgrade_row(upgrade)]
    })
}

/// Requests a verb that two people must not request at the same moment. The request carries the tag
/// that the user gave, or the tag of the state that is printed first.
async fn post_confirmed_verb(
    client: &Client,
    format: OutputFormat,
    verb: &str,
    it: ConfirmedVerbArgs,
) -> Result<()> {
    let tag = match it.if_match {
        Some(tag) => format!("\"{}\"", tag.trim_matches('"')),
        None => print_state_to_confirm(client, verb, &it.ask.upgrade).await?,
    };
    post_verb_with_tag(client, format, verb, it.ask, Some(tag)).await
}

/// Prints to standard error the state that is about to be confirmed, and returns its tag.
async fn print_state_to_confirm(client: &Client, verb: &str, upgrade: &str) -> Result<String> {
    let (found, tag): (UpgradeView, _) = client
        .get_tagged(&format!("/v1/upgrades/{upgrade}"))
        .await?;
    let tag = tag.ok_or_else(|| Failure::new(1, "the service shows no tag of the upgrade"))?;
    let (from, to) = (&found.from_version, &found.to_version);
    let shown = tag.trim_matches('"');
    eprint_line(&format!(
        "{verb}: {} from {from} to {to}, {}, is {} (tag {shown})",
        found.id, found.strategy, found.state
    ));
    Ok(tag)
}

/// Requests a verb with the tag of the state that was read just before.
async fn post_verb(
    client: &Client,
    format: OutputFormat,
    verb: &str,
    it: UpgradeVerbArgs,
) -> Result<()> {
    let (_, tag): (UpgradeView, _) = client
        .get_tagged(&format!("/v1/upgrades/{}", it.upgrade))
        .await?;
    post_verb_with_tag(client, format, verb, it, tag).await
}

async fn post_verb_with_tag(
    client: &Client,
    format: OutputFormat,
    verb: &str,
    it: UpgradeVerbArgs,
    tag: Option<String>,
) -> Result<()> {
    let path = format!("/v1/upgrades/{}/{verb}", it.upgrade);
    let asked: UpgradeView = client
        .post(&path, &Value::Object(serde_json::Map::new()), tag)
        .await?;
    wait_and_print_upgrade(client, format, asked, &it.wait).await
}

async fn wait_and_print_upgrade(
    client: &Client,
    format: OutputFormat,
    upgrade: UpgradeView,
    wait: &WaitArgs,
) -> Result<()> {
    let shown = if wait.wait {
        watch::wait_for_upgrade(client, &upgrade.id, wait.timeout).await?
    } else {
        upgrade
    };
    print_upgrade(format, &shown)
}
