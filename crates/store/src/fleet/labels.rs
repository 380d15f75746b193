//! Stores the labels of meshes and clusters, and the filter of their lists.

use meshwright_model::label::{LabelSelector, Labels};
use uuid::Uuid;

use crate::StoreError;
use crate::db::query_areas::LabelQueries;

/// Metadata that users set on their meshes and clusters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserMetadata {
    /// Display name for people; it may be empty.
    pub display_name: String,
    /// Labels of the mesh or cluster, by key.
    pub labels: Labels,
}

/// Conditions that the entries of a list must meet.
#[derive(Debug, Clone, Default)]
pub struct ListFilter {
    /// Only entries with this name; `None` means any name.
    pub name: Option<String>,
    /// Labels that an entry must have and must not have.
    pub labels: LabelSelector,
    /// Whether deleted entries are listed too.
    pub include_deleted: bool,
}

/// The conditions of a label selector, as the arrays that queries take.
pub(crate) struct SelectorColumns {
    pub(crate) with: (Vec<String>, Vec<Option<String>>),
    pub(crate) without: (Vec<String>, Vec<Option<String>>),
}

impl From<&LabelSelector> for SelectorColumns {
    fn from(selector: &LabelSelector) -> Self {
        let columns = |conditions: &[(String, Option<String>)]| conditions.iter().cloned().unzip();
        Self {
            with: columns(&selector.required),
            without: columns(&selector.excluded),
        }
    }
}

impl LabelQueries<'_, '_> {
    /// Replaces all labels of a mesh or cluster.
    pub(crate) async fn set_labels(
        &mut self,
        object: Uuid,
        labels: &Labels,
    ) -> Result<(), StoreError> {
        let (keys, values): (Vec<String>, Vec<String>) = labels.clone().into_iter().unzip();
        sqlx::query!(
            "DELETE FROM labels WHERE tenant_id = $1 AND object_id = $2 AND key <> ALL($3)",
            self.tx.tenant.0,
            object,
            &keys
        )
        .execute(&mut *self.tx.inner)
        .await?;
        sqlx::query!(
            "INSERT INTO labels (tenant_id, object_id, key, value)
             SELECT $1, $2, label.key, label.value FROM unnest($3::text[], $4::text[]) AS label (key, value)
             ON CONFLICT ON CONSTRAINT labels_pk DO UPDATE SET value = excluded.value",
            self.tx.tenant.0,
            object,
            &keys,
            &values
        )
        .execute(&mut *self.tx.inner)
        .await?;
        Ok(())
    }
}
