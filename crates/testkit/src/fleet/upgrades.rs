//! Plans upgrades of a fleet's mesh and applies verbs to them.

use meshwright_model::Clock;
use meshwright_model::ids::UpgradeId;
use meshwright_model::rollout::RolloutPolicy;
use meshwright_model::rules::Strategy;
use meshwright_model::upgrade::{UpgradePolicyChoice, Verb};
use meshwright_model::version::Version;
use meshwright_store::{NewUpgrade, Page, Upgrade};
use serde_json::Value;

use super::Fleet;

impl Fleet {
    /// Plans an upgrade of the mesh to the version `to`.
    ///
    /// # Panics
    /// Panics when the database fails.
    pub async fn plan_upgrade(&self, to: &str, strategy: Strategy, hold_seconds: u32) -> UpgradeId {
        let id = UpgradeId(self.clock.new_uuid());
        let to: Version = to.parse().expect(to);
        let mut tx = self.db.begin_beside_workers().await;
        let current = tx
            .meshes()
            .get_mesh(self.mesh)
            .await
            .expect("the mesh")
            .current;
        let revision = if strategy == Strategy::Canary {
            to.revision_name()
        } else {
            current.name
        };
        let labels = self.labels;
        let choice = UpgradePolicyChoice {
            strategy,
            auto: false,
            hold_seconds,
            accept_warnings: false,
            labels,
        };
        let new = NewUpgrade {
            id,
            mesh: self.mesh,
            from: current.version,
            to,
            revision,
            choice,
            rollout: RolloutPolicy::default(),
        };
        tx.upgrades()
            .create_upgrade(&new, self.clock.now())
            .await
            .expect("an upgrade");
        tx.commit().await.expect("a commit");
        id
    }

    /// Returns the mesh's upgrade, or plans a canary if there is none.
    ///
    /// # Panics
    /// Panics when the database fails.
    pub async fn get_or_plan_upgrade(&self) -> UpgradeId {
        let mut tx = self.db.begin_beside_workers().await;
        let known = tx
            .upgrades()
            .list_upgrades(self.mesh, Page::ALL)
            .await
            .expect("upgrades");
        drop(tx);
        match known.first() {
            Some(upgrade) => upgrade.id,
            None => self.plan_upgrade("1.27.9.1", Strategy::Canary, 3600).await,
        }
    }

    /// Applies a verb to an upgrade, as the API does.
    ///
    /// # Errors
    /// Returns the error of the store, for example when the state of the upgrade does not allow the
    /// verb.
    pub async fn apply_verb(
        &self,
        upgrade: UpgradeId,
        verb: Verb,
        arguments: Value,
    ) -> Result<Upgrade, meshwright_store::StoreError> {
        let mut tx = self.db.begin_beside_workers().await;
        let pressed = tx
            .upgrades()
            .apply_verb(
                upgrade,
                (verb, "key:test"),
                None,
                arguments,
                self.clock.as_ref(),
            )
            .await?;
        tx.commit().await?;
        Ok(pressed)
    }

    /// Applies a verb to an upgrade, and runs all work that follows.
    ///
    /// # Panics
    /// Panics when the state of the upgrade does not allow the verb.
    pub async fn apply_verb_and_run(&self, upgrade: UpgradeId, verb: Verb) -> Upgrade {
        self.apply_verb(upgrade, verb, Value::Null)
            .await
            .expect("a verb that fits");
        self.run_due().await;
        self.upgrade(upgrade).await
    }

    /// Returns the upgrade as it is stored.
    ///
    /// # Panics
    /// Panics when the database fails.
    pub async fn upgrade(&self, id: UpgradeId) -> Upgrade {
        let mut tx = self.db.begin_beside_workers().await;
        tx.upgrades().get_upgrade(id).await.expect("the upgrade")
    }
}
