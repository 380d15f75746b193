//! Models the clusters of a small world: targets with versions, one workload in each member, the
//! injection of new pods, and what time does to them.

use meshwright_model::plan::Sidecar;

use super::cells::{
    CELLS, CellIndex, MEMBERS, NEW, OLD, REVISIONS, Value, as_part_of_slot, as_tag, image,
    is_field, istiod, label, name_of, objects, stamp, tag,
};

/// Number of pods of the workload in each member.
pub(super) const PODS: usize = 2;
/// Index of the tag that pods without a revision of their own ask for.
pub(super) const DEFAULT_TAG: usize = 1;
const STABLE_TAG: usize = 0;

/// Target with its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Cell {
    pub(super) value: Value,
    pub(super) version: u32,
    /// True if only a part of the last write was done.
    pub(super) partial: bool,
    /// Version at which a later claim has fenced the target.
    pub(super) fenced: u32,
}

/// Sidecar of a live pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Pod {
    /// The pod has no sidecar.
    Bare,
    /// The revision of a slot has injected the pod with its present image.
    Of(usize),
    /// The revision of a slot has injected the pod with another image.
    OtherImage(usize),
}

impl Pod {
    /// Returns the slot of the revision that injected the pod.
    pub(super) fn slot(self) -> Option<usize> {
        match self {
            Self::Bare => None,
            Self::Of(slot) | Self::OtherImage(slot) => Some(slot),
        }
    }

    /// Returns the sidecar as the ports show it.
    pub(super) fn sidecar(self) -> Option<Sidecar> {
        let slot = self.slot()?;
        let image = match self {
            Self::OtherImage(_) => "hub/proxyv2:other",
            _ => image(slot),
        };
        Some(Sidecar {
            revision: REVISIONS[slot].parse().expect("a revision name"),
            image: image.to_owned(),
        })
    }
}

/// Request of the workload's pod template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) enum Template {
    /// The template has no label of Istio.
    #[default]
    Plain,
    /// The template asks for a sidecar of the default tag.
    Asks,
    /// The template forbids a sidecar.
    OptsOut,
}

/// Pod that no workload owns which we can restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct StrayPod {
    pub(super) pod: Pod,
    /// True if a controller creates the pod again after an eviction.
    pub(super) evictable: bool,
    pub(super) generation: u8,
}

/// Workload of one member, with its pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Workload {
    pub(super) template: Template,
    pub(super) pods: [Option<Pod>; PODS],
    /// Number of pods that the controller still replaces.
    pub(super) outdated: u8,
    pub(super) stray: Option<StrayPod>,
    /// Number of times that the template was changed.
    pub(super) restarts: u8,
}

/// Clusters of a small world at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Clusters {
    pub(super) cells: [Cell; CELLS],
    pub(super) workloads: [Workload; MEMBERS],
    /// True if the istiod of a slot serves.
    pub(super) up: [bool; 2],
    /// Seconds since the beginning.
    pub(super) now: i64,
}

/// Fault of an operation that a change of the clusters has shown.
pub(super) type Harm = String;

impl Clusters {
    pub(super) fn value(&self, cell: CellIndex) -> Value {
        self.cells[cell].value
    }

    /// Sets a value as another party does.
    pub(super) fn set(&mut self, cell: CellIndex, value: Value) {
        let known = &mut self.cells[cell];
        known.value = value;
        known.version += 1;
        known.partial = false;
    }

    /// Returns the version that a write has to name. An absent object has none: a cluster accepts
    /// its creation, however late the request arrives.
    pub(super) fn version(&self, cell: CellIndex) -> u32 {
        let known = self.cells[cell];
        if known.value.is_absent() && !known.partial && !is_field(cell) {
            0
        } else {
            known.version + 1
        }
    }

    /// Carries out a write that the cluster has accepted. Returns the harm that it does.
    pub(super) fn write(&mut self, cell: CellIndex, value: Value) -> Option<Harm> {
        let harm = self.harm_of(cell, value);
        let changed = self.value(cell) != value;
        self.set(cell, value);
        if let (Some(member), true) = ((0..MEMBERS).find(|member| stamp(*member) == cell), changed)
        {
            let workload = &mut self.workloads[member];
            workload.restarts += 1;
            workload.outdated =
                u8::try_from(workload.pods.iter().flatten().count()).expect("few pods");
        }
        harm
    }

    /// Returns the harm that a write would do: a revision is removed while it is used, or a tag is
    /// pointed to a control plane that does not serve.
    fn harm_of(&self, cell: CellIndex, value: Value) -> Option<Harm> {
        if let (Some(slot), true) = (as_part_of_slot(cell), value.is_absent())
            && let Some(user) = self.users(slot).first()
        {
            return Some(format!(
                "{} was removed while {user} used it",
                name_of(cell)
            ));
        }
        if as_tag(cell).is_some()
            && let Some(slot) = value.slot()
            && slot == NEW
            && !self.serves(slot)
        {
            return Some(format!("{} was pointed to a dead istiod", name_of(cell)));
        }
        None
    }

    /// Returns true if the istiod of a slot exists and answers.
    pub(super) fn serves(&self, slot: usize) -> bool {
        let cell = self.cells[istiod(slot)];
        !cell.value.is_absent() && !cell.partial && self.up[slot]
    }

    /// Names the users of a slot, found without the code that is tested.
    pub(super) fn users(&self, slot: usize) -> Vec<String> {
        let mut users = Vec::new();
        for member in 0..MEMBERS {
            let known = &self.workloads[member];
            let pods = known.pods.iter().flatten().copied();
            let strays = known.stray.iter().map(|stray| stray.pod);
            if pods.chain(strays).any(|pod| pod.slot() == Some(slot)) {
                users.push(format!("a pod of member {member}"));
            }
            for index in 0..3 {
                if self.value(tag(member, index)).slot() == Some(slot) {
                    users.push(name_of(tag(member, index)));
                }
            }
            if self.value(label(member)) == Value::label_of(slot) {
                users.push(name_of(label(member)));
            }
        }
        users
    }

    /// Returns the pod that admission makes of a new pod with this template, or the reason for which
    /// it refuses the pod.
    pub(super) fn admit(&self, member: usize, template: Template) -> Result<Pod, &'static str> {
        let label = self.value(label(member));
        let asked = if label == Value::LABEL_ENABLED {
            self.value(tag(member, DEFAULT_TAG)).slot()
        } else if label == Value::LABEL_STABLE {
            self.value(tag(member, STABLE_TAG)).slot()
        } else if let Some(slot) = [OLD, NEW]
            .into_iter()
            .find(|slot| label == Value::label_of(*slot))
        {
            self.has_webhook(member, slot).then_some(slot)
        } else if template == Template::Asks {
            self.value(tag(member, DEFAULT_TAG)).slot()
        } else {
            None
        };
        match asked {
            None => Ok(Pod::Bare),
            Some(_) if template == Template::OptsOut => Ok(Pod::Bare),
            Some(slot) if !self.serves(slot) => Err("no istiod answers"),
            Some(slot) if !self.has_webhook(member, slot) => Err("there is no service"),
            Some(slot) => Ok(Pod::Of(slot)),
        }
    }

    /// Returns true if the objects of a revision are in a member.
    pub(super) fn has_webhook(&self, member: usize, slot: usize) -> bool {
        let cell = self.cells[objects(member, slot)];
        !cell.value.is_absent() && !cell.partial
    }

    /// Lets time pass: each controller replaces one pod. Returns the harm if a pod of the mesh starts
    /// without a sidecar.
    pub(super) fn pass_time(&mut self, seconds: i64) -> Option<Harm> {
        self.now += seconds;
        let mut harm = None;
        for member in 0..MEMBERS {
            let workload = self.workloads[member];
            if workload.outdated > 0 {
                let left = usize::from(workload.outdated - 1);
                harm = self.replace_pod(member, left).or(harm);
                if self.admit(member, workload.template).is_ok() {
                    self.workloads[member].outdated -= 1;
                }
            }
        }
        harm
    }

    /// Replaces one pod of the workload, unless admission refuses the new one.
    pub(super) fn replace_pod(&mut self, member: usize, index: usize) -> Option<Harm> {
        let workload = self.workloads[member];
        let Ok(pod) = self.admit(member, workload.template) else {
            return None;
        };
        let before = self.workloads[member].pods[index].replace(pod);
        let lost = pod == Pod::Bare
            && workload.template != Template::OptsOut
            && before.is_some_and(|before| before != Pod::Bare);
        lost.then(|| format!("a pod of member {member} lost its sidecar"))
    }

    /// Replaces the stray pod, as its controller does after an eviction.
    pub(super) fn replace_stray(&mut self, member: usize) {
        let admitted = self.admit(member, Template::Plain);
        let Some(stray) = &mut self.workloads[member].stray else {
            return;
        };
        stray.generation += 1;
        match admitted {
            Ok(pod) => stray.pod = pod,
            Err(_) => self.workloads[member].stray = None,
        }
    }

    /// Describes the clusters for people.
    pub(super) fn describe(&self) -> String {
        let cells: Vec<String> = (0..CELLS)
            .filter(|cell| !self.value(*cell).is_absent())
            .map(|cell| {
                let part = if self.cells[cell].partial {
                    " in part"
                } else {
                    ""
                };
                let value = self.value(cell).text().unwrap_or_default();
                format!("{} = {value}{part}", name_of(cell))
            })
            .collect();
        let workloads: Vec<String> = self
            .workloads
            .iter()
            .enumerate()
            .map(|(member, known)| {
                format!(
                    "member {member}: {:?}, pods {:?}, stray {:?}, {} outdated",
                    known.template, known.pods, known.stray, known.outdated
                )
            })
            .collect();
        format!(
            "istiods up: {:?}\n    {}\n    {}",
            self.up,
            cells.join(", "),
            workloads.join("\n    ")
        )
    }
}
