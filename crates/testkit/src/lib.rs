//! Provides test doubles, for development only: a throw-away database, fake clusters with faults,
//! and a clock that tests set.

pub mod clock;
pub mod credentials;
pub mod db;
pub mod fleet;
pub mod process;
pub mod relay;
pub mod slow;
pub mod world;

pub use clock::ManualClock;
pub use credentials::CredentialFaults;
pub use db::{NOTIFICATIONS_ENV, TestDb, execute_as_superuser};
pub use fleet::Fleet;
pub use process::WorkerThread;
pub use world::FakeClusters;
