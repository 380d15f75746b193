//! Opens real clusters for the worker: credentials from the database, charts from the catalogue.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use cluster::leave;
use cluster::register::{Connected, Wanted, explain, explain_unless_changed, identify, register, renew, withdraw};
use cluster::{
    Account, Authority, Charts, Credential, Dialling, Door, Former, Helm, Keeper, MemberDoor, MeshWorld,
    MeshWorldConfig,
};
use model::clock::SystemClock;
use model::ids::{ClusterId, HostingClusterId, MeshId, TenantId};
use model::leftover::{Leftover, Removal};
use model::operation::Problem;
use model::release::Release;
use model::upgrade::LabelPolicy;
use model::version::Version;
use model::{Clock, Name};
use rollout::plan::{Layout, Line};
use rollout::ports::{Presence, World, WorldError};
use store::{Cluster, Issued, Mesh, MeshState, Store, StoreError, Tended};
use tokio::sync::Mutex;
use worker::Worlds;

use crate::Failure;
use crate::options::Clusters;

/// Each cluster's way in, with the credential that it was opened with.
type Doors = HashMap<String, Open>;

/// A door that is kept open for as long as it is used.
struct Open {
    /// The credential, in the form in which it is stored.
    stored: Vec<u8>,
    door: Door,
    used: Instant,
}

/// A door that was not used for so long is forgotten with its credential: every cluster that is still registered is looked
/// after much more often.
const IDLE: Duration = Duration::from_mins(15);

/// A cluster whose credential is in the database.
#[derive(Debug, Clone, Copy)]
enum Held {
    Member(TenantId, ClusterId),
    Hosting(HostingClusterId),
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Member(_, id) => write!(f, "{id}"),
            Self::Hosting(id) => write!(f, "{id}"),
        }
    }
}

/// Reads a cluster's credential again when the one in use is not valid any more: claims outlive renewals.
struct Kept {
    store: Store,
    held: Held,
}

#[async_trait]
impl Keeper for Kept {
    async fn present(&self) -> Option<Credential> {
        let stored = match self.held {
            Held::Member(tenant, id) => {
                let mut tx = self.store.begin(tenant).await.ok()?;
                tx.cluster_kubeconfig(id).await
            }
            Held::Hosting(id) => self.store.hosting_kubeconfig(id).await,
        };
        let stored = stored.inspect_err(|error| {
            tracing::warn!(cluster.id = %self.held, error = error as &dyn std::error::Error, "its credential cannot be read again");
        });
        Credential::open(&stored.ok()?).ok()
    }
}

/// The real thing.
pub(crate) struct RealWorlds {
    store: Store,
    helm: Helm,
    dialling: Dialling,
    replicas: u32,
    width: usize,
    life: Duration,
    clock: Arc<dyn Clock>,
    doors: Mutex<Doors>,
}

fn lost(error: StoreError) -> Problem {
    tracing::warn!(error = &error as &dyn std::error::Error, "a mesh cannot be read");
    worker::unread(&error)
}

/// What helps a registered cluster; a second registration of it would be refused.
const RENEW: &str = "Give us another one with `meshwright cluster renew NAME --kubeconfig FILE`.";
/// What helps a cluster whose registration has failed.
const REGISTER: &str =
    "Remove it with `meshwright cluster delete`, then register it with `meshwright cluster register`.";
/// What helps against damage in what only the operator can put right.
const OPERATOR: &str = "Ask the operator of the service.";

fn damaged(what: &str, hint: &str) -> Problem {
    Problem::new("credential_refused", format!("{what} cannot be used."), hint)
}

/// Time of one contact with a cluster as a whole: about 15 calls of 5 s at most, and a list.
const CONTACT: Duration = Duration::from_mins(2);

/// Ends a contact that takes longer than one may.
async fn in_time<T>(contact: impl Future<Output = Result<T, Problem>> + Send) -> Result<T, Problem> {
    let hint = "See why the cluster's API server answers slowly, and try again.";
    let message = format!("The cluster's answers took longer than {} seconds together.", CONTACT.as_secs());
    tokio::time::timeout(CONTACT, contact)
        .await
        .unwrap_or_else(|_| Err(Problem::new("contact_too_slow", message, hint)))
}

impl RealWorlds {
    pub(crate) fn new(store: Store, clusters: &Clusters) -> Result<Self, Failure> {
        let network = |text: &String| {
            Dialling::parse_network(text)
                .ok_or_else(|| Failure::Config(format!("--allow-network {text}: write address/bits")))
        };
        let allowed = clusters.allow_networks.iter().map(network).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            store,
            helm: Helm { program: clusters.helm.clone() },
            dialling: Dialling { allowed, caller: clusters.owner(), ..Dialling::default() },
            replicas: clusters.replicas,
            width: clusters.width,
            life: Duration::from_hours(24 * clusters.credential_days),
            clock: Arc::new(SystemClock),
            doors: Mutex::default(),
        })
    }

    /// Opened once for each credential; the one before it is forgotten, and so is what nothing uses any more. Nothing is called:
    /// a cluster whose name does not resolve is found silent by the first look, with the usual patience.
    async fn door(&self, held: Held, place: &str, stored: &[u8]) -> Result<(Door, Credential), Problem> {
        let hint = if matches!(held, Held::Hosting(_)) { OPERATOR } else { RENEW };
        let credential = Credential::open(stored).map_err(|_| damaged("A stored credential", hint))?;
        let id = held.to_string();
        let mut doors = self.doors.lock().await;
        if let Some(open) = doors.get_mut(&id).filter(|open| open.stored == stored) {
            open.used = Instant::now();
            return Ok((open.door.clone(), credential));
        }
        doors.retain(|_, open| open.used.elapsed() < IDLE);
        let door = Door::open(place, &credential, &self.dialling).map_err(|error| explain(&error))?;
        let door = door.kept_by(Arc::new(Kept { store: self.store.clone(), held }));
        doors.insert(id, Open { stored: stored.to_vec(), door: door.clone(), used: Instant::now() });
        Ok((door, credential))
    }

    async fn release(&self, version: &Version) -> Result<(Release, Charts), Problem> {
        let stored = self.store.release(version).await.map_err(lost)?;
        let charts = Charts::unpack(&stored.charts)
            .map_err(|_| Problem::new("release_damaged", "The release's charts do not unpack.", "Import it again."))?;
        Ok((stored.release, charts))
    }

    async fn members(&self, tenant: TenantId, mesh: &Mesh) -> Result<Vec<MemberDoor>, Problem> {
        let mut members = Vec::with_capacity(mesh.members.len());
        for member in &mesh.members {
            members.push(self.member(tenant, member.cluster).await?.1);
        }
        Ok(members)
    }

    /// A cluster with the way into it.
    async fn member(&self, tenant: TenantId, id: ClusterId) -> Result<(Cluster, MemberDoor), Problem> {
        let mut tx = self.store.begin(tenant).await.map_err(lost)?;
        let cluster = tx.cluster(id).await.map_err(lost)?;
        let stored = tx.cluster_kubeconfig(id).await.map_err(lost)?;
        drop(tx);
        let (door, credential) = self.door(Held::Member(tenant, id), &cluster.name, &stored).await?;
        let name: Name = cluster.name.parse().map_err(|_| damaged("A member's name", OPERATOR))?;
        let serial = cluster.life.map_or(0, |life| life.serial);
        let (account, former) = (Account::of(id), None);
        Ok((cluster, MemberDoor { name, door, credential, serial, account, former }))
    }

    /// The credential before the present one, at the present one's address.
    async fn former(&self, tenant: TenantId, id: ClusterId, member: &MemberDoor) -> Result<Option<Former>, Problem> {
        let stored = self.store.begin(tenant).await.map_err(lost)?.former_kubeconfig(id).await.map_err(lost)?;
        let Some(stored) = stored else { return Ok(None) };
        let Credential { server, authority, .. } = member.credential.clone();
        let identity = Credential::open(&stored).map_err(|_| damaged("A former credential", RENEW))?.identity;
        let credential = Credential { server, authority, identity };
        let door = Door::open(member.name.as_str(), &credential, &self.dialling);
        Ok(Some(Former { door: door.map_err(|error| explain(&error))?, credential }))
    }

    /// What a cluster is connected to by: what was submitted, else the present credential.
    async fn way_in(&self, tenant: TenantId, id: ClusterId) -> Result<(Cluster, Credential, bool), Problem> {
        let mut tx = self.store.begin(tenant).await.map_err(lost)?;
        let cluster = tx.cluster(id).await.map_err(lost)?;
        let submitted = tx.submitted_kubeconfig(id).await.map_err(lost)?;
        let present = tx.cluster_kubeconfig(id).await.map_err(lost)?;
        let (stored, what) = match &submitted {
            Some(submitted) => (submitted, "The submitted kubeconfig"),
            None => (&present, "A stored credential"),
        };
        let hint = if cluster.life.is_none() { REGISTER } else { RENEW };
        let credential = Credential::open(stored).map_err(|_| damaged(what, hint))?;
        Ok((cluster, credential, submitted.is_some()))
    }

    fn wanted<'a>(&self, cluster: &'a Cluster) -> Wanted<'a> {
        Wanted {
            name: &cluster.name,
            account: Account::of(cluster.id),
            serial: cluster.life.map_or(0, |life| life.serial),
            life: self.life,
            uid: cluster.uid.as_deref(),
            now: self.clock.now(),
        }
    }

    /// A registration that is refused leaves no account behind, as far as the cluster lets us.
    async fn withdraw(&self, wanted: &Wanted<'_>, submitted: &Credential) {
        let withdrawn =
            in_time(async { withdraw(wanted, submitted, &self.dialling).await.map_err(|error| explain(&error)) });
        if let Err(problem) = withdrawn.await {
            let account = wanted.account.name();
            tracing::warn!(
                cluster = wanted.name,
                account,
                code = problem.code,
                "a refused registration's account may have stayed"
            );
        }
    }

    /// The mesh that a cluster serves in.
    async fn mesh_of(&self, tenant: TenantId, cluster: ClusterId) -> Result<Option<Mesh>, Problem> {
        let mut tx = self.store.begin(tenant).await.map_err(lost)?;
        match tx.mesh_of(cluster).await.map_err(lost)? {
            Some(mesh) => tx.mesh(mesh).await.map(Some).map_err(lost),
            None => Ok(None),
        }
    }

    async fn world(&self, tenant: TenantId, mesh: MeshId) -> Result<(MeshWorld, Layout), Problem> {
        let mut tx = self.store.begin(tenant).await.map_err(lost)?;
        let mesh = tx.mesh(mesh).await.map_err(lost)?;
        let authority = tx.mesh_authority(mesh.id).await.map_err(lost)?;
        drop(tx);
        let mut releases = vec![self.release(&mesh.current.version).await?];
        if let Some(target) = &mesh.target {
            releases.push(self.release(&target.version).await?);
        }
        let stored = self.store.hosting_kubeconfig(mesh.hosting).await.map_err(lost)?;
        let (hosting, _) = self.door(Held::Hosting(mesh.hosting), "the hosting cluster", &stored).await?;
        let members = self.members(tenant, &mesh).await?;
        let layout = Layout {
            members: members.iter().map(|member| member.name.clone()).collect(),
            current: line(&mesh.current, &releases)?,
            target: mesh.target.as_ref().map(|target| line(target, &releases)).transpose()?,
            width: self.width,
            labels: LabelPolicy::Relabel,
        };
        let authority = Authority::open(&authority).map_err(|_| {
            Problem::new("authority_damaged", "The mesh's authority does not open.", "Tell the operator.")
        })?;
        // In place both parts share a name, and the target took its switches from the current one.
        let revisions = [&mesh.current].into_iter().chain(&mesh.target);
        let config = MeshWorldConfig {
            namespace: mesh.namespace(),
            hosting,
            members,
            dialling: self.dialling.clone(),
            authority,
            releases,
            switches: revisions.map(|revision| (revision.name.clone(), revision.switches.clone())).collect(),
            helm: self.helm.clone(),
            replicas: self.replicas,
            life: self.life,
        };
        Ok((MeshWorld::new(config), layout))
    }
}

fn line(revision: &store::Revision, releases: &[(Release, Charts)]) -> Result<Line, Problem> {
    let release = releases.iter().map(|(release, _)| release).find(|release| release.version == revision.version);
    let release = release.ok_or_else(|| {
        Problem::new("release_missing", "A release of the mesh is not in the catalogue.", "Import it again.")
    })?;
    let image = format!("{}/proxyv2:{}", release.hub, release.tag);
    Ok(Line { revision: revision.name.clone(), release: revision.version.clone(), image })
}

#[async_trait]
impl Worlds for RealWorlds {
    async fn open(&self, tenant: TenantId, mesh: MeshId) -> Result<(Arc<dyn World>, Layout), Problem> {
        let (world, layout) = self.world(tenant, mesh).await?;
        Ok((Arc::new(world), layout))
    }

    async fn identify(&self, tenant: TenantId, id: ClusterId) -> Result<String, Problem> {
        let (cluster, credential, _) = self.way_in(tenant, id).await?;
        in_time(identify(&self.wanted(&cluster), &credential, &self.dialling)).await
    }

    async fn connect(&self, tenant: TenantId, id: ClusterId) -> Result<Issued, Problem> {
        let (cluster, credential, submitted) = self.way_in(tenant, id).await?;
        let wanted = self.wanted(&cluster);
        let connected = if submitted {
            let registered = in_time(register(&wanted, &credential, &self.dialling)).await;
            if registered.is_err() && wanted.uid.is_none() {
                self.withdraw(&wanted, &credential).await;
            }
            registered?
        } else {
            in_time(renew(&wanted, &credential, &self.dialling)).await?
        };
        let Connected { kubernetes_version, uid, credential, serial, issued_at, expires_at } = connected;
        let (server, kubeconfig) = (credential.server.clone(), credential.stored());
        Ok(Issued { uid, kubernetes_version, server, kubeconfig, serial, issued_at, expires_at })
    }

    async fn leave(&self, tenant: TenantId, id: ClusterId, removal: Removal) -> Result<Presence, Problem> {
        let (_, member) = self.member(tenant, id).await?;
        let account = member.account.name();
        in_time(async {
            let left = leave::leave(&member.door, &member.name, account, removal).await;
            left.map_err(|error| explain(&error))
        })
        .await
    }

    async fn left_behind(&self, tenant: TenantId, id: ClusterId) -> Result<Vec<Leftover>, Problem> {
        let mut tx = self.store.begin(tenant).await.map_err(lost)?;
        let cluster = tx.cluster(id).await.map_err(lost)?;
        let name: Name = cluster.name.parse().map_err(|_| damaged("A cluster's name", OPERATOR))?;
        Ok(leave::left_behind(&name, Account::of(id).name()))
    }

    async fn tend(&self, tenant: TenantId, id: ClusterId) -> Result<Tended, Problem> {
        let (member, tended) = in_time(self.look_after(tenant, id)).await?;
        // Advice comes after the care and has its own time, so that it keeps none of it from being done.
        Ok(Tended { findings: member.findings().await, ..tended })
    }
}

impl RealWorlds {
    /// The care for a cluster, without its findings.
    async fn look_after(&self, tenant: TenantId, id: ClusterId) -> Result<(MemberDoor, Tended), Problem> {
        let tended = |kubernetes_version, settled| Tended { kubernetes_version, settled, findings: Vec::new() };
        let (cluster, mut member) = self.member(tenant, id).await?;
        let renewed = cluster.life.and_then(|life| life.previous_until);
        let over = renewed.is_some_and(|until| until <= self.clock.now());
        if over {
            member.former = self.former(tenant, id, &member).await?;
        }
        let mesh = self.mesh_of(tenant, id).await?;
        let Some(mesh) = mesh.filter(|mesh| renewed.is_some() || mesh.state == MeshState::Ready) else {
            let (kubernetes_version, retired) = member.tend(over).await?;
            // Without a time until which an older one is good there is none.
            let settled = retired || renewed.is_none();
            return Ok((member, tended(kubernetes_version, settled)));
        };
        let (kubernetes_version, _) = member.tend(false).await?;
        // One that is coming up or going away is left to its own operation.
        if mesh.state != MeshState::Ready {
            return Ok((member, tended(kubernetes_version, false)));
        }
        let world = match self.world(tenant, mesh.id).await {
            Ok((world, _)) => world,
            Err(problem) if problem.code == worker::DATABASE => return Err(problem),
            // The mesh has a fault of its own, which must not keep its members from being looked after.
            Err(problem) => {
                tracing::warn!(cluster.id = %id, mesh.id = %mesh.id, code = problem.code, "a mesh cannot be opened");
                return Ok((member, tended(kubernetes_version, renewed.is_none())));
            }
        };
        if renewed.is_none() {
            // What goes wrong here is the hosting cluster's or the mesh's: it says nothing of this member.
            if let Err(error) = world.follow(&member.name).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(cluster.id = %id, mesh.id = %mesh.id, error, "control planes were not brought after a member's address");
            }
            return Ok((member, tended(kubernetes_version, true)));
        }
        // The limits are those of the whole mesh: they keep no member from its care.
        if let Err(error) = world.renew_limits().await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(cluster.id = %id, mesh.id = %mesh.id, error, "the limits of a mesh were not renewed");
        }
        let renewed = unless_elsewhere(&member, world.renew_access(&member.name).await)?;
        // Old tokens go only after a round in which nobody had one any more: whoever wrote one in between is seen here.
        let settled = over && renewed && unless_elsewhere(&member, world.retire_tokens(&member).await)?;
        Ok((member, tended(kubernetes_version, settled)))
    }
}

/// What the hosting cluster or another member answers says nothing of this member: its care is not settled, and no more.
fn unless_elsewhere(member: &MemberDoor, answer: Result<bool, WorldError>) -> Result<bool, Problem> {
    match answer {
        Err(WorldError::Unreachable { place, code, .. } | WorldError::Refused { place, code, .. })
            if place != member.door.place() =>
        {
            tracing::warn!(
                member = member.name.as_str(),
                place,
                code,
                "a member's control planes were not looked after"
            );
            Ok(false)
        }
        answer => explain_unless_changed(answer),
    }
}
