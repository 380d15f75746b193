//! Targets that consist of several objects, written one after the other as in a real cluster: every one of the writes can be
//! cut, and every one of the objects can be refused.

use model::Name;
use model::plan::Target;
use model::version::Version;
use rollout::ports::{Mark, Permit, Settled, WorldError};

use super::{Cell, FakeWorld, State, Write};

/// The part of a control plane that decides what it injects.
const INJECTOR: &str = "injector configuration";
/// The part of a control plane that runs.
const DEPLOYMENT: &str = "deployment";
/// The part of a revision's objects in a member that pods are sent to.
const WEBHOOK: &str = "webhook";
/// The part of a mesh's home, and of its foothold in a member, that the inventory lives in.
const NAMESPACE: &str = "namespace";

/// Whether a target consists of several objects.
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

/// The objects of a target at a value, in the order in which they are applied. As in Istio's charts, releases differ in what
/// they consist of: an object may be in the old one only, or in the new one only.
pub fn parts(target: &Target, value: &str) -> Vec<&'static str> {
    let since_1_27 = value.parse::<Version>().is_ok_and(|version| version.minor >= 27);
    match target {
        Target::Home => vec![NAMESPACE, "authority"],
        Target::Foothold { .. } => vec![NAMESPACE, "reader account", "token anchor"],
        Target::Link { .. } => vec!["token", "remote secret"],
        Target::Limits => vec!["network policy", "quota"],
        Target::Address { .. } => vec!["service"],
        Target::Crds { .. } => vec!["gateways", "virtual services"],
        Target::MemberObjects { .. } => {
            vec!["roles", "service", if since_1_27 { "endpoint slice" } else { "endpoints" }, WEBHOOK]
        }
        Target::ControlPlane { .. } => {
            let middle = if since_1_27 { "values" } else { "disruption budget" };
            vec!["access", INJECTOR, middle, DEPLOYMENT]
        }
        Target::Certificates { .. }
        | Target::Tag { .. }
        | Target::Validator { .. }
        | Target::NamespaceLabel { .. }
        | Target::Workload { .. } => Vec::new(),
    }
}

impl FakeWorld {
    /// Makes the cluster refuse one object of a target, as a quota or a policy would, or accept it again.
    pub fn refuse_part(&self, target: &Target, part: &str, refused: bool) {
        let mut state = self.lock();
        let key = (target.clone(), part.to_owned());
        if refused {
            state.refused_parts.insert(key)
        } else {
            state.refused_parts.remove(&key)
        };
    }

    /// Leaves a target as a change does that stopped before its end.
    pub fn damage(&self, target: &Target) {
        let mut state = self.lock();
        let cell = state.cells.entry(target.clone()).or_insert_with(Cell::absent);
        (cell.value, cell.partial) = (None, true);
    }

    /// The inventory becomes dirty, each object is written, what is left of the old ones goes, and the inventory becomes
    /// clean over the version that it was made dirty with.
    pub(super) async fn set_bundle(
        &self,
        target: &Target,
        to: Option<&str>,
        seen: &Mark,
        permit: &Permit,
    ) -> Result<(), WorldError> {
        if self.lock().mark(target) != *seen {
            return Err(WorldError::Changed { place: target.to_string() });
        }
        let desired = to.map(|value| parts(target, value)).unwrap_or_default();
        let present = |state: &State| state.exists(target);
        if to.is_some() && desired.contains(&NAMESPACE) && !present(&self.lock()) {
            let creates = |state: &mut State, permit: &Permit| state.write_part(target, NAMESPACE, to, permit);
            self.send(permit, |_| false, creates).await?;
        }
        let before = self.lock().cells.get(target).map(|cell| cell.union.clone()).unwrap_or_default();
        let take_turn = |state: &mut State, permit: &Permit| state.take_turn(target, &desired, seen, permit);
        if present(&self.lock()) || to.is_some() {
            let turn = self.send(permit, present, take_turn).await?;
            for part in &desired {
                let write = |state: &mut State, permit: &Permit| state.write_part(target, part, to, permit);
                self.send(permit, |_| false, write).await?;
            }
            let forward_only = matches!(target, Target::Crds { .. });
            let gone =
                before.iter().rev().filter(|part| !desired.contains(part) && !forward_only && **part != NAMESPACE);
            for part in gone {
                let remove = |state: &mut State, permit: &Permit| state.write_part(target, part, None, permit);
                self.send(permit, |_| false, remove).await?;
            }
            let finish = |state: &mut State, permit: &Permit| state.finish(target, to, &desired, &turn, permit);
            self.send(permit, |_| true, finish).await?;
        }
        if to.is_none() && self.lock().object(target, NAMESPACE).is_some() {
            let remove = |state: &mut State, permit: &Permit| state.write_part(target, NAMESPACE, None, permit);
            self.send(permit, |_| false, remove).await?;
        }
        Ok(())
    }
}

impl State {
    /// Whether the object that holds a target's value is there.
    pub(super) fn exists(&self, target: &Target) -> bool {
        self.cells.get(target).is_some_and(|cell| cell.value.is_some() || cell.partial)
    }

    /// Whether a target was changed in part: it has an inventory without a value, or a namespace without an inventory.
    pub(super) fn is_partial(&self, target: &Target) -> bool {
        let dirty = self.cells.get(target).is_some_and(|cell| cell.partial);
        dirty || (self.value(target).is_none() && self.object(target, NAMESPACE).is_some())
    }

    /// What a cluster shows of a target besides its value. An istiod goes only when its Deployment is removed.
    pub(super) fn settled(&self, target: &Target) -> Settled {
        let gone = is_bundle(target) && !self.exists(target);
        if gone && self.object(target, DEPLOYMENT).is_some() {
            return Settled::NotYet("1 replicas are still ending".into());
        }
        Settled::Yes
    }

    fn object(&self, target: &Target, part: &str) -> Option<&String> {
        self.objects.get(&(target.clone(), part.to_owned()))
    }

    /// The release whose configuration a running control plane injects with.
    pub(super) fn injecting(&self, target: &Target) -> Option<Version> {
        self.object(target, DEPLOYMENT)?;
        self.object(target, INJECTOR)?.parse().ok()
    }

    /// Whether the webhook of a revision is there.
    pub(super) fn has_webhook(&self, target: &Target) -> bool {
        self.object(target, WEBHOOK).is_some()
    }

    /// Moves an inventory's version. One that is absent is made, without a value, where its target was to be created.
    pub(super) fn fence_bundle(&mut self, target: &Target, creates: bool) {
        if self.exists(target) || creates {
            self.version += 1;
            let version = self.version;
            let dirty = !self.exists(target);
            let cell = self.cells.entry(target.clone()).or_insert_with(Cell::absent);
            cell.version = version;
            cell.partial |= dirty;
        }
    }

    fn take_turn(
        &mut self,
        target: &Target,
        desired: &[&'static str],
        seen: &Mark,
        permit: &Permit,
    ) -> Result<Mark, WorldError> {
        self.admit(target, permit)?;
        if self.mark(target) != *seen {
            return Err(WorldError::Changed { place: target.to_string() });
        }
        self.version += 1;
        let version = self.version;
        let cell = self.cells.entry(target.clone()).or_insert_with(Cell::absent);
        let from = cell.value.take();
        (cell.version, cell.partial) = (version, true);
        cell.union.extend(desired.iter().filter(|part| !cell.union.contains(part)).copied().collect::<Vec<_>>());
        self.note(target, Some("inventory"), (from, None), permit);
        Ok(self.mark(target))
    }

    fn write_part(
        &mut self,
        target: &Target,
        part: &'static str,
        to: Option<&str>,
        permit: &Permit,
    ) -> Result<(), WorldError> {
        self.admit(target, permit)?;
        let key = (target.clone(), part.to_owned());
        if to.is_some() && self.refused_parts.contains(&key) {
            return Err(WorldError::Refused {
                place: target.to_string(),
                code: "cluster_refused",
                cause: format!("{part}: exceeded quota"),
            });
        }
        let from = match to {
            Some(value) => self.objects.insert(key, value.to_owned()),
            None => self.objects.remove(&key),
        };
        if (to.is_some(), part) == (true, DEPLOYMENT) {
            self.write_certificates();
        }
        // A name that was given back to its own webhook goes with it.
        if let (None, WEBHOOK, Target::MemberObjects { member, revision }) = (to, part, target) {
            self.forget_own_name(member, revision.as_str());
        }
        self.note(target, Some(part), (from, to.map(str::to_owned)), permit);
        Ok(())
    }

    fn forget_own_name(&mut self, member: &Name, revision: &str) {
        let tag = Target::Tag { member: member.clone(), tag: revision.to_owned() };
        if self.cells.get(&tag).is_some_and(|cell| cell.value.as_deref() == Some(revision)) {
            self.cells.remove(&tag);
        }
    }

    fn finish(
        &mut self,
        target: &Target,
        to: Option<&str>,
        desired: &[&'static str],
        turn: &Mark,
        permit: &Permit,
    ) -> Result<(), WorldError> {
        self.admit(target, permit)?;
        if self.mark(target) != *turn {
            return Err(WorldError::Changed { place: target.to_string() });
        }
        self.version += 1;
        let (value, union) = (to.map(str::to_owned), desired.to_vec());
        let cell = Cell { value: value.clone(), version: self.version, partial: false, union };
        self.cells.insert(target.clone(), cell);
        self.note(target, Some("inventory"), (None, value), permit);
        Ok(())
    }

    /// Keeps an accepted write.
    pub(super) fn note(
        &mut self,
        target: &Target,
        part: Option<&'static str>,
        (from, to): (Option<String>, Option<String>),
        permit: &Permit,
    ) {
        let (operation, epoch) = (permit.operation, permit.epoch);
        self.journal.push(Write { target: target.clone(), part, from, to, operation, epoch });
    }
}
