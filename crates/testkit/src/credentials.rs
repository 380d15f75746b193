//! Simulates how clusters treat our credentials, with faults that tests switch on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use meshwright_model::ids::ClusterId;
use meshwright_model::leftover::AccountRemoval;
use meshwright_model::operation::Problem;
use meshwright_model::upgrade::Finding;
use meshwright_rollout::ports::AccountPresence;
use meshwright_store::IssuedCredential;

/// Kubernetes version of the fake clusters.
pub(crate) const KUBERNETES_VERSION: &str = "v1.33.13";

/// Issues a credential that is valid for 90 days.
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

/// Settings of a fleet's clusters for calls that concern credentials, and counters of these calls.
#[derive(Debug, Clone, Default)]
pub struct CredentialFaults(Arc<Mutex<CredentialState>>);

/// Behaviour of a call into a fake cluster before its answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CallBehaviour {
    /// The call is answered at once.
    #[default]
    Answers,
    /// The call is never answered.
    Hangs,
    /// The code that makes the call panics.
    Panics,
    /// The call is answered after this time.
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

/// Returns the identity of the cluster that a registration leads to by default. It is different for
/// each registration.
pub(crate) fn default_uid(cluster: ClusterId) -> String {
    format!("uid-of-{}", cluster.0)
}

impl CredentialFaults {
    /// Lets each cluster check fail with this problem from now on, or succeed again.
    ///
    /// # Panics
    /// Panics when another thread panicked while it held the lock.
    pub fn set_health_problem(&self, problem: Option<Problem>) {
        self.lock().health_problem = problem;
    }

    /// Lets each connection for a new credential fail with this problem from now on, or succeed
    /// again.
    ///
    /// # Panics
    /// Panics when another thread panicked while it held the lock.
    pub fn set_connect_problem(&self, problem: Option<Problem>) {
        self.lock().connect_problem = problem;
    }

    /// Sets the Kubernetes version that clusters report when a worker connects to them.
    ///
    /// # Panics
    /// Panics when another thread panicked while it held the lock.
    pub fn set_kubernetes_version(&self, version: &str) {
        self.lock().kubernetes_version = Some(version.to_owned());
    }

    /// Sets the behaviour of connections and cluster checks from now on.
    ///
    /// # Panics
    /// Panics when another thread panicked while it held the lock.
    pub fn set_call_behaviour(&self, conduct: CallBehaviour) {
        self.lock().call_behaviour = conduct;
    }

    /// Lets this registration lead to the cluster with this identity from now on.
    ///
    /// # Panics
    /// Panics when another thread panicked while it held the lock.
    pub fn set_cluster_uid(&self, cluster: ClusterId, uid: &str) {
        self.lock().cluster_uids.insert(cluster, uid.into());
    }

    /// Sets the findings of the checks of all clusters from now on.
    ///
    /// # Panics
    /// Panics when another thread panicked while it held the lock.
    pub fn set_findings(&self, findings: Vec<Finding>) {
        self.lock().findings = findings;
    }

    /// Lets clusters accept former credentials from now on, or refuse them again.
    ///
    /// # Panics
    /// Panics when another thread panicked while it held the lock.
    pub fn set_accepts_former(&self, accept: bool) {
        self.lock().accepts_former = accept;
    }

    pub(crate) fn is_settled(&self) -> bool {
        !self.lock().accepts_former
    }

    pub(crate) fn findings(&self) -> Vec<Finding> {
        self.lock().findings.clone()
    }

    /// Returns the registrations for which an account was created, in order.
    ///
    /// # Panics
    /// Panics when another thread panicked while it held the lock.
    pub fn created_accounts(&self) -> Vec<ClusterId> {
        self.lock().created_accounts.clone()
    }

    /// Returns the number of cluster checks so far.
    ///
    /// # Panics
    /// Panics when another thread panicked while it held the lock.
    pub fn check_count(&self) -> usize {
        self.lock().check_count
    }

    /// Lets each attempt to leave a cluster fail with this problem from now on, or succeed again.
    ///
    /// # Panics
    /// Panics when another thread panicked while it held the lock.
    pub fn set_leave_problem(&self, problem: Option<Problem>) {
        self.lock().leave_problem = problem;
    }

    /// Sets whether our account stays in a cluster after its removal was accepted.
    ///
    /// # Panics
    /// Panics when another thread panicked while it held the lock.
    pub fn set_account_lingers(&self, lingers: bool) {
        self.lock().account_lingers = lingers;
    }

    /// Returns the number of requests to remove our account.
    ///
    /// # Panics
    /// Panics when another thread panicked while it held the lock.
    pub fn removal_count(&self) -> usize {
        self.lock().removal_count
    }

    pub(crate) fn leave_cluster(
        &self,
        removal: AccountRemoval,
    ) -> Result<AccountPresence, Problem> {
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
        Ok(AccountPresence::Terminating(
            "the account is still there".into(),
        ))
    }

    pub(crate) fn cluster_uid(&self, cluster: ClusterId) -> String {
        self.lock()
            .cluster_uids
            .get(&cluster)
            .cloned()
            .unwrap_or_else(|| default_uid(cluster))
    }

    pub(crate) async fn connect_cluster(
        &self,
        cluster: ClusterId,
        serial: i64,
        now: Timestamp,
    ) -> Result<IssuedCredential, Problem> {
        let conduct = self.lock().call_behaviour;
        conduct.simulate().await;
        let uid = self.cluster_uid(cluster);
        let mut answers = self.lock();
        if let Some(problem) = &answers.connect_problem {
            return Err(problem.clone());
        }
        answers.created_accounts.push(cluster);
        let kubernetes_version = answers
            .kubernetes_version
            .clone()
            .unwrap_or_else(|| KUBERNETES_VERSION.into());
        Ok(IssuedCredential {
            kubernetes_version,
            ..issue_credential(uid, serial, now)
        })
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
