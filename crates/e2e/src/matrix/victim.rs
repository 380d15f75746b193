//! Cuts a worker off at a chosen write or record, on fake clusters.

use std::sync::Arc;
use std::time::Duration;

use meshwright_testkit::relay::{CutPoint, Relay};
use meshwright_testkit::world::Cut as WorldCut;
use meshwright_testkit::{Fleet, TestDb, WorkerThread};
use tokio::sync::Notify;

/// Point at which a worker is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CutLocation {
    /// The n-th write to a cluster is never sent.
    BeforeWrite(u64),
    /// The n-th write is accepted, but the worker never gets the answer.
    AfterWrite(u64),
    /// The n-th write stays under way until the worker is woken.
    InWrite(u64),
    /// At this moment around the n-th record.
    Record(usize, CutPoint),
}

/// Timeout that is longer than any run.
pub(super) const MAX_RUN_TIME: Duration = Duration::from_hours(1);

/// A worker that is going to be cut off.
pub(super) struct Victim {
    pub(super) relay: Relay,
    resume_signal: Arc<Notify>,
    place: CutLocation,
}

impl Victim {
    pub(super) fn with_cut_at(fleet: &Fleet, place: CutLocation) -> Self {
        let (relay, go_on) = (Relay::start(&TestDb::socket_dir()), Arc::new(Notify::new()));
        match place {
            CutLocation::BeforeWrite(write) => fleet.clusters.cut_at(write, WorldCut::BeforeEffect),
            CutLocation::AfterWrite(write) => fleet.clusters.cut_at(write, WorldCut::AfterEffect),
            CutLocation::InWrite(write) => fleet
                .clusters
                .cut_at(write, WorldCut::Frozen(go_on.clone())),
            CutLocation::Record(wanted, moment) => {
                let mut count = 0;
                relay.stop_at(
                    moment,
                    Box::new(move |_| {
                        count += 1;
                        count == wanted
                    }),
                );
            }
        }
        Self {
            relay,
            resume_signal: go_on,
            place,
        }
    }

    pub(super) fn start_worker(&self, fleet: &Fleet, lease: Duration) -> WorkerThread {
        fleet.start_worker_thread("doomed", lease, Some(&self.relay))
    }

    pub(super) async fn cut_reached(&self, fleet: &Fleet) -> bool {
        const LIMIT: Duration = Duration::from_mins(1);
        match self.place {
            CutLocation::Record(..) => self.relay.wait_for_stop(LIMIT).await,
            _ => fleet.clusters.wait_for_cut(LIMIT).await,
        }
    }

    pub(super) fn resume_worker(&self) {
        self.resume_signal.notify_one();
        self.relay.resume();
    }
}

/// Removes the stamps from a picture, because a stamp contains the id of its operation and differs
/// from run to run.
pub(super) fn without_operation_ids(picture: &str) -> String {
    picture
        .lines()
        .map(|line| {
            if line.contains(" = op_") {
                line.split(" = ").next().unwrap_or(line)
            } else {
                line
            }
        })
        .collect::<Vec<_>>()
        .join("\n")
}
