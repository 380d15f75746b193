//! Runs the actions before and after a row: changes of clusters, processes and the database.

use anyhow::{Context as _, anyhow};
use serde_json::Value;

use super::{BadInputFixture, STATE_TIMEOUT};
use crate::Result;
use crate::lab::wait_until;
use crate::scenario::rollback::SECOND_TAG_STEP;
use crate::scenario::text_field;

impl BadInputFixture {
    pub(super) fn run_action(&mut self, action: &[String]) -> Result<()> {
        let filled: Vec<String> = action
            .iter()
            .map(|word| self.fill_placeholders(word))
            .collect::<Result<_>>()?;
        let words: Vec<&str> = filled.iter().map(String::as_str).collect();
        match words[..] {
            ["kubectl", cluster, ref rest @ ..] => self.lab.run_kubectl(cluster, rest).map(drop),
            ["cli", ref rest @ ..] => self.server.run_cli(rest).map(drop),
            ["apply", cluster, manifest] => {
                let file = self.write_file("given.yaml", manifest)?;
                self.lab
                    .run_kubectl(cluster, &["apply", "-f", &file])
                    .map(drop)
            }
            ["stop", process] => self.lab.signal_process(process, "STOP"),
            ["continue", process] => self.lab.signal_process(process, "CONT"),
            ["until-answers", cluster] => wait_until("the cluster answers", STATE_TIMEOUT, || {
                self.lab.list_objects(cluster, &["nodes"]).ok()
            })
            .map(drop),
            ["until", state] => self
                .server
                .wait_for_state(
                    &text_field(&self.latest_upgrade()?, "id")?,
                    state,
                    STATE_TIMEOUT,
                )
                .map(drop),
            ["promote-and-lose", process] => {
                let promote = [
                    "upgrade",
                    "promote",
                    &text_field(&self.latest_upgrade()?, "id")?,
                ];
                let _held = self
                    .worker
                    .pause_before(SECOND_TAG_STEP, || self.server.run_cli(&promote).map(drop))?;
                self.lab.signal_process(process, "STOP")
            }
            ["save", cluster, kind, name] => self.save_object(cluster, kind, name),
            ["spoil", cluster, secret] => {
                let patch = r#"{"stringData":{"token":"not-a-token-of-this-cluster"}}"#;
                self.lab
                    .run_kubectl(
                        cluster,
                        &[
                            "patch",
                            "secret",
                            "-n",
                            &self.mesh_namespace()?,
                            secret,
                            "-p",
                            patch,
                        ],
                    )
                    .map(drop)
            }
            ["restore"] => self.restore_objects(),
            ["restart-postgres"] => self.server.restart_postgres(),
            _ => Err(anyhow!("no action is called {words:?}")),
        }
    }

    pub(super) fn write_file(&self, name: &str, text: &str) -> Result<String> {
        let file = self.dir.join(name);
        std::fs::write(&file, text).with_context(|| file.display().to_string())?;
        Ok(file.display().to_string())
    }

    /// Saves an object to be restored later, without the fields that the API server sets itself.
    fn save_object(&mut self, cluster: &str, kind: &str, name: &str) -> Result<()> {
        let text = self.lab.run_kubectl(
            cluster,
            &[
                "get",
                kind,
                name,
                "-n",
                &self.mesh_namespace()?,
                "-o",
                "json",
            ],
        )?;
        let mut object: Value = serde_json::from_str(&text)?;
        let metadata = object["metadata"]
            .as_object_mut()
            .context("an object has metadata")?;
        for field in [
            "resourceVersion",
            "uid",
            "creationTimestamp",
            "generation",
            "managedFields",
        ] {
            metadata.remove(field);
        }
        self.saved.push((cluster.to_owned(), object));
        Ok(())
    }

    pub(super) fn restore_objects(&mut self) -> Result<()> {
        for (cluster, object) in std::mem::take(&mut self.saved) {
            let file = self.write_file("saved.json", &object.to_string())?;
            // Replace an object that still exists instead of deleting it first: without its role
            // for a moment, our account would be refused calls that it is allowed.
            if self
                .lab
                .run_kubectl(&cluster, &["replace", "-f", &file])
                .is_err()
            {
                self.lab
                    .run_kubectl(&cluster, &["delete", "--ignore-not-found", "-f", &file])?;
                self.lab.run_kubectl(&cluster, &["create", "-f", &file])?;
            }
        }
        Ok(())
    }
}
