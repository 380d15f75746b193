//! Runs the rows of `tests/bad-input.toml` on the lab: each row makes a mistake and names the
//! answer that it must get.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use crate::assertions::{assert_revision_gone, assert_sidecars};
use crate::lab::{Lab, wait_until};
use crate::named_tests::{FailureLog, NamedTest, TestSelection, catch_panic, run_named_tests};
use crate::scenario::credentials::account_name;
use crate::scenario::start_state::end_open_upgrade;
use crate::scenario::{OLD_RELEASE, PartTimings, bring_up_mesh, text_field};
use crate::server::DevServer;
use crate::worker::PausableLabWorker;
use crate::{Result, run_command};

mod actions;

/// Catalogue of this lab: each version with the charts that it is installed from. Some of these
/// releases cannot be used, because they are too old, skip too many minors, need another Kubernetes
/// version or have an image tag that does not exist.
const CATALOGUE: [(&str, &str); 5] = [
    ("1.25.1.1", "1.25.1"),
    ("1.27.9.1", "1.27.9"),
    ("1.24.0.1", "1.25.1"),
    ("1.28.0.1", "1.27.9"),
    ("1.27.7.1@0.0.0-gone", "1.27.9"),
];
const STATE_TIMEOUT: Duration = Duration::from_mins(2);

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    selection: TestSelection,
    /// Text in the input of the row to begin with; earlier rows are skipped.
    #[arg(long)]
    from: Option<String>,
    /// Folder for all files that the run writes.
    #[arg(long, default_value = "/tmp/meshwright-bad-input")]
    dir: PathBuf,
    /// Address and port that the API listens on.
    #[arg(long, default_value = "127.0.0.1:18091")]
    listen: String,
}

/// The file `tests/bad-input.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BadInputFile {
    row: Vec<BadInputRow>,
}

/// One row: a mistake and the answer that it must get. The head of the file describes each key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BadInputRow {
    input: String,
    /// True if the row goes on where the row before it ended.
    #[serde(default)]
    continues: bool,
    #[serde(default)]
    given: Vec<Vec<String>>,
    kubeconfig: Option<KubeconfigChange>,
    r#do: Vec<String>,
    code: Option<String>,
    ok: Option<String>,
    says: Option<String>,
    #[serde(default)]
    mixed: bool,
    #[serde(default)]
    after: Vec<Vec<String>>,
}

/// Changes to the valid kubeconfig of cluster c3.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KubeconfigChange {
    server: Option<String>,
    /// Line that is added to the `cluster` section.
    cluster: Option<String>,
    /// Text that replaces the content of the `user` section.
    user: Option<String>,
    /// Service account in the namespace `default` of c3; a token of it replaces the user's
    /// credential.
    token_of: Option<String>,
}

/// Name of the test that follows all rows.
const END_TEST: &str = "nothing of a refused version is left";

pub(crate) fn run(options: Options) -> Result<ExitCode> {
    let text = std::fs::read_to_string("tests/bad-input.toml")?;
    let file: BadInputFile = toml::from_str(&text).context("tests/bad-input.toml")?;
    let begins = |row: &BadInputRow| {
        options
            .from
            .as_ref()
            .is_none_or(|from| row.input.contains(from.as_str()))
    };
    let mut before: Option<String> = None;
    let mut tests = Vec::new();
    for row in file.row.into_iter().skip_while(|row| !begins(row)) {
        let (input, before) = (row.input.clone(), before.replace(row.input.clone()));
        tests.push(NamedTest::new(
            input,
            move |fixture: &mut BadInputFixture| fixture.run_row_after(&row, before.as_deref()),
        ));
    }
    tests.push(NamedTest::new(END_TEST, |fixture: &mut BadInputFixture| {
        assert_revision_gone(&fixture.lab, "1-27-9")
    }));
    let (dir, listen) = (options.dir, options.listen);
    Ok(run_named_tests(
        &options.selection,
        move || BadInputFixture::prepare(dir, &listen),
        tests,
    ))
}

/// The lab, the server and the worker that rows run on.
struct BadInputFixture {
    // Field order matters: the worker and the server are stopped before the lab is taken down.
    worker: PausableLabWorker,
    server: DevServer,
    lab: Lab,
    dir: PathBuf,
    /// Objects that a row saved to restore them afterwards, each with the name of its cluster.
    saved: Vec<(String, Value)>,
    /// Row that ran last, and whether it passed.
    last_row: Option<(String, bool)>,
    failures: FailureLog,
}

impl BadInputFixture {
    fn prepare(dir: PathBuf, listen: &str) -> Result<Self> {
        let mut parts = PartTimings::new();
        let lab = parts.run_part("start a lab", || Lab::start("bad-input", 3))?;
        let more = ["--step-seconds", "45"];
        let (server, worker) = parts.run_part("start Meshwright", || {
            PausableLabWorker::start_with_server(&lab, &dir, listen, &CATALOGUE, &more)
        })?;
        let fixture = Self {
            worker,
            server,
            lab,
            dir,
            saved: Vec::new(),
            last_row: None,
            failures: FailureLog::default(),
        };
        fixture.import_odd_releases()?;
        bring_up_mesh(&fixture.lab, &fixture.server, &mut parts)?;
        Ok(fixture)
    }

    /// Runs a row. A row that continues the row before it needs that row; before any other row, the
    /// fixture is restored if a row failed.
    fn run_row_after(&mut self, row: &BadInputRow, before: Option<&str>) -> Result<()> {
        let mut failures = std::mem::take(&mut self.failures);
        let ready = if row.continues {
            check_predecessor(self.last_row.as_ref(), before)
        } else {
            failures
                .restore_with(|| self.restore())
                .map(|()| String::new())
        };
        let ran = ready.and_then(|note| {
            catch_panic(|| self.run_row(row)).map_err(|error| anyhow!("{error:#}{note}"))
        });
        self.last_row = Some((row.input.clone(), ran.is_ok()));
        if ran.is_err() {
            failures.record_failure(&row.input);
        }
        self.failures = failures;
        println!("   {}", ran?.trim().replace('\n', "\n   "));
        Ok(())
    }

    /// Undoes what a failed row may have left behind.
    fn restore(&mut self) -> Result<()> {
        self.worker.release();
        for cluster in ["hosting", "c1", "c2", "c3"] {
            self.lab
                .signal_process(&format!("{cluster}/kube-apiserver"), "CONT")?;
            wait_until("the cluster answers", STATE_TIMEOUT, || {
                self.lab.list_objects(cluster, &["nodes"]).ok()
            })?;
        }
        self.restore_objects()?;
        end_open_upgrade(&self.server, "demo")?;
        assert_sidecars(&self.lab, OLD_RELEASE.1, OLD_RELEASE.2).map(drop)
    }

    /// Runs a row and returns the message of the service. Unless the row allows a mixed mesh, every
    /// live pod must carry the old revision afterwards.
    fn run_row(&mut self, row: &BadInputRow) -> Result<String> {
        let verdict = self.make_mistake(row);
        // Clean up even when the row failed, because the next row expects the state that this one
        // should have ended in.
        let mut cleaned = Ok(());
        for action in &row.after {
            cleaned = cleaned.and(self.run_action(action));
        }
        match (&verdict, cleaned) {
            (Ok(_), cleaned) => cleaned?,
            (Err(error), Err(after)) => {
                bail!("{error:#}\nIt was not cleaned up either: {after:#}");
            }
            (Err(_), Ok(())) => {}
        }
        if !row.mixed && verdict.is_ok() {
            assert_sidecars(&self.lab, OLD_RELEASE.1, OLD_RELEASE.2)?;
        }
        verdict
    }

    /// Makes the mistake of a row, and checks the answer.
    fn make_mistake(&mut self, row: &BadInputRow) -> Result<String> {
        for action in &row.given {
            self.run_action(action)?;
        }
        let file = self.write_kubeconfig(row.kubeconfig.as_ref())?;
        let arguments: Vec<String> = row
            .r#do
            .iter()
            .map(|word| Ok(self.fill_placeholders(word)?.replace("{kubeconfig}", &file)))
            .collect::<Result<_>>()?;
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.check_answer(row, self.server.run_cli(&words))
    }

    fn check_answer(&self, row: &BadInputRow, answer: Result<String>) -> Result<String> {
        let answer = answer.map_err(|said| said.to_string());
        let (code, said) = match (&row.code, &row.ok, answer) {
            (Some(code), None, Err(said)) if said.contains(&format!("({code})")) => (code, said),
            (Some(code), None, answer) => {
                bail!("{code} was expected, not {answer:?}");
            }
            (None, Some(wanted), Ok(_)) => {
                let state = text_field(&self.latest_upgrade()?, "state")?;
                return if state == *wanted {
                    Ok(state)
                } else {
                    Err(anyhow!("it is {state}, not {wanted}"))
                };
            }
            (_, _, answer) => {
                bail!("an end in {:?} was expected, not {answer:?}", row.ok);
            }
        };
        let said = said
            .split_once("meshwright: ")
            .map_or(said.clone(), |(_, said)| said.to_owned());
        if let Some(wanted) = row
            .says
            .as_ref()
            .filter(|wanted| !said.contains(wanted.as_str()))
        {
            bail!("{wanted:?} is not in: {said}");
        }
        // The hint is on a line of its own, after the line that ends with the code.
        let hint = said
            .trim()
            .lines()
            .find(|line| line.trim().len() > 10 && !line.contains(&format!("({code})")));
        if hint.is_some() {
            Ok(said)
        } else {
            Err(anyhow!("it does not say what to do: {said}"))
        }
    }

    fn latest_upgrade(&self) -> Result<Value> {
        Ok(self.server.run_json(&["upgrade", "list", "demo"])?["items"][0].clone())
    }

    fn mesh_namespace(&self) -> Result<String> {
        text_field(
            &self.server.run_json(&["mesh", "get", "demo"])?,
            "namespace",
        )
    }

    fn fill_placeholders(&self, word: &str) -> Result<String> {
        let mut filled = word.to_owned();
        if filled == "{kubeconfig c1}" {
            return Ok(self.lab.kubeconfig_path("c1")?.display().to_string());
        }
        if filled.contains("{upgrade}") {
            filled = filled.replace("{upgrade}", &text_field(&self.latest_upgrade()?, "id")?);
        }
        if filled == "{account c2}" {
            return account_name(&self.server, "c2");
        }
        if filled.contains("{namespace}") {
            filled = filled.replace("{namespace}", &self.mesh_namespace()?);
        }
        Ok(filled)
    }

    /// Imports releases that cannot be used for reasons other than their version: a chart that
    /// fails to render, and a minimum Kubernetes version that is too high.
    fn import_odd_releases(&self) -> Result<()> {
        let charts = self.lab.charts_path("1.27.9")?;
        let broken = self.dir.join("broken-charts");
        run_command(Command::new("cp").arg("-r").arg(&charts).arg(&broken))?;
        let template = broken.join("istiod").join("templates").join("broken.yaml");
        std::fs::write(template, "{{ fail \"this chart is broken\" }}\n")?;
        self.server
            .import_release("1.27.6.1", &broken.display().to_string(), &[])?;
        self.server
            .import_release("1.27.5.1", &charts, &["--kubernetes-min", "34"])
    }

    fn write_kubeconfig(&self, change: Option<&KubeconfigChange>) -> Result<String> {
        let Some(change) = change else {
            return Ok(String::new());
        };
        let path = self.lab.kubeconfig_path("c3")?;
        let mut text = std::fs::read_to_string(path)?;
        if let Some(server) = &change.server {
            text = text.replace("https://10.3.0.1:6443", server);
        }
        if let Some(line) = &change.cluster {
            text = text.replacen("  cluster:\n", &format!("  cluster:\n    {line}\n"), 1);
        }
        let token = match &change.token_of {
            Some(account) => {
                let token = self
                    .lab
                    .run_kubectl("c3", &["create", "token", account, "-n", "default"])?;
                Some(format!("token: {}", token.trim()))
            }
            None => change.user.clone(),
        };
        if let (Some(user), Some((head, _))) = (token, text.split_once("  user:\n")) {
            text = format!("{head}  user:\n    {user}\n");
        }
        self.write_file("kubeconfig.yaml", &text)
    }
}

/// Checks that the row which another one continues ran right before it. Returns a note for the
/// failure of the second row, which may be a consequence of the first one's.
fn check_predecessor(last_row: Option<&(String, bool)>, before: Option<&str>) -> Result<String> {
    let before = before.unwrap_or("the first row");
    match last_row {
        Some((last, true)) if last == before => Ok(String::new()),
        Some((last, false)) if last == before => {
            Ok(format!("\nThis row continues \"{before}\", which failed."))
        }
        _ => {
            bail!("this row continues \"{before}\", which did not run: select both, or use --from")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_has_a_name_of_its_own_and_the_first_one_continues_none() {
        let text = include_str!("../../../tests/bad-input.toml");
        let file: BadInputFile = toml::from_str(text).expect("the file is valid");
        assert!(!file.row[0].continues);
        let names: std::collections::BTreeSet<&str> =
            file.row.iter().map(|row| row.input.as_str()).collect();
        assert_eq!(names.len(), file.row.len());
    }

    #[test]
    fn a_row_that_continues_another_one_needs_it() {
        let (passed, failed) = (("first".to_owned(), true), ("first".to_owned(), false));
        let check = |last| check_predecessor(last, Some("first"));
        assert_eq!(check(Some(&passed)).expect("it ran"), "");
        assert!(
            check(Some(&failed))
                .expect("it ran")
                .contains("which failed")
        );
        assert!(check(None).is_err());
        assert!(check_predecessor(Some(&passed), Some("second")).is_err());
    }
}
