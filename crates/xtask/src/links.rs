//! Checks that every file that a page of the documentation names exists: the targets of its links,
//! and the source files in backticks.

use std::path::Path;

use crate::Result;
use crate::source_files::read_files;

/// Returns the missing files, each with the page that names it.
pub(crate) fn check_doc_links() -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for (page, text) in read_files(&["*.md"])? {
        let folder = Path::new(&page).parent().unwrap_or(Path::new(""));
        let missing = |path: &&str| !folder.join(path).exists();
        wrong.extend(
            link_targets(&text)
                .filter(missing)
                .map(|path| format!("{page} links to {path}, which is not there")),
        );
        let absent =
            |path: &&str| !Path::new(path).exists() && !Path::new("crates").join(path).exists();
        wrong.extend(
            source_paths(&text)
                .filter(absent)
                .map(|path| format!("{page} names {path}, which is not there")),
        );
    }
    Ok(wrong)
}

/// Returns the targets of links that stay within the repository.
fn link_targets(text: &str) -> impl Iterator<Item = &str> {
    let targets = text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
    targets
        .filter(|target| !target.contains("://") && !target.starts_with('#'))
        .map(|target| target.split_once('#').map_or(target, |(path, _)| path))
}

/// Returns the Rust files that are named in backticks with at least one folder.
fn source_paths(text: &str) -> impl Iterator<Item = &str> {
    let quoted = text.split('`').skip(1).step_by(2);
    let plain = |word: &&str| word.contains('/') && !word.contains(['{', '<', '*', ' ', '\n']);
    quoted.filter(plain).filter(|word| {
        Path::new(word)
            .extension()
            .is_some_and(|extension| extension == "rs")
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn links_and_source_files_are_found() {
        let text = "See [the map](docs/map.md#crates), [istio](https://istio.io), `api/src/router.rs`, `run.rs` and `a b/c.rs`.";
        assert_eq!(
            super::link_targets(text).collect::<Vec<_>>(),
            ["docs/map.md"]
        );
        assert_eq!(
            super::source_paths(text).collect::<Vec<_>>(),
            ["api/src/router.rs"]
        );
    }
}
