//! Finds the explanation of each problem code in `docs/problems.md`, which has one section per
//! code.

const PROBLEM_PAGES: &str = include_str!("../../../docs/problems.md");

/// Returns the section of a code, without its heading.
pub fn problem_page(code: &str) -> Option<&'static str> {
    PROBLEM_PAGES
        .split("\n## ")
        .skip(1)
        .find_map(|section| section.strip_prefix(code)?.strip_prefix('\n'))
        .map(str::trim)
}

/// Lists every code that has a section.
pub fn problem_codes() -> impl Iterator<Item = &'static str> {
    PROBLEM_PAGES
        .split("\n## ")
        .skip(1)
        .filter_map(|section| section.lines().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_has_a_code_and_says_something_and_they_are_in_order() {
        let codes: Vec<&str> = problem_codes().collect();
        let mut sorted = codes.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(codes, sorted);
        assert!(
            codes
                .iter()
                .all(|code| problem_page(code).is_some_and(|page| page.len() > 20))
        );
        assert_eq!(problem_page("mesh"), None, "a beginning is no code");
    }
}
