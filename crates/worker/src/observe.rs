//! Looks at each mesh from time to time and keeps what it saw for the API, which never asks a cluster itself.

use async_trait::async_trait;
use model::backoff::again_in;
use model::ids::TenantId;
use store::{MeshProbe, StoreError};

use crate::rounds::{Round, guarded};
use crate::{Engine, observed, vitals};

/// The observation of meshes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Observing;

#[async_trait]
impl Round for Observing {
    type Due = MeshProbe;
    const NAME: &'static str = "observe";
    const WIDTH: usize = 16;

    async fn claim(&self, engine: &Engine, without: &[TenantId]) -> Result<Option<(TenantId, MeshProbe)>, StoreError> {
        let probe = engine.store.claim_probe(engine.held(), without).await?;
        Ok(probe.map(|probe| (probe.tenant, probe)))
    }

    async fn work(&self, engine: &Engine, due: MeshProbe) -> Result<(), StoreError> {
        engine.observe(due).await
    }
}

impl Engine {
    /// Observes the mesh that is due the longest. Answers false when none is.
    ///
    /// # Errors
    /// The database failed; the mesh is due again later.
    pub async fn observe_due(&self) -> Result<bool, StoreError> {
        let Some(probe) = self.store.claim_probe(self.held(), &[]).await? else { return Ok(false) };
        self.observe(probe).await.map(|()| true)
    }

    async fn observe(&self, probe: MeshProbe) -> Result<(), StoreError> {
        let begun = self.clock.now();
        let look = async {
            match self.worlds.open(probe.tenant, probe.mesh).await {
                Ok((world, layout)) => {
                    world.survey().await.map(|seen| (seen, layout)).map_err(|error| error.to_string())
                }
                Err(problem) => Err(problem.message),
            }
        };
        let seen = match guarded(self.settings.look, look).await {
            Ok(seen) => seen,
            Err(missed) => {
                vitals::missed(Observing::NAME, missed);
                Err(missed.as_str().into())
            }
        };
        vitals::observed(seen.is_ok());
        let failures = match &seen {
            Ok(_) => 0,
            Err(reason) => {
                // The API shows the age of the last observation; a mesh being created has nothing to look at yet.
                tracing::debug!(mesh.id = %probe.mesh, reason, "mesh was not observed");
                probe.failures.saturating_add(1)
            }
        };
        let mut tx = self.store.begin(probe.tenant).await?;
        if let Ok((survey, layout)) = seen {
            observed::keep(&mut tx, probe.mesh, &layout, survey, begun).await?;
        }
        let rest = again_in(failures).max(self.rest_after(begun, self.settings.observe));
        tx.rest_probe(probe.mesh, failures, rest).await?;
        tx.commit().await
    }
}
