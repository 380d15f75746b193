//! Describes small worlds, numbers all of them, and folds those that are alike.

use clap::ValueEnum;
use meshwright_model::operation::OperationKind;

use super::cells::{
    CELLS, LIMITS, MEMBERS, NEW, OLD, Value, address, crds, istiod, label, objects, stamp, tag,
    validator,
};
use super::clusters::{Cell, Clusters, Pod, StrayPod, Template, Workload};

mod display;

/// Stage of an upgrade that is run from every world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub(super) enum StageName {
    /// The target version is brought up.
    Start,
    /// The tags are switched to the new revision.
    Promote,
    /// The tags of a failed promotion are switched back.
    Restore,
    /// Workloads are restarted.
    Roll,
    /// The old revision is removed.
    Retire,
    /// What the upgrade did is undone.
    Rollback,
}

/// All stages, in the order in which they are run.
pub(super) const STAGES: [StageName; 6] = [
    StageName::Start,
    StageName::Promote,
    StageName::Restore,
    StageName::Roll,
    StageName::Retire,
    StageName::Rollback,
];

impl StageName {
    pub(super) fn kind(self) -> OperationKind {
        match self {
            Self::Start => OperationKind::Deploy,
            Self::Promote => OperationKind::Promote,
            Self::Restore => OperationKind::Restore,
            Self::Roll => OperationKind::Roll,
            Self::Retire => OperationKind::Retire,
            Self::Rollback => OperationKind::Rollback,
        }
    }

    /// Returns the word that people write.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Promote => "promote",
            Self::Restore => "restore",
            Self::Roll => "roll",
            Self::Retire => "retire",
            Self::Rollback => "rollback",
        }
    }

    fn histories(self) -> &'static [History] {
        match self {
            Self::Start => &[History::None, History::LeftInMember],
            Self::Promote | Self::Retire => &[History::None],
            Self::Restore => &[
                History::PromotionCut,
                History::FirstMemberPromoted,
                History::Promoted,
            ],
            Self::Roll => &[History::None, History::Moved],
            Self::Rollback => &[
                History::Deployed,
                History::PromotionCut,
                History::Promoted,
                History::Rolled,
            ],
        }
    }

    /// Returns the slot whose pods the stage replaces or waits for.
    fn left_slot(self) -> usize {
        if self == Self::Rollback { NEW } else { OLD }
    }

    /// Returns true if the stage looks at labels and pods.
    pub(super) fn looks_at_pods(self) -> bool {
        matches!(self, Self::Roll | Self::Retire | Self::Rollback)
    }
}

/// Earlier operations of the upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum History {
    /// The stages before this one have ended well.
    None,
    /// An abandoned upgrade has left objects of the new revision in the second member.
    LeftInMember,
    /// The namespace of the first member was moved to the canary.
    Moved,
    /// The new revision was brought up.
    Deployed,
    /// The promotion was cut off within the tags of the first member.
    PromotionCut,
    /// The promotion was cut off within the tags of the second member.
    FirstMemberPromoted,
    /// The promotion has ended.
    Promoted,
    /// The roll-out has ended.
    Rolled,
}

/// Number of forms of a namespace's label, of states of pods, and of positions of a member's tags.
const LABELS: u32 = 4;
const POD_STATES: u32 = 9;
const TAG_POSITIONS: u32 = 8;
const MEMBER_STATES: u32 = LABELS * POD_STATES * TAG_POSITIONS;

/// One member of a described world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Member {
    /// Form of the namespace's label: for the default tag, for `stable`, with the name of a
    /// revision, or none, with a template that asks.
    label: u32,
    pods: u32,
    /// True for each tag that points to the new slot.
    tags: [bool; 3],
}

impl Member {
    fn from_index(index: u32) -> Self {
        let tags = index / (LABELS * POD_STATES);
        Self {
            label: index % LABELS,
            pods: index / LABELS % POD_STATES,
            tags: [tags & 1 != 0, tags & 2 != 0, tags & 4 != 0],
        }
    }

    fn index(self) -> u32 {
        let [stable, default, canary] = self.tags.map(u32::from);
        let tags = stable + 2 * default + 4 * canary;
        (tags * POD_STATES + self.pods) * LABELS + self.label
    }

    /// Returns true if the namespace's label names a revision.
    pub(super) fn names_revision(self) -> bool {
        self.label == 2
    }

    /// Returns the label from before the upgrade.
    pub(super) fn label_before(self) -> Value {
        match self.label {
            0 => Value::LABEL_ENABLED,
            1 => Value::LABEL_STABLE,
            2 => Value::label_of(OLD),
            _ => Value::ABSENT,
        }
    }

    fn workload(self, left: usize) -> Workload {
        let other = 1 - left;
        let both = |pod: Pod| [Some(pod); 2];
        let (pods, stray) = match self.pods {
            0 | 5 => (both(Pod::Of(left)), None),
            1 => (both(Pod::Of(other)), None),
            2 => ([Some(Pod::Of(other)), None], Some(true)),
            3 => ([Some(Pod::Of(other)), None], Some(false)),
            4 => (both(Pod::Bare), None),
            6 => ([Some(Pod::OtherImage(left)), Some(Pod::Of(left))], None),
            7 => ([None; 2], None),
            _ => ([Some(Pod::Of(left)), Some(Pod::Of(other))], None),
        };
        let asks = if self.label == 3 {
            Template::Asks
        } else {
            Template::Plain
        };
        Workload {
            template: if self.pods == 5 {
                Template::OptsOut
            } else {
                asks
            },
            pods,
            outdated: 0,
            stray: stray.map(|evictable| StrayPod {
                pod: Pod::Of(left),
                evictable,
                generation: 0,
            }),
            restarts: 0,
        }
    }
}

/// Small world before a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Description {
    pub(super) stage: StageName,
    pub(super) history: History,
    up: [bool; 2],
    /// True if validation points to the new slot.
    validator: bool,
    pub(super) members: [Member; MEMBERS],
}

impl Description {
    /// Returns the number of worlds of a stage, with those that are alike.
    pub(super) fn count(stage: StageName) -> u32 {
        let histories = u32::try_from(stage.histories().len()).expect("few histories");
        histories * 8 * MEMBER_STATES * MEMBER_STATES
    }

    pub(super) fn from_index(stage: StageName, index: u32) -> Self {
        let (first, rest) = (index % MEMBER_STATES, index / MEMBER_STATES);
        let (second, rest) = (rest % MEMBER_STATES, rest / MEMBER_STATES);
        let history = usize::try_from(rest / 8).expect("few histories");
        Self {
            stage,
            history: stage.histories()[history],
            up: [rest & 1 == 0, rest & 2 == 0],
            validator: rest & 4 != 0,
            members: [Member::from_index(first), Member::from_index(second)],
        }
    }

    pub(super) fn index(&self) -> u32 {
        let histories = self.stage.histories();
        let history = histories.iter().position(|known| *known == self.history);
        let history = u32::try_from(history.expect("a history of the stage")).expect("few");
        let [old, new] = self.up.map(|up| u32::from(!up));
        let rest = history * 8 + u32::from(self.validator) * 4 + new * 2 + old;
        let [first, second] = self.members.map(Member::index);
        (rest * MEMBER_STATES + second) * MEMBER_STATES + first
    }

    /// Returns the number of the world with the same labels and pods whose tags all point to the old
    /// slot. Worlds of one number soon come to the same states, so a sample takes all of them.
    pub(super) fn family(&self) -> u32 {
        let mut first = *self;
        for member in &mut first.members {
            member.tags = [false; 3];
        }
        first.index()
    }

    /// Returns the world that stands for all worlds which are like this one.
    pub(super) fn canonical(&self) -> Self {
        let mut same = *self;
        if !matches!(self.stage, StageName::Promote | StageName::Restore) {
            same.validator = matches!(self.history, History::Promoted | History::Rolled);
        }
        for index in 0..MEMBERS {
            same.members[index] = self.fold_member(index);
        }
        let alike = match self.stage {
            // Promotions take the members one after the other, and only the first has validation.
            StageName::Promote | StageName::Restore => false,
            _ => matches!(
                self.history,
                History::None | History::Deployed | History::Promoted | History::Rolled
            ),
        };
        if alike {
            same.members.sort_unstable();
        }
        same
    }

    fn fold_member(&self, index: usize) -> Member {
        let member = self.members[index];
        let mut same = member;
        let [stable, default, canary] = &mut same.tags;
        match self.stage {
            StageName::Start => (*stable, *default) = (false, false),
            StageName::Promote | StageName::Restore => *canary = true,
            // Pods ask for one tag, and a roll-out looks at nothing else.
            StageName::Roll => {
                *canary = true;
                *stable |= member.label != 1;
                *default |= !matches!(member.label, 0 | 3);
            }
            StageName::Retire | StageName::Rollback => {
                // The tags `stable` and `default` are alike, with the labels that ask for them.
                let alike = self.history != History::PromotionCut || index > 0;
                if member.label == 1 && alike {
                    same.label = 0;
                    std::mem::swap(stable, default);
                } else if member.label == 2 && alike && *stable {
                    (*stable, *default) = (*default, true);
                }
            }
        }
        if !self.stage.looks_at_pods() {
            (same.label, same.pods) = (0, 0);
        }
        same
    }

    /// Returns what the judge has to know of the world besides the clusters.
    pub(super) fn judged(&self) -> (StageName, History, [u32; MEMBERS]) {
        (
            self.stage,
            self.history,
            self.members.map(|member| member.label),
        )
    }

    /// Builds the clusters of the world.
    pub(super) fn clusters(&self) -> Clusters {
        let mut clusters = Clusters {
            cells: [Cell::default(); CELLS],
            workloads: [Workload::default(); MEMBERS],
            up: self.up,
            now: 0,
        };
        let mut set = |cell: usize, value: Value| clusters.cells[cell].value = value;
        let started = self.stage == StageName::Start;
        for slot in [OLD, NEW] {
            if slot == NEW && started {
                continue;
            }
            set(address(slot), Value::PRESENT);
            set(istiod(slot), Value::release(slot));
            (0..MEMBERS).for_each(|member| set(objects(member, slot), Value::release(slot)));
        }
        set(LIMITS, Value::PRESENT);
        set(validator(0), Value::revision(usize::from(self.validator)));
        if self.history == History::LeftInMember {
            set(objects(1, NEW), Value::release(NEW));
        }
        for (index, member) in self.members.iter().enumerate() {
            set(crds(index), Value::release(if started { OLD } else { NEW }));
            for (number, new) in member.tags.iter().enumerate() {
                set(tag(index, number), Value::revision(usize::from(*new)));
            }
            set(label(index), self.label_now(index));
            if self.history == History::Rolled {
                set(stamp(index), Value::read(Some(&stamp_of_roll())));
            }
            clusters.workloads[index] = member.workload(self.stage.left_slot());
        }
        clusters
    }

    /// Returns the label that the namespace of a member has now.
    fn label_now(&self, member: usize) -> Value {
        let before = self.members[member].label_before();
        let moved = self.history == History::Moved && member == 0;
        let relabelled = self.history == History::Rolled && before == Value::label_of(OLD);
        if moved || relabelled {
            Value::label_of(NEW)
        } else {
            before
        }
    }
}

/// Stamp that the roll-out before a rollback has left on each workload.
fn stamp_of_roll() -> String {
    format!("{}/7/0", super::cells::operation_id(9))
}
