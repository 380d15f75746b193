//! Checks that every problem code has a section in `docs/problems.md`, and that every section is
//! about a code.

use std::collections::BTreeSet;

use meshwright_model::problem::ProblemCode;

/// Compares the codes with the sections, and returns what is missing on either side.
pub(crate) fn check_problem_pages() -> Vec<String> {
    let codes: BTreeSet<&str> = ProblemCode::ALL
        .into_iter()
        .filter(|code| !code.is_internal())
        .map(ProblemCode::as_str)
        .collect();
    let described: BTreeSet<&str> = meshwright_wire::problem_codes().collect();
    compare_codes(&codes, &described)
}

fn compare_codes(codes: &BTreeSet<&str>, described: &BTreeSet<&str>) -> Vec<String> {
    let missing = codes
        .difference(described)
        .map(|code| format!("docs/problems.md has no section {code}"));
    let unknown = described
        .difference(codes)
        .map(|code| format!("docs/problems.md: there is no code {code}"));
    missing.chain(unknown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_without_a_section_and_a_section_without_a_code_are_reported() {
        let codes = BTreeSet::from(["mesh_busy", "tag_split"]);
        let described = BTreeSet::from(["mesh_busy", "tag_spilt"]);
        assert_eq!(
            compare_codes(&codes, &described),
            [
                "docs/problems.md has no section tag_split",
                "docs/problems.md: there is no code tag_spilt"
            ]
        );
        assert_eq!(check_problem_pages(), Vec::<String>::new());
    }
}
