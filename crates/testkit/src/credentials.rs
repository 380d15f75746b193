//! How imagined clusters treat our credentials.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use model::ids::ClusterId;
use model::leftover::AccountRemoval;
use model::operation::Problem;
use model::upgrade::Finding;
use rollout::ports::AccountPresence;
use store::IssuedCredential;

/// Kubernetes' version in imagined clusters.
pub(crate) const KUBERNETES_VERSION: &str = "v1.33.13";

/// A credential for ninety days.
pub(crate) fn issue_credential(uid: String, serial: i64, now: Timestamp) -> IssuedCredential {
    IssuedCredential {
        uid,
        kubernetes_version: KUBERNETES_VERSION.into(),
        server: "https://c.example:6443".into(),
        kubeconfig: b"ours".to_vec(),
        serial,
        issued_at: now,
        expires_at: now + SignedDuration::from_hours(24 * 90),
    }
}

/// The knobs of a fleet's clusters, and what was counted.
#[derive(Debug, Clone, Default)]
pub struct CredentialFaults(Arc<Mutex<CredentialState>>);

/// How a call into an imagined cluster ends, besides with an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CallBehaviour {
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

impl CallBehaviour {
    pub(crate) async fn simulate(self) {
        match self {
            Self::Answers => {}
            Self::Hangs => std::future::pending().await,
            Self::Panics => panic!("a panic that a test asked for"),
            Self::Slow(pace) => tokio::time::sleep(pace).await,
        }
    }
}

#[derive(Debug, Default)]
struct CredentialState {
    health_problem: Option<Problem>,
    connect_problem: Option<Problem>,
    kubernetes_version: Option<String>,
    call_behaviour: CallBehaviour,
    check_count: usize,
    cluster_uids: BTreeMap<ClusterId, String>,
    created_accounts: Vec<ClusterId>,
    findings: Vec<Finding>,
    accepts_former: bool,
    leave_problem: Option<Problem>,
    account_lingers: bool,
    removal_count: usize,
}

/// The identity that a registration's cluster has when no test says otherwise: no other one has it.
pub(crate) fn default_uid(cluster: ClusterId) -> String {
    format!("uid-of-{}", cluster.0)
}

impl CredentialFaults {
    /// From now on clusters answer whoever looks after them with this, or well again.
    ///
    /// # Panics
    /// When another thread panicked over them.
    pub fn set_health_problem(&self, problem: Option<Problem>) {
        self.lock().health_problem = problem;
    }

    /// From now on nobody gets a new credential, for this reason, or everybody does again.
    ///
    /// # Panics
    /// When another thread panicked over them.
    pub fn set_connect_problem(&self, problem: Option<Problem>) {
        self.lock().connect_problem = problem;
    }

    /// Sets the Kubernetes version that clusters name when they are connected to.
    ///
    /// # Panics
    /// When another thread panicked over them.
    pub fn set_kubernetes_version(&self, version: &str) {
        self.lock().kubernetes_version = Some(version.to_owned());
    }

    /// Sets how the next calls for credentials and looks after clusters end.
    ///
    /// # Panics
    /// When another thread panicked over them.
    pub fn set_call_behaviour(&self, conduct: CallBehaviour) {
        self.lock().call_behaviour = conduct;
    }

    /// From now on a registration leads to the cluster with this identity.
    ///
    /// # Panics
    /// When another thread panicked over them.
    pub fn set_cluster_uid(&self, cluster: ClusterId, uid: &str) {
        self.lock().cluster_uids.insert(cluster, uid.into());
    }

    /// From now on a look at any cluster finds this.
    ///
    /// # Panics
    /// When another thread panicked over them.
    pub fn set_findings(&self, findings: Vec<Finding>) {
        self.lock().findings = findings;
    }

    /// From now on clusters accept former credentials, or refuse them again.
    ///
    /// # Panics
    /// When another thread panicked over them.
    pub fn set_accepts_former(&self, accept: bool) {
        self.lock().accepts_former = accept;
    }

    pub(crate) fn is_settled(&self) -> bool {
        !self.lock().accepts_former
    }

    pub(crate) fn findings(&self) -> Vec<Finding> {
        self.lock().findings.clone()
    }

    /// The registrations that an account was made for, in order.
    ///
    /// # Panics
    /// When another thread panicked over them.
    pub fn created_accounts(&self) -> Vec<ClusterId> {
        self.lock().created_accounts.clone()
    }

    /// How often clusters were looked after.
    ///
    /// # Panics
    /// When another thread panicked over them.
    pub fn check_count(&self) -> usize {
        self.lock().check_count
    }

    /// From now on a worker that leaves a cluster is answered with this, or well again.
    ///
    /// # Panics
    /// When another thread panicked over them.
    pub fn set_leave_problem(&self, problem: Option<Problem>) {
        self.lock().leave_problem = problem;
    }

    /// Whether our account stays in a cluster though its removal was asked for.
    ///
    /// # Panics
    /// When another thread panicked over them.
    pub fn set_account_lingers(&self, lingers: bool) {
        self.lock().account_lingers = lingers;
    }

    /// How often our account's removal was asked for.
    ///
    /// # Panics
    /// When another thread panicked over them.
    pub fn removal_count(&self) -> usize {
        self.lock().removal_count
    }

    pub(crate) fn leave_cluster(&self, removal: AccountRemoval) -> Result<AccountPresence, Problem> {
        let mut answers = self.lock();
        if let Some(problem) = &answers.leave_problem {
            return Err(problem.clone());
        }
        if removal == AccountRemoval::NotBegun {
            return Ok(AccountPresence::Present(Vec::new()));
        }
        if removal == AccountRemoval::Accepted && !answers.account_lingers {
            return Ok(AccountPresence::CredentialRefused);
        }
        answers.removal_count += 1;
        Ok(AccountPresence::Terminating("the account is still there".into()))
    }

    pub(crate) fn cluster_uid(&self, cluster: ClusterId) -> String {
        self.lock().cluster_uids.get(&cluster).cloned().unwrap_or_else(|| default_uid(cluster))
    }

    pub(crate) async fn connect_cluster(&self, cluster: ClusterId, serial: i64, now: Timestamp) -> Result<IssuedCredential, Problem> {
        let conduct = self.lock().call_behaviour;
        conduct.simulate().await;
        let uid = self.cluster_uid(cluster);
        let mut answers = self.lock();
        if let Some(problem) = &answers.connect_problem {
            return Err(problem.clone());
        }
        answers.created_accounts.push(cluster);
        let kubernetes_version = answers.kubernetes_version.clone().unwrap_or_else(|| KUBERNETES_VERSION.into());
        Ok(IssuedCredential { kubernetes_version, ..issue_credential(uid, serial, now) })
    }

    pub(crate) async fn check_cluster(&self) -> Option<Problem> {
        let conduct = {
            let mut answers = self.lock();
            answers.check_count += 1;
            answers.call_behaviour
        };
        conduct.simulate().await;
        self.lock().health_problem.clone()
    }

    fn lock(&self) -> MutexGuard<'_, CredentialState> {
        self.0.lock().expect("nobody panics while holding it")
    }
}
