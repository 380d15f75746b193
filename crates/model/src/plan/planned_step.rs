//! Defines a step of a stored plan, with its progress.

use super::Step;
use crate::operation::Progress;

/// Step of a stored plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedStep {
    /// Number of the step within the plan, from 0.
    pub number: i32,
    /// Number of the step's wave within the plan, from 0.
    pub wave: usize,
    /// Step with its arguments.
    pub step: Step,
    /// Progress of the step, summed up from its events.
    pub progress: Progress,
}
