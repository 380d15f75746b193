//! Warns about options that were renamed. The former names still work.

use std::ffi::OsString;

/// Former and present names of options.
const RENAMED_OPTIONS: [(&str, &str); 5] = [
    ("--owner", "--worker-name"),
    ("--share", "--rate-limit-multiplier"),
    ("--silent-seconds", "--unreachable-seconds"),
    ("--vault-key-file", "--server-secret-file"),
    ("--width", "--max-concurrent-restarts"),
];

/// Prints one line to standard error for each former name among the arguments of this process.
pub(crate) fn warn_of_renamed_options() {
    for (former, present) in find_renamed_options(std::env::args_os()) {
        eprintln!("warning: {former} is now called {present}; the former name will go away");
    }
}

/// Returns the former names among the arguments, each once, with the present names.
fn find_renamed_options(
    arguments: impl Iterator<Item = OsString>,
) -> Vec<(&'static str, &'static str)> {
    let given: Vec<String> = arguments
        .map(|argument| argument.to_string_lossy().into_owned())
        .take_while(|argument| argument != "--")
        .collect();
    let is_given = |name: &str| {
        let with_value = format!("{name}=");
        given
            .iter()
            .any(|argument| argument == name || argument.starts_with(&with_value))
    };
    RENAMED_OPTIONS
        .into_iter()
        .filter(|(former, _)| is_given(former))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(arguments: &[&str]) -> Vec<(&'static str, &'static str)> {
        find_renamed_options(arguments.iter().map(OsString::from))
    }

    #[test]
    fn each_former_name_is_found_once_in_either_form() {
        let twice = found(&["work", "--width", "3", "--width=4", "--owner=a"]);
        assert_eq!(
            twice,
            [
                ("--owner", "--worker-name"),
                ("--width", "--max-concurrent-restarts")
            ]
        );
    }

    #[test]
    fn present_names_and_what_follows_two_dashes_are_left_alone() {
        assert_eq!(found(&["work", "--worker-name", "a", "--", "--width"]), []);
        assert_eq!(found(&["work", "--widths"]), []);
    }
}
