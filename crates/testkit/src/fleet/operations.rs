//! Queues operations of a fleet on its clusters and its mesh, and reads them.

use std::time::Duration;

use meshwright_model::Clock;
use meshwright_model::ids::{ClusterId, OperationId};
use meshwright_model::operation::OperationKind;
use meshwright_store::{NewOperation, Operation, Page};
use serde_json::Value;

use super::{Fleet, new_cluster};

impl Fleet {
    /// Queues the registration of a cluster with this name.
    ///
    /// # Panics
    /// Panics when the database fails.
    pub async fn register_cluster(&self, name: &str) -> (ClusterId, OperationId) {
        let (cluster, id, now) = (
            ClusterId(self.clock.new_uuid()),
            OperationId(self.clock.new_uuid()),
            self.clock.now(),
        );
        let mut tx = self.db.begin_beside_workers().await;
        tx.clusters()
            .create_cluster(&new_cluster(cluster, name), now)
            .await
            .expect("a cluster");
        let new = NewOperation {
            id,
            kind: OperationKind::RegisterCluster,
            mesh: None,
            cluster: Some(cluster),
            upgrade: None,
            arguments: Value::Null,
            due_in: Duration::ZERO,
        };
        tx.operations()
            .create_operation(&new, now)
            .await
            .expect("an operation");
        tx.commit().await.expect("a commit");
        (cluster, id)
    }

    /// Queues a renewal of a cluster's credential without an overlap, so that the former one
    /// becomes invalid at once.
    ///
    /// # Panics
    /// Panics when the database fails.
    pub async fn renew_credential(&self, cluster: ClusterId) -> OperationId {
        let id = OperationId(self.clock.new_uuid());
        let new = NewOperation {
            id,
            kind: OperationKind::RenewCredential,
            mesh: None,
            cluster: Some(cluster),
            upgrade: None,
            arguments: self
                .cluster(cluster)
                .await
                .renewal_arguments(Duration::ZERO),
            due_in: Duration::ZERO,
        };
        let mut tx = self.db.begin_beside_workers().await;
        tx.operations()
            .create_operation(&new, self.clock.now())
            .await
            .expect("an operation");
        tx.commit().await.expect("a commit");
        id
    }

    /// Returns a cluster as it is stored.
    ///
    /// # Panics
    /// Panics when the database fails.
    pub async fn cluster(&self, id: ClusterId) -> meshwright_store::Cluster {
        let mut tx = self.db.begin_beside_workers().await;
        tx.clusters().get_cluster(id).await.expect("the cluster")
    }

    /// Deletes a cluster that no mesh uses.
    ///
    /// # Panics
    /// Panics when the database fails, or when there is no such cluster.
    pub async fn deregister_cluster(&self, id: ClusterId) {
        let mut tx = self.db.begin_beside_workers().await;
        tx.clusters()
            .delete_cluster(id)
            .await
            .expect("a cluster that no mesh uses");
        tx.commit().await.expect("a commit");
    }

    /// Queues an operation on the mesh that belongs to no upgrade.
    ///
    /// # Panics
    /// Panics when the database fails.
    pub async fn queue_operation(&self, kind: OperationKind, arguments: Value) -> OperationId {
        let id = OperationId(self.clock.new_uuid());
        let now = self.clock.now();
        let mut tx = self.db.begin_beside_workers().await;
        tx.meshes()
            .acquire_data_plane_lock(self.mesh, id)
            .await
            .expect("a free mesh");
        let new = NewOperation {
            id,
            kind,
            mesh: Some(self.mesh),
            cluster: None,
            upgrade: None,
            arguments,
            due_in: Duration::ZERO,
        };
        tx.operations()
            .create_operation(&new, now)
            .await
            .expect("an operation");
        tx.commit().await.expect("a commit");
        id
    }

    /// Returns the newest roll-out of the mesh, or queues a restart if there is none.
    ///
    /// # Panics
    /// Panics when the database fails.
    pub async fn get_or_queue_rollout(&self) -> OperationId {
        let mut tx = self.db.begin_beside_workers().await;
        let known = tx
            .operations()
            .list_rollouts(self.mesh, Page::ALL)
            .await
            .expect("roll-outs");
        drop(tx);
        match known.first() {
            Some(rollout) => rollout.operation.id,
            None => {
                self.queue_operation(OperationKind::Restart, Value::Null)
                    .await
            }
        }
    }

    /// Returns an operation as it is stored.
    ///
    /// # Panics
    /// Panics when the database fails.
    pub async fn operation(&self, id: OperationId) -> Operation {
        let mut tx = self.db.begin_beside_workers().await;
        tx.operations()
            .get_operation(id)
            .await
            .expect("the operation")
    }
}
