//! Opens real clusters for the worker, with credentials from the database and charts from the
//! catalogue.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use meshwright_kubernetes::leave;
use meshwright_kubernetes::problems::{problem_from_error, problem_unless_changed};
use meshwright_kubernetes::registration::{
    RegisteredCluster, RegistrationRequest, read_cluster_uid, register_cluster, renew_credential,
    withdraw_registration,
};
use meshwright_kubernetes::{
    Account, AddressPolicy, Authority, Charts, ClusterClient, Credential, CredentialSource, Helm,
    KubernetesMesh, KubernetesMeshConfig, MemberCluster, PreviousCredential,
};
use meshwright_model::clock::SystemClock;
use meshwright_model::ids::{ClusterId, HostingClusterId, MeshId, TenantId};
use meshwright_model::leftover::{AccountRemoval, Leftover};
use meshwright_model::operation::Problem;
use meshwright_model::release::Release;
use meshwright_model::upgrade::LabelPolicy;
use meshwright_model::version::Version;
use meshwright_model::{Clock, Name};
use meshwright_rollout::plan::{ControlPlane, MeshTopology};
use meshwright_rollout::ports::{AccountPresence, ClusterError, MeshClusters};
use meshwright_store::{
    Cluster, ClusterHealth, IssuedCredential, Mesh, MeshState, Store, StoreError,
};
use meshwright_worker::ClusterProvider;
use tokio::sync::Mutex;

use crate::Failure;
use crate::args::WorkerArgs;

/// Client of each cluster, by the id of the cluster.
type ClientCache = HashMap<String, CachedClient>;

/// Client of a cluster, which is kept for as long as it is used.
struct CachedClient {
    /// Credential that the client was opened with, in its stored form.
    stored_credential: Vec<u8>,
    client: ClusterClient,
    last_used: Instant,
}

/// Time after which an unused client is dropped with its credential. Clusters that are still
/// registered are checked much more often than this.
const CLIENT_IDLE_TIMEOUT: Duration = Duration::from_mins(15);

/// Owner of a credential in the database: a member cluster or a hosting cluster.
#[derive(Debug, Clone, Copy)]
enum CredentialOwner {
    Member(TenantId, ClusterId),
    Hosting(HostingClusterId),
}

impl std::fmt::Display for CredentialOwner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Member(_, id) => write!(f, "{id}"),
            Self::Hosting(id) => write!(f, "{id}"),
        }
    }
}

/// Reads the credential of a cluster again when the one in use is no longer valid. A claim can go
/// on after a renewal has replaced the credential that it began with.
struct StoredCredentialSource {
    store: Store,
    owner: CredentialOwner,
}

#[async_trait]
impl CredentialSource for StoredCredentialSource {
    async fn current_credential(&self) -> Option<Credential> {
        let stored = match self.owner {
            CredentialOwner::Member(tenant, id) => {
                let mut tx = self.store.begin(tenant).await.ok()?;
                tx.cluster_kubeconfig(id).await
            }
            CredentialOwner::Hosting(id) => self.store.hosting_kubeconfig(id).await,
        };
        let stored = stored.inspect_err(|error| {
            tracing::warn!(cluster.id = %self.owner, error = error as &dyn std::error::Error, "could not read the credential of the cluster again");
        });
        Credential::from_stored(&stored.ok()?).ok()
    }
}

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
        "credential_refused",
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
        .unwrap_or_else(|_| Err(Problem::new("contact_too_slow", message, hint)))
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
            max_concurrent_restarts: clusters.width,
            credential_lifetime: Duration::from_hours(24 * clusters.credential_days),
            clock: Arc::new(SystemClock),
            clients: Mutex::default(),
        })
    }

    /// Returns the client of a cluster, which is opened once for each credential. The client with
    /// the former credential is dropped, and so are clients that are no longer used. Opening makes
    /// no call: the first check finds a cluster whose name does not resolve unreachable, after the
    /// usual timeout.
    async fn cluster_client(
        &self,
        held: CredentialOwner,
        place: &str,
        stored: &[u8],
    ) -> Result<(ClusterClient, Credential), Problem> {
        let hint = if matches!(held, CredentialOwner::Hosting(_)) {
            OPERATOR_HINT
        } else {
            RENEW_HINT
        };
        let credential = Credential::from_stored(stored)
            .map_err(|_| unusable_problem("A stored credential", hint))?;
        let id = held.to_string();
        let mut doors = self.clients.lock().await;
        if let Some(open) = doors
            .get_mut(&id)
            .filter(|open| open.stored_credential == stored)
        {
            open.last_used = Instant::now();
            return Ok((open.client.clone(), credential));
        }
        doors.retain(|_, open| open.last_used.elapsed() < CLIENT_IDLE_TIMEOUT);
        let door = ClusterClient::open(place, &credential, &self.address_policy)
            .map_err(|error| problem_from_error(&error))?;
        let door = door.with_credential_source(Arc::new(StoredCredentialSource {
            store: self.store.clone(),
            owner: held,
        }));
        doors.insert(
            id,
            CachedClient {
                stored_credential: stored.to_vec(),
                client: door.clone(),
                last_used: Instant::now(),
            },
        );
        Ok((door, credential))
    }

    async fn load_release(&self, version: &Version) -> Result<(Release, Charts), Problem> {
        let stored = self
            .store
            .get_release(version)
            .await
            .map_err(store_problem)?;
        let charts = Charts::unpack(&stored.charts).map_err(|_| {
            Problem::new(
                "release_damaged",
                "The release's charts do not unpack.",
                "Import it again.",
            )
        })?;
        Ok((stored.release, charts))
    }

    async fn open_members(
        &self,
        tenant: TenantId,
        mesh: &Mesh,
    ) -> Result<Vec<MemberCluster>, Problem> {
        let mut members = Vec::with_capacity(mesh.members.len());
        for member in &mesh.members {
            members.push(self.open_member(tenant, member.cluster).await?.1);
        }
        Ok(members)
    }

    /// Loads a member cluster and opens a client for it.
    async fn open_member(
        &self,
        tenant: TenantId,
        id: ClusterId,
    ) -> Result<(Cluster, MemberCluster), Problem> {
        let mut tx = self.store.begin(tenant).await.map_err(store_problem)?;
        let cluster = tx.get_cluster(id).await.map_err(store_problem)?;
        let stored = tx.cluster_kubeconfig(id).await.map_err(store_problem)?;
        drop(tx);
        let (door, credential) = self
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
                client: door,
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
        let door = ClusterClient::open(member.name.as_str(), &credential, &self.address_policy);
        Ok(Some(PreviousCredential {
            client: door.map_err(|error| problem_from_error(&error))?,
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
        let cluster = tx.get_cluster(id).await.map_err(store_problem)?;
        let submitted = tx.submitted_kubeconfig(id).await.map_err(store_problem)?;
        let present = tx.cluster_kubeconfig(id).await.map_err(store_problem)?;
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
                code = problem.code,
                "the service account of a refused registration may have stayed in the cluster"
            );
        }
    }

    /// Loads the mesh that a cluster is a member of.
    async fn load_mesh_of_cluster(
        &self,
        tenant: TenantId,
        cluster: ClusterId,
    ) -> Result<Option<Mesh>, Problem> {
        let mut tx = self.store.begin(tenant).await.map_err(store_problem)?;
        match tx.mesh_of_cluster(cluster).await.map_err(store_problem)? {
            Some(mesh) => tx.get_mesh(mesh).await.map(Some).map_err(store_problem),
            None => Ok(None),
        }
    }

    async fn open_mesh_clusters(
        &self,
        tenant: TenantId,
        mesh: MeshId,
    ) -> Result<(KubernetesMesh, MeshTopology), Problem> {
        let mut tx = self.store.begin(tenant).await.map_err(store_problem)?;
        let mesh = tx.get_mesh(mesh).await.map_err(store_problem)?;
        let authority = tx.mesh_authority(mesh.id).await.map_err(store_problem)?;
        drop(tx);
        let mut releases = vec![self.load_release(&mesh.current.version).await?];
        if let Some(target) = &mesh.target {
            releases.push(self.load_release(&target.version).await?);
        }
        let stored = self
            .store
            .hosting_kubeconfig(mesh.hosting_cluster)
            .await
            .map_err(store_problem)?;
        let (hosting, _) = self
            .cluster_client(
                CredentialOwner::Hosting(mesh.hosting_cluster),
                "the hosting cluster",
                &stored,
            )
            .await?;
        let members = self.open_members(tenant, &mesh).await?;
        let layout = MeshTopology {
            members: members.iter().map(|member| member.name.clone()).collect(),
            current: control_plane(&mesh.current, &releases)?,
            target: mesh
                .target
                .as_ref()
                .map(|target| control_plane(target, &releases))
                .transpose()?,
            max_concurrent_restarts: self.max_concurrent_restarts,
            label_policy: LabelPolicy::Relabel,
        };
        let authority = Authority::from_stored(&authority).map_err(|_| {
            Problem::new(
                "authority_damaged",
                "The mesh's authority does not open.",
                "Tell the operator.",
            )
        })?;
        // In an upgrade in place, both revisions have the same name, and the target has taken the
        // switches of the current one.
        let revisions = [&mesh.current].into_iter().chain(&mesh.target);
        let config = KubernetesMeshConfig {
            namespace: mesh.namespace(),
            hosting,
            members,
            address_policy: self.address_policy.clone(),
            authority,
            releases,
            switches: revisions
                .map(|revision| (revision.name.clone(), revision.switches.clone()))
                .collect(),
            helm: self.helm.clone(),
            replicas: self.replicas,
            token_lifetime: self.credential_lifetime,
        };
        Ok((KubernetesMesh::new(config), layout))
    }
}

fn control_plane(
    revision: &meshwright_store::Revision,
    releases: &[(Release, Charts)],
) -> Result<ControlPlane, Problem> {
    let release = releases
        .iter()
        .map(|(release, _)| release)
        .find(|release| release.version == revision.version);
    let release = release.ok_or_else(|| {
        Problem::new(
            "release_missing",
            "A release of the mesh is not in the catalogue.",
            "Import it again.",
        )
    })?;
    let image = format!("{}/proxyv2:{}", release.hub, release.tag);
    Ok(ControlPlane {
        revision: revision.name.clone(),
        release: revision.version.clone(),
        image,
    })
}

#[async_trait]
impl ClusterProvider for KubernetesClusterProvider {
    async fn open_mesh(
        &self,
        tenant: TenantId,
        mesh: MeshId,
    ) -> Result<(Arc<dyn MeshClusters>, MeshTopology), Problem> {
        let (world, layout) = self.open_mesh_clusters(tenant, mesh).await?;
        Ok((Arc::new(world), layout))
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
        let cluster = tx.get_cluster(id).await.map_err(store_problem)?;
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

impl KubernetesClusterProvider {
    /// Checks a cluster and maintains its credentials and the control planes' access to it. The
    /// findings are read separately.
    async fn maintain_cluster(
        &self,
        tenant: TenantId,
        id: ClusterId,
    ) -> Result<(MemberCluster, ClusterHealth), Problem> {
        let tended = |kubernetes_version, settled| ClusterHealth {
            kubernetes_version,
            old_credentials_revoked: settled,
            findings: Vec::new(),
        };
        let (cluster, mut member) = self.open_member(tenant, id).await?;
        let renewed = cluster
            .credential_lifetime
            .and_then(|life| life.previous_until);
        let over = renewed.is_some_and(|until| until <= self.clock.now());
        if over {
            member.previous = self.former_credential(tenant, id, &member).await?;
        }
        let mesh = self.load_mesh_of_cluster(tenant, id).await?;
        let Some(mesh) = mesh.filter(|mesh| renewed.is_some() || mesh.state == MeshState::Ready)
        else {
            let (kubernetes_version, retired) = member.check_health(over).await?;
            // Without an end time of a previous credential, there is no previous credential.
            let settled = retired || renewed.is_none();
            return Ok((member, tended(kubernetes_version, settled)));
        };
        let (kubernetes_version, _) = member.check_health(false).await?;
        // The operation that creates or deletes the mesh takes care of its members.
        if mesh.state != MeshState::Ready {
            return Ok((member, tended(kubernetes_version, false)));
        }
        let world = match self.open_mesh_clusters(tenant, mesh.id).await {
            Ok((world, _)) => world,
            Err(problem) if problem.code == meshwright_worker::DATABASE_CODE => {
                return Err(problem);
            }
            // The mesh is faulty, which must not keep its members from being maintained.
            Err(problem) => {
                tracing::warn!(cluster.id = %id, mesh.id = %mesh.id, code = problem.code, "could not open the mesh; its control planes' access to the member is not maintained");
                return Ok((member, tended(kubernetes_version, renewed.is_none())));
            }
        };
        if renewed.is_none() {
            // An error here comes from the hosting cluster or the mesh and says nothing about this
            // member.
            if let Err(error) = world.follow_member_address(&member.name).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(cluster.id = %id, mesh.id = %mesh.id, error, "could not bring the new address of the member to its control planes");
            }
            return Ok((member, tended(kubernetes_version, true)));
        }
        // The limits belong to the whole mesh. An error must not keep this member from being
        // maintained.
        if let Err(error) = world.renew_limits().await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(cluster.id = %id, mesh.id = %mesh.id, error, "could not renew the limits of the mesh");
        }
        let renewed = ignore_other_cluster_errors(&member, world.renew_access(&member.name).await)?;
        // Old tokens are removed only in a round that found all access current. A writer that put
        // an old token back in the meantime is noticed by the renewal above.
        let settled = over
            && renewed
            && ignore_other_cluster_errors(&member, world.retire_tokens(&member).await)?;
        Ok((member, tended(kubernetes_version, settled)))
    }
}

/// Returns false for an error of the hosting cluster or of another member: it says nothing about
/// this member, whose maintenance is just not settled yet.
fn ignore_other_cluster_errors(
    member: &MemberCluster,
    answer: Result<bool, ClusterError>,
) -> Result<bool, Problem> {
    match answer {
        Err(
            ClusterError::Unreachable { place, code, .. }
            | ClusterError::Refused { place, code, .. },
        ) if place != member.client.cluster_name() => {
            tracing::warn!(
                member = member.name.as_str(),
                place,
                code,
                "could not maintain the control planes of the member"
            );
            Ok(false)
        }
        answer => problem_unless_changed(answer),
    }
}
