//! Runs the rows of `tests/bad-input.toml` on the lab: each row makes a mistake and names the
//! answer that it must get.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use crate::end_state::{assert_revision_gone, assert_sidecars};
use crate::lab::Lab;
use crate::scenario::credentials::account_name;
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
    /// Only print the number of rows, without running them.
    #[arg(long)]
    list: bool,
    /// Text in the input of the row to begin with; earlier rows are skipped.
    #[arg(long)]
    from: Option<String>,
    /// Print the numbers of passed and failed rows as the last line.
    #[arg(long)]
    count: bool,
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

pub(crate) fn run(options: &Options) -> Result<()> {
    let text =
        std::fs::read_to_string("tests/bad-input.toml").map_err(|error| error.to_string())?;
    let file: BadInputFile =
        toml::from_str(&text).map_err(|error| format!("tests/bad-input.toml: {error}"))?;
    if options.list {
        println!("{} rows", file.row.len());
        return Ok(());
    }
    let mut parts = PartTimings::new();
    let lab = parts.run_part("start a lab", || Lab::start("bad-input", 3))?;
    let (server, worker) = parts.run_part("start Meshwright", || {
        PausableLabWorker::start_with_server(
            &lab,
            &options.dir,
            &options.listen,
            &CATALOGUE,
            &["--step-seconds", "45"],
        )
    })?;
    let mut stage = BadInputStage {
        lab: &lab,
        server: &server,
        worker: &worker,
        dir: &options.dir,
        saved: Vec::new(),
    };
    stage.import_odd_releases()?;
    bring_up_mesh(&lab, &server, &mut parts)?;
    let mut failed = 0;
    let begins = |row: &&BadInputRow| {
        options
            .from
            .as_ref()
            .is_none_or(|from| row.input.contains(from.as_str()))
    };
    let rows: Vec<&BadInputRow> = file.row.iter().skip_while(|row| !begins(row)).collect();
    for row in &rows {
        println!("\n-- {}", row.input);
        match stage.run_row(row) {
            Ok(said) => println!(
                "   {}\nrow passed: {}",
                said.trim().replace('\n', "\n   "),
                row.input
            ),
            Err(error) => {
                failed += 1;
                println!("row FAILED: {}: {error}", row.input);
            }
        }
    }
    assert_revision_gone(&lab, "1-27-9")?;
    if options.count {
        println!("\n{} passed, {failed} failed", rows.len() - failed);
    }
    if failed == 0 {
        Ok(())
    } else {
        Err(format!("{failed} of {} rows failed", rows.len()))
    }
}

/// The lab, the server and the worker that rows run on.
struct BadInputStage<'a> {
    lab: &'a Lab,
    server: &'a DevServer,
    worker: &'a PausableLabWorker,
    dir: &'a Path,
    /// Objects that a row saved to restore them afterwards, each with the name of its cluster.
    saved: Vec<(String, Value)>,
}

impl BadInputStage<'_> {
    /// Runs a row and returns the message of the service. Unless the row allows a mixed mesh, every
    /// live pod must carry the old revision afterwards.
    fn run_row(&mut self, row: &BadInputRow) -> Result<String> {
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
        let verdict = self.check_answer(row, self.server.run_cli(&words));
        // Clean up even when the row failed, because the next row expects the state that this one
        // should have ended in.
        for action in &row.after {
            self.run_action(action)?;
        }
        if !row.mixed {
            assert_sidecars(self.lab, OLD_RELEASE.1, OLD_RELEASE.2)?;
        }
        verdict
    }

    fn check_answer(&self, row: &BadInputRow, answer: Result<String>) -> Result<String> {
        let (code, said) = match (&row.code, &row.ok, answer) {
            (Some(code), None, Err(said)) if said.contains(&format!("({code})")) => (code, said),
            (Some(code), None, answer) => {
                return Err(format!("{code} was expected, not {answer:?}"));
            }
            (None, Some(wanted), Ok(_)) => {
                let state = text_field(&self.latest_upgrade()?, "state")?;
                return if state == *wanted {
                    Ok(state)
                } else {
                    Err(format!("it is {state}, not {wanted}"))
                };
            }
            (_, _, answer) => {
                return Err(format!(
                    "an end in {:?} was expected, not {answer:?}",
                    row.ok
                ));
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
            return Err(format!("{wanted:?} is not in: {said}"));
        }
        // The hint is on a line of its own, after the line that ends with the code.
        let hint = said
            .trim()
            .lines()
            .find(|line| line.trim().len() > 10 && !line.contains(&format!("({code})")));
        if hint.is_some() {
            Ok(said)
        } else {
            Err(format!("it does not say what to do: {said}"))
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
            return account_name(self.server, "c2");
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
        std::fs::write(template, "{{ fail \"this chart is broken\" }}\n")
            .map_err(|error| error.to_string())?;
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
        let mut text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
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
