//! The catalogue, for whoever operates the service.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::Version;
use wire::{AddHostingCluster, ChangeRelease, HostingCluster, Release as View};

use crate::client::{Client, escaped};
use crate::options::{Change, Format, Hosting, Import, Release};
use crate::output::{or_dash, print, say};
use crate::{Failure, Result};

pub(crate) const RELEASE: [&str; 5] = ["version", "state", "channels", "kubernetes", "supported until"];

pub(crate) fn release_row(release: &View) -> Vec<String> {
    vec![
        release.version.clone(),
        release.state.clone(),
        release.channels.join(" "),
        release.kubernetes.clone(),
        or_dash(release.supported_until.as_ref()),
    ]
}

/// What a release is installed with.
const CHARTS: [&str; 2] = ["base", "istiod"];

/// An archive as it is, or one of a folder.
fn charts(path: &Path) -> Result<Vec<u8>> {
    let failed = |error: std::io::Error| Failure::new(2, format!("{}: {error}", path.display()));
    if path.is_file() {
        return std::fs::read(path).map_err(failed);
    }
    let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default()));
    // A link would be refused, and charts have none.
    archive.follow_symlinks(false);
    for chart in CHARTS {
        archive.append_dir_all(chart, path.join(chart)).map_err(failed)?;
    }
    archive.into_inner().and_then(flate2::write::GzEncoder::finish).map_err(failed)
}

/// The charts, from wherever they are.
async fn found(import: &Import) -> Result<Vec<u8>> {
    if !import.charts.starts_with("oci://") {
        return charts(Path::new(&import.charts));
    }
    let folder = tempfile::tempdir().map_err(|error| Failure::new(2, format!("no folder for the charts: {error}")))?;
    let version = match &import.chart_version {
        Some(version) => version.clone(),
        None => import.version.parse::<Version>().map_err(|error| Failure::new(2, error.to_string()))?.community(),
    };
    for chart in CHARTS {
        let address = format!("{}/{chart}", import.charts.trim_end_matches('/'));
        let mut pull = tokio::process::Command::new(&import.helm);
        pull.args(["pull", &address, "--version", &version, "--untar", "--untardir"]).arg(folder.path());
        let failed = |said: &str| {
            let helm = import.helm.display();
            Failure::new(2, format!("{helm} did not pull {address} {version}: {said}"))
        };
        let done = pull.output().await.map_err(|error| failed(&error.to_string()))?;
        if !done.status.success() {
            return Err(failed(String::from_utf8_lossy(&done.stderr).trim()));
        }
    }
    charts(folder.path())
}

pub(crate) async fn release(client: &Client, format: Format, command: Release) -> Result<()> {
    let shown: View = match command {
        Release::Import(import) => {
            let charts = STANDARD.encode(found(&import).await?);
            let body = import.facts.import(import.version, charts);
            client.post("/v1/releases", &body, None).await?
        }
        Release::Set(Change { version, state, channels, supported_until, notes }) => {
            let channels = (!channels.is_empty()).then_some(channels);
            let body = ChangeRelease { state, channels, supported_until, notes };
            client.patch(&format!("/v1/releases/{}", escaped(&version)), &body).await?
        }
    };
    print(format, &shown, &RELEASE, |release| vec![release_row(release)])
}

const HOSTING: [&str; 2] = ["name", "id"];

fn hosting_row(hosting: &HostingCluster) -> Vec<String> {
    vec![hosting.name.clone(), hosting.id.clone()]
}

pub(crate) async fn hosting(client: &Client, format: Format, command: Hosting) -> Result<()> {
    match command {
        Hosting::List => {
            let list = client.all::<HostingCluster>("/v1/hosting-clusters").await?;
            print(format, &list, &HOSTING, |list| list.items.iter().map(hosting_row).collect())
        }
        Hosting::Add { name, kubeconfig } => {
            let text = std::fs::read_to_string(&kubeconfig)
                .map_err(|error| Failure::new(2, format!("{}: {error}", kubeconfig.display())))?;
            let body = AddHostingCluster { name, kubeconfig: text };
            let added: HostingCluster = client.post("/v1/hosting-clusters", &body, None).await?;
            print(format, &added, &HOSTING, |hosting| vec![hosting_row(hosting)])
        }
        Hosting::Delete { hosting } => {
            client.delete(&format!("/v1/hosting-clusters/{}", escaped(&hosting))).await?;
            say("removed")
        }
    }
}
