//! Runs a task in the background of other work, and draws random numbers for it.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::anyhow;

use crate::Result;
use crate::named_tests::catch_panic;

/// Runs some work, and a task beside it until the work has ended. Returns the results of both.
///
/// # Errors
///
/// Returns the error of the work, or else that of the task.
pub(super) fn run_beside<T, L: Send>(
    task: impl FnOnce(&AtomicBool) -> Result<L> + Send,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, L)> {
    let over = AtomicBool::new(false);
    let (done, ended) = std::thread::scope(|scope| {
        let beside = scope.spawn(|| task(&over));
        let done = catch_panic(work);
        over.store(true, Ordering::Relaxed);
        (done, beside.join())
    });
    let done = done?;
    let ended = ended.map_err(|_| anyhow!("the task in the background panicked"))??;
    Ok((done, ended))
}

/// Numbers that depend on the seed only (`SplitMix64`).
pub(super) struct RandomDraws(u64);

impl RandomDraws {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Draws a number below `limit`, which is not zero.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    pub(super) fn choose<'t, T>(&mut self, all: &[&'t T]) -> Option<&'t T> {
        let count = u64::try_from(all.len()).ok().filter(|count| *count > 0)?;
        let index = usize::try_from(self.below(count)).ok()?;
        all.get(index).copied()
    }
}
