//! How imagined clusters treat our credentials.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use model::ids::ClusterId;
use model::leftover::Removal;
use model::operation::Problem;
use model::upgrade::Finding;
use rollout::ports::Presence;
use store::Issued;

/// Kubernetes' version in imagined clusters.
pub(crate) const KUBERNETES: &str = "v1.33.13";

/// A credential for ninety days.
pub(crate) fn issued(uid: String, serial: i64, now: Timestamp) -> Issued {
    Issued {
        uid,
        kubernetes_version: KUBERNETES.into(),
        server: "https://c.example:6443".into(),
        kubeconfig: b"ours".to_vec(),
        serial,
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
    shared: BTreeMap<ClusterId, String>,
    made: Vec<ClusterId>,
    findings: Vec<Finding>,
    unsettled: bool,
    leaving: Option<Problem>,
    lingers: bool,
    removals: usize,
}

/// The identity that a registration's cluster has when no test says otherwise: no other one has it.
pub(crate) fn own_uid(cluster: ClusterId) -> String {
    format!("uid-of-{}", cluster.0)
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

    /// From now on a registration leads to the cluster with this identity.
    ///
    /// # Panics
    /// When another thread panicked over them.
    pub fn leads_to(&self, cluster: ClusterId, uid: &str) {
        self.answers().shared.insert(cluster, uid.into());
    }

    /// From now on a look at any cluster finds this.
    ///
    /// # Panics
    /// When another thread panicked over them.
    pub fn find(&self, findings: Vec<Finding>) {
        self.answers().findings = findings;
    }

    /// From now on clusters accept former credentials, or refuse them again.
    ///
    /// # Panics
    /// When another thread panicked over them.
    pub fn accept_former(&self, accept: bool) {
        self.answers().unsettled = accept;
    }

    pub(crate) fn settled(&self) -> bool {
        !self.answers().unsettled
    }

    pub(crate) fn findings(&self) -> Vec<Finding> {
        self.answers().findings.clone()
    }

    /// The registrations that an account was made for, in order.
    ///
    /// # Panics
    /// When another thread panicked over them.
    pub fn made(&self) -> Vec<ClusterId> {
        self.answers().made.clone()
    }

    /// How often clusters were looked after.
    ///
    /// # Panics
    /// When another thread panicked over them.
    pub fn looks(&self) -> usize {
        self.answers().looks
    }

    /// From now on a worker that leaves a cluster is answered with this, or well again.
    ///
    /// # Panics
    /// When another thread panicked over them.
    pub fn answer_leaving_with(&self, problem: Option<Problem>) {
        self.answers().leaving = problem;
    }

    /// Whether our account stays in a cluster though its removal was asked for.
    ///
    /// # Panics
    /// When another thread panicked over them.
    pub fn linger(&self, lingers: bool) {
        self.answers().lingers = lingers;
    }

    /// How often our account's removal was asked for.
    ///
    /// # Panics
    /// When another thread panicked over them.
    pub fn removals(&self) -> usize {
        self.answers().removals
    }

    pub(crate) fn leave(&self, removal: Removal) -> Result<Presence, Problem> {
        let mut answers = self.answers();
        if let Some(problem) = &answers.leaving {
            return Err(problem.clone());
        }
        if removal == Removal::NotBegun {
            return Ok(Presence::There(Vec::new()));
        }
        if removal == Removal::Accepted && !answers.lingers {
            return Ok(Presence::Refused);
        }
        answers.removals += 1;
        Ok(Presence::Going("the account is still there".into()))
    }

    pub(crate) fn identify(&self, cluster: ClusterId) -> String {
        self.answers().shared.get(&cluster).cloned().unwrap_or_else(|| own_uid(cluster))
    }

    pub(crate) async fn connect(&self, cluster: ClusterId, serial: i64, now: Timestamp) -> Result<Issued, Problem> {
        let conduct = self.answers().conduct;
        conduct.happen().await;
        let uid = self.identify(cluster);
        let mut answers = self.answers();
        if let Some(problem) = &answers.connected {
            return Err(problem.clone());
        }
        answers.made.push(cluster);
        let kubernetes_version = answers.version.clone().unwrap_or_else(|| KUBERNETES.into());
        Ok(Issued { kubernetes_version, ..issued(uid, serial, now) })
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
