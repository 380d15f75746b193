//! Renders a release's own charts into objects. `helm template` runs as a subprocess with an empty
//! environment and an empty home folder.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use meshwright_model::operation::Problem;
use meshwright_model::problem::ProblemCode;
use serde_json::Value;
use tokio::io::AsyncReadExt;

/// Timeout of one render. It takes a fifth of a second; a loaded machine may need more.
const RENDER_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum size of a render's output, in bytes. Istio's custom resource definitions have about 1
/// MiB.
const MAX_RENDER_BYTES: u64 = 16 * 1024 * 1024;
/// Names of the charts in a release.
const CHART_NAMES: [&str; 2] = ["base", "istiod"];
/// Maximum size of a release's unpacked charts, in bytes. Istio's have two megabytes.
const MAX_CHARTS_BYTES: u64 = 16 * 1024 * 1024;
/// First bytes of a file that was packed with gzip.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Installed Helm program.
#[derive(Debug, Clone)]
pub struct Helm {
    /// Path of the helm program.
    pub program: PathBuf,
}

/// Unpacked charts of a release: a temporary folder with the folders `base` and `istiod`.
#[derive(Debug)]
pub struct Charts {
    dir: tempfile::TempDir,
}

fn render_problem(message: impl Into<String>) -> Problem {
    Problem::new(
        ProblemCode::RenderFailed,
        message,
        "Import the release again from its official charts, then retry.",
    )
}

/// Packs a folder with the charts `base` and `istiod` into a tar archive. The order of the files
/// does not depend on the disk.
///
/// # Errors
/// Returns an error if a chart is missing or cannot be read.
pub fn pack_charts(folder: &Path) -> std::io::Result<Vec<u8>> {
    let mut files = Vec::new();
    for chart in CHART_NAMES {
        collect_files(&folder.join(chart), &mut files)?;
    }
    let read = |file: PathBuf| {
        let name = file
            .strip_prefix(folder)
            .expect("collected below the folder")
            .to_owned();
        Ok((name, std::fs::read(&file)?))
    };
    build_tar(
        files
            .into_iter()
            .map(read)
            .collect::<std::io::Result<_>>()?,
    )
}

fn build_tar(files: BTreeMap<PathBuf, Vec<u8>>) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, text.as_slice())?;
    }
    archive.into_inner()
}

/// Reads an archive that a client sent, a tar with or without gzip, and packs it as [`pack_charts`]
/// does.
///
/// # Errors
/// Returns a sentence for the client that tells what is wrong. The archive may contain only files
/// of the charts.
pub fn repack_charts(sent: &[u8]) -> Result<Vec<u8>, String> {
    let damaged = |error: std::io::Error| format!("it cannot be read: {error}");
    let mut plain = Vec::new();
    if sent.starts_with(&GZIP_MAGIC) {
        let read = flate2::read::GzDecoder::new(sent)
            .take(MAX_CHARTS_BYTES + 1)
            .read_to_end(&mut plain);
        read.map_err(damaged)?;
    } else {
        plain.extend_from_slice(sent);
    }
    if plain.len() as u64 > MAX_CHARTS_BYTES {
        return Err(format!(
            "unpacked it has more than {} MiB",
            MAX_CHARTS_BYTES / 1024 / 1024
        ));
    }
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(plain.as_slice())
        .entries()
        .map_err(damaged)?
    {
        let mut entry = entry.map_err(damaged)?;
        let path = entry.path().map_err(damaged)?.into_owned();
        let path = path.strip_prefix(".").map(Path::to_owned).unwrap_or(path);
        if entry.header().entry_type().is_dir() || path.as_os_str().is_empty() {
            continue;
        }
        let inside = path
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        let chart = CHART_NAMES.iter().any(|chart| path.starts_with(chart));
        if !(inside && chart && entry.header().entry_type().is_file()) {
            return Err(format!(
                "{} is no file of the charts base and istiod",
                path.display()
            ));
        }
        let mut text = Vec::new();
        entry.read_to_end(&mut text).map_err(damaged)?;
        files.insert(path, text);
    }
    if let Some(missing) = CHART_NAMES
        .iter()
        .find(|chart| !files.contains_key(&Path::new(chart).join("Chart.yaml")))
    {
        return Err(format!("{missing}/Chart.yaml is missing"));
    }
    build_tar(files).map_err(damaged)
}

/// Collects all regular files below a folder.
fn collect_files(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // Links are skipped: they could point anywhere, and charts have none.
        if entry.file_type()?.is_dir() {
            collect_files(&entry.path(), files)?;
        } else if entry.file_type()?.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

impl Charts {
    /// Unpacks an archive that was written by [`pack_charts`].
    ///
    /// # Errors
    /// Returns an error if the archive is damaged or the disk is full.
    pub fn unpack(archive: &[u8]) -> std::io::Result<Self> {
        let dir = tempfile::tempdir()?;
        tar::Archive::new(archive).unpack(dir.path())?;
        Ok(Self { dir })
    }
}

impl Helm {
    /// Renders one chart into objects, no two of which have the same kind, namespace and name.
    ///
    /// # Errors
    /// Returns an error if Helm failed, took too long, or rendered two objects with one identity.
    pub async fn template_chart(
        &self,
        charts: &Charts,
        chart: &str,
        namespace: &str,
        values: &Value,
    ) -> Result<Vec<Value>, Problem> {
        let home =
            tempfile::tempdir().map_err(|_| render_problem("no temporary folder can be made"))?;
        let file = home.path().join("values.json");
        tokio::fs::write(&file, values.to_string())
            .await
            .map_err(|_| render_problem("the values cannot be written"))?;
        let mut command = tokio::process::Command::new(&self.program);
        command
            .args(["template", chart])
            .arg(charts.dir.path().join(chart))
            .args(["--namespace", namespace, "--values"])
            .arg(&file);
        command
            .env_clear()
            .env("HOME", home.path())
            .env("HELM_PLUGINS", home.path().join("none"));
        command
            .current_dir(home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let text = tokio::time::timeout(RENDER_TIMEOUT, run_helm(command))
            .await
            .map_err(|_| render_problem("helm took too long"))??;
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text)
            .map_err(|_| render_problem("helm's output is not YAML"))?;
        let objects: Vec<Value> = documents
            .into_iter()
            .filter(|document| document.get("kind").is_some())
            .collect();
        require_unique_objects(&objects)?;
        Ok(objects)
    }
}

/// Runs helm and returns its output.
async fn run_helm(mut command: tokio::process::Command) -> Result<String, Problem> {
    let mut child = command
        .spawn()
        .map_err(|error| render_problem(format!("helm cannot be started: {error}")))?;
    let (stdout, stderr) = (
        child.stdout.take().expect("piped"),
        child.stderr.take().expect("piped"),
    );
    let (mut text, mut complaint) = (String::new(), String::new());
    let (mut out, mut err) = (stdout.take(MAX_RENDER_BYTES), stderr.take(64 * 1024));
    let (read, heard) = tokio::join!(
        out.read_to_string(&mut text),
        err.read_to_string(&mut complaint)
    );
    read.and(heard)
        .map_err(|_| render_problem("helm's output cannot be read"))?;
    let status = child
        .wait()
        .await
        .map_err(|_| render_problem("helm was lost"))?;
    if status.success() {
        return Ok(text);
    }
    tracing::warn!(complaint, "helm template failed");
    Err(render_problem("helm refused the release's charts"))
}

/// Checks that no two objects have the same identity: they would overwrite each other on every
/// apply. The hosted render of Istio 1.25.1 has such objects if `remotePilotAddress` is set.
fn require_unique_objects(objects: &[Value]) -> Result<(), Problem> {
    let mut seen = std::collections::BTreeSet::new();
    for object in objects {
        let field = |pointer: &str| {
            object
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let identity = (
            field("/kind"),
            field("/metadata/namespace"),
            field("/metadata/name"),
        );
        if !seen.insert(identity.clone()) {
            return Err(render_problem(format!(
                "the charts render two objects {} {}",
                identity.0, identity.2
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o600);
            // Writes the name as an attacker would, without the checks of the library.
            header.as_gnu_mut().expect("this form").name[..name.len()]
                .copy_from_slice(name.as_bytes());
            header.set_cksum();
            archive.append(&header, *text).expect("an entry");
        }
        archive.into_inner().expect("an archive")
    }

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(plain).expect("memory");
        packed.finish().expect("memory")
    }

    const GOOD: [(&str, &[u8]); 3] = [
        ("./base/Chart.yaml", b"name: base"),
        ("istiod/Chart.yaml", b"name: istiod"),
        ("istiod/templates/x.yaml", b"x"),
    ];

    #[test]
    fn what_was_sent_is_packed_as_a_folder_would_be() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in GOOD {
            let file = folder.path().join(name);
            std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
            std::fs::write(file, text).expect("a file");
        }
        let packed = pack_charts(folder.path()).expect("an archive");
        let plain = tar_of(&GOOD);
        assert_eq!(repack_charts(&plain).as_ref(), Ok(&packed));
        assert_eq!(repack_charts(&gzip(&plain)).as_ref(), Ok(&packed));
    }

    #[test]
    fn nothing_but_files_of_the_charts_is_taken() {
        for (name, why) in [
            ("../base/Chart.yaml", "no file of"),
            ("/etc/passwd", "no file of"),
            ("base/../../x", "no file of"),
            ("other/Chart.yaml", "no file of"),
        ] {
            let refused =
                repack_charts(&tar_of(&[&GOOD[..], &[(name, b"x")]].concat())).expect_err(name);
            assert!(refused.contains(why), "{refused}");
        }
        assert_eq!(
            repack_charts(&tar_of(&GOOD[..1])),
            Err("istiod/Chart.yaml is missing".into())
        );
        assert!(repack_charts(b"no archive at all").is_err());
        assert!(repack_charts(&[0x1f, 0x8b, 1, 2]).is_err());
        let mut link = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        link.append_link(&mut header, "base/link", "/etc/passwd")
            .expect("an entry");
        assert!(
            repack_charts(&link.into_inner().expect("an archive"))
                .expect_err("a link")
                .contains("no file of")
        );
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let bomb = gzip(&vec![
            0;
            usize::try_from(MAX_CHARTS_BYTES).expect("small") * 2
        ]);
        assert!(bomb.len() < 1024 * 1024);
        assert!(
            repack_charts(&bomb)
                .expect_err("a bomb")
                .contains("more than 16 MiB")
        );
    }
}
