//! Provides a clock that moves only when a test moves it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::{SignedDuration, Timestamp};
use meshwright_model::Clock;
use uuid::Uuid;

/// Clock that stands still until it is moved. Its ids count up, so that a test can be repeated
/// exactly.
#[derive(Debug)]
pub struct ManualClock {
    now: Mutex<Timestamp>,
    issued_ids: AtomicU64,
}

impl Default for ManualClock {
    fn default() -> Self {
        let now: Timestamp = "2026-11-22T10:00:00Z".parse().expect("a timestamp");
        Self {
            now: Mutex::new(now),
            issued_ids: AtomicU64::new(0),
        }
    }
}

impl ManualClock {
    /// Moves the time ahead.
    ///
    /// # Panics
    /// Panics when another thread panicked while it held the clock's lock.
    pub fn advance(&self, by: SignedDuration) {
        let mut now = self.now.lock().expect("no holder panics");
        *now += by;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.now.lock().expect("no holder panics")
    }

    fn new_uuid(&self) -> Uuid {
        let millis = u64::try_from(self.now().as_millisecond()).expect("after 1970");
        let count = self.issued_ids.fetch_add(1, Ordering::Relaxed);
        uuid::Builder::from_unix_timestamp_millis(millis, &{
            let mut tail = [0; 10];
            tail[2..].copy_from_slice(&count.to_be_bytes());
            tail
        })
        .into_uuid()
    }
}
