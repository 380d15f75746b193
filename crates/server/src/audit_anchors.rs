//! Reads and appends audit anchors: the heads of audit logs, in a file outside the database.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::time::Duration;

use meshwright_model::Clock;
use meshwright_model::audit::{Anchor, ChainHead};
use meshwright_model::clock::SystemClock;
use meshwright_model::ids::TenantId;
use meshwright_store::Store;
use tokio_util::sync::CancellationToken;

use crate::Failure;

pub(crate) fn read_anchors(file: &Path) -> Result<Vec<Anchor>, Failure> {
    let what = || format!("the anchors {}", file.display());
    let lines = BufReader::new(File::open(file).map_err(Failure::io(what()))?).lines();
    let mut anchors = Vec::new();
    for (number, line) in lines.enumerate() {
        let line = line.map_err(Failure::io(what()))?;
        let bad =
            |error| Failure::Config(format!("{}: line {}: {error}", file.display(), number + 1));
        anchors.push(serde_json::from_str(&line).map_err(bad)?);
    }
    Ok(anchors)
}

/// File of audit anchors, which is only appended to. It belongs where the administrator of the
/// database cannot write.
pub(crate) struct AnchorLog {
    file: File,
    last_anchored: HashMap<TenantId, i64>,
}

impl AnchorLog {
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let what = || format!("the anchors {}", path.display());
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(Failure::io(what()))?;
        let known = read_anchors(path)?
            .into_iter()
            .map(|anchor| (anchor.tenant, anchor.seq))
            .collect();
        Ok(Self {
            file,
            last_anchored: known,
        })
    }

    /// Appends an anchor for each audit log that has new entries, and returns their number.
    pub(crate) async fn append_new_heads(&mut self, store: &Store) -> Result<usize, Failure> {
        let at = SystemClock.now();
        let mut lines = String::new();
        let mut count = 0;
        for (tenant, ChainHead { seq, hash }) in store.audit_heads().await? {
            if self
                .last_anchored
                .get(&tenant)
                .is_some_and(|known| *known >= seq)
                || seq == 0
            {
                continue;
            }
            let line = serde_json::to_string(&Anchor {
                tenant,
                seq,
                hash,
                at,
            })
            .expect("our own types");
            lines += &format!("{line}\n");
            self.last_anchored.insert(tenant, seq);
            count += 1;
        }
        let written = self
            .file
            .write_all(lines.as_bytes())
            .and_then(|()| self.file.sync_data());
        written.map_err(Failure::io("writing the anchors"))?;
        Ok(count)
    }

    /// Appends anchors at each interval until `stop` is cancelled.
    pub(crate) async fn append_periodically(
        mut self,
        store: Store,
        every: Duration,
        stop: CancellationToken,
    ) {
        while stop
            .run_until_cancelled(tokio::time::sleep(every))
            .await
            .is_some()
        {
            if let Err(failure) = self.append_new_heads(&store).await {
                tracing::error!(
                    error = &failure as &dyn std::error::Error,
                    "could not append audit anchors; trying again after the next interval"
                );
            }
        }
    }
}
