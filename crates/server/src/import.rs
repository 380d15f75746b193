//! What operators add: releases and hosting clusters.

use std::path::Path;

use cluster::Credential;
use model::Clock;
use model::clock::SystemClock;
use model::ids::HostingClusterId;
use model::release::{KubernetesRange, Release as Entry, ReleaseState};
use model::version::Version;
use serde::de::DeserializeOwned;
use store::{Hosting, Store, StoreError, StoredRelease};

use crate::Failure;
use crate::options::{self, Backend, Release, Releases};
use crate::service::connect;

pub(crate) async fn releases(database: &Backend, command: Releases) -> Result<(), Failure> {
    let Releases::Import(release) = command;
    let store = connect(database).await?;
    import_release(&store, &release).await?;
    println!("release {} is in the catalogue", release.version);
    Ok(())
}

/// Adds a release from its chart folder. Its images and its charts are the operator's choice, never a tenant's.
pub(crate) async fn import_release(store: &Store, wanted: &Release) -> Result<(), Failure> {
    let version: Version =
        wanted.version.parse().map_err(|error: model::version::InvalidVersion| bad("version", &error))?;
    let charts = cluster::render::pack(&wanted.charts)
        .map_err(Failure::io(format!("the charts base and istiod in {}", wanted.charts.display())))?;
    let day = |what: &str, text: &Option<String>| {
        text.as_ref().map(|day| day.parse()).transpose().map_err(|error: jiff::Error| bad(what, &error))
    };
    let release = Entry {
        state: ReleaseState::Available,
        hub: wanted.hub.clone(),
        tag: wanted.tag.clone().unwrap_or_else(|| version.community()),
        digest: store::digest(&charts),
        supported_until: day("supported-until", &wanted.supported_until)?,
        kubernetes: KubernetesRange {
            min: wanted.kubernetes_min,
            tested_max: wanted.kubernetes_tested,
            source: wanted.kubernetes_source.clone(),
        },
        quirks: wanted.quirks.iter().map(|quirk| named("quirk", quirk)).collect::<Result<_, _>>()?,
        released_on: day("released-on", &wanted.released_on)?,
        channels: wanted.channels.iter().map(|channel| named("channel", channel)).collect::<Result<_, _>>()?,
        minimum_edition: named("minimum-edition", &wanted.minimum_edition)?,
        notes: wanted.notes.clone(),
        version,
    };
    store.add_release(&StoredRelease { release, charts }, SystemClock.now()).await.map_err(Failure::from)
}

fn bad(what: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::Config(format!("--{what}: {error}"))
}

/// One of a few values, by its name.
fn named<T: DeserializeOwned>(what: &str, name: &str) -> Result<T, Failure> {
    serde_json::from_value(name.into()).map_err(|error| bad(what, &error))
}

pub(crate) async fn hosting(database: &Backend, command: options::Hosting) -> Result<(), Failure> {
    let options::Hosting::Add { name, kubeconfig } = command;
    let store = connect(database).await?;
    add_hosting(&store, &name, &kubeconfig).await?;
    println!("hosting cluster {name} is added");
    Ok(())
}

pub(crate) async fn add_hosting(store: &Store, name: &str, file: &Path) -> Result<(), Failure> {
    let text = std::fs::read_to_string(file).map_err(Failure::io(format!("the kubeconfig {}", file.display())))?;
    let credential = Credential::parse(&text).map_err(|refused| Failure::Config(refused.to_string()))?;
    let hosting =
        Hosting { id: HostingClusterId(SystemClock.uuid()), name: name.to_owned(), created_at: SystemClock.now() };
    store.add_hosting_cluster(&hosting, &credential.stored()).await.map_err(Failure::from)
}

/// An entry that is there already is what was wanted: `dev` may be started twice on one folder.
pub(crate) fn there_already(result: Result<(), Failure>) -> Result<(), Failure> {
    match result {
        Err(Failure::Store(StoreError::Conflict { .. })) => Ok(()),
        other => other,
    }
}
