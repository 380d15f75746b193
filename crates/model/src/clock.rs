//! Time and identity as arguments, so that tests own both.

use jiff::Timestamp;
use uuid::Uuid;

/// Where the time and new ids come from.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// The current time.
    fn now(&self) -> Timestamp;
    /// A new id that sorts by its time of birth (UUID version 7).
    fn new_uuid(&self) -> Uuid;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

#[expect(clippy::disallowed_methods, reason = "this is the one place where the ambient clock is read")]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn new_uuid(&self) -> Uuid {
        Uuid::now_v7()
    }
}
