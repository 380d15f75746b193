//! Stores the registered clusters of a tenant.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use meshwright_model::ids::{ClusterId, MeshId};
use meshwright_model::webhook::EventKind;

use crate::db::query_areas::ClusterQueries;
use crate::db::statements::{id_bounds, require_one_row};
use crate::fleet::cluster::{Cluster, ClusterRow, NewCluster};
use crate::fleet::labels::{ListFilter, SelectorColumns, UserMetadata};
use crate::{AccessFilter, NewEvent, Page, StoreError};

pub(crate) fn kubeconfig_associated_data(id: ClusterId) -> String {
    format!("clusters.kubeconfig/{id}")
}

impl ClusterQueries<'_, '_> {
    /// Adds a cluster in state `registering`.
    ///
    /// # Errors
    /// Returns [`StoreError::Conflict`] with `clusters_name_unique` when the name is taken.
    pub async fn create_cluster(
        &mut self,
        cluster: &NewCluster,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO clusters (tenant_id, cluster_id, name, state, server, kubeconfig, created_at, display_name)
             VALUES ($1, $2, $3, 'registering', $4, $5, $6, $7)",
            self.tx.tenant.0,
            cluster.id.0,
            cluster.name,
            cluster.server,
            self.tx.seal(&kubeconfig_associated_data(cluster.id), &cluster.kubeconfig)?,
            now.to_sqlx() as _,
            cluster.metadata.display_name
        )
        .execute(&mut *self.tx.inner)
        .await?;
        self.tx
            .labels()
            .set_labels(cluster.id.0, &cluster.metadata.labels)
            .await
    }

    /// Lists the clusters that the caller may see and that match the filter, oldest first.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer, and
    /// [`StoreError::Corrupt`] when a row does not fit [`Cluster`].
    pub async fn list_clusters(
        &mut self,
        access: &AccessFilter,
        filter: &ListFilter,
        page: Page,
    ) -> Result<Vec<Cluster>, StoreError> {
        self.read_clusters(None, access, filter, page).await
    }

    /// Reads one cluster.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when this tenant has no such cluster.
    pub async fn get_cluster(&mut self, id: ClusterId) -> Result<Cluster, StoreError> {
        let found = self
            .read_clusters(
                Some(id),
                &AccessFilter::ALL,
                &ListFilter::default(),
                Page::ALL,
            )
            .await?
            .pop();
        found.ok_or(StoreError::NotFound { what: "cluster" })
    }

    async fn read_clusters(
        &mut self,
        only: Option<ClusterId>,
        access: &AccessFilter,
        filter: &ListFilter,
        page: Page,
    ) -> Result<Vec<Cluster>, StoreError> {
        let columns = SelectorColumns::from(&filter.labels);
        let (from, to) = id_bounds(only.map(|id| id.0));
        let rows = sqlx::query_as!(
            ClusterRow,
            r#"SELECT cluster_id, name, display_name, generation, server, state, kubernetes_version, problem, created_at, observed_at,
                   uid, serial, issued_at, expires_at, previous_until, identity IS NOT NULL AS "held!", findings, leaving,
                   removal_began_at, removal_accepted_at,
                   array(SELECT l.key FROM labels l WHERE l.tenant_id = $1 AND l.object_id = cluster_id ORDER BY l.key) AS "label_keys!",
                   array(SELECT l.value FROM labels l WHERE l.tenant_id = $1 AND l.object_id = cluster_id ORDER BY l.key) AS "label_values!"
               FROM clusters WHERE tenant_id = $1 AND cluster_id BETWEEN $10 AND $11
                   AND ($2::uuid[] IS NULL OR cluster_id = ANY($2))
                   AND ($3::text IS NULL OR name = $3) AND ($4::uuid IS NULL OR cluster_id > $4)
                   AND NOT EXISTS (SELECT FROM unnest($6::text[], $7::text[]) AS wanted (key, value) WHERE NOT EXISTS (
                       SELECT FROM labels l WHERE l.tenant_id = $1 AND l.object_id = cluster_id AND l.key = wanted.key
                           AND (wanted.value IS NULL OR l.value = wanted.value)))
                   AND NOT EXISTS (SELECT FROM unnest($8::text[], $9::text[]) AS unwanted (key, value)
                       JOIN labels l ON l.tenant_id = $1 AND l.object_id = cluster_id AND l.key = unwanted.key
                           AND (unwanted.value IS NULL OR l.value = unwanted.value))
               ORDER BY cluster_id LIMIT $5"#,
            self.tx.tenant.0,
            access.clusters.as_deref(),
            filter.name,
            page.after,
            page.limit,
            &columns.with.0,
            &columns.with.1 as _,
            &columns.without.0,
            &columns.without.1 as _,
            from,
            to
        )
        .fetch_all(&mut *self.tx.inner)
        .await?;
        rows.into_iter().map(ClusterRow::into_cluster).collect()
    }

    /// Reads and unseals the credential of a cluster.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when this tenant has no such cluster, and
    /// [`StoreError::UnsealFailed`] when the credential does not open.
    pub async fn cluster_kubeconfig(&mut self, id: ClusterId) -> Result<Vec<u8>, StoreError> {
        let sealed = sqlx::query_scalar!(
            "SELECT kubeconfig FROM clusters WHERE tenant_id = $1 AND cluster_id = $2",
            self.tx.tenant.0,
            id.0
        )
        .fetch_optional(&mut *self.tx.inner)
        .await?
        .ok_or(StoreError::NotFound { what: "cluster" })?;
        self.tx.open(&kubeconfig_associated_data(id), &sealed).await
    }

    /// Replaces the user metadata of a cluster, if its generation is still the one that the caller
    /// saw.
    ///
    /// # Errors
    /// Returns [`StoreError::StaleVersion`] when the generation has changed since.
    pub async fn update_cluster_metadata(
        &mut self,
        seen: &Cluster,
        metadata: &UserMetadata,
    ) -> Result<(), StoreError> {
        let done = sqlx::query!(
            "UPDATE clusters SET display_name = $4, generation = generation + 1
             WHERE tenant_id = $1 AND cluster_id = $2 AND generation = $3",
            self.tx.tenant.0,
            seen.id.0,
            seen.generation,
            metadata.display_name
        )
        .execute(&mut *self.tx.inner)
        .await?;
        require_one_row(done.rows_affected(), StoreError::StaleVersion)?;
        self.tx
            .labels()
            .set_labels(seen.id.0, &metadata.labels)
            .await
    }

    /// Deletes a cluster that no mesh uses.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when this tenant has no such cluster, and
    /// [`StoreError::Conflict`] with `memberships_cluster_fk` when a mesh uses it.
    pub async fn delete_cluster(&mut self, id: ClusterId) -> Result<(), StoreError> {
        let done = sqlx::query!(
            "DELETE FROM clusters WHERE tenant_id = $1 AND cluster_id = $2",
            self.tx.tenant.0,
            id.0
        )
        .execute(&mut *self.tx.inner)
        .await?;
        require_one_row(
            done.rows_affected(),
            StoreError::NotFound { what: "cluster" },
        )?;
        sqlx::query!(
            "DELETE FROM cluster_probes WHERE cluster_id = $1 AND tenant_id = $2",
            id.0,
            self.tx.tenant.0
        )
        .execute(&mut *self.tx.inner)
        .await?;
        self.tx
            .labels()
            .set_labels(id.0, &meshwright_model::label::Labels::new())
            .await
    }

    /// Finds the mesh that a cluster belongs to.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn mesh_of_cluster(&mut self, id: ClusterId) -> Result<Option<MeshId>, StoreError> {
        let found = sqlx::query_scalar!(
            "SELECT mesh_id FROM memberships WHERE tenant_id = $1 AND cluster_id = $2",
            self.tx.tenant.0,
            id.0
        );
        Ok(found.fetch_optional(&mut *self.tx.inner).await?.map(MeshId))
    }

    pub(super) fn push_cluster_event(
        &mut self,
        kind: EventKind,
        id: ClusterId,
        body: serde_json::Value,
        at: Timestamp,
    ) {
        let mut body = body;
        body["cluster_id"] = id.to_string().into();
        self.tx.push_event(NewEvent {
            at,
            kind,
            mesh: None,
            upgrade: None,
            operation: None,
            body,
        });
    }
}
