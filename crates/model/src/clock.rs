//! Passes time and new ids as arguments, so that tests control both.

use jiff::Timestamp;
use uuid::Uuid;

/// Source of the time and of new ids.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Returns the current time.
    fn now(&self) -> Timestamp;
    /// Returns a new id that sorts by its time of creation (UUID version 7).
    fn new_uuid(&self) -> Uuid;
}

/// Clock and random source of the machine, used outside tests.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place where the ambient clock is read"
)]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn new_uuid(&self) -> Uuid {
        Uuid::now_v7()
    }
}
