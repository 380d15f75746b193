//! Stores the last observation of each mesh, and schedules the observations.

use std::time::Duration;

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use meshwright_model::ids::{MeshId, TenantId};
use meshwright_model::observation::Observation;

use crate::db::query_areas::MeshQueries;
use crate::db::statements::{retry_on_conflict, to_uuids};
use crate::error::{decode_column, to_json};
use crate::{Store, StoreError};

/// A mesh that is due for an observation.
#[derive(Debug, Clone, Copy)]
pub struct DueObservation {
    /// Tenant that the mesh belongs to.
    pub tenant: TenantId,
    /// Mesh to be observed.
    pub mesh: MeshId,
    /// Number of observations in a row that failed.
    pub failures: i32,
}

impl Store {
    /// Claims the mesh whose observation has been due the longest. The caller finishes the
    /// observation within `held`, and no other observation of this mesh starts before that. Meshes
    /// of the tenants in `excluded` are left out.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn claim_observation(
        &self,
        held: Duration,
        excluded: &[TenantId],
    ) -> Result<Option<DueObservation>, StoreError> {
        let excluded = to_uuids(excluded, |id| id.0);
        let take = || async {
            let row = sqlx::query!(
                r#"UPDATE probes SET due_at = now() + make_interval(secs => $1)
                   WHERE mesh_id = (SELECT mesh_id FROM probes WHERE due_at <= now() AND tenant_id <> ALL($2)
                       ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
                   RETURNING mesh_id, tenant_id, failures"#,
                held.as_secs_f64(),
                &excluded
            )
            .fetch_optional(&self.pool)
            .await?;
            Ok(row.map(|row| DueObservation {
                tenant: TenantId(row.tenant_id),
                mesh: MeshId(row.mesh_id),
                failures: row.failures,
            }))
        };
        retry_on_conflict(take).await
    }
}

impl MeshQueries<'_, '_> {
    /// Stores an observation of a mesh that began at this time. Returns false, and stores nothing,
    /// when a later one is stored already.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn store_observation(
        &mut self,
        mesh: MeshId,
        survey: &Observation,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query!(
            "INSERT INTO surveys (tenant_id, mesh_id, observed_at, survey) VALUES ($1, $2, $3, $4)
             ON CONFLICT (tenant_id, mesh_id) DO UPDATE SET observed_at = excluded.observed_at, survey = excluded.survey
             WHERE surveys.observed_at <= excluded.observed_at",
            self.tx.tenant.0,
            mesh.0,
            at.to_sqlx() as _,
            to_json(survey)
        )
        .execute(&mut *self.tx.inner)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Schedules the next observation of a mesh, and records how many observations in a row have
    /// failed. A mesh that became due during the observation stays due.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn reschedule_observation(
        &mut self,
        mesh: MeshId,
        failures: i32,
        rest: Duration,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE probes SET failures = $3, due_at = CASE WHEN due_at > now() THEN now() + make_interval(secs => $4) ELSE due_at END
             WHERE mesh_id = $1 AND tenant_id = $2",
            mesh.0,
            self.tx.tenant.0,
            failures,
            rest.as_secs_f64()
        )
        .execute(&mut *self.tx.inner)
        .await?;
        Ok(())
    }

    /// Reads the last observation of a mesh with its time.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer, and
    /// [`StoreError::Corrupt`] when the row does not fit [`Observation`].
    pub async fn last_observation(
        &mut self,
        mesh: MeshId,
    ) -> Result<Option<(Timestamp, Observation)>, StoreError> {
        let row = sqlx::query!(
            "SELECT observed_at, survey FROM surveys WHERE tenant_id = $1 AND mesh_id = $2",
            self.tx.tenant.0,
            mesh.0
        )
        .fetch_optional(&mut *self.tx.inner)
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some((
            row.observed_at.to_jiff(),
            decode_column(
                serde_json::from_value(row.survey),
                "surveys",
                "survey",
                mesh,
            )?,
        )))
    }
}
