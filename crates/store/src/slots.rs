//! Who changes a mesh right now, and what was last observed of it.

use std::time::Duration;

use crate::error::{fits, json};
use crate::{StoreError, Tx};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use model::ids::{MeshId, OperationId};
use model::survey::Survey;

impl Tx<'_> {
    /// Takes the right to change a mesh.
    ///
    /// # Errors
    /// [`StoreError::Busy`] names who has it.
    pub async fn take_slot(&mut self, mesh: MeshId, holder: &str) -> Result<(), StoreError> {
        let taken = sqlx::query!(
            "INSERT INTO mesh_slots (tenant_id, mesh_id, holder) VALUES ($1, $2, $3) ON CONFLICT (tenant_id, mesh_id) DO NOTHING",
            self.tenant.0,
            mesh.0,
            holder
        )
        .execute(&mut *self.inner)
        .await?;
        if taken.rows_affected() == 1 {
            return Ok(());
        }
        let holder = self.slot(mesh).await?.unwrap_or_else(|| "another change that has just ended".into());
        Err(StoreError::Busy { holder })
    }

    /// Who has the right to change a mesh.
    ///
    /// # Errors
    /// The database failed.
    pub async fn slot(&mut self, mesh: MeshId) -> Result<Option<String>, StoreError> {
        let holder = sqlx::query_scalar!(
            "SELECT holder FROM mesh_slots WHERE tenant_id = $1 AND mesh_id = $2",
            self.tenant.0,
            mesh.0
        );
        Ok(holder.fetch_optional(&mut *self.inner).await?)
    }

    /// Gives the right back.
    ///
    /// # Errors
    /// The database failed.
    pub async fn free_slot(&mut self, mesh: MeshId) -> Result<(), StoreError> {
        sqlx::query!("DELETE FROM mesh_slots WHERE tenant_id = $1 AND mesh_id = $2", self.tenant.0, mesh.0)
            .execute(&mut *self.inner)
            .await?;
        Ok(())
    }

    /// Gives the right back that one operation held; another holder keeps it.
    pub(crate) async fn free_slot_of(&mut self, mesh: MeshId, operation: OperationId) -> Result<(), StoreError> {
        sqlx::query!(
            "DELETE FROM mesh_slots WHERE tenant_id = $1 AND mesh_id = $2 AND holder = $3",
            self.tenant.0,
            mesh.0,
            operation.to_string()
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Keeps an observation of a mesh; the last one counts.
    ///
    /// # Errors
    /// The database failed.
    pub async fn put_survey(&mut self, mesh: MeshId, survey: &Survey, at: Timestamp) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO surveys (tenant_id, mesh_id, observed_at, survey) VALUES ($1, $2, $3, $4)
             ON CONFLICT (tenant_id, mesh_id) DO UPDATE SET observed_at = excluded.observed_at, survey = excluded.survey",
            self.tenant.0,
            mesh.0,
            at.to_sqlx() as _,
            json(survey)
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Notes how often in a row a mesh was not observed, and when that is tried again.
    ///
    /// # Errors
    /// The database failed.
    pub async fn rest_probe(&mut self, mesh: MeshId, failures: i32, rest: Duration) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE probes SET failures = $3, due_at = now() + make_interval(secs => $4) WHERE mesh_id = $1 AND tenant_id = $2",
            mesh.0,
            self.tenant.0,
            failures,
            rest.as_secs_f64()
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// The last observation of a mesh with its time.
    ///
    /// # Errors
    /// The database failed, or the row does not fit.
    pub async fn survey(&mut self, mesh: MeshId) -> Result<Option<(Timestamp, Survey)>, StoreError> {
        let row = sqlx::query!(
            "SELECT observed_at, survey FROM surveys WHERE tenant_id = $1 AND mesh_id = $2",
            self.tenant.0,
            mesh.0
        )
        .fetch_optional(&mut *self.inner)
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some((row.observed_at.to_jiff(), fits(serde_json::from_value(row.survey), "surveys", "survey", mesh)?)))
    }
}
