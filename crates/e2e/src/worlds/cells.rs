//! Numbers the targets of a small world and their values, so that a world is a small value that can
//! be copied and compared.

use meshwright_model::Name;
use meshwright_model::ids::OperationId;
use meshwright_model::plan::{Target, WorkloadKind, WorkloadRef};
use meshwright_rollout::plan::ControlPlane;
use uuid::Uuid;

/// Number of member clusters.
pub(super) const MEMBERS: usize = 2;
/// Number of cells of the hosting cluster.
const HOST_CELLS: usize = 5;
/// Number of cells of one member.
const MEMBER_CELLS: usize = 9;
/// Number of all cells.
pub(super) const CELLS: usize = HOST_CELLS + MEMBERS * MEMBER_CELLS;

/// Index of a slot: the place of one control plane.
pub(super) const OLD: usize = 0;
/// Index of the slot that an upgrade leads to.
pub(super) const NEW: usize = 1;
/// Names of the revisions in the two slots.
pub(super) const REVISIONS: [&str; 2] = ["1-25-1", "1-27-9"];
const RELEASES: [&str; 2] = ["1.25.1.1", "1.27.9.1"];
const IMAGES: [&str; 2] = ["hub/proxyv2:1.25.1", "hub/proxyv2:1.27.9"];
/// Namespace of each member that has the workload.
pub(super) const NAMESPACE: &str = "shop";
/// Names of the member clusters.
pub(super) const MEMBER_NAMES: [&str; MEMBERS] = ["c1", "c2"];
const TAG_NAMES: [&str; 3] = ["stable", "default", "canary"];

/// Value of a target, as a number. The texts that are known beforehand come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(super) struct Value(u32);

const KNOWN_VALUES: [&str; 10] = [
    "present",
    RELEASES[0],
    RELEASES[1],
    REVISIONS[0],
    REVISIONS[1],
    "istio-injection=enabled",
    "istio.io/rev=stable",
    "istio.io/rev=1-25-1",
    "istio.io/rev=1-27-9",
    "before",
];
/// First number of the restart stamps.
const STAMPS: u32 = 100;
/// Numbers of one operation's stamps, and of one step's.
const STAMPS_PER_OPERATION: u32 = 100_000;
const STAMPS_PER_STEP: u32 = 100;

impl Value {
    /// The target is absent.
    pub(super) const ABSENT: Self = Self(0);
    pub(super) const PRESENT: Self = Self(1);
    pub(super) const LABEL_ENABLED: Self = Self(6);
    pub(super) const LABEL_STABLE: Self = Self(7);

    /// Returns the value of a target that holds the release of a slot.
    pub(super) fn release(slot: usize) -> Self {
        Self(if slot == OLD { 2 } else { 3 })
    }

    /// Returns the value of a target that points to the revision of a slot.
    pub(super) fn revision(slot: usize) -> Self {
        Self(if slot == OLD { 4 } else { 5 })
    }

    /// Returns the label that names the revision of a slot.
    pub(super) fn label_of(slot: usize) -> Self {
        Self(if slot == OLD { 8 } else { 9 })
    }

    /// Returns the slot to which a tag with this value points.
    pub(super) fn slot(self) -> Option<usize> {
        [OLD, NEW]
            .into_iter()
            .find(|slot| Self::revision(*slot) == self)
    }

    pub(super) fn is_absent(self) -> bool {
        self == Self::ABSENT
    }

    /// Returns the number of a text.
    pub(super) fn read(text: Option<&str>) -> Self {
        let Some(text) = text else {
            return Self::ABSENT;
        };
        let known = KNOWN_VALUES.iter().position(|known| *known == text);
        known.map_or_else(
            || Self::read_stamp(text),
            |index| Self(u32::try_from(index + 1).expect("ten values")),
        )
    }

    fn read_stamp(text: &str) -> Self {
        let mut parts = text.split('/');
        let (operation, step, attempt) = (parts.next(), parts.next(), parts.next());
        let number = |part: Option<&str>| {
            let text = part.expect("a stamp has three parts");
            text.parse::<u32>().expect("a stamp has numbers")
        };
        let operation = operation.expect("a stamp has an operation");
        let operation = number(operation.get(operation.len() - 1..));
        Self(
            STAMPS
                + operation * STAMPS_PER_OPERATION
                + number(step) * STAMPS_PER_STEP
                + number(attempt),
        )
    }

    /// Returns the text of the value; `None` if the target is absent.
    pub(super) fn text(self) -> Option<String> {
        let index = usize::try_from(self.0).expect("small").checked_sub(1)?;
        if let Some(known) = KNOWN_VALUES.get(index) {
            return Some((*known).to_owned());
        }
        let stamp = self.0 - STAMPS;
        let operation = operation_id(stamp / STAMPS_PER_OPERATION);
        let of_operation = stamp % STAMPS_PER_OPERATION;
        let (step, attempt) = (
            of_operation / STAMPS_PER_STEP,
            of_operation % STAMPS_PER_STEP,
        );
        Some(format!("{operation}/{step}/{attempt}"))
    }
}

/// Returns the id of an operation with a number from 0 to 9.
pub(super) fn operation_id(number: u32) -> OperationId {
    OperationId(Uuid::from_u128(u128::from(number)))
}

/// Returns the control plane of a slot.
pub(super) fn control_plane(slot: usize) -> ControlPlane {
    ControlPlane {
        revision: REVISIONS[slot].parse().expect("a revision name"),
        release: RELEASES[slot].parse().expect("a version"),
        image: IMAGES[slot].to_owned(),
    }
}

/// Returns the proxy image that the control plane of a slot injects.
pub(super) fn image(slot: usize) -> &'static str {
    IMAGES[slot]
}

/// Returns the slot of a revision.
pub(super) fn slot_of(revision: &str) -> usize {
    usize::from(revision == REVISIONS[NEW])
}

/// Returns the name of a member.
pub(super) fn member_name(member: usize) -> Name {
    MEMBER_NAMES[member].parse().expect("a name")
}

/// Returns the index of a member.
pub(super) fn member_of(name: &str) -> usize {
    usize::from(name == MEMBER_NAMES[1])
}

/// Returns the workload that each member has.
pub(super) fn workload() -> WorkloadRef {
    WorkloadRef {
        namespace: NAMESPACE.to_owned(),
        kind: WorkloadKind::Deployment,
        name: "web".to_owned(),
    }
}

/// Place of a target: a number from 0 to [`CELLS`].
pub(super) type CellIndex = usize;

const ADDRESS: usize = 0;
const ISTIOD: usize = 2;
pub(super) const LIMITS: usize = 4;
const CRDS: usize = 0;
const OBJECTS: usize = 1;
const TAGS: usize = 3;
const VALIDATOR: usize = 6;
const LABEL: usize = 7;
const STAMP: usize = 8;

pub(super) fn address(slot: usize) -> CellIndex {
    ADDRESS + slot
}

pub(super) fn istiod(slot: usize) -> CellIndex {
    ISTIOD + slot
}

fn in_member(member: usize, cell: usize) -> CellIndex {
    HOST_CELLS + member * MEMBER_CELLS + cell
}

pub(super) fn crds(member: usize) -> CellIndex {
    in_member(member, CRDS)
}

pub(super) fn objects(member: usize, slot: usize) -> CellIndex {
    in_member(member, OBJECTS + slot)
}

pub(super) fn tag(member: usize, tag: usize) -> CellIndex {
    in_member(member, TAGS + tag)
}

pub(super) fn validator(member: usize) -> CellIndex {
    in_member(member, VALIDATOR)
}

pub(super) fn label(member: usize) -> CellIndex {
    in_member(member, LABEL)
}

pub(super) fn stamp(member: usize) -> CellIndex {
    in_member(member, STAMP)
}

/// Returns the member that holds a cell; `None` for the hosting cluster.
pub(super) fn member_of_cell(cell: CellIndex) -> Option<usize> {
    Some(cell.checked_sub(HOST_CELLS)? / MEMBER_CELLS)
}

/// Returns the place of a target.
pub(super) fn cell_of(target: &Target) -> CellIndex {
    let at = |member: &Name| member_of(member.as_str());
    match target {
        Target::Address { revision } => address(slot_of(revision.as_str())),
        Target::ControlPlane { revision } => istiod(slot_of(revision.as_str())),
        Target::Limits => LIMITS,
        Target::Crds { member } => crds(at(member)),
        Target::MemberObjects { member, revision } => {
            objects(at(member), slot_of(revision.as_str()))
        }
        Target::Tag { member, tag: name } => {
            let index = TAG_NAMES.iter().position(|known| known == name);
            tag(at(member), index.expect("one of the three tags"))
        }
        Target::Validator { member } => validator(at(member)),
        Target::NamespaceLabel { member, .. } => label(at(member)),
        Target::Workload { member, .. } => stamp(at(member)),
        Target::MeshNamespace
        | Target::MemberBootstrap { .. }
        | Target::RemoteAccess { .. }
        | Target::Certificates { .. } => unreachable!("no stage of an upgrade has {target}"),
    }
}

/// Returns true for a target of several objects, of which a write may change only a part.
pub(super) fn is_bundle(cell: CellIndex) -> bool {
    cell < HOST_CELLS || matches!((cell - HOST_CELLS) % MEMBER_CELLS, CRDS | OBJECTS | 2)
}

/// Returns true if the cell belongs to an object of the user, which outlives the value.
pub(super) fn is_field(cell: CellIndex) -> bool {
    cell >= HOST_CELLS && matches!((cell - HOST_CELLS) % MEMBER_CELLS, LABEL | STAMP)
}

/// Returns true for a tag, with its member and index.
pub(super) fn as_tag(cell: CellIndex) -> Option<(usize, usize)> {
    let member = member_of_cell(cell)?;
    let index = ((cell - HOST_CELLS) % MEMBER_CELLS).checked_sub(TAGS)?;
    (index < TAG_NAMES.len()).then_some((member, index))
}

/// Returns the slot whose control plane a cell is a part of.
pub(super) fn as_part_of_slot(cell: CellIndex) -> Option<usize> {
    [OLD, NEW].into_iter().find(|slot| {
        cell == address(*slot)
            || cell == istiod(*slot)
            || (0..MEMBERS).any(|member| cell == objects(member, *slot))
    })
}

/// Returns the name of a cell for people.
pub(super) fn name_of(cell: CellIndex) -> String {
    let Some(member) = member_of_cell(cell) else {
        return match cell {
            LIMITS => "limits".to_owned(),
            address if address < ISTIOD => format!("address of {}", REVISIONS[address]),
            istiod => format!("istiod {}", REVISIONS[istiod - ISTIOD]),
        };
    };
    let name = match (cell - HOST_CELLS) % MEMBER_CELLS {
        CRDS => "crds".to_owned(),
        LABEL => "namespace label".to_owned(),
        STAMP => "stamp".to_owned(),
        VALIDATOR => "validator".to_owned(),
        tag if tag >= TAGS => format!("tag {}", TAG_NAMES[tag - TAGS]),
        objects => format!("objects of {}", REVISIONS[objects - OBJECTS]),
    };
    format!("{name} in {}", MEMBER_NAMES[member])
}

/// Returns the name of a tag.
pub(super) fn tag_name(index: usize) -> &'static str {
    TAG_NAMES[index]
}
