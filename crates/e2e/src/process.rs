//! Starts programs that run while a check goes on.

use std::process::{Child, Command};

use anyhow::Context as _;

use crate::Result;

/// A process that is killed, as if its machine had failed, when this value is dropped.
pub(crate) struct ChildProcess {
    title: String,
    child: Child,
}

impl ChildProcess {
    /// Starts a command; the title names it in errors.
    pub(crate) fn start(title: &str, command: &mut Command) -> Result<Self> {
        let child = command.spawn().with_context(|| title.to_owned())?;
        Ok(Self {
            title: title.to_owned(),
            child,
        })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("e2e: {} was not ended: {error}", self.title);
        }
    }
}

/// Returns an address and port of this machine that no process listens on.
pub(crate) fn free_address() -> Result<String> {
    let free =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    Ok(free?.to_string())
}
