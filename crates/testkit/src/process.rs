//! A worker like a process of its own, which can be stopped and continued as a whole.

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use store::Store;
use tokio::sync::{mpsc as messages, oneshot};
use worker::Engine;

/// A worker on a thread and a runtime of its own. Stopped, nothing of it goes on: neither its work nor the renewals of its
/// leases, as if the process had got a SIGSTOP.
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
    /// Runs what is due, and ends.
    ///
    /// # Panics
    /// When the machine has no thread left.
    pub fn start(url: String, engine: impl FnOnce(Store) -> Engine + Send + 'static) -> Self {
        let (control, mut told) = messages::unbounded_channel();
        let (go_on, continued) = mpsc::channel();
        let (end, ended) = oneshot::channel();
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let work = async {
                    let store = Store::connect(&url, crate::db::test_sealer()).await.expect("a connection as mw_worker");
                    drop(engine(store).run_due().await);
                };
                let listen = async {
                    while let Some(Control::Pause(stopped)) = told.recv().await {
                        stopped.send(()).ok();
                        // Blocks the thread, and with it everything of this runtime.
                        continued.recv().ok();
                    }
                };
                // The work is polled first when it goes on: a stopped process does not notice that its lease is over.
                tokio::select! { biased; () = work => {}, () = listen => {} }
            });
            end.send(()).ok();
        };
        let thread = std::thread::Builder::new().name("worker".into()).spawn(run).expect("a thread");
        Self { control, ended: Some(ended), resume_sender: go_on, _thread: thread }
    }

    /// Stops it in the middle of whatever it does, and returns once it stands still.
    pub async fn pause(&self) {
        let (stopped, stands_still) = oneshot::channel();
        if self.control.send(Control::Pause(stopped)).is_ok() {
            stands_still.await.ok();
        }
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.resume_sender.send(()).ok();
    }

    /// Ends it where it stands.
    pub fn kill(&self) {
        self.control.send(Control::Kill).ok();
        self.resume();
    }

    /// Waits for its end; `false` when it does not end within the time.
    pub async fn wait_for_end(&mut self, at_most: Duration) -> bool {
        let Some(ended) = &mut self.ended else { return true };
        let ended = tokio::time::timeout(at_most, ended).await.is_ok();
        if ended {
            self.ended = None;
        }
        ended
    }
}
