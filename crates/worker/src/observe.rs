//! Looks at each mesh from time to time and keeps what it saw for the API, which never asks a cluster itself.

use tokio_util::sync::CancellationToken;

use crate::{Engine, vitals};

impl Engine {
    pub(crate) async fn observe(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            match self.store.claim_probe(self.settings.observe).await {
                Ok(Some((tenant, mesh))) => self.observe_mesh(tenant, mesh).await,
                Ok(None) => {
                    tokio::select! { () = tokio::time::sleep(self.settings.poll) => {}, () = stop.cancelled() => {} }
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "probes cannot be read; trying again");
                    tokio::select! { () = tokio::time::sleep(self.settings.poll) => {}, () = stop.cancelled() => {} }
                }
            }
        }
    }

    async fn observe_mesh(&self, tenant: model::ids::TenantId, mesh: model::ids::MeshId) {
        let seen = match self.worlds.open(tenant, mesh).await {
            Ok((world, _)) => world.survey().await.map_err(|error| error.to_string()),
            Err(problem) => Err(problem.message),
        };
        vitals::observed(seen.is_ok());
        let survey = match seen {
            Ok(survey) => survey,
            Err(reason) => {
                // The API shows the age of the last observation; a mesh being created has nothing to look at yet.
                tracing::debug!(mesh.id = %mesh, reason, "mesh was not observed");
                return;
            }
        };
        let kept = async {
            let mut tx = self.store.begin(tenant).await?;
            tx.put_survey(mesh, &survey, self.clock.now()).await?;
            tx.commit().await
        };
        if let Err(error) = kept.await {
            tracing::warn!(mesh.id = %mesh, error = &error as &dyn std::error::Error, "an observation was not kept");
        }
    }
}
