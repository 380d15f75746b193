//! A release's own charts to objects: `helm template` as a subprocess with nothing around it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use model::operation::Problem;
use serde_json::Value;
use tokio::io::AsyncReadExt;

/// A render takes a fifth of a second; a loaded machine may need more.
const LIMIT: Duration = Duration::from_secs(30);
/// The largest render that is looked at. Istio's definitions are about 1 MiB.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Where helm is.
#[derive(Debug, Clone)]
pub struct Helm {
    /// The program.
    pub program: PathBuf,
}

/// A release's charts, unpacked: folders `base` and `istiod`.
#[derive(Debug)]
pub struct Charts {
    dir: tempfile::TempDir,
}

fn problem(message: impl Into<String>) -> Problem {
    Problem::new("render_failed", message, "Import the release again from its official charts, then retry.")
}

/// Packs a folder with the charts `base` and `istiod` into a tar archive, in an order that does not depend on the disk.
///
/// # Errors
/// A chart is missing or cannot be read.
pub fn pack(folder: &Path) -> std::io::Result<Vec<u8>> {
    let mut files = Vec::new();
    for chart in ["base", "istiod"] {
        collect(&folder.join(chart), &mut files)?;
    }
    files.sort();
    let mut archive = tar::Builder::new(Vec::new());
    for file in files {
        let mut header = tar::Header::new_gnu();
        let text = std::fs::read(&file)?;
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        let name = file.strip_prefix(folder).expect("collected below the folder").to_owned();
        archive.append_data(&mut header, name, text.as_slice())?;
    }
    archive.into_inner()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // Links could point anywhere; charts have none.
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), files)?;
        } else if entry.file_type()?.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

impl Charts {
    /// Unpacks an archive of [`pack`].
    ///
    /// # Errors
    /// It is damaged, or the disk is full.
    pub fn unpack(archive: &[u8]) -> std::io::Result<Self> {
        let dir = tempfile::tempdir()?;
        tar::Archive::new(archive).unpack(dir.path())?;
        Ok(Self { dir })
    }
}

impl Helm {
    /// Renders one chart into objects, each with an identity of its own.
    ///
    /// # Errors
    /// Helm failed, took too long, or rendered two objects of one identity.
    pub async fn template(
        &self,
        charts: &Charts,
        chart: &str,
        namespace: &str,
        values: &Value,
    ) -> Result<Vec<Value>, Problem> {
        let home = tempfile::tempdir().map_err(|_| problem("no temporary folder can be made"))?;
        let file = home.path().join("values.json");
        tokio::fs::write(&file, values.to_string()).await.map_err(|_| problem("the values cannot be written"))?;
        let mut command = tokio::process::Command::new(&self.program);
        command
            .args(["template", chart])
            .arg(charts.dir.path().join(chart))
            .args(["--namespace", namespace, "--values"])
            .arg(&file);
        command.env_clear().env("HOME", home.path()).env("HELM_PLUGINS", home.path().join("none"));
        command
            .current_dir(home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let text = tokio::time::timeout(LIMIT, output(command)).await.map_err(|_| problem("helm took too long"))??;
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(&text).map_err(|_| problem("helm's output is not YAML"))?;
        let objects: Vec<Value> = documents.into_iter().filter(|document| document.get("kind").is_some()).collect();
        refuse_twins(&objects)?;
        Ok(objects)
    }
}

async fn output(mut command: tokio::process::Command) -> Result<String, Problem> {
    let mut child = command.spawn().map_err(|error| problem(format!("helm cannot be started: {error}")))?;
    let (stdout, stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let (mut text, mut complaint) = (String::new(), String::new());
    let (mut out, mut err) = (stdout.take(MAX_BYTES), stderr.take(64 * 1024));
    let (read, heard) = tokio::join!(out.read_to_string(&mut text), err.read_to_string(&mut complaint));
    read.and(heard).map_err(|_| problem("helm's output cannot be read"))?;
    let status = child.wait().await.map_err(|_| problem("helm was lost"))?;
    if status.success() {
        return Ok(text);
    }
    tracing::warn!(complaint, "helm failed");
    Err(problem("helm refused the release's charts"))
}

/// Two objects of one identity would overwrite each other for ever (Istio 1.25.1's host render does it when
/// `remotePilotAddress` is set).
fn refuse_twins(objects: &[Value]) -> Result<(), Problem> {
    let mut seen = std::collections::BTreeSet::new();
    for object in objects {
        let field = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let identity = (field("/kind"), field("/metadata/namespace"), field("/metadata/name"));
        if !seen.insert(identity.clone()) {
            return Err(problem(format!("the charts render two objects {} {}", identity.0, identity.2)));
        }
    }
    Ok(())
}
