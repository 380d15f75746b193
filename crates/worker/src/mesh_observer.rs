//! Observes each mesh at an interval and stores the observation for the API, which never calls a
//! cluster itself.

use async_trait::async_trait;
use meshwright_model::backoff::retry_delay;
use meshwright_model::ids::TenantId;
use meshwright_store::{DueObservation, StoreError};

use crate::guarded_call::run_with_timeout;
use crate::metrics;
use crate::rounds::WorkLoop;
use crate::{Engine, observed};

/// Work loop that observes meshes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MeshObservation;

#[async_trait]
impl WorkLoop for MeshObservation {
    type Due = DueObservation;
    const NAME: &'static str = "observe";
    const MAX_CONCURRENT: usize = 16;

    async fn claim_due(
        &self,
        engine: &Engine,
        without: &[TenantId],
    ) -> Result<Option<(TenantId, DueObservation)>, StoreError> {
        let probe = engine
            .store
            .claim_observation(engine.item_claim_duration(), without)
            .await?;
        Ok(probe.map(|probe| (probe.tenant, probe)))
    }

    async fn process_due(&self, engine: &Engine, due: DueObservation) -> Result<(), StoreError> {
        engine.observe_and_store(due).await
    }
}

impl Engine {
    /// Observes the mesh that has been due longest. Returns false when no mesh is due.
    ///
    /// # Errors
    /// Returns an error when the database does not answer. The mesh is due again later.
    pub async fn observe_due(&self) -> Result<bool, StoreError> {
        let Some(probe) = self
            .store
            .claim_observation(self.item_claim_duration(), &[])
            .await?
        else {
            return Ok(false);
        };
        self.observe_and_store(probe).await.map(|()| true)
    }

    /// Observes a mesh, stores the observation, and sets when the mesh is due again. The delay
    /// grows with each observation that fails in a row.
    async fn observe_and_store(&self, probe: DueObservation) -> Result<(), StoreError> {
        let begun = self.clock.now();
        let look = async {
            match self.clusters.open_mesh(probe.tenant, probe.mesh).await {
                Ok((world, layout)) => world
                    .observe_mesh()
                    .await
                    .map(|seen| (seen, layout))
                    .map_err(|error| error.to_string()),
                Err(problem) => Err(problem.message),
            }
        };
        let seen = match run_with_timeout(self.settings.cluster_timeout, look).await {
            Ok(seen) => seen,
            Err(missed) => {
                metrics::report_given_up_call(MeshObservation::NAME, missed);
                Err(missed.as_str().into())
            }
        };
        metrics::count_observation(seen.is_ok());
        let failures = match &seen {
            Ok(_) => 0,
            Err(reason) => {
                // Debug level is enough: the API shows the age of the last observation, and a mesh
                // that is being created cannot be observed yet.
                tracing::debug!(mesh.id = %probe.mesh, reason, "could not observe the mesh; retrying later");
                probe.failures.saturating_add(1)
            }
        };
        let mut tx = self.store.begin(probe.tenant).await?;
        if let Ok((survey, layout)) = seen {
            observed::store_observation(&mut tx, probe.mesh, &layout, survey, begun).await?;
        }
        let rest = retry_delay(failures)
            .max(self.next_check_delay(begun, self.settings.mesh_observation_interval));
        tx.meshes()
            .reschedule_observation(probe.mesh, failures, rest)
            .await?;
        tx.commit().await
    }
}
