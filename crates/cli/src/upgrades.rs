//! Commands about upgrades.

use serde_json::Value;
use wire::{CreateUpgrade, MoveNamespaces, NamespaceRef, Upgrade as UpgradeView};

use crate::client::Client;
use crate::options::{Ask, Decide, Format, Upgrade, Wait};
use crate::output::{note, print};
use crate::{Failure, Result, watch};

const UPGRADE: [&str; 6] = ["from", "to", "strategy", "state", "you can", "id"];

fn upgrade_row(upgrade: &UpgradeView) -> Vec<String> {
    let verbs = upgrade.allowed_verbs.join(",");
    vec![
        upgrade.from_version.clone(),
        upgrade.to_version.clone(),
        upgrade.strategy.clone(),
        upgrade.state.clone(),
        verbs,
        upgrade.id.clone(),
    ]
}

pub(crate) async fn upgrade(client: &Client, format: Format, command: Upgrade) -> Result<()> {
    match command {
        Upgrade::List { mesh } => {
            let id = client.mesh(&mesh).await?;
            print(format, &client.all::<UpgradeView>(&format!("/v1/meshes/{id}/upgrades")).await?, &UPGRADE, |list| {
                list.items.iter().map(upgrade_row).collect()
            })
        }
        Upgrade::Get { upgrade } => {
            let (found, tag): (UpgradeView, _) = client.get_tagged(&format!("/v1/upgrades/{upgrade}")).await?;
            show(format, &found)?;
            watch::explain(format, found.problem.as_ref());
            if let Some(tag) = tag {
                note(&format!("The tag of this state, for --if-match: {}", tag.trim_matches('"')));
            }
            Ok(())
        }
        Upgrade::Plan { mesh, version, strategy, auto, hold_seconds, accept_warnings, labels, start, wait } => {
            let id = client.mesh(&mesh).await?;
            let body = CreateUpgrade { version, strategy, auto, hold_seconds, accept_warnings, labels };
            let planned: UpgradeView = client.post(&format!("/v1/meshes/{id}/upgrades"), &body, None).await?;
            if start {
                ask(client, format, "start", Ask { upgrade: planned.id, wait }).await
            } else {
                show(format, &planned)
            }
        }
        Upgrade::Start(it) => ask(client, format, "start", it).await,
        Upgrade::Cancel(it) => ask(client, format, "cancel", it).await,
        Upgrade::Acknowledge(it) => ask(client, format, "acknowledge", it).await,
        Upgrade::Retry(it) => ask(client, format, "retry", it).await,
        Upgrade::Promote(it) => decide(client, format, "promote", it).await,
        Upgrade::Pause(it) => ask(client, format, "pause", it).await,
        Upgrade::Resume(it) => ask(client, format, "resume", it).await,
        Upgrade::Rollback(it) => decide(client, format, "rollback", it).await,
        Upgrade::Retire(it) => decide(client, format, "retire", it).await,
        Upgrade::Move { ask: it, namespaces } => {
            let parse = |text: &String| {
                let (cluster, namespace) =
                    text.split_once('/').ok_or_else(|| Failure::new(2, "--namespace is cluster/namespace"))?;
                Ok(NamespaceRef { cluster: cluster.into(), namespace: namespace.into() })
            };
            let namespaces = namespaces.iter().map(parse).collect::<Result<Vec<_>>>()?;
            let moved: UpgradeView = client
                .post(&format!("/v1/upgrades/{}/moves", it.upgrade), &MoveNamespaces { namespaces }, None)
                .await?;
            follow(client, format, moved, &it.wait).await
        }
        Upgrade::Watch(it) => show(format, &watch::upgrade(client, &it.upgrade, it.wait.timeout).await?),
    }
}

fn show(format: Format, upgrade: &UpgradeView) -> Result<()> {
    if format == Format::Table && !upgrade.findings.is_empty() {
        let accepted = upgrade.findings_accepted_by.as_ref().map(|by| format!(", accepted by {by}"));
        note(&format!("the precheck found{}:\n{}", accepted.unwrap_or_default(), watch::findings(upgrade)));
    }
    print(format, upgrade, &UPGRADE, |upgrade| vec![upgrade_row(upgrade)])
}

/// Asks for what two people must not ask for at the same moment: with the tag that the user gave, or with the tag of a state
/// that is shown first.
async fn decide(client: &Client, format: Format, verb: &str, it: Decide) -> Result<()> {
    let tag = match it.if_match {
        Some(tag) => format!("\"{}\"", tag.trim_matches('"')),
        None => confirmed(client, verb, &it.ask.upgrade).await?,
    };
    send(client, format, verb, it.ask, Some(tag)).await
}

/// Shows on standard error what is confirmed, and answers with its tag.
async fn confirmed(client: &Client, verb: &str, upgrade: &str) -> Result<String> {
    let (found, tag): (UpgradeView, _) = client.get_tagged(&format!("/v1/upgrades/{upgrade}")).await?;
    let tag = tag.ok_or_else(|| Failure::new(1, "the service shows no tag of the upgrade"))?;
    let (from, to) = (&found.from_version, &found.to_version);
    let shown = tag.trim_matches('"');
    note(&format!("{verb}: {} from {from} to {to}, {}, is {} (tag {shown})", found.id, found.strategy, found.state));
    Ok(tag)
}

/// Asks with the tag of what is there now: the user has just looked.
async fn ask(client: &Client, format: Format, verb: &str, it: Ask) -> Result<()> {
    let (_, tag): (UpgradeView, _) = client.get_tagged(&format!("/v1/upgrades/{}", it.upgrade)).await?;
    send(client, format, verb, it, tag).await
}

async fn send(client: &Client, format: Format, verb: &str, it: Ask, tag: Option<String>) -> Result<()> {
    let path = format!("/v1/upgrades/{}/{verb}", it.upgrade);
    let asked: UpgradeView = client.post(&path, &Value::Object(serde_json::Map::new()), tag).await?;
    follow(client, format, asked, &it.wait).await
}

async fn follow(client: &Client, format: Format, upgrade: UpgradeView, wait: &Wait) -> Result<()> {
    let shown = if wait.wait { watch::upgrade(client, &upgrade.id, wait.timeout).await? } else { upgrade };
    show(format, &shown)
}
