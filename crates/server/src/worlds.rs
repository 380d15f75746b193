//! Opens real clusters for the worker: credentials from the database, charts from the catalogue.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use cluster::{Authority, Charts, Credential, Dialling, Door, Helm, MemberDoor, MeshWorld, MeshWorldConfig};
use model::ids::{ClusterId, MeshId, TenantId};
use model::operation::Problem;
use model::release::Release;
use model::upgrade::LabelPolicy;
use model::version::Version;
use rollout::plan::{Layout, Line};
use rollout::ports::World;
use store::{Mesh, Store, StoreError};
use tokio::sync::Mutex;
use worker::{Registered, Worlds};

use crate::Failure;
use crate::options::Clusters;

/// A cluster's way in, kept while its credential stays the same.
type Doors = HashMap<(String, Vec<u8>), Door>;

/// The real thing.
pub(crate) struct RealWorlds {
    store: Store,
    helm: Helm,
    dialling: Dialling,
    replicas: u32,
    width: usize,
    doors: Mutex<Doors>,
}

fn lost(error: StoreError) -> Problem {
    tracing::warn!(error = &error as &dyn std::error::Error, "a mesh cannot be read");
    Problem::new(
        worker::DATABASE,
        "The mesh cannot be read from the database.",
        "Try again; if it lasts, tell the operator.",
    )
}

fn damaged(what: &str) -> Problem {
    Problem::new("credential_refused", format!("{what} cannot be used."), "Register the cluster again.")
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
            dialling: Dialling { allowed, caller: clusters.owner() },
            replicas: clusters.replicas,
            width: clusters.width,
            doors: Mutex::default(),
        })
    }

    async fn door(&self, place: &str, stored: &[u8]) -> Result<(Door, Credential), Problem> {
        let credential = Credential::open(stored).map_err(|_| damaged("A stored credential"))?;
        let key = (place.to_owned(), stored.to_vec());
        if let Some(door) = self.doors.lock().await.get(&key) {
            return Ok((door.clone(), credential));
        }
        let door =
            Door::open(place, &credential, &self.dialling).await.map_err(|error| cluster::register::explain(&error))?;
        self.doors.lock().await.insert(key, door.clone());
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
            let stored =
                self.store.begin(tenant).await.map_err(lost)?.cluster_kubeconfig(member.cluster).await.map_err(lost)?;
            let (door, credential) = self.door(&member.name, &stored).await?;
            let name = member.name.parse().map_err(|_| damaged("A member's name"))?;
            members.push(MemberDoor { name, door, credential });
        }
        Ok(members)
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
        let mut tx = self.store.begin(tenant).await.map_err(lost)?;
        let mesh = tx.mesh(mesh).await.map_err(lost)?;
        let authority = tx.mesh_authority(mesh.id).await.map_err(lost)?;
        drop(tx);
        let mut releases = vec![self.release(&mesh.current.version).await?];
        if let Some(target) = &mesh.target {
            releases.push(self.release(&target.version).await?);
        }
        let stored = self.store.hosting_kubeconfig(mesh.hosting).await.map_err(lost)?;
        let (hosting, _) = self.door("the hosting cluster", &stored).await?;
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
        let config = MeshWorldConfig {
            namespace: mesh.namespace(),
            hosting,
            members,
            authority,
            releases,
            helm: self.helm.clone(),
            replicas: self.replicas,
        };
        Ok((Arc::new(MeshWorld::new(config)), layout))
    }

    async fn register(&self, tenant: TenantId, id: ClusterId) -> Result<Registered, Problem> {
        let mut tx = self.store.begin(tenant).await.map_err(lost)?;
        let name = tx.cluster(id).await.map_err(lost)?.name;
        let stored = tx.cluster_kubeconfig(id).await.map_err(lost)?;
        drop(tx);
        let submitted = Credential::open(&stored).map_err(|_| damaged("The submitted kubeconfig"))?;
        let connected = cluster::register::register(&name, &submitted, &self.dialling).await?;
        Ok(Registered { kubernetes_version: connected.kubernetes_version, kubeconfig: connected.credential.stored() })
    }
}
