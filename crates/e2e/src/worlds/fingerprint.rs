//! Reduces the state of a run to a number. Two runs with the same number go on in the same way, so
//! only one of them has to be run to its end.

use std::hash::{Hash, Hasher};

use jiff::{SignedDuration, Timestamp};
use meshwright_model::plan::{PlannedStep, Step};

use super::clusters::Clusters;
use super::driver::Driver;
use super::world::WorldState;

/// Hasher for numbers and short texts, of which a run hashes many.
#[derive(Debug, Default)]
struct QuickHasher(u64);

impl Hasher for QuickHasher {
    fn finish(&self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 29)
    }

    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(23) ^ value).wrapping_mul(0xd6e8_feb8_6659_fd93);
    }
}

/// Returns the number of a state before a round. Versions and the time since the beginning are left
/// out, because nothing depends on them: no write is on its way before a round.
pub(super) fn fingerprint(driver: &Driver, world: &WorldState) -> u64 {
    let mut hasher = QuickHasher::default();
    hash_clusters(&world.clusters, &mut hasher);
    hash_operation(driver, world.clusters.now, &mut hasher);
    hasher.finish()
}

/// Returns the number of a state which also tells apart what the runs of other worlds depend on: the
/// earlier states that a stale look shows, the plan, and what the judge has to know of the world.
pub(super) fn shared_fingerprint(driver: &Driver, world: &WorldState, judged: impl Hash) -> u64 {
    let mut hasher = QuickHasher::default();
    hasher.write_u64(fingerprint(driver, world));
    for past in &world.past {
        past.is_some().hash(&mut hasher);
        if let Some(past) = past {
            hash_clusters(past, &mut hasher);
        }
    }
    driver.plan_number().hash(&mut hasher);
    judged.hash(&mut hasher);
    hasher.finish()
}

/// Returns the number of a plan.
pub(super) fn plan_fingerprint(steps: &[PlannedStep]) -> u64 {
    let mut hasher = QuickHasher::default();
    for item in steps {
        item.wave.hash(&mut hasher);
        item.step.to_string().hash(&mut hasher);
    }
    hasher.finish()
}

fn hash_clusters(clusters: &Clusters, hasher: &mut QuickHasher) {
    for cell in &clusters.cells {
        (cell.value, cell.partial).hash(hasher);
    }
    for known in &clusters.workloads {
        (known.template, known.pods, known.outdated, known.stray).hash(hasher);
    }
    clusters.up.hash(hasher);
}

fn hash_operation(driver: &Driver, now: i64, hasher: &mut QuickHasher) {
    let now = Timestamp::from_second(now).expect("a short time");
    driver.is_fenced().hash(hasher);
    let Some(steps) = &driver.operation.steps else {
        driver.planning_since(now.as_second()).hash(hasher);
        return;
    };
    for item in steps {
        hash_step(driver, item, now, hasher);
    }
}

fn hash_step(driver: &Driver, item: &PlannedStep, now: Timestamp, hasher: &mut QuickHasher) {
    let progress = &item.progress;
    item.wave.hash(hasher);
    (progress.done, progress.skipped).hash(hasher);
    if progress.done {
        // Only a restoration of the tags reads the capture of a step that is done.
        if matches!(&item.step, Step::Set { .. }) && driver.may_be_restored() {
            progress.capture.hash(hasher);
        }
        return;
    }
    progress.capture.hash(hasher);
    progress.excluded.is_some().hash(hasher);
    let failed = progress.failed.as_ref();
    failed.map(|problem| problem.code.as_str()).hash(hasher);
    if let Step::Restart { stamp, .. } = &item.step {
        std::mem::discriminant(stamp).hash(hasher);
        progress.attempt.hash(hasher);
    }
    if !progress.is_closed()
        && let Some(samples) = driver.claim.samples.get(&item.number)
    {
        let timing = samples.timing(now);
        let spans = [
            timing.waited,
            timing.silent,
            timing.goal_seen.1,
            timing.partial_seen.1,
        ];
        spans.map(|span| span.as_secs()).hash(hasher);
        let counts = [
            timing.goal_seen.0,
            timing.partial_seen.0,
            timing.vain_evictions,
        ];
        counts.hash(hasher);
        for seconds in [5, 30] {
            samples
                .is_due(SignedDuration::from_secs(seconds), now)
                .hash(hasher);
        }
    }
}
