//! Kills the worker and restarts Postgres at random while other work runs.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::background::RandomDraws;
use super::story::UpgradeStory;
use crate::Result;
use crate::lab::wait_until;

/// Shortest and longest time between two interruptions, in milliseconds. After ten claims in a row
/// without a record the operation would pause, and a roll-out may record nothing for 80 seconds.
const MIN_PAUSE_MS: u64 = 10_000;
const MAX_PAUSE_MS: u64 = 25_000;
/// Kills of the worker for each restart of Postgres, on average.
const WORKER_KILLS_PER_RESTART: u64 = 2;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Arguments of a worker that is killed: its successor takes over soon.
pub(super) const SHORT_LEASE: [&str; 2] = ["--lease-seconds", "4"];

/// Number of interruptions.
#[derive(Debug, Default)]
pub(super) struct InterruptionLog {
    pub(super) worker_kills: usize,
    pub(super) postgres_restarts: usize,
}

/// Interrupts the worker and the database of a story until `over` is set.
pub(super) fn interrupt_until(
    story: &UpgradeStory<'_>,
    seed: u64,
    over: &AtomicBool,
) -> Result<InterruptionLog> {
    let (lab, server) = (&story.on.lab, &story.on.server);
    let mut draws = RandomDraws::new(seed);
    let mut log = InterruptionLog::default();
    loop {
        let pause = MIN_PAUSE_MS + draws.below(MAX_PAUSE_MS - MIN_PAUSE_MS);
        let next = Instant::now() + Duration::from_millis(pause);
        while Instant::now() < next {
            if over.load(Ordering::Relaxed) {
                return Ok(log);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        if draws.below(WORKER_KILLS_PER_RESTART + 1) > 0 {
            log.worker_kills += 1;
            let name = format!("holdable-{seed}-{}", log.worker_kills);
            story.on.worker.kill_and_replace(lab, server, &name)?;
        } else {
            log.postgres_restarts += 1;
            let _held = story.calls.lock().unwrap_or_else(PoisonError::into_inner);
            server.restart_postgres()?;
            wait_until("the service answers again", ANSWER_TIMEOUT, || {
                server.run_json(&["upgrade", "list", "demo"]).ok()
            })?;
        }
    }
}
