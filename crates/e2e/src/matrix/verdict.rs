//! Judges the end of a run on fake clusters.

use meshwright_model::ids::UpgradeId;
use meshwright_model::plan::Target;
use meshwright_testkit::Fleet;

use super::victim::without_operation_ids;

/// Returns the workloads that were restarted, once for each restart.
pub(super) fn restarted_workloads(fleet: &Fleet) -> Vec<Target> {
    let journal = fleet.clusters.journal();
    journal
        .into_iter()
        .filter(|write| write.from != write.to)
        .map(|write| write.target)
        .filter(|target| matches!(target, Target::Workload { .. }))
        .collect()
}

/// Returns the fault of a run that has ended, if there is one.
pub(super) async fn judge_end_state(
    fleet: &Fleet,
    upgrade: UpgradeId,
    picture: &str,
    stamps_before: &[Target],
) -> Option<String> {
    let state = fleet.upgrade(upgrade).await.state;
    if !state.is_terminal() {
        return Some(format!("stuck: {state:?}"));
    }
    let mut since: Vec<Target> = restarted_workloads(fleet).split_off(stamps_before.len());
    let count = since.len();
    since.sort();
    since.dedup();
    if since.len() != count {
        return Some(format!(
            "doubled: {} restarts of {} workloads",
            count,
            since.len()
        ));
    }
    let now = without_operation_ids(&fleet.clusters.snapshot());
    (now != picture).then(|| format!("lost: the end differs:\n{now}"))
}
