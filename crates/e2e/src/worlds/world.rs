//! Runs the clusters of a small world: counts the calls, and lets the fault of the run happen.

use std::sync::{Mutex, MutexGuard};

use meshwright_rollout::ports::{ClusterError, Fence, ObjectVersion};

use super::cells::{CellIndex, MEMBER_NAMES, Value, is_bundle, is_field, name_of};
use super::clusters::{Clusters, Harm};
use super::faults::{Call, CallKind, Fault, PendingWrite, refused_error, unreachable_error};

/// Number of earlier states that a stale look can show.
const PAST_STATES: usize = 2;

/// Cluster that a call reaches: a member, or the hosting cluster.
pub(super) type Place = Option<usize>;

/// State of a run, without what only describes it.
#[derive(Debug, Clone)]
pub(super) struct WorldState {
    pub(super) clusters: Clusters,
    /// States before the last writes. A look is stale for a few seconds at most.
    pub(super) past: [Option<Clusters>; PAST_STATES],
    pub(super) calls: u32,
    /// Fault of the run, with the number of the call at which it happens.
    fault: Option<(u32, Fault)>,
    silent: Option<Place>,
    pub(super) pending: Option<PendingWrite>,
    /// First harm that the run did.
    pub(super) harm: Option<Harm>,
    /// Kinds of the calls so far; `None` if they are not recorded.
    pub(super) trace: Option<Vec<Call>>,
    /// Lines about the calls so far; `None` if they are not recorded.
    pub(super) journal: Option<Vec<String>>,
}

/// Small world that implements the port to clusters.
#[derive(Debug)]
pub(super) struct World(Mutex<WorldState>);

/// Meaning of the fault for one write.
enum WriteFault {
    None,
    /// The write is done, and this is its answer.
    DoneWith(ClusterError),
    InPart(ClusterError),
    NotDone(ClusterError),
}

impl World {
    pub(super) fn new(clusters: &Clusters) -> Self {
        Self(Mutex::new(WorldState {
            clusters: *clusters,
            past: [None; PAST_STATES],
            calls: 0,
            fault: None,
            silent: None,
            pending: None,
            harm: None,
            trace: None,
            journal: None,
        }))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, WorldState> {
        self.0.lock().expect("no holder panics")
    }

    /// Lets this fault happen at the call with this number.
    pub(super) fn arm(&self, at: u32, fault: Fault) {
        self.lock().fault = Some((at, fault));
    }

    /// Returns a copy of the state, from which another run can go on.
    pub(super) fn copy(&self) -> WorldState {
        self.lock().clone()
    }

    /// Continues from a copied state, without its records.
    pub(super) fn restored(state: &WorldState) -> Self {
        Self(Mutex::new(state.clone()))
    }

    /// Lets seconds pass.
    pub(super) fn pass_time(&self, seconds: i64) {
        let mut state = self.lock();
        state.past = [None; PAST_STATES];
        let harm = state.clusters.pass_time(seconds);
        state.note_harm(harm);
    }

    pub(super) fn now(&self) -> i64 {
        self.lock().clusters.now
    }
}

impl WorldState {
    /// Returns the state without the record of its calls.
    pub(super) fn without_trace(self) -> Self {
        Self {
            trace: None,
            ..self
        }
    }

    /// Ends the fault: each cluster answers again.
    pub(super) fn heal(&mut self) {
        self.silent = None;
        self.fault = None;
    }

    /// Returns true if the fault has happened, and nothing of it is still to come.
    pub(super) fn is_settled(&self) -> bool {
        self.fault.is_none() && self.silent.is_none() && self.pending.is_none()
    }

    fn note_harm(&mut self, harm: Option<Harm>) {
        if self.harm.is_none() {
            self.harm = harm;
        }
    }

    /// Adds a line to the journal, if there is one.
    pub(super) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(journal) = &mut self.journal {
            journal.push(format!("{:>4}  {}", self.calls, line()));
        }
    }

    /// Lets the pending write arrive if it is due. A target without a version cannot refuse it; then
    /// the end of the lease has stopped it, unless it arrives at once.
    pub(super) fn deliver(&mut self, at: u32) {
        let Some(late) = self.pending.filter(|late| late.arrives <= at) else {
            return;
        };
        self.pending = None;
        let versioned = late.version != 0 && !is_bundle(late.cell);
        let same = self.clusters.version(late.cell) == late.version;
        let accepted = same && (versioned || late.arrives == at);
        self.note(|| {
            let word = if accepted {
                "is accepted"
            } else {
                "is refused"
            };
            format!("the late write of {} {word}", name_of(late.cell))
        });
        if accepted {
            // The operation of a late write had its reasons when it sent it.
            let known = self.harm.take();
            self.accept(late.cell, late.value);
            self.harm = known;
        }
    }

    fn accept(&mut self, cell: CellIndex, value: Value) {
        self.past = [Some(self.clusters), self.past[0]];
        let harm = self.clusters.write(cell, value);
        self.note_harm(harm);
    }

    /// Begins a call: returns the fault that happens at it.
    fn begin(&mut self, kind: CallKind) -> Option<Fault> {
        self.deliver(self.calls);
        if let Some(trace) = &mut self.trace {
            let stale = self.past.map(|past| past.is_some());
            trace.push(Call { kind, stale });
        }
        let due = self.fault.filter(|(at, _)| *at == self.calls);
        self.calls += 1;
        if due.is_some() {
            self.fault = None;
        }
        due.map(|(_, fault)| fault)
    }

    /// Returns the state of the clusters that a look at a place shows.
    pub(super) fn look(&mut self, place: Place, what: &str) -> Result<Clusters, ClusterError> {
        let fault = self.begin(CallKind::Read);
        self.note(|| {
            let text = fault.map_or(String::new(), |fault| format!("  <- {fault}"));
            format!("look at {what} in {}{text}", place_name(place))
        });
        let error = unreachable_error(place_name(place));
        match fault {
            Some(Fault::StaleLook(writes)) => {
                let known = self.past[..writes].iter().flatten().last();
                Ok(known.copied().unwrap_or(self.clusters))
            }
            Some(Fault::Refused) => Err(refused_error(place_name(place))),
            Some(Fault::DiesBefore | Fault::DiesAfter) => Err(ClusterError::Expired),
            Some(Fault::Silence) => {
                self.silent = Some(place);
                Err(error)
            }
            Some(Fault::Unanswered) => Err(error),
            _ if self.silent == Some(place) => Err(error),
            _ => Ok(self.clusters),
        }
    }

    /// Returns true if the place does not answer.
    pub(super) fn is_silent(&self, place: Place) -> bool {
        self.silent == Some(place)
    }

    /// Writes a target, from the version that a look has shown.
    pub(super) fn write(
        &mut self,
        cell: CellIndex,
        value: Value,
        seen: &ObjectVersion,
    ) -> Result<(), ClusterError> {
        let place = super::cells::member_of_cell(cell);
        let bundle = is_bundle(cell);
        let fault = self.begin(CallKind::Write { bundle });
        self.note(|| {
            let text = fault.map_or(String::new(), |fault| format!("  <- {fault}"));
            let to = value.text().unwrap_or_else(|| "absent".to_owned());
            format!("write {} = {to}{text}", name_of(cell))
        });
        let version = seen.0.parse().expect("a version of this world");
        if let Some(Fault::LateWrite(calls)) = fault {
            let arrives = self.calls + calls;
            self.pending = Some(PendingWrite {
                cell,
                value,
                version,
                arrives,
            });
            return Err(ClusterError::Expired);
        }
        let outcome = self.write_fault(fault, place);
        if let WriteFault::NotDone(error) = outcome {
            return Err(error);
        }
        if self.clusters.version(cell) != version {
            return Err(ClusterError::Changed {
                place: name_of(cell),
            });
        }
        self.accept(cell, value);
        match outcome {
            WriteFault::InPart(error) => {
                self.clusters.cells[cell].partial = true;
                Err(error)
            }
            WriteFault::DoneWith(error) => Err(error),
            WriteFault::None | WriteFault::NotDone(_) => Ok(()),
        }
    }

    fn write_fault(&mut self, fault: Option<Fault>, place: Place) -> WriteFault {
        let error = unreachable_error(place_name(place));
        match fault {
            Some(Fault::LostAnswer) => WriteFault::DoneWith(error),
            Some(Fault::PartialWrite) => WriteFault::InPart(error),
            Some(Fault::Unanswered) => WriteFault::NotDone(error),
            Some(Fault::Refused) => WriteFault::NotDone(refused_error(place_name(place))),
            Some(Fault::Silence) => {
                self.silent = Some(place);
                WriteFault::NotDone(error)
            }
            Some(Fault::DiesBefore) => WriteFault::NotDone(ClusterError::Expired),
            Some(Fault::DiesAfter) => WriteFault::DoneWith(ClusterError::Expired),
            _ if self.silent == Some(place) => WriteFault::NotDone(error),
            _ => WriteFault::None,
        }
    }

    /// Evicts a pod of a member, which `replace` finds and replaces. It returns false if the pod is
    /// gone.
    pub(super) fn evict(
        &mut self,
        member: usize,
        pod: &str,
        replace: impl FnOnce(&mut Clusters) -> bool,
    ) -> Result<(), ClusterError> {
        let fault = self.begin(CallKind::Eviction);
        self.note(|| {
            let text = fault.map_or(String::new(), |fault| format!("  <- {fault}"));
            format!("evict {pod} in {}{text}", MEMBER_NAMES[member])
        });
        let outcome = self.write_fault(fault, Some(member));
        if let WriteFault::NotDone(error) = outcome {
            return Err(error);
        }
        self.past = [Some(self.clusters), self.past[0]];
        if !replace(&mut self.clusters) {
            return Err(ClusterError::Changed {
                place: format!("pod {pod}"),
            });
        }
        match outcome {
            WriteFault::DoneWith(error) | WriteFault::InPart(error) => Err(error),
            WriteFault::None | WriteFault::NotDone(_) => Ok(()),
        }
    }

    /// Fences a target: changes its version only.
    pub(super) fn fence(&mut self, cell: CellIndex) -> Result<Fence, ClusterError> {
        let fault = self.begin(CallKind::Fence);
        self.note(|| format!("fence {}", name_of(cell)));
        let place = super::cells::member_of_cell(cell);
        match self.write_fault(fault, place) {
            WriteFault::NotDone(error) => Err(error),
            _ if is_bundle(cell) || (self.clusters.value(cell).is_absent() && !is_field(cell)) => {
                Ok(Fence::UntilLeaseEnds)
            }
            _ => {
                let known = &mut self.clusters.cells[cell];
                known.version += 1;
                known.fenced = known.version;
                Ok(Fence::Holds)
            }
        }
    }
}

/// Returns the name of a place for people.
pub(super) fn place_name(place: Place) -> &'static str {
    place.map_or("the hosting cluster", |member| MEMBER_NAMES[member])
}
