//! Converts failed calls to clusters into problems for the user.

use meshwright_model::operation::Problem;
use meshwright_model::problem::ProblemCode;
use meshwright_rollout::ports::ClusterError;

/// Converts the result of a maintenance call that tells whether all was done already. If another
/// worker changed an object meanwhile, the answer is `false`: the next check sees what that worker
/// did.
///
/// # Errors
/// Returns every other failure as a problem for the user.
pub fn problem_unless_changed(answer: Result<bool, ClusterError>) -> Result<bool, Problem> {
    match answer {
        Err(ClusterError::Changed { place }) => {
            tracing::debug!(
                place,
                "another worker changed the object first; the next check will see its result"
            );
            Ok(false)
        }
        answer => answer.map_err(|error| problem_from_error(&error)),
    }
}

/// Converts a failed call into a problem for the user.
pub fn problem_from_error(error: &ClusterError) -> Problem {
    match error {
        ClusterError::Unreachable { place, code, cause } => Problem::new(
            *code,
            format!("{place} does not answer: {cause}."),
            "Check the address, the network between us and the cluster, and try again.",
        ),
        ClusterError::Refused { place, code, cause } => Problem::new(
            *code,
            format!("{place} refused: {cause}."),
            hint_for_code(*code),
        ),
        ClusterError::Changed { place } => Problem::new(
            ProblemCode::ClusterChanged,
            format!("{place} changed in between."),
            "Try again.",
        ),
        ClusterError::Delayed { place, cause } => Problem::new(
            ProblemCode::TryAgain,
            format!("{place} cannot be changed now: {cause}."),
            "Try again.",
        ),
        ClusterError::Expired => Problem::new(
            ProblemCode::TryAgain,
            "The attempt took too long.",
            "Try again.",
        ),
    }
}

pub(crate) fn hint_for_code(code: ProblemCode) -> &'static str {
    match code {
        ProblemCode::CredentialExpired => "Submit a kubeconfig with a credential that is valid.",
        ProblemCode::PermissionMissing => {
            "Grant what is missing, or submit an administrator's credential; it is discarded after registration."
        }
        ProblemCode::TokenUnusable => {
            "Look at what answers at the cluster's address: a Kubernetes API server gives tokens of one line."
        }
        ProblemCode::AddressRefused => {
            "Register the cluster by a public address, or ask the operator to allow its network."
        }
        _ => "Put right what it complains about, and try again.",
    }
}
