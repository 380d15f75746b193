//! Who changes a mesh right now, and what was last observed of it.

use std::time::Duration;

use crate::error::{decode_column, to_json};
use crate::{StoreError, Tx};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use model::ids::{MeshId, OperationId};
use model::survey::Observation;

impl Tx<'_> {
    /// Takes the right to change a mesh.
    ///
    /// # Errors
    /// [`StoreError::Busy`] names who has it.
    pub async fn acquire_mesh_lock(&mut self, mesh: MeshId, holder: &str) -> Result<(), StoreError> {
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
        let holder = self.mesh_lock_holder(mesh).await?.unwrap_or_else(|| "another change that has just ended".into());
        Err(StoreError::MeshLocked { holder })
    }

    /// Takes the right to change a mesh's data plane: the mesh's slot where it is free, or a place beside an upgrade that
    /// touches nothing now, because it is planned, blocked or complete. One such operation runs at a time, and the upgrade does
    /// not go on before it has ended.
    ///
    /// # Errors
    /// [`StoreError::Busy`] names who changes the mesh.
    pub async fn acquire_data_plane_lock(&mut self, mesh: MeshId, operation: OperationId) -> Result<(), StoreError> {
        match self.acquire_mesh_lock(mesh, &operation.to_string()).await {
            Err(StoreError::MeshLocked { holder }) => self.share_mesh_lock(mesh, operation, holder).await,
            taken => taken,
        }
    }

    async fn share_mesh_lock(&mut self, mesh: MeshId, operation: OperationId, holder: String) -> Result<(), StoreError> {
        // A statement of its own: the next one must see what the slot's last holder has committed.
        if let Some(guest) = self.data_plane_holder(mesh).await? {
            return Err(StoreError::MeshLocked { holder: guest });
        }
        let joined = sqlx::query!(
            "UPDATE mesh_slots SET guest = $3 WHERE tenant_id = $1 AND mesh_id = $2 AND guest IS NULL AND EXISTS (
                 SELECT FROM upgrades WHERE upgrades.tenant_id = $1 AND upgrades.mesh_id = $2 AND ended_at IS NULL
                     AND upgrades.state IN ('planned', 'blocked', 'holding'))",
            self.tenant.0,
            mesh.0,
            operation.to_string()
        )
        .execute(&mut *self.inner)
        .await?;
        if joined.rows_affected() == 1 { Ok(()) } else { Err(StoreError::MeshLocked { holder }) }
    }

    /// The operation that runs beside the upgrade that holds a mesh's slot. The slot stays locked until the transaction
    /// ends, so that none can join meanwhile.
    ///
    /// # Errors
    /// The database failed.
    pub async fn data_plane_holder(&mut self, mesh: MeshId) -> Result<Option<String>, StoreError> {
        let guest = sqlx::query_scalar!(
            "SELECT guest FROM mesh_slots WHERE tenant_id = $1 AND mesh_id = $2 FOR UPDATE",
            self.tenant.0,
            mesh.0
        );
        Ok(guest.fetch_optional(&mut *self.inner).await?.flatten())
    }

    /// Who has the right to change a mesh.
    ///
    /// # Errors
    /// The database failed.
    pub async fn mesh_lock_holder(&mut self, mesh: MeshId) -> Result<Option<String>, StoreError> {
        let holder = sqlx::query_scalar!(
            "SELECT holder FROM mesh_slots WHERE tenant_id = $1 AND mesh_id = $2",
            self.tenant.0,
            mesh.0
        );
        Ok(holder.fetch_optional(&mut *self.inner).await?)
    }

    /// Gives back the right that an upgrade or an operation has, and no other one's. An operation beside an upgrade that
    /// ends takes the slot over.
    ///
    /// # Errors
    /// The database failed.
    pub async fn free_mesh_lock(&mut self, mesh: MeshId, holder: &str) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE mesh_slots SET holder = CASE WHEN holder = $3 THEN guest ELSE holder END, guest = NULL
             WHERE tenant_id = $1 AND mesh_id = $2 AND guest IS NOT NULL AND (holder = $3 OR guest = $3)",
            self.tenant.0,
            mesh.0,
            holder
        )
        .execute(&mut *self.inner)
        .await?;
        sqlx::query!(
            "DELETE FROM mesh_slots WHERE tenant_id = $1 AND mesh_id = $2 AND holder = $3",
            self.tenant.0,
            mesh.0,
            holder
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Keeps an observation of a mesh that began at this time. Answers false where one that began later is kept already.
    ///
    /// # Errors
    /// The database failed.
    pub async fn store_observation(&mut self, mesh: MeshId, survey: &Observation, at: Timestamp) -> Result<bool, StoreError> {
        let done = sqlx::query!(
            "INSERT INTO surveys (tenant_id, mesh_id, observed_at, survey) VALUES ($1, $2, $3, $4)
             ON CONFLICT (tenant_id, mesh_id) DO UPDATE SET observed_at = excluded.observed_at, survey = excluded.survey
             WHERE surveys.observed_at <= excluded.observed_at",
            self.tenant.0,
            mesh.0,
            at.to_sqlx() as _,
            to_json(survey)
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Notes at the end of a look how often in a row a mesh was not observed, and when it is looked at again. A mesh that was
    /// made due during the look stays due.
    ///
    /// # Errors
    /// The database failed.
    pub async fn reschedule_observation(&mut self, mesh: MeshId, failures: i32, rest: Duration) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE probes SET failures = $3, due_at = CASE WHEN due_at > now() THEN now() + make_interval(secs => $4) ELSE due_at END
             WHERE mesh_id = $1 AND tenant_id = $2",
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
    pub async fn last_observation(&mut self, mesh: MeshId) -> Result<Option<(Timestamp, Observation)>, StoreError> {
        let row = sqlx::query!(
            "SELECT observed_at, survey FROM surveys WHERE tenant_id = $1 AND mesh_id = $2",
            self.tenant.0,
            mesh.0
        )
        .fetch_optional(&mut *self.inner)
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some((row.observed_at.to_jiff(), decode_column(serde_json::from_value(row.survey), "surveys", "survey", mesh)?)))
    }
}
