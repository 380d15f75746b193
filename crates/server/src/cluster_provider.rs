//! Opens real clusters for the worker, with credentials from the database and charts from the
//! catalogue.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use meshwright_kubernetes::leave;
use meshwright_kubernetes::problems::problem_from_error;
use meshwright_kubernetes::registration::{
    RegisteredCluster, RegistrationRequest, read_cluster_uid, register_cluster, renew_credential,
    withdraw_registration,
};
use meshwright_kubernetes::{
    Account, AddressPolicy, ClusterClient, Credential, Helm, MemberCluster, PreviousCredential,
};
use meshwright_model::clock::SystemClock;
use meshwright_model::ids::{ClusterId, MeshId, TenantId};
use meshwright_model::leftover::{AccountRemoval, Leftover};
use meshwright_model::operation::Problem;
use meshwright_model::problem::ProblemCode;
use meshwright_model::{Clock, Name};
use meshwright_rollout::plan::MeshTopology;
use meshwright_rollout::ports::{AccountPresence, MeshClusters};
use meshwright_store::{Cluster, ClusterHealth, IssuedCredential, Store, StoreError};
use meshwright_worker::ClusterProvider;
use tokio::sync::Mutex;

use crate::Failure;
use crate::args::WorkerArgs;

mod clients;
mod maintenance;
mod meshes;

use clients::{ClientCache, CredentialOwner};

/// Opens clusters through the Kubernetes API.
pub(crate) struct KubernetesClusterProvider {
    store: Store,
    helm: Helm,
    address_policy: AddressPolicy,
    replicas: u32,
    max_concurrent_restarts: usize,
    credential_lifetime: Duration,
    clock: Arc<dyn Clock>,
    clients: Mutex<ClientCache>,
}

fn store_problem(error: StoreError) -> Problem {
    tracing::warn!(
        error = &error as &dyn std::error::Error,
        "could not read a mesh, a cluster or a release from the database"
    );
    meshwright_worker::problem_from_store_error(&error)
}

/// Hint for a registered cluster, which cannot be registered a second time.
const RENEW_HINT: &str =
    "Give us another one with `meshwright cluster renew NAME --kubeconfig FILE`.";
/// Hint for a cluster whose registration has failed.
const REGISTER_HINT: &str = "Remove it with `meshwright cluster delete`, then register it with `meshwright cluster register`.";
/// Hint for damage that only the operator can repair.
const OPERATOR_HINT: &str = "Ask the operator of the service.";

fn unusable_problem(what: &str, hint: &str) -> Problem {
    Problem::new(
        ProblemCode::CredentialRefused,
        format!("{what} cannot be used."),
        hint,
    )
}

/// Maximum time of one contact with a cluster: at most about 15 calls of 5 seconds each, and a
/// list.
const CONTACT_TIMEOUT: Duration = Duration::from_mins(2);

/// Ends a contact with a cluster that takes longer than `CONTACT_TIMEOUT`.
async fn within_contact_timeout<T>(
    contact: impl Future<Output = Result<T, Problem>> + Send,
) -> Result<T, Problem> {
    let hint = "See why the cluster's API server answers slowly, and try again.";
    let message = format!(
        "The cluster's answers took longer than {} seconds together.",
        CONTACT_TIMEOUT.as_secs()
    );
    tokio::time::timeout(CONTACT_TIMEOUT, contact)
        .await
        .unwrap_or_else(|_| Err(Problem::new(ProblemCode::ContactTooSlow, message, hint)))
}

impl KubernetesClusterProvider {
    pub(crate) fn new(store: Store, clusters: &WorkerArgs) -> Result<Self, Failure> {
        let network = |text: &String| {
            AddressPolicy::parse_network(text).ok_or_else(|| {
                Failure::Config(format!("--allow-network {text}: write address/bits"))
            })
        };
        let allowed = clusters
            .allow_networks
            .iter()
            .map(network)
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            store,
            helm: Helm {
                program: clusters.helm.clone(),
            },
            address_policy: AddressPolicy {
                allowed_networks: allowed,
                worker_name: clusters.worker_name(),
                ..AddressPolicy::default()
            },
            replicas: clusters.replicas,
            max_concurrent_restarts: clusters.max_concurrent_restarts,
            credential_lifetime: Duration::from_hours(24 * clusters.credential_days),
            clock: Arc::new(SystemClock),
            clients: Mutex::default(),
        })
    }

    /// Loads a member cluster and opens a client for it.
    async fn open_member(
        &self,
        tenant: TenantId,
        id: ClusterId,
    ) -> Result<(Cluster, MemberCluster), Problem> {
        let mut tx = self.store.begin(tenant).await.map_err(store_problem)?;
        let cluster = tx.clusters().get_cluster(id).await.map_err(store_problem)?;
        let stored = tx
            .clusters()
            .cluster_kubeconfig(id)
            .await
            .map_err(store_problem)?;
        drop(tx);
        let (client, credential) = self
            .cluster_client(CredentialOwner::Member(tenant, id), &cluster.name, &stored)
            .await?;
        let name: Name = cluster
            .name
            .parse()
            .map_err(|_| unusable_problem("A member's name", OPERATOR_HINT))?;
        let serial = cluster.credential_lifetime.map_or(0, |life| life.serial);
        let (account, former) = (Account::for_cluster(id), None);
        Ok((
            cluster,
            MemberCluster {
                name,
                client,
                credential,
                serial,
                account,
                previous: former,
            },
        ))
    }

    /// Returns the credential before the present one, with the address of the present one.
    async fn former_credential(
        &self,
        tenant: TenantId,
        id: ClusterId,
        member: &MemberCluster,
    ) -> Result<Option<PreviousCredential>, Problem> {
        let stored = self
            .store
            .begin(tenant)
            .await
            .map_err(store_problem)?
            .clusters()
            .former_kubeconfig(id)
            .await
            .map_err(store_problem)?;
        let Some(stored) = stored else {
            return Ok(None);
        };
        let Credential {
            server, authority, ..
        } = member.credential.clone();
        let identity = Credential::from_stored(&stored)
            .map_err(|_| unusable_problem("A former credential", RENEW_HINT))?
            .identity;
        let credential = Credential {
            server,
            authority,
            identity,
        };
        let client = ClusterClient::open(member.name.as_str(), &credential, &self.address_policy);
        Ok(Some(PreviousCredential {
            client: client.map_err(|error| problem_from_error(&error))?,
            credential,
        }))
    }

    /// Loads a cluster and the credential to connect with: the submitted kubeconfig if there is
    /// one, which the last value tells, else the present credential.
    async fn connection_credential(
        &self,
        tenant: TenantId,
        id: ClusterId,
    ) -> Result<(Cluster, Credential, bool), Problem> {
        let mut tx = self.store.begin(tenant).await.map_err(store_problem)?;
        let cluster = tx.clusters().get_cluster(id).await.map_err(store_problem)?;
        let submitted = tx
            .clusters()
            .submitted_kubeconfig(id)
            .await
            .map_err(store_problem)?;
        let present = tx
            .clusters()
            .cluster_kubeconfig(id)
            .await
            .map_err(store_problem)?;
        let (stored, what) = match &submitted {
            Some(submitted) => (submitted, "The submitted kubeconfig"),
            None => (&present, "A stored credential"),
        };
        let hint = if cluster.credential_lifetime.is_none() {
            REGISTER_HINT
        } else {
            RENEW_HINT
        };
        let credential =
            Credential::from_stored(stored).map_err(|_| unusable_problem(what, hint))?;
        Ok((cluster, credential, submitted.is_some()))
    }

    fn registration_request<'a>(&self, cluster: &'a Cluster) -> RegistrationRequest<'a> {
        RegistrationRequest {
            name: &cluster.name,
            account: Account::for_cluster(cluster.id),
            serial: cluster.credential_lifetime.map_or(0, |life| life.serial),
            token_lifetime: self.credential_lifetime,
            uid: cluster.uid.as_deref(),
            now: self.clock.now(),
        }
    }

    /// Removes the service account of a refused registration, as far as the cluster allows it.
    async fn withdraw_account(&self, wanted: &RegistrationRequest<'_>, submitted: &Credential) {
        let withdrawn = within_contact_timeout(async {
            withdraw_registration(wanted, submitted, &self.address_policy)
                .await
                .map_err(|error| problem_from_error(&error))
        });
        if let Err(problem) = withdrawn.await {
            let account = wanted.account.name();
            tracing::warn!(
                cluster = wanted.name,
                account,
                code = problem.code.as_str(),
                "the service account of a refused registration may have stayed in the cluster"
            );
        }
    }
}

#[async_trait]
impl ClusterProvider for KubernetesClusterProvider {
    async fn open_mesh(
        &self,
        tenant: TenantId,
        mesh: MeshId,
    ) -> Result<(Arc<dyn MeshClusters>, MeshTopology), Problem> {
        let (clusters, layout) = self.open_mesh_clusters(tenant, mesh).await?;
        Ok((Arc::new(clusters), layout))
    }

    async fn identify_cluster(&self, tenant: TenantId, id: ClusterId) -> Result<String, Problem> {
        let (cluster, credential, _) = self.connection_credential(tenant, id).await?;
        within_contact_timeout(read_cluster_uid(
            &self.registration_request(&cluster),
            &credential,
            &self.address_policy,
        ))
        .await
    }

    async fn issue_credential(
        &self,
        tenant: TenantId,
        id: ClusterId,
    ) -> Result<IssuedCredential, Problem> {
        let (cluster, credential, submitted) = self.connection_credential(tenant, id).await?;
        let wanted = self.registration_request(&cluster);
        let connected = if submitted {
            let registered = within_contact_timeout(register_cluster(
                &wanted,
                &credential,
                &self.address_policy,
            ))
            .await;
            if registered.is_err() && wanted.uid.is_none() {
                self.withdraw_account(&wanted, &credential).await;
            }
            registered?
        } else {
            within_contact_timeout(renew_credential(&wanted, &credential, &self.address_policy))
                .await?
        };
        let RegisteredCluster {
            kubernetes_version,
            uid,
            credential,
            serial,
            issued_at,
            expires_at,
        } = connected;
        let (server, kubeconfig) = (credential.server.clone(), credential.to_stored());
        Ok(IssuedCredential {
            uid,
            kubernetes_version,
            server,
            kubeconfig,
            serial,
            issued_at,
            expires_at,
        })
    }

    async fn remove_account(
        &self,
        tenant: TenantId,
        id: ClusterId,
        removal: AccountRemoval,
    ) -> Result<AccountPresence, Problem> {
        let (_, member) = self.open_member(tenant, id).await?;
        let account = member.account.name();
        within_contact_timeout(async {
            let left = leave::remove_account(&member.client, &member.name, account, removal).await;
            left.map_err(|error| problem_from_error(&error))
        })
        .await
    }

    async fn list_left_behind(
        &self,
        tenant: TenantId,
        id: ClusterId,
    ) -> Result<Vec<Leftover>, Problem> {
        let mut tx = self.store.begin(tenant).await.map_err(store_problem)?;
        let cluster = tx.clusters().get_cluster(id).await.map_err(store_problem)?;
        let name: Name = cluster
            .name
            .parse()
            .map_err(|_| unusable_problem("A cluster's name", OPERATOR_HINT))?;
        Ok(leave::account_leftovers(
            &name,
            Account::for_cluster(id).name(),
        ))
    }

    async fn monitor_cluster(
        &self,
        tenant: TenantId,
        id: ClusterId,
    ) -> Result<ClusterHealth, Problem> {
        let (member, tended) = within_contact_timeout(self.maintain_cluster(tenant, id)).await?;
        // Findings are read after the maintenance and with their own time limit, so that they
        // cannot keep it from being done.
        Ok(ClusterHealth {
            findings: member.list_findings().await,
            ..tended
        })
    }
}
