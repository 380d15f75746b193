//! Commands about upgrades.

use serde_json::Value;
use wire::{CreateUpgrade, MoveNamespaces, NamespaceRef, Upgrade as UpgradeView};

use crate::client::Client;
use crate::options::{Ask, Format, Upgrade, Wait};
use crate::output::print;
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
        Upgrade::Get { upgrade } => show(format, &client.get(&format!("/v1/upgrades/{upgrade}")).await?),
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
        Upgrade::Promote(it) => ask(client, format, "promote", it).await,
        Upgrade::Pause(it) => ask(client, format, "pause", it).await,
        Upgrade::Resume(it) => ask(client, format, "resume", it).await,
        Upgrade::Rollback(it) => ask(client, format, "rollback", it).await,
        Upgrade::Retire(it) => ask(client, format, "retire", it).await,
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
    print(format, upgrade, &UPGRADE, |upgrade| vec![upgrade_row(upgrade)])
}

/// Asks with the tag of what is there now: the user has just looked.
async fn ask(client: &Client, format: Format, verb: &str, it: Ask) -> Result<()> {
    let path = format!("/v1/upgrades/{}", it.upgrade);
    let tag = client.get_tagged(&path).await?;
    let asked: UpgradeView =
        client.post(&format!("{path}/{verb}"), &Value::Object(serde_json::Map::new()), tag).await?;
    follow(client, format, asked, &it.wait).await
}

async fn follow(client: &Client, format: Format, upgrade: UpgradeView, wait: &Wait) -> Result<()> {
    let shown = if wait.wait { watch::upgrade(client, &upgrade.id, wait.timeout).await? } else { upgrade };
    show(format, &shown)
}
