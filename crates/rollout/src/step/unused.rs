//! Checks that nothing uses a revision before it is removed, and that a member that is left behind
//! is still lost to us.

use meshwright_model::Name;
use meshwright_model::operation::Problem;
use meshwright_model::problem::ProblemCode;

use super::{StepCheck, summarize_list};
use crate::ports::{ClusterError, MeshClusters, RevisionUser, UserSearch};

/// Checks that nothing uses a revision. Members that are left behind are not asked for their users,
/// but each of them must still not answer: the wait can take days, in which such a member can come
/// back.
pub(super) async fn check_unused(
    world: &dyn MeshClusters,
    search: &UserSearch<'_>,
) -> Result<StepCheck, ClusterError> {
    for member in search.left_behind {
        match check_still_lost(world, member).await? {
            StepCheck::Done => {}
            answers => return Ok(answers),
        }
    }
    let found = world.list_users(search).await?;
    Ok(if found.is_unused() {
        StepCheck::Done
    } else if found.users.is_empty() {
        StepCheck::InUse(format!(
            "unknown counts as used: {}",
            summarize_list(&found.silent)
        ))
    } else {
        let users: Vec<String> = found.users.iter().map(RevisionUser::to_string).collect();
        StepCheck::InUse(format!("still in use: {}", summarize_list(&users)))
    })
}

/// Checks that a member is still lost to us. One that answers is not left behind.
pub(super) async fn check_still_lost(
    world: &dyn MeshClusters,
    member: &Name,
) -> Result<StepCheck, ClusterError> {
    match world.list_injectors(member).await {
        Ok(_) => Ok(StepCheck::Blocked(member_answers(member))),
        Err(error) if error.is_lost() => Ok(StepCheck::Done),
        Err(error) => Err(error),
    }
}

/// Builds the problem of a member that was to be left behind but answers. The next deletion cleans
/// it up like the others. The member can come back before the first removal or after the last, when
/// its pods may still use the mesh: the next deletion would wait for them, so the hint also names
/// the way back to a whole mesh.
fn member_answers(member: &Name) -> Problem {
    Problem::new(
        ProblemCode::MemberAnswers,
        format!("{member} was to be left behind, but it answers now."),
        "Ask for the deletion once more, with `--force` as before: it cleans this member up like the others, as soon as nothing in it uses the mesh. To keep the mesh, run `meshwright operation cancel ID`, and then `meshwright mesh retry NAME` if `meshwright mesh get NAME` shows `failed`.",
    )
}
