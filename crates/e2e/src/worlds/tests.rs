//! Plants faults into the driver and checks that the judge finds each of them.

use super::*;

/// Returns the failures of a sample of a stage's worlds, with a fault planted into the driver.
fn failures(stage: StageName, share: f64, planted: Planted) -> u64 {
    let options = Options {
        share,
        threads: 2,
        only: Some(stage),
        world: None,
        planted,
    };
    run_stage(stage, &options).failed
}

#[test]
fn small_worlds_without_a_planted_fault_have_no_failure() {
    for (stage, share) in [(StageName::Start, 100.0), (StageName::Roll, 0.1)] {
        assert_eq!(failures(stage, share, Planted::None), 0, "{stage:?}");
    }
}

#[test]
fn the_judge_of_small_worlds_finds_each_planted_fault() {
    for (planted, stage, share) in [
        (Planted::NoProof, StageName::Retire, 1.0),
        (Planted::NoFence, StageName::Restore, 100.0),
        (Planted::TrustsAnswers, StageName::Start, 100.0),
        (Planted::SilenceIsGoal, StageName::Promote, 100.0),
        (Planted::NoSearch, StageName::Roll, 0.2),
        (Planted::HidesProblems, StageName::Roll, 0.2),
    ] {
        assert_ne!(
            failures(stage, share, planted),
            0,
            "{planted:?} in {stage:?}"
        );
    }
}

#[test]
fn each_number_of_a_world_describes_another_world() {
    for stage in STAGES {
        for index in (0..Description::count(stage)).step_by(4_099) {
            let world = Description::from_index(stage, index);
            assert_eq!(world.index(), index);
            let canonical = world.canonical();
            assert_eq!(canonical.canonical(), canonical, "{world}");
        }
    }
}

#[test]
fn a_world_ends_as_the_world_does_that_stands_for_it() {
    let ends = |world: Description| {
        let conditions = Conditions {
            planted: Planted::None,
            verbose: false,
        };
        let mut results = Results::default();
        judge_world(world, conditions, &mut results);
        assert_eq!(results.tally.failed, 0, "{world}");
        results.tally.stops
    };
    for stage in STAGES {
        for index in (0..Description::count(stage)).step_by(50_021) {
            let world = Description::from_index(stage, index);
            let canonical = world.canonical();
            assert_eq!(ends(world), ends(canonical), "{world} and {canonical}");
        }
    }
}
