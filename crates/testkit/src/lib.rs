//! Development only: a throw-away database, a world of imagined clusters with faults, a clock that is told the time.

pub mod clock;
pub mod credentials;
pub mod db;
pub mod fleet;
pub mod process;
pub mod relay;
pub mod slow;
pub mod world;

pub use clock::ManualClock;
pub use credentials::Credentials;
pub use db::{HINTS, TestDb, administer};
pub use fleet::Fleet;
pub use process::Process;
pub use world::FakeWorld;
