//! Simulates targets that consist of several objects. The objects are written one after the other
//! as in a real cluster, so each write can be cut, and each object can be refused.

use meshwright_model::Name;
use meshwright_model::plan::Target;
use meshwright_model::problem::ProblemCode;
use meshwright_model::version::Version;
use meshwright_rollout::ports::{ClusterError, FencingToken, ObjectVersion, Readiness};

use super::{AcceptedWrite, FakeClusters, State, TargetState};

/// Object of a control plane that decides which sidecar it injects.
const INJECTOR_PART: &str = "injector configuration";
/// Object of a control plane that runs its replicas.
const DEPLOYMENT_PART: &str = "deployment";
/// Object of a revision in a member that sends new pods to the revision.
const WEBHOOK_PART: &str = "webhook";
/// Object of the mesh's namespace, and of the bootstrap of a member, that holds the inventory.
const NAMESPACE_PART: &str = "namespace";

/// Returns true if a target consists of several objects.
pub(super) fn is_bundle(target: &Target) -> bool {
    !matches!(
        target,
        Target::Certificates { .. }
            | Target::Tag { .. }
            | Target::Validator { .. }
            | Target::NamespaceLabel { .. }
            | Target::Workload { .. }
    )
}

/// Lists the objects of a target at a value, in the order in which they are applied. As in Istio's
/// charts, releases consist of different objects: some are only in the old release, and some only
/// in the new one.
pub fn target_parts(target: &Target, value: &str) -> Vec<&'static str> {
    let since_1_27 = value
        .parse::<Version>()
        .is_ok_and(|version| version.minor >= 27);
    match target {
        Target::MeshNamespace => vec![NAMESPACE_PART, "authority"],
        Target::MemberBootstrap { .. } => vec![NAMESPACE_PART, "reader account", "token anchor"],
        Target::RemoteAccess { .. } => vec!["token", "remote secret"],
        Target::Limits => vec!["network policy", "quota"],
        Target::Address { .. } => vec!["service"],
        Target::Crds { .. } => vec!["gateways", "virtual services"],
        Target::MemberObjects { .. } => {
            vec![
                "roles",
                "service",
                if since_1_27 {
                    "endpoint slice"
                } else {
                    "endpoints"
                },
                WEBHOOK_PART,
            ]
        }
        Target::ControlPlane { .. } => {
            let middle = if since_1_27 {
                "values"
            } else {
                "disruption budget"
            };
            vec!["access", INJECTOR_PART, middle, DEPLOYMENT_PART]
        }
        Target::Certificates { .. }
        | Target::Tag { .. }
        | Target::Validator { .. }
        | Target::NamespaceLabel { .. }
        | Target::Workload { .. } => Vec::new(),
    }
}

impl FakeClusters {
    /// Makes the cluster refuse one object of a target, as a quota or a policy would, or accept it
    /// again.
    pub fn refuse_part(&self, target: &Target, part: &str, refused: bool) {
        let mut state = self.lock();
        let key = (target.clone(), part.to_owned());
        if refused {
            state.refused_parts.insert(key)
        } else {
            state.refused_parts.remove(&key)
        };
    }

    /// Leaves a target in the state of a change that stopped before its end.
    pub fn leave_partial(&self, target: &Target) {
        let mut state = self.lock();
        let cell = state
            .targets
            .entry(target.clone())
            .or_insert_with(TargetState::empty);
        (cell.value, cell.partial) = (None, true);
    }

    /// Writes a target with several objects: the inventory becomes dirty, each object is written,
    /// objects that the new value no longer has are removed, and the inventory becomes clean. The
    /// last write requires the version that the inventory got when it became dirty.
    pub(super) async fn set_bundle(
        &self,
        target: &Target,
        to: Option<&str>,
        seen: &ObjectVersion,
        permit: &FencingToken,
    ) -> Result<(), ClusterError> {
        if self.lock().object_version(target) != *seen {
            return Err(ClusterError::Changed {
                place: target.to_string(),
            });
        }
        let desired = to
            .map(|value| target_parts(target, value))
            .unwrap_or_default();
        let present = |state: &State| state.exists(target);
        if to.is_some() && desired.contains(&NAMESPACE_PART) && !present(&self.lock()) {
            let creates = |state: &mut State, permit: &FencingToken| {
                state.write_part(target, NAMESPACE_PART, to, permit)
            };
            self.send_write(permit, |_| false, creates).await?;
        }
        let before = self
            .lock()
            .targets
            .get(target)
            .map(|cell| cell.inventory.clone())
            .unwrap_or_default();
        let take_turn = |state: &mut State, permit: &FencingToken| {
            state.mark_inventory_dirty(target, &desired, seen, permit)
        };
        if present(&self.lock()) || to.is_some() {
            let turn = self.send_write(permit, present, take_turn).await?;
            for part in &desired {
                let write = |state: &mut State, permit: &FencingToken| {
                    state.write_part(target, part, to, permit)
                };
                self.send_write(permit, |_| false, write).await?;
            }
            let forward_only = matches!(target, Target::Crds { .. });
            let gone = before.iter().rev().filter(|part| {
                !desired.contains(part) && !forward_only && **part != NAMESPACE_PART
            });
            for part in gone {
                let remove = |state: &mut State, permit: &FencingToken| {
                    state.write_part(target, part, None, permit)
                };
                self.send_write(permit, |_| false, remove).await?;
            }
            let finish = |state: &mut State, permit: &FencingToken| {
                state.mark_inventory_clean(target, to, &desired, &turn, permit)
            };
            self.send_write(permit, |_| true, finish).await?;
        }
        if to.is_none() && self.lock().object(target, NAMESPACE_PART).is_some() {
            let remove = |state: &mut State, permit: &FencingToken| {
                state.write_part(target, NAMESPACE_PART, None, permit)
            };
            self.send_write(permit, |_| false, remove).await?;
        }
        Ok(())
    }
}

impl State {
    /// Returns true if the object that holds a target's value exists.
    pub(super) fn exists(&self, target: &Target) -> bool {
        self.targets
            .get(target)
            .is_some_and(|cell| cell.value.is_some() || cell.partial)
    }

    /// Returns true if a target was changed only in part: it has an inventory without a value, or a
    /// namespace without an inventory.
    pub(super) fn is_partial(&self, target: &Target) -> bool {
        let dirty = self.targets.get(target).is_some_and(|cell| cell.partial);
        dirty || (self.value(target).is_none() && self.object(target, NAMESPACE_PART).is_some())
    }

    /// Returns the readiness of a target, which a cluster shows besides the value. The replicas of
    /// an istiod end only when its Deployment is removed.
    pub(super) fn readiness(&self, target: &Target) -> Readiness {
        let gone = is_bundle(target) && !self.exists(target);
        if gone && self.object(target, DEPLOYMENT_PART).is_some() {
            return Readiness::Pending("1 replicas are still ending".into());
        }
        Readiness::Ready
    }

    fn object(&self, target: &Target, part: &str) -> Option<&String> {
        self.objects.get(&(target.clone(), part.to_owned()))
    }

    /// Returns the release whose configuration a running control plane uses for injection.
    pub(super) fn injecting_release(&self, target: &Target) -> Option<Version> {
        self.object(target, DEPLOYMENT_PART)?;
        self.object(target, INJECTOR_PART)?.parse().ok()
    }

    /// Returns true if the webhook of a revision exists.
    pub(super) fn has_webhook(&self, target: &Target) -> bool {
        self.object(target, WEBHOOK_PART).is_some()
    }

    /// Fences an inventory by raising its version. If it is absent and the target was to be
    /// created, an inventory without a value is created.
    pub(super) fn fence_bundle(&mut self, target: &Target, creates: bool) {
        if self.exists(target) || creates {
            self.version += 1;
            let version = self.version;
            let dirty = !self.exists(target);
            let cell = self
                .targets
                .entry(target.clone())
                .or_insert_with(TargetState::empty);
            cell.version = version;
            cell.partial |= dirty;
        }
    }

    fn mark_inventory_dirty(
        &mut self,
        target: &Target,
        desired: &[&'static str],
        seen: &ObjectVersion,
        permit: &FencingToken,
    ) -> Result<ObjectVersion, ClusterError> {
        self.check_admission(target, permit)?;
        if self.object_version(target) != *seen {
            return Err(ClusterError::Changed {
                place: target.to_string(),
            });
        }
        self.version += 1;
        let version = self.version;
        let cell = self
            .targets
            .entry(target.clone())
            .or_insert_with(TargetState::empty);
        let from = cell.value.take();
        (cell.version, cell.partial) = (version, true);
        cell.inventory.extend(
            desired
                .iter()
                .filter(|part| !cell.inventory.contains(part))
                .copied()
                .collect::<Vec<_>>(),
        );
        self.record_write(target, Some("inventory"), (from, None), permit);
        Ok(self.object_version(target))
    }

    fn write_part(
        &mut self,
        target: &Target,
        part: &'static str,
        to: Option<&str>,
        permit: &FencingToken,
    ) -> Result<(), ClusterError> {
        self.check_admission(target, permit)?;
        let key = (target.clone(), part.to_owned());
        if to.is_some() && self.refused_parts.contains(&key) {
            return Err(ClusterError::Refused {
                place: target.to_string(),
                code: ProblemCode::ClusterRefused,
                cause: format!("{part}: exceeded quota"),
            });
        }
        let from = match to {
            Some(value) => self.objects.insert(key, value.to_owned()),
            None => self.objects.remove(&key),
        };
        if (to.is_some(), part) == (true, DEPLOYMENT_PART) {
            self.write_certificates();
        }
        match (target, part) {
            (Target::Address { revision }, _) => {
                self.assign_address(revision, to.is_some());
            }
            (Target::MemberObjects { .. }, WEBHOOK_PART) => self.copy_address(target, to),
            _ => {}
        }
        // If the name of the revision is a tag that points to the revision itself, it is removed
        // with the webhook.
        if let (None, WEBHOOK_PART, Target::MemberObjects { member, revision }) = (to, part, target)
        {
            self.remove_own_alias(member, revision.as_str());
        }
        self.record_write(target, Some(part), (from, to.map(str::to_owned)), permit);
        Ok(())
    }

    fn remove_own_alias(&mut self, member: &Name, revision: &str) {
        let tag = Target::Tag {
            member: member.clone(),
            tag: revision.to_owned(),
        };
        if self
            .targets
            .get(&tag)
            .is_some_and(|cell| cell.value.as_deref() == Some(revision))
        {
            self.targets.remove(&tag);
        }
    }

    fn mark_inventory_clean(
        &mut self,
        target: &Target,
        to: Option<&str>,
        desired: &[&'static str],
        turn: &ObjectVersion,
        permit: &FencingToken,
    ) -> Result<(), ClusterError> {
        self.check_admission(target, permit)?;
        if self.object_version(target) != *turn {
            return Err(ClusterError::Changed {
                place: target.to_string(),
            });
        }
        self.version += 1;
        let (value, union) = (to.map(str::to_owned), desired.to_vec());
        let cell = TargetState {
            value: value.clone(),
            version: self.version,
            partial: false,
            inventory: union,
        };
        self.targets.insert(target.clone(), cell);
        self.record_write(target, Some("inventory"), (None, value), permit);
        Ok(())
    }

    /// Adds an accepted write to the journal.
    pub(super) fn record_write(
        &mut self,
        target: &Target,
        part: Option<&'static str>,
        (from, to): (Option<String>, Option<String>),
        permit: &FencingToken,
    ) {
        let (operation, epoch) = (permit.operation, permit.epoch);
        self.journal.push(AcceptedWrite {
            target: target.clone(),
            part,
            from,
            to,
            operation,
            epoch,
        });
    }
}
