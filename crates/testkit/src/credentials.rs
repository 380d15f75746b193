//! How imagined clusters treat our credentials.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use model::operation::Problem;
use store::Issued;

/// Kubernetes' version in imagined clusters.
pub(crate) const KUBERNETES: &str = "v1.33.13";

/// A credential for ninety days.
pub(crate) fn issued(now: Timestamp) -> Issued {
    Issued {
        uid: "uid-of-kube-system".into(),
        kubernetes_version: KUBERNETES.into(),
        kubeconfig: b"ours".to_vec(),
        issued_at: now,
        expires_at: now + SignedDuration::from_hours(24 * 90),
    }
}

/// The knobs of a fleet's clusters, and what was counted.
#[derive(Debug, Clone, Default)]
pub struct Credentials(Arc<Mutex<Answers>>);

/// How a call into an imagined cluster ends, besides with an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Conduct {
    /// It answers.
    #[default]
    Answers,
    /// It never answers.
    Hangs,
    /// The code that makes the call panics.
    Panics,
    /// It answers after so long.
    Slow(Duration),
}

impl Conduct {
    pub(crate) async fn happen(self) {
        match self {
            Self::Answers => {}
            Self::Hangs => std::future::pending().await,
            Self::Panics => panic!("a panic that a test asked for"),
            Self::Slow(pace) => tokio::time::sleep(pace).await,
        }
    }
}

#[derive(Debug, Default)]
struct Answers {
    tended: Option<Problem>,
    connected: Option<Problem>,
    version: Option<String>,
    conduct: Conduct,
    looks: usize,
}

impl Credentials {
    /// From now on clusters answer whoever looks after them with this, or well again.
    ///
    /// # Panics
    /// When another thread panicked over them.
    pub fn answer_with(&self, problem: Option<Problem>) {
        self.answers().tended = problem;
    }

    /// From now on nobody gets a new credential, for this reason, or everybody does again.
    ///
    /// # Panics
    /// When another thread panicked over them.
    pub fn refuse_connections(&self, problem: Option<Problem>) {
        self.answers().connected = problem;
    }

    /// Sets the Kubernetes version that clusters name when they are connected to.
    ///
    /// # Panics
    /// When another thread panicked over them.
    pub fn say_version(&self, version: &str) {
        self.answers().version = Some(version.to_owned());
    }

    /// Sets how the next calls for credentials and looks after clusters end.
    ///
    /// # Panics
    /// When another thread panicked over them.
    pub fn conduct(&self, conduct: Conduct) {
        self.answers().conduct = conduct;
    }

    /// How often clusters were looked after.
    ///
    /// # Panics
    /// When another thread panicked over them.
    pub fn looks(&self) -> usize {
        self.answers().looks
    }

    pub(crate) async fn connect(&self, now: Timestamp) -> Result<Issued, Problem> {
        let conduct = self.answers().conduct;
        conduct.happen().await;
        let answers = self.answers();
        if let Some(problem) = &answers.connected {
            return Err(problem.clone());
        }
        let kubernetes_version = answers.version.clone().unwrap_or_else(|| KUBERNETES.into());
        Ok(Issued { kubernetes_version, ..issued(now) })
    }

    pub(crate) async fn look(&self) -> Option<Problem> {
        let conduct = {
            let mut answers = self.answers();
            answers.looks += 1;
            answers.conduct
        };
        conduct.happen().await;
        self.answers().tended.clone()
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.0.lock().expect("nobody panics while holding it")
    }
}
