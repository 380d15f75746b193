//! The clusters of a fleet, as its workers open them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use model::Clock;
use model::ids::{ClusterId, MeshId, TenantId};
use model::leftover::{Leftover, Removal};
use model::operation::Problem;
use model::upgrade::LabelPolicy;
use rollout::plan::{Layout, Line};
use rollout::ports::{Presence, World};
use store::{Issued, Store, Tended};
use worker::Worlds;

use crate::credentials::{Credentials, KUBERNETES};
use crate::world::image;
use crate::{FakeWorld, ManualClock};

/// Reads layouts as the server does, and opens the imagined clusters.
#[derive(Debug)]
pub(super) struct FakeWorlds {
    pub(super) store: Store,
    pub(super) world: FakeWorld,
    pub(super) width: usize,
    pub(super) unreadable: Arc<AtomicBool>,
    pub(super) credentials: Credentials,
    pub(super) clock: Arc<ManualClock>,
    /// Another tenant's clusters, where the worker serves two fleets.
    pub(super) beside: Option<(TenantId, FakeWorld, Credentials)>,
}

impl FakeWorlds {
    fn of(&self, tenant: TenantId) -> (&FakeWorld, &Credentials) {
        match &self.beside {
            Some((other, world, credentials)) if *other == tenant => (world, credentials),
            _ => (&self.world, &self.credentials),
        }
    }
}

#[async_trait]
impl Worlds for FakeWorlds {
    async fn open(&self, tenant: TenantId, mesh: MeshId) -> Result<(Arc<dyn World>, Layout), Problem> {
        let failed = |said: String| Problem::new(worker::DATABASE, said, "Try again.");
        if self.unreadable.load(Ordering::Relaxed) {
            return Err(failed("it is unreadable".into()));
        }
        let lost = |error: store::StoreError| worker::unread(&error);
        let mut tx = self.store.begin(tenant).await.map_err(lost)?;
        let mesh = tx.mesh(mesh).await.map_err(lost)?;
        let line = |revision: store::Revision| Line {
            image: image(&revision.version),
            revision: revision.name,
            release: revision.version,
        };
        let layout = Layout {
            members: mesh.members.iter().map(|member| member.name.parse().expect("a stored name")).collect(),
            current: line(mesh.current),
            target: mesh.target.map(line),
            width: self.width,
            labels: LabelPolicy::Relabel,
        };
        Ok((Arc::new(self.of(tenant).0.clone()), layout))
    }

    async fn identify(&self, tenant: TenantId, cluster: ClusterId) -> Result<String, Problem> {
        Ok(self.of(tenant).1.identify(cluster))
    }

    async fn connect(&self, tenant: TenantId, cluster: ClusterId) -> Result<Issued, Problem> {
        let lost = |error: store::StoreError| worker::unread(&error);
        let mut tx = self.store.begin(tenant).await.map_err(lost)?;
        let known = tx.cluster(cluster).await.map_err(lost)?.life.map_or(0, |life| life.serial);
        drop(tx);
        self.of(tenant).1.connect(cluster, known + 1, self.clock.now()).await
    }

    async fn leave(&self, tenant: TenantId, _cluster: ClusterId, removal: Removal) -> Result<Presence, Problem> {
        self.of(tenant).1.leave(removal)
    }

    async fn left_behind(&self, _tenant: TenantId, _cluster: ClusterId) -> Result<Vec<Leftover>, Problem> {
        Ok(vec![Leftover::object(&"c2".parse().expect("a name"), "Namespace", None, "meshwright-system")])
    }

    async fn tend(&self, tenant: TenantId, _cluster: ClusterId) -> Result<Tended, Problem> {
        let credentials = self.of(tenant).1;
        if let Some(problem) = credentials.look().await {
            return Err(problem);
        }
        let (settled, findings) = (credentials.settled(), credentials.findings());
        Ok(Tended { kubernetes_version: KUBERNETES.into(), settled, findings })
    }
}
