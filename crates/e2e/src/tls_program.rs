//! Starts programs of the lab that need no cluster, such as a registry or Vault. Each serves TLS on
//! an address of this machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;

use crate::Result;
use crate::lab::wait_until;
use crate::process::{ChildProcess, free_address};

const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A running program; it is killed when this value is dropped.
pub(crate) struct TlsProgram {
    _process: ChildProcess,
    /// Address and port that the program listens on.
    pub(crate) address: String,
    /// File with the program's self-signed certificate as PEM; a client that trusts this file
    /// trusts the program.
    pub(crate) certificate: PathBuf,
}

impl TlsProgram {
    /// Builds the program if the cache does not have it, starts it with a new certificate, and
    /// waits until it listens.
    pub(crate) fn start(name: &str, dir: &Path) -> Result<Self> {
        let place = || name.to_owned();
        let built = Command::new("tests/lab/lab")
            .args(["build", name])
            .stderr(Stdio::inherit())
            .output();
        let said = String::from_utf8_lossy(&built.with_context(place)?.stdout).into_owned();
        let binary = said
            .trim()
            .strip_prefix(name)
            .with_context(|| format!("the lab did not build {name}"))?
            .trim();
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()])?;
        let [certificate, key] = ["crt", "key"].map(|kind| dir.join(format!("{name}.{kind}")));
        std::fs::write(&certificate, made.cert.pem()).with_context(place)?;
        std::fs::write(&key, made.signing_key.serialize_pem()).with_context(place)?;
        let address = free_address()?;
        let log = std::fs::File::create(dir.join(format!("{name}.log"))).with_context(place)?;
        let mut run = Command::new(binary);
        run.args(["--listen", &address, "--certificate"])
            .arg(&certificate)
            .arg("--key")
            .arg(&key);
        run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = ChildProcess::start(name, &mut run)?;
        wait_until(&format!("{name} listens"), START_TIMEOUT, || {
            std::net::TcpStream::connect(&address).ok()
        })?;
        Ok(Self {
            _process: process,
            address,
            certificate,
        })
    }
}
