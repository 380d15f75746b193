//! Checks that every command and option that a hint, a help text or a page of the documentation
//! names exists in the programs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use crate::source_files::read_files;
use crate::{Result, run_command};

/// Programs whose commands are looked for. The longer name is first, because it begins with the
/// shorter one.
const PROGRAMS: [&str; 2] = ["meshwright-server", "meshwright"];

/// A command as a text names it: its program, its words and its options.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct NamedCommand {
    program: &'static str,
    words: Vec<String>,
    options: Vec<String>,
}

/// Returns the unknown commands and options, each with the file that names it. The programs beside
/// this one are asked for their help, so they must be built: without them every command is reported
/// as unknown.
pub(crate) fn check_named_commands() -> Result<Vec<String>> {
    let folder = std::env::current_exe()?;
    let folder = folder.parent().context("this program is in a folder")?;
    let mut named: BTreeMap<NamedCommand, String> = BTreeMap::new();
    for (file, text) in read_files(&["*.md", "crates/*.rs", "tests/*.toml"])? {
        if file.contains("/tests/") || file == "crates/xtask/src/hints.rs" {
            continue;
        }
        named.extend(
            find_commands(&text)
                .into_iter()
                .map(|command| (command, file.clone())),
        );
    }
    let mut wrong = Vec::new();
    let mut helps: BTreeMap<(&str, Vec<String>), Option<String>> = BTreeMap::new();
    for (command, file) in named {
        let asked = helps
            .entry((command.program, command.words.clone()))
            .or_insert_with(|| help_text(&folder.join(command.program), &command.words));
        match asked {
            None => wrong.push(format!(
                "{file}: there is no command {} {}",
                command.program,
                command.words.join(" ")
            )),
            Some(help) => {
                let known: BTreeSet<&str> = help
                    .split(|letter: char| !letter.is_ascii_lowercase() && letter != '-')
                    .collect();
                let unknown = command
                    .options
                    .iter()
                    .filter(|option| !known.contains(option.as_str()));
                wrong.extend(unknown.map(|option| {
                    format!(
                        "{file}: {} {} has no {option}",
                        command.program,
                        command.words.join(" ")
                    )
                }));
            }
        }
    }
    Ok(wrong)
}

/// Returns the help text of a command, or `None` if the program does not know the command.
fn help_text(program: &Path, words: &[String]) -> Option<String> {
    run_command(Command::new(program).args(words).arg("--help")).ok()
}

/// Returns the commands that a text names. A command begins where the program's name stands alone
/// or after a folder, and continues with words in lower case; it ends with the line, a quotation
/// mark or a back quote.
fn find_commands(text: &str) -> Vec<NamedCommand> {
    let mut found = Vec::new();
    for line in text.lines() {
        for program in PROGRAMS {
            for (at, _) in line.match_indices(program) {
                let before = line[..at].chars().next_back();
                let rest = &line[at + program.len()..];
                let alone =
                    before.is_none_or(|letter| " `(/\"".contains(letter)) && rest.starts_with(' ');
                if alone && let Some(command) = parse_command(program, rest) {
                    found.push(command);
                }
            }
        }
    }
    found
}

fn parse_command(program: &'static str, rest: &str) -> Option<NamedCommand> {
    let end = rest
        .find(['`', '"', '\'', '#', '|', ')', ';', ','])
        .unwrap_or(rest.len());
    let mut all = rest[..end].split_whitespace();
    let word = |word: &&str| {
        word.bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'-')
            && !word.starts_with('-')
    };
    let words: Vec<String> = all.clone().take_while(word).map(str::to_owned).collect();
    let options = all
        .by_ref()
        .filter(|word| word.starts_with("--"))
        .map(|word| {
            word.split(['=', '.', ':'])
                .next()
                .unwrap_or_default()
                .to_owned()
        });
    // Prose about the product continues in lower case as well, so count only text that is marked as
    // code or that has an option or an argument in capitals.
    let marked = rest[end..].starts_with('`')
        || rest[..end]
            .split_whitespace()
            .any(|word| word.starts_with("--") || word == word.to_uppercase());
    (!words.is_empty() && marked).then(|| NamedCommand {
        program,
        words,
        options: options.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> Vec<String> {
        find_commands(text)
            .iter()
            .map(|command| format!("{} {}", command.words.join(" "), command.options.join(" ")))
            .collect()
    }

    #[test]
    fn commands_are_found_where_texts_name_them() {
        assert_eq!(
            named("run `meshwright cluster renew NAME` now"),
            ["cluster renew "]
        );
        assert_eq!(
            named("meshwright login --server ADDRESS --key-file FILE"),
            ["login --server --key-file"]
        );
        assert_eq!(
            named("`meshwright-server tenants operator-key`, then go"),
            ["tenants operator-key "]
        );
        assert_eq!(
            named("target/debug/meshwright upgrade plan demo --start"),
            ["upgrade plan demo --start"]
        );
        assert_eq!(
            named("Meshwright is a control plane; meshwright never calls"),
            Vec::<String>::new()
        );
    }
}
