//! How imagined clusters treat our credentials.

use std::sync::{Arc, Mutex, MutexGuard};

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

#[derive(Debug, Default)]
struct Answers {
    tended: Option<Problem>,
    connected: Option<Problem>,
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

    /// How often clusters were looked after.
    ///
    /// # Panics
    /// When another thread panicked over them.
    pub fn looks(&self) -> usize {
        self.answers().looks
    }

    pub(crate) fn connect(&self) -> Option<Problem> {
        self.answers().connected.clone()
    }

    pub(crate) fn look(&self) -> Option<Problem> {
        let mut answers = self.answers();
        answers.looks += 1;
        answers.tended.clone()
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.0.lock().expect("nobody panics while holding it")
    }
}
