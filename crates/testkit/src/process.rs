//! A worker like a process of its own, which can be stopped and continued as a whole.

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use store::Store;
use tokio::sync::{mpsc as messages, oneshot};
use worker::Engine;

/// A worker on a thread and a runtime of its own. Stopped, nothing of it goes on: neither its work nor the renewals of its
/// leases, as if the process had got a SIGSTOP.
pub struct Process {
    control: messages::UnboundedSender<Control>,
    ended: Option<oneshot::Receiver<()>>,
    go_on: mpsc::Sender<()>,
    _thread: JoinHandle<()>,
}

enum Control {
    Stop(oneshot::Sender<()>),
    Kill,
}

impl Process {
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
                    let store = Store::connect(&url, crate::db::vault()).await.expect("a connection as mw_worker");
                    drop(engine(store).run_due().await);
                };
                let listen = async {
                    while let Some(Control::Stop(stopped)) = told.recv().await {
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
        Self { control, ended: Some(ended), go_on, _thread: thread }
    }

    /// Stops it in the middle of whatever it does, and returns once it stands still.
    pub async fn stop(&self) {
        let (stopped, stands_still) = oneshot::channel();
        if self.control.send(Control::Stop(stopped)).is_ok() {
            stands_still.await.ok();
        }
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.go_on.send(()).ok();
    }

    /// Ends it where it stands.
    pub fn kill(&self) {
        self.control.send(Control::Kill).ok();
        self.go_on();
    }

    /// Waits for its end; `false` when it does not end within the time.
    pub async fn ended(&mut self, at_most: Duration) -> bool {
        let Some(ended) = &mut self.ended else { return true };
        let ended = tokio::time::timeout(at_most, ended).await.is_ok();
        if ended {
            self.ended = None;
        }
        ended
    }
}
