//! Checks that every problem code in the sources has a section in `docs/problems.md`, and that
//! every section is about one of these codes.

use std::collections::BTreeSet;

use crate::Result;
use crate::source_files::read_files;

/// Source text that comes before a code, apart from white space.
const CODE_PREFIXES: [&str; 4] = ["with_code(", "Problem::new(", "code: ", "refused("];
/// Crates whose problems are shown to users.
const SOURCE_CRATES: [&str; 7] = [
    "api",
    "kubernetes",
    "model",
    "rollout",
    "server",
    "store",
    "worker",
];

pub(crate) fn check_problem_pages() -> Result<Vec<String>> {
    let mut sources = String::new();
    for (file, text) in read_files(&["crates/*.rs"])? {
        let counts = SOURCE_CRATES
            .iter()
            .any(|name| file.starts_with(&format!("crates/{name}/src/")));
        if counts && !file.ends_with("tests.rs") {
            // Unit tests invent problems, so leave them out.
            sources += text
                .split("#[cfg(test)]\nmod tests {")
                .next()
                .unwrap_or_default();
        }
    }
    let named = find_problem_codes(&sources);
    let described: BTreeSet<&str> = meshwright_wire::problem_codes().collect();
    let missing = named.iter().filter(|code| !described.contains(*code));
    let mut wrong: Vec<String> = missing
        .map(|code| format!("docs/problems.md has no section {code}"))
        .collect();
    let unnamed = described
        .iter()
        .filter(|code| !sources.contains(&format!("\"{code}\"")));
    wrong.extend(unnamed.map(|code| format!("docs/problems.md: nothing answers with {code}")));
    Ok(wrong)
}

/// Returns the codes that the sources name.
fn find_problem_codes(sources: &str) -> BTreeSet<&str> {
    let after = |before: &'static str| sources.split(before).skip(1);
    let literals = CODE_PREFIXES
        .into_iter()
        .flat_map(after)
        .filter_map(parse_code_literal);
    let statuses = sources.split("StatusCode::").skip(1).filter_map(|rest| {
        parse_code_literal(
            rest.trim_start_matches(|letter: char| letter.is_ascii_uppercase() || letter == '_')
                .strip_prefix(',')?,
        )
    });
    literals.chain(statuses).collect()
}

/// Returns the string literal that comes next, if it looks like a code.
fn parse_code_literal(rest: &str) -> Option<&str> {
    let (text, _) = rest.trim_start().strip_prefix('"')?.split_once('"')?;
    let code = !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    code.then_some(text)
}

#[cfg(test)]
mod tests {
    #[test]
    fn codes_are_found_where_problems_are_made() {
        let source = r#"ApiError::new(
            StatusCode::CONFLICT,
            "mesh_busy", …) .with_code("name_taken") Problem::new("tag_split", x) StatusCode::OK, WorldError { code: "gone" }"#;
        let found: Vec<&str> = super::find_problem_codes(source).into_iter().collect();
        assert_eq!(found, ["gone", "mesh_busy", "name_taken", "tag_split"]);
    }
}
