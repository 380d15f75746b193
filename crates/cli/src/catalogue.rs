//! Runs the commands on releases and hosting clusters, for the operator of the service.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshwright_model::Version;
use meshwright_wire::{
    AddHostingCluster, ChangeRelease, Channel, HostingCluster, Release as ReleaseView, ReleaseList,
    ReleaseState,
};

use crate::client::{Client, percent_encode};
use crate::options::{
    HostingCommand, ImportReleaseArgs, OutputFormat, ReleaseCommand, SetReleaseArgs,
};
use crate::output::{join_names, or_dash, print_line, print_value};
use crate::{Failure, Result};

const RELEASE_COLUMNS: [&str; 5] = [
    "version",
    "state",
    "channels",
    "kubernetes",
    "supported until",
];

fn release_row(release: &ReleaseView) -> Vec<String> {
    vec![
        release.version.clone(),
        release.state.to_string(),
        join_names(&release.channels, " "),
        release.kubernetes.clone(),
        or_dash(release.supported_until.as_ref()),
    ]
}

pub(crate) async fn print_releases(client: &Client, format: OutputFormat) -> Result<()> {
    let list: ReleaseList = client.get("/v1/releases").await?;
    print_value(format, &list, &RELEASE_COLUMNS, |list| {
        list.items.iter().map(release_row).collect()
    })
}

/// Names of the charts that install a release.
const CHART_NAMES: [&str; 2] = ["base", "istiod"];

/// Reads an archive of charts, or packs a folder of charts.
fn read_or_pack_charts(path: &Path) -> Result<Vec<u8>> {
    let failed = |error: std::io::Error| Failure::new(2, format!("{}: {error}", path.display()));
    if path.is_file() {
        return std::fs::read(path).map_err(failed);
    }
    let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(
        Vec::new(),
        flate2::Compression::default(),
    ));
    // Links are packed as links, which the service refuses. Charts contain none.
    archive.follow_symlinks(false);
    for chart in CHART_NAMES {
        archive
            .append_dir_all(chart, path.join(chart))
            .map_err(failed)?;
    }
    archive
        .into_inner()
        .and_then(flate2::write::GzEncoder::finish)
        .map_err(failed)
}

/// Loads the charts from a registry, a folder or an archive.
async fn load_charts(import: &ImportReleaseArgs) -> Result<Vec<u8>> {
    if !import.charts.starts_with("oci://") {
        return read_or_pack_charts(Path::new(&import.charts));
    }
    let folder = tempfile::tempdir()
        .map_err(|error| Failure::new(2, format!("no folder for the charts: {error}")))?;
    let version = match &import.chart_version {
        Some(version) => version.clone(),
        None => import
            .version
            .parse::<Version>()
            .map_err(|error| Failure::new(2, error.to_string()))?
            .community_version(),
    };
    for chart in CHART_NAMES {
        let address = format!("{}/{chart}", import.charts.trim_end_matches('/'));
        let mut pull = tokio::process::Command::new(&import.helm);
        pull.args([
            "pull",
            &address,
            "--version",
            &version,
            "--untar",
            "--untardir",
        ])
        .arg(folder.path());
        let failed = |said: &str| {
            let helm = import.helm.display();
            Failure::new(
                2,
                format!("{helm} did not pull {address} {version}: {said}"),
            )
        };
        let done = pull
            .output()
            .await
            .map_err(|error| failed(&error.to_string()))?;
        if !done.status.success() {
            return Err(failed(String::from_utf8_lossy(&done.stderr).trim()));
        }
    }
    read_or_pack_charts(folder.path())
}

pub(crate) async fn run_release_command(
    client: &Client,
    format: OutputFormat,
    command: ReleaseCommand,
) -> Result<()> {
    let shown: ReleaseView = match command {
        ReleaseCommand::Import(import) => {
            let charts = STANDARD.encode(load_charts(&import).await?);
            let body = import.facts.into_import_request(import.version, charts);
            client.post("/v1/releases", &body, None).await?
        }
        ReleaseCommand::Set(SetReleaseArgs {
            version,
            state,
            channels,
            supported_until,
            notes,
        }) => {
            let channels: Vec<Channel> = channels.into_iter().map(Channel::from_name).collect();
            let channels = (!channels.is_empty()).then_some(channels);
            let body = ChangeRelease {
                state: state.map(ReleaseState::from_name),
                channels,
                supported_until,
                notes,
            };
            client
                .patch(&format!("/v1/releases/{}", percent_encode(&version)), &body)
                .await?
        }
    };
    print_value(format, &shown, &RELEASE_COLUMNS, |release| {
        vec![release_row(release)]
    })
}

const HOSTING_COLUMNS: [&str; 2] = ["name", "id"];

fn hosting_row(hosting: &HostingCluster) -> Vec<String> {
    vec![hosting.name.clone(), hosting.id.clone()]
}

pub(crate) async fn run_hosting_command(
    client: &Client,
    format: OutputFormat,
    command: HostingCommand,
) -> Result<()> {
    match command {
        HostingCommand::List => {
            let list = client
                .list_all::<HostingCluster>("/v1/hosting-clusters")
                .await?;
            print_value(format, &list, &HOSTING_COLUMNS, |list| {
                list.items.iter().map(hosting_row).collect()
            })
        }
        HostingCommand::Add { name, kubeconfig } => {
            let text = std::fs::read_to_string(&kubeconfig)
                .map_err(|error| Failure::new(2, format!("{}: {error}", kubeconfig.display())))?;
            let body = AddHostingCluster {
                name,
                kubeconfig: text,
            };
            let added: HostingCluster = client.post("/v1/hosting-clusters", &body, None).await?;
            print_value(format, &added, &HOSTING_COLUMNS, |hosting| {
                vec![hosting_row(hosting)]
            })
        }
        HostingCommand::Delete { hosting } => {
            client
                .delete(&format!(
                    "/v1/hosting-clusters/{}",
                    percent_encode(&hosting)
                ))
                .await?;
            print_line("removed")
        }
    }
}
