//! Runs a suite as named tests, with the options, the output and the exit code of cargo's own
//! tests.
//!
//! The tests of a suite share one fixture, such as a lab with a mesh. The first test that is selected
//! prepares it, and the tests run one after the other. A test that fails or panics does not end its
//! suite.

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{anyhow, bail};
use clap::Args;
use libtest_mimic::{Arguments, Conclusion, Failed, Trial};

use crate::Result;

/// Options that select the tests of a suite.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct TestSelection {
    /// Run only the tests whose name contains this text.
    filter: Option<String>,
    /// Compare the filters with whole names.
    #[arg(long)]
    exact: bool,
    /// Skip the tests whose name contains this text; repeatable.
    #[arg(long, value_name = "FILTER")]
    skip: Vec<String>,
    /// List the tests without running them.
    #[arg(long)]
    list: bool,
}

/// Work of a test on the fixture of its suite.
type TestWork<S> = Box<dyn FnOnce(&mut S) -> Result<()> + Send>;

/// A test of a suite: its name and its work.
pub(crate) struct NamedTest<S> {
    name: String,
    work: TestWork<S>,
}

impl<S> NamedTest<S> {
    pub(crate) fn new(
        name: impl Into<String>,
        work: impl FnOnce(&mut S) -> Result<()> + Send + 'static,
    ) -> Self {
        let (name, work) = (name.into(), Box::new(work));
        Self { name, work }
    }

    /// Runs the test, prints its seconds, and begins the line that its result completes.
    fn run(self, fixture: &mut SharedFixture<S>) -> Result<()> {
        // The name stands on a line that has not ended.
        println!();
        let start = Instant::now();
        let done = catch_panic(|| (self.work)(fixture.prepared()?));
        if let Err(error) = &done {
            println!("   {error:#}");
        }
        print!(
            "   {:.0} s\ntest {} ... ",
            start.elapsed().as_secs_f64(),
            self.name
        );
        std::io::stdout().flush()?;
        done
    }
}

/// The fixture of a suite, which is prepared when the first test needs it.
struct SharedFixture<S> {
    prepare: Option<Box<dyn FnOnce() -> Result<S> + Send>>,
    fixture: Result<S>,
}

impl<S> SharedFixture<S> {
    fn prepared(&mut self) -> Result<&mut S> {
        if let Some(prepare) = self.prepare.take() {
            self.fixture = prepare();
        }
        self.fixture
            .as_mut()
            .map_err(|error| anyhow!("the suite could not be prepared: {error:#}"))
    }
}

/// Runs the selected tests in their order, prints a line for each and one with the totals, and
/// returns the exit code: 101 if a test failed, as with cargo's tests.
pub(crate) fn run_named_tests<S: Send + 'static>(
    selection: &TestSelection,
    prepare: impl FnOnce() -> Result<S> + Send + 'static,
    tests: Vec<NamedTest<S>>,
) -> ExitCode {
    let arguments = Arguments {
        filter: selection.filter.clone(),
        exact: selection.exact,
        skip: selection.skip.clone(),
        list: selection.list,
        ..Arguments::default()
    };
    run_in_order(arguments, prepare, tests).exit_code()
}

fn run_in_order<S: Send + 'static>(
    mut arguments: Arguments,
    prepare: impl FnOnce() -> Result<S> + Send + 'static,
    tests: Vec<NamedTest<S>>,
) -> Conclusion {
    let shared = Arc::new(Mutex::new(SharedFixture {
        prepare: Some(Box::new(prepare)),
        fixture: Err(anyhow!("the preparation panicked")),
    }));
    let trial = |test: NamedTest<S>| {
        let shared = shared.clone();
        Trial::test(test.name.clone(), move || {
            let mut fixture = shared.lock().unwrap_or_else(PoisonError::into_inner);
            test.run(&mut fixture)
                .map_err(|error| Failed::from(format!("{error:#}")))
        })
    };
    let trials = tests.into_iter().map(trial).collect();
    // The tests share one fixture, so they cannot run side by side.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials)
}

/// Runs some work; a panic in it becomes an error.
pub(crate) fn catch_panic<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        Err(anyhow!("it panicked: {}", said.unwrap_or("without a text")))
    })
}

/// Failures of the tests so far, as far as they concern the tests that follow.
#[derive(Debug, Default)]
pub(crate) struct FailureLog {
    /// Name of the test that failed last, if the fixture was not restored since.
    unrestored: Option<String>,
    /// Reason why the fixture cannot be used any more.
    lost: Option<String>,
}

impl FailureLog {
    pub(crate) fn record_failure(&mut self, test: &str) {
        self.unrestored = Some(test.to_owned());
    }

    /// Restores the fixture if a test failed since this was last done. When it cannot be restored,
    /// this test and all that follow fail for that reason, because each attempt takes minutes.
    pub(crate) fn restore_with(&mut self, restore: impl FnOnce() -> Result<()>) -> Result<()> {
        if let Some(lost) = &self.lost {
            bail!("not run: {lost}");
        }
        let Some(failed) = self.unrestored.take() else {
            return Ok(());
        };
        println!("   restoring the fixture, because this test failed: {failed}");
        catch_panic(restore).map_err(|error| {
            let lost = format!(
                "the fixture could not be brought back after the failure of \"{failed}\": {error:#}"
            );
            self.lost = Some(lost.clone());
            anyhow!("not run: {lost}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_with_its_text() {
        let failed = catch_panic(|| -> Result<()> { panic!("pod {} is gone", 7) });
        assert!(failed.is_err_and(|error| error.to_string().contains("pod 7 is gone")));
    }

    #[test]
    fn a_failed_test_is_followed_by_a_restoration() {
        let mut log = FailureLog::default();
        let mut restored = 0;
        for _ in 0..2 {
            let done = log.restore_with(|| {
                restored += 1;
                Ok(())
            });
            assert!(done.is_ok());
            log.record_failure("first");
        }
        assert_eq!(restored, 1);
    }

    #[test]
    fn tests_after_a_failed_restoration_name_its_cause() {
        let mut log = FailureLog::default();
        log.record_failure("first");
        for _ in 0..2 {
            let refused = log.restore_with(|| Err(anyhow!("a cluster is silent")));
            let said = refused.expect_err("the fixture is lost").to_string();
            assert!(said.contains("first") && said.contains("a cluster is silent"));
        }
    }

    #[test]
    fn the_tests_after_a_failing_one_run() {
        // What the harness prints would be counted as results of cargo's tests.
        let printed = tempfile::NamedTempFile::new().expect("a file");
        let arguments = Arguments {
            logfile: Some(printed.path().display().to_string()),
            ..Arguments::default()
        };
        let ran = Arc::new(Mutex::new(Vec::new()));
        let test = |number: usize| {
            let ran = ran.clone();
            NamedTest::new(format!("test {number}"), move |(): &mut ()| {
                ran.lock().expect("no holder panics").push(number);
                assert_ne!(number, 1, "a planted panic");
                Ok(())
            })
        };
        let conclusion = run_in_order(arguments, || Ok(()), (0..3).map(test).collect());
        assert_eq!((conclusion.num_passed, conclusion.num_failed), (2, 1));
        assert_eq!(*ran.lock().expect("no holder panics"), [0, 1, 2]);
    }
}
