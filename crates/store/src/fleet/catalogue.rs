//! Stores the catalogue that the operator offers: hosting clusters, releases and upgrade rules.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use meshwright_model::Version;
use meshwright_model::ids::HostingClusterId;
use meshwright_model::release::{Release, ReleaseState};
use meshwright_model::rules::UpgradePolicy;
use sqlx::PgExecutor;

use crate::db::query_areas::CatalogueQueries;
use crate::db::statements::require_one_row;
use crate::error::{decode_column, to_json};
use crate::{Store, StoreError};

/// A hosting cluster, in which the control planes of meshes run.
#[derive(Debug, Clone)]
pub struct HostingCluster {
    /// Identifier of the hosting cluster.
    pub id: HostingClusterId,
    /// Unique name of the hosting cluster.
    pub name: String,
    /// Time when the operator added it.
    pub created_at: Timestamp,
}

/// A release together with its charts.
#[derive(Debug, Clone)]
pub struct StoredRelease {
    /// Catalogue entry of the release.
    pub release: Release,
    /// Charts of the release as a tar archive.
    pub charts: Vec<u8>,
}

fn kubeconfig_associated_data(id: HostingClusterId) -> String {
    format!("hosting_clusters.kubeconfig/{id}")
}

fn release_state_text(state: ReleaseState) -> &'static str {
    match state {
        ReleaseState::Available => "available",
        ReleaseState::Deprecated => "deprecated",
        ReleaseState::Withdrawn => "withdrawn",
    }
}

impl Store {
    /// Adds a hosting cluster with its kubeconfig, which is sealed before it is stored.
    ///
    /// # Errors
    /// Returns [`StoreError::Conflict`] with `hosting_clusters_name_unique` when the name is taken.
    pub async fn add_hosting_cluster(
        &self,
        hosting: &HostingCluster,
        kubeconfig: &[u8],
    ) -> Result<(), StoreError> {
        let sealed = self
            .sealer
            .seal(&kubeconfig_associated_data(hosting.id), kubeconfig);
        insert_hosting_cluster(&self.pool, hosting, &sealed).await
    }

    /// Reads and unseals the kubeconfig of a hosting cluster.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when there is no such hosting cluster, and
    /// [`StoreError::UnsealFailed`] when its kubeconfig does not open.
    pub async fn hosting_kubeconfig(&self, id: HostingClusterId) -> Result<Vec<u8>, StoreError> {
        let sealed = sqlx::query_scalar!(
            "SELECT kubeconfig FROM hosting_clusters WHERE hosting_cluster_id = $1",
            id.0
        )
        .fetch_optional(&self.pool)
        .await?
        .ok_or(StoreError::NotFound {
            what: "hosting cluster",
        })?;
        self.sealer.open(&kubeconfig_associated_data(id), &sealed)
    }

    /// Adds a release to the catalogue.
    ///
    /// # Errors
    /// Returns [`StoreError::Conflict`] with `releases_pk` when the catalogue already has this
    /// version.
    pub async fn add_release(
        &self,
        stored: &StoredRelease,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        insert_release(&self.pool, stored, now).await
    }

    /// Reads one release with its charts.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when the catalogue does not have this version.
    pub async fn get_release(&self, version: &Version) -> Result<StoredRelease, StoreError> {
        let row = sqlx::query!(
            "SELECT version, state, body, charts FROM releases WHERE version = $1",
            version.to_string()
        )
        .fetch_optional(&self.pool)
        .await?
        .ok_or(StoreError::NotFound { what: "release" })?;
        Ok(StoredRelease {
            release: decode_release(&row.version, &row.state, row.body)?,
            charts: row.charts,
        })
    }
}

/// Decodes a release. The state has its own column, so that a query can read it without the body;
/// the column overrides the state in the body.
fn decode_release(
    version: &str,
    state: &str,
    body: serde_json::Value,
) -> Result<Release, StoreError> {
    let release: Release =
        decode_column(serde_json::from_value(body), "releases", "body", version)?;
    let state = decode_column(
        serde_json::from_value(serde_json::Value::from(state)),
        "releases",
        "state",
        version,
    )?;
    Ok(Release { state, ..release })
}

async fn insert_release(
    executor: impl PgExecutor<'_>,
    stored: &StoredRelease,
    now: Timestamp,
) -> Result<(), StoreError> {
    let release = &stored.release;
    sqlx::query!(
        "INSERT INTO releases (version, state, body, charts, created_at) VALUES ($1, $2, $3, $4, $5)",
        release.version.to_string(),
        release_state_text(release.state),
        to_json(release),
        stored.charts,
        now.to_sqlx() as _
    )
    .execute(executor)
    .await?;
    Ok(())
}

async fn insert_hosting_cluster(
    executor: impl PgExecutor<'_>,
    hosting: &HostingCluster,
    sealed: &[u8],
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO hosting_clusters (hosting_cluster_id, name, kubeconfig, created_at) VALUES ($1, $2, $3, $4)",
        hosting.id.0,
        hosting.name,
        sealed,
        hosting.created_at.to_sqlx() as _
    )
    .execute(executor)
    .await?;
    Ok(())
}

impl CatalogueQueries<'_, '_> {
    /// Lists all hosting clusters, oldest first.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn list_hosting_clusters(&mut self) -> Result<Vec<HostingCluster>, StoreError> {
        let rows = sqlx::query!(
            "SELECT hosting_cluster_id, name, created_at FROM hosting_clusters ORDER BY hosting_cluster_id"
        )
        .fetch_all(&mut *self.tx.inner)
        .await?;
        let read = rows.into_iter().map(|row| HostingCluster {
            id: HostingClusterId(row.hosting_cluster_id),
            name: row.name,
            created_at: row.created_at.to_jiff(),
        });
        Ok(read.collect())
    }

    /// Lists the whole catalogue, newest version first.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer, and
    /// [`StoreError::Corrupt`] when a row does not fit [`Release`].
    pub async fn list_releases(&mut self) -> Result<Vec<Release>, StoreError> {
        let rows = sqlx::query!("SELECT version, state, body FROM releases")
            .fetch_all(&mut *self.tx.inner)
            .await?;
        let read = rows
            .into_iter()
            .map(|row| decode_release(&row.version, &row.state, row.body));
        let mut releases = read.collect::<Result<Vec<Release>, StoreError>>()?;
        releases.sort_by_key(|release| std::cmp::Reverse(release.version.precedence()));
        Ok(releases)
    }

    /// Reads the numbers that the upgrade rules use.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer, and
    /// [`StoreError::Corrupt`] when the row does not fit [`UpgradePolicy`].
    pub async fn upgrade_policy(&mut self) -> Result<UpgradePolicy, StoreError> {
        let body = sqlx::query_scalar!("SELECT body FROM upgrade_policies WHERE name = 'default'")
            .fetch_one(&mut *self.tx.inner)
            .await?;
        decode_column(
            serde_json::from_value(body),
            "upgrade_policies",
            "body",
            "default",
        )
    }

    /// Adds a release to the catalogue on an operator's request.
    ///
    /// # Errors
    /// Returns [`StoreError::Conflict`] with `releases_pk` when the catalogue already has this
    /// version.
    pub async fn add_release(
        &mut self,
        stored: &StoredRelease,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.tx.tenants().assume_platform_role().await?;
        insert_release(&mut *self.tx.inner, stored, now).await?;
        self.tx.tenants().reset_role().await
    }

    /// Adds a hosting cluster on an operator's request.
    ///
    /// # Errors
    /// Returns [`StoreError::Conflict`] with `hosting_clusters_name_unique` when the name is taken.
    pub async fn add_hosting_cluster(
        &mut self,
        hosting: &HostingCluster,
        kubeconfig: &[u8],
    ) -> Result<(), StoreError> {
        let sealed = self
            .tx
            .store
            .sealer
            .seal(&kubeconfig_associated_data(hosting.id), kubeconfig);
        self.tx.tenants().assume_platform_role().await?;
        insert_hosting_cluster(&mut *self.tx.inner, hosting, &sealed).await?;
        self.tx.tenants().reset_role().await
    }

    /// Removes a hosting cluster on an operator's request. No mesh may run in it.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when there is no such hosting cluster, and
    /// [`StoreError::Conflict`] with `meshes_hosting_fk` when a mesh runs in it.
    pub async fn delete_hosting_cluster(&mut self, id: HostingClusterId) -> Result<(), StoreError> {
        self.tx.tenants().assume_platform_role().await?;
        let done = sqlx::query!(
            "DELETE FROM hosting_clusters WHERE hosting_cluster_id = $1",
            id.0
        )
        .execute(&mut *self.tx.inner)
        .await?;
        self.tx.tenants().reset_role().await?;
        require_one_row(
            done.rows_affected(),
            StoreError::NotFound {
                what: "hosting cluster",
            },
        )
    }

    /// Reads a release on an operator's request and locks its row until this transaction ends.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when the catalogue does not have this version.
    pub async fn lock_release(&mut self, version: &Version) -> Result<Release, StoreError> {
        self.tx.tenants().assume_platform_role().await?;
        let row = sqlx::query!(
            "SELECT version, state, body FROM releases WHERE version = $1 FOR UPDATE",
            version.to_string()
        )
        .fetch_optional(&mut *self.tx.inner)
        .await?;
        self.tx.tenants().reset_role().await?;
        let row = row.ok_or(StoreError::NotFound { what: "release" })?;
        decode_release(&row.version, &row.state, row.body)
    }

    /// Writes the parts of a release that may change: its state, its channels and its notes. Its
    /// charts and images never change.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when the catalogue does not have this version.
    pub async fn update_release(&mut self, release: &Release) -> Result<(), StoreError> {
        self.tx.tenants().assume_platform_role().await?;
        let done = sqlx::query!(
            "UPDATE releases SET state = $2, body = $3 WHERE version = $1",
            release.version.to_string(),
            release_state_text(release.state),
            to_json(release)
        )
        .execute(&mut *self.tx.inner)
        .await?;
        self.tx.tenants().reset_role().await?;
        require_one_row(
            done.rows_affected(),
            StoreError::NotFound { what: "release" },
        )
    }
}
