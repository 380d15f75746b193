//! Hints that advise a rollback, in the sources of every crate that describes problems.

use std::path::{Path, PathBuf};

use meshwright_model::operation::Problem;

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_hint_that_advises_a_rollback_can_lose_this_advice() {
    let mut files = Vec::new();
    for area in ["kubernetes", "model", "rollout", "store", "worker"] {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        sources(&crates.join(area).join("src"), &mut files);
    }
    let mut hints = 0;
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a readable file");
        for line in text.lines().filter(|line| line.contains("or roll back.\"")) {
            let problem = Problem::new(
                meshwright_model::problem::ProblemCode::TagSplit,
                "message",
                line,
            )
            .without_rollback();
            assert!(!problem.hint.contains("roll back"), "{file:?}: {line}");
            assert!(problem.hint.contains(".\""), "{file:?}: {line}");
            hints += 1;
        }
    }
    assert!(hints >= 9, "only {hints} hints were found");
}
