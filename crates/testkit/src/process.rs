//! Runs a worker on a thread of its own, which a test can pause, resume and kill as it would a
//! process.

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use meshwright_store::Store;
use meshwright_worker::Engine;
use tokio::sync::{mpsc as messages, oneshot};

/// Worker with a thread and a runtime of its own. A pause stops all of it, its work and the
/// renewals of its leases, as SIGSTOP stops a process.
pub struct WorkerThread {
    control: messages::UnboundedSender<Control>,
    ended: Option<oneshot::Receiver<()>>,
    resume_sender: mpsc::Sender<()>,
    _thread: JoinHandle<()>,
}

enum Control {
    Pause(oneshot::Sender<()>),
    Kill,
}

impl WorkerThread {
    /// Starts a worker that runs the operations that are due, and then ends.
    ///
    /// # Panics
    /// Panics when the machine cannot start a thread.
    pub fn start(url: String, engine: impl FnOnce(Store) -> Engine + Send + 'static) -> Self {
        let (control, mut told) = messages::unbounded_channel();
        let (go_on, continued) = mpsc::channel();
        let (end, ended) = oneshot::channel();
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async move {
                let work = async {
                    let store = Store::connect(&url, crate::db::test_sealer())
                        .await
                        .expect("a connection as mw_worker");
                    drop(engine(store).run_due().await);
                };
                let listen = async {
                    while let Some(Control::Pause(stopped)) = told.recv().await {
                        stopped.send(()).ok();
                        // This blocks the thread, and with it everything on this runtime.
                        continued.recv().ok();
                    }
                };
                // After a pause the work is polled first, because a stopped process does not notice
                // that its lease has ended.
                tokio::select! { biased; () = work => {}, () = listen => {} }
            });
            end.send(()).ok();
        };
        let thread = std::thread::Builder::new()
            .name("worker".into())
            .spawn(run)
            .expect("a thread");
        Self {
            control,
            ended: Some(ended),
            resume_sender: go_on,
            _thread: thread,
        }
    }

    /// Pauses the worker in the middle of its work, and returns once it stands still.
    pub async fn pause(&self) {
        let (stopped, stands_still) = oneshot::channel();
        if self.control.send(Control::Pause(stopped)).is_ok() {
            stands_still.await.ok();
        }
    }

    /// Resumes the worker after a pause.
    pub fn resume(&self) {
        self.resume_sender.send(()).ok();
    }

    /// Kills the worker in the middle of its work.
    pub fn kill(&self) {
        self.control.send(Control::Kill).ok();
        self.resume();
    }

    /// Waits for the end of the worker. Returns `false` if it does not end within the time.
    pub async fn wait_for_end(&mut self, at_most: Duration) -> bool {
        let Some(ended) = &mut self.ended else {
            return true;
        };
        let ended = tokio::time::timeout(at_most, ended).await.is_ok();
        if ended {
            self.ended = None;
        }
        ended
    }
}
