//! Shows the state of the fake clusters and the writes that they have accepted.

use meshwright_model::plan::Target;

use super::{AcceptedWrite, FakeClusters};

impl FakeClusters {
    /// Returns every accepted write so far, in order.
    pub fn journal(&self) -> Vec<AcceptedWrite> {
        self.lock().journal.clone()
    }

    /// Returns the number of writes that were tried since the cut was set, or since the creation.
    pub fn write_attempts(&self) -> u64 {
        self.lock().write_attempts
    }

    /// Returns the number of targets that were set since then. A target that consists of several
    /// objects takes several writes.
    pub fn push_count(&self) -> u64 {
        self.lock().push_count
    }

    /// Returns the largest number of workloads whose pods were being replaced at one time.
    pub fn max_restarting(&self) -> usize {
        self.lock().max_restarting
    }

    /// Returns the whole state as text for comparisons: values, labels, stamps and the sidecars of
    /// live pods.
    pub fn snapshot(&self) -> String {
        let state = self.lock();
        let named_itself = |target: &Target, value: &Option<String>| matches!(target, Target::Tag { tag, .. } if value.as_ref() == Some(tag));
        let cells = state
            .targets
            .iter()
            .filter(|(target, cell)| !named_itself(target, &cell.value))
            .filter_map(|(target, cell)| {
                cell.value
                    .as_ref()
                    .map(|value| format!("{target} = {value}\n"))
            });
        let pods = state.workloads.iter().map(|((member, workload), known)| {
            let carried: Vec<&str> = known
                .pods
                .iter()
                .map(|pod| pod.as_ref().map_or("-", |sidecar| sidecar.image.as_str()))
                .collect();
            format!("{workload} in {member}: {}\n", carried.join(" "))
        });
        let objects = state
            .objects
            .iter()
            .map(|((target, part), value)| format!("{target}: {part} of {value}\n"));
        let dirty = state.targets.iter().filter(|(_, cell)| cell.partial);
        let dirty = dirty.map(|(target, _)| format!("{target} was changed in part\n"));
        let others = state.describe_other_pods();
        cells
            .chain(objects)
            .chain(dirty)
            .chain(pods)
            .chain(others)
            .collect()
    }
}
