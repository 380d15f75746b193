//! Prints tables for people, and JSON and YAML for programs. No other module writes to the
//! terminal.
//!
//! Every text for a person passes [`replace_control_chars`]: names and messages come from clusters
//! and from other people, and a control character in them could rewrite what the terminal shows.

use std::io::Write as _;

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::options::OutputFormat;
use crate::{Failure, Result};

/// Prints a value in the given format. `rows` builds the rows of the table.
pub(crate) fn print_value<T: Serialize>(
    format: OutputFormat,
    value: &T,
    header: &[&str],
    rows: impl FnOnce(&T) -> Vec<Vec<String>>,
) -> Result<()> {
    match format {
        OutputFormat::Json => print_line(&escape_control_chars(
            &serde_json::to_string_pretty(value).map_err(Failure::other)?,
        )),
        OutputFormat::Yaml => print_line(
            serde_saphyr::to_string(value)
                .map_err(Failure::other)?
                .trim_end(),
        ),
        OutputFormat::Table => {
            let rows = rows(value);
            if rows.is_empty() {
                return print_line("nothing yet");
            }
            let mut table = Table::new();
            table
                .load_preset(presets::NOTHING)
                .set_header(header.iter().map(|title| title.to_uppercase()));
            // A line break inside a cell would look like the start of another row.
            table.add_rows(rows.into_iter().map(|row| {
                row.into_iter()
                    .map(|cell| replace_control_chars(&cell).replace('\n', " "))
            }));
            print_line(&table.to_string())
        }
    }
}

/// Writes a line to standard output.
///
/// # Errors
/// Returns [`Failure::output_closed`] when the reader has gone, as `head` does once it has enough,
/// and otherwise a failure that says why standard output cannot be written.
pub(crate) fn print_line(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", replace_control_chars(text))
        .and_then(|()| out.flush())
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::output_closed(),
            _ => Failure::other(format!("standard output cannot be written: {error}")),
        })
}

/// Writes a value to standard output as one line of JSON.
pub(crate) fn print_json_line(value: &impl Serialize) -> Result<()> {
    print_line(&escape_control_chars(
        &serde_json::to_string(value).map_err(Failure::other)?,
    ))
}

/// Writes a line of progress or a problem to standard error. Errors are ignored, because the result
/// and the exit code of a command do not depend on a reader of its progress.
pub(crate) fn eprint_line(text: &str) {
    let mut err = std::io::stderr().lock();
    let _unread = writeln!(err, "{}", replace_control_chars(text));
}

/// Replaces all characters that a terminal would obey. Line breaks and tabs stay.
pub(crate) fn replace_control_chars(text: &str) -> String {
    text.chars()
        .map(|letter| {
            if is_terminal_control(letter) {
                '\u{fffd}'
            } else {
                letter
            }
        })
        .collect()
}

/// Escapes all characters in JSON that a terminal would obey, so that a program still reads the
/// same value.
fn escape_control_chars(json: &str) -> String {
    let escape = |letter: char| {
        if is_terminal_control(letter) {
            format!("\\u{:04x}", u32::from(letter))
        } else {
            letter.into()
        }
    };
    json.chars().map(escape).collect()
}

/// Returns true for control characters, except line breaks and tabs, and for marks that change the
/// direction of text.
fn is_terminal_control(letter: char) -> bool {
    let turns = matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || (letter.is_control() && letter != '\n' && letter != '\t')
}

/// Returns the value, or a dash if there is none.
pub(crate) fn or_dash(value: Option<&impl ToString>) -> String {
    value.map_or_else(|| "-".into(), ToString::to_string)
}

/// Joins the names of values, for one cell of a table or one line.
pub(crate) fn join_names(values: &[impl ToString], separator: &str) -> String {
    let names: Vec<String> = values.iter().map(ToString::to_string).collect();
    names.join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_replaced_or_escaped() {
        assert_eq!(
            replace_control_chars("v1.33\u{1b}[2J\r\u{9b}1m\u{202e}x\0"),
            "v1.33\u{fffd}[2J\u{fffd}\u{fffd}1m\u{fffd}x\u{fffd}"
        );
        assert_eq!(
            escape_control_chars("\"a\u{9b}\u{202e}\""),
            "\"a\\u009b\\u202e\""
        );
        assert_eq!(
            replace_control_chars("two\nlines\tand ünicode → …"),
            "two\nlines\tand ünicode → …"
        );
    }
}
