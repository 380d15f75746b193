//! Checks how the Rust code reads: comments in plain English, docs that say something, names of more than one word, and no word
//! or name that the glossary has retired.

use anyhow::Context as _;

use crate::Result;
use crate::source_files::{is_test_file, production_part, read_files};

/// The page whose fenced block `banned` lists retired words and names, one `old -> new` a line.
const GLOSSARY: &str = "docs/glossary.md";
/// The number of entries at the start of that block which no comment and no page may use.
const PRONOUNS: usize = 6;
/// The longest line of Rust, in characters.
const MAX_LINE_CHARS: usize = 100;
/// A field's description has more words than this.
const SHORT_DOC_WORDS: usize = 3;
/// Words that hide the subject of a sentence when a comment begins with them.
const OPENERS: [&str; 13] = [
    "Who",
    "Whoever",
    "What",
    "Whatever",
    "Which",
    "Where",
    "When it",
    "Nobody",
    "Somebody",
    "Nothing",
    "Everything",
    "Of which",
    "Its",
];

/// A figure with the share, in percent, that it must stay below.
#[derive(Debug, Default)]
struct Figure {
    found: Vec<String>,
    of: usize,
}

impl Figure {
    fn judge(&self, title: &str, below: usize) -> Option<String> {
        let tenths = 1000 * self.found.len() / self.of.max(1);
        let first = self
            .found
            .iter()
            .take(5)
            .cloned()
            .collect::<Vec<_>>()
            .join("\n  ");
        (tenths >= 10 * below).then(|| {
            format!(
                "{title}: {}.{} % of {}, and the limit is {below} %:\n  {first}",
                tenths / 10,
                tenths % 10,
                self.of
            )
        })
    }
}

/// All figures of the production code.
#[derive(Debug, Default)]
struct Voice {
    openers: Figure,
    short_docs: Figure,
    long_lines: Figure,
    one_word_functions: Figure,
    banned: Vec<String>,
}

/// Measures the repository and returns the faults.
pub(crate) fn check_voice() -> Result<Vec<String>> {
    let glossary = std::fs::read_to_string(GLOSSARY).with_context(|| GLOSSARY.to_owned())?;
    let retired = Retired::parse(&glossary);
    let mut voice = Voice::default();
    for (file, text) in read_files(&["crates/*.rs"])? {
        if !is_test_file(&file) {
            voice.measure(&file, &text);
        }
        voice.banned.extend(retired.find(&file, &text));
    }
    for (page, text) in read_files(&["*.md"])? {
        if page != GLOSSARY {
            let lines = text.lines().enumerate();
            voice.banned.extend(retired.find_pronouns(&page, lines));
        }
    }
    Ok(voice.list_faults())
}

impl Voice {
    fn measure(&mut self, file: &str, text: &str) {
        let production = production_part(text);
        let lines: Vec<&str> = production.lines().collect();
        let mut inside_comment = false;
        for (index, line) in lines.iter().enumerate() {
            let place = || format!("{file}:{}: {}", index + 1, line.trim());
            self.long_lines.of += 1;
            if line.chars().count() > MAX_LINE_CHARS {
                self.long_lines.found.push(place());
            }
            let Some(comment) = comment_of(line) else {
                inside_comment = false;
                self.measure_function(line, place);
                continue;
            };
            if !inside_comment {
                self.openers.of += 1;
                if OPENERS.iter().any(|word| opens_with(comment, word)) {
                    self.openers.found.push(place());
                }
                self.measure_field(
                    line,
                    lines.get(index + 1).copied().unwrap_or_default(),
                    comment,
                    place,
                );
            }
            inside_comment = true;
        }
    }

    /// Counts a one-line description that stands directly above a field.
    fn measure_field(&mut self, line: &str, next: &str, comment: &str, place: impl Fn() -> String) {
        if line.trim_start().starts_with("///") && is_field(next) {
            self.short_docs.of += 1;
            if comment.split_whitespace().count() <= SHORT_DOC_WORDS {
                self.short_docs.found.push(place());
            }
        }
    }

    fn measure_function(&mut self, line: &str, place: impl Fn() -> String) {
        if let Some(name) = function_name(line) {
            self.one_word_functions.of += 1;
            if !name.trim_matches('_').contains('_') {
                self.one_word_functions.found.push(place());
            }
        }
    }

    fn list_faults(self) -> Vec<String> {
        let figures = [
            self.openers
                .judge("comments that open with a word that hides the subject", 5),
            self.short_docs
                .judge("descriptions of fields that have three words or fewer", 5),
            self.long_lines
                .judge("lines of more than 100 characters", 1),
            self.one_word_functions
                .judge("functions whose name is one word", 45),
        ];
        figures.into_iter().flatten().chain(self.banned).collect()
    }
}

/// The text of a line that is a comment.
fn comment_of(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix("//")?;
    Some(rest.trim_start_matches(['/', '!']).trim_start())
}

fn opens_with(comment: &str, word: &str) -> bool {
    comment
        .strip_prefix(word)
        .is_some_and(|rest| !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_'))
}

/// True for `name: Type`, with or without a visibility.
fn is_field(line: &str) -> bool {
    let line = line.trim_start();
    let bare = match line.strip_prefix("pub") {
        Some(rest) => rest.split_once(' ').map_or(line, |(_, bare)| bare),
        None => line,
    };
    bare.split_once(": ").is_some_and(|(name, _)| is_name(name))
}

fn function_name(line: &str) -> Option<&str> {
    let (before, rest) = line.split_once("fn ")?;
    let starts_a_word = before.is_empty() || before.ends_with([' ', '(']);
    let name = rest
        .split(|next: char| !next.is_alphanumeric() && next != '_')
        .next()?;
    (starts_a_word && !before.contains("//") && is_name(name)).then_some(name)
}

fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
        && text
            .chars()
            .all(|next| next.is_ascii_lowercase() || next.is_ascii_digit() || next == '_')
}

/// The words and names that the glossary has retired.
#[derive(Debug, Default)]
struct Retired {
    pronouns: Vec<String>,
    /// Names of items that are retired everywhere, with what replaces them.
    names: Vec<(String, String)>,
}

impl Retired {
    fn parse(glossary: &str) -> Self {
        let block = glossary
            .split("```banned\n")
            .nth(1)
            .and_then(|rest| rest.split("```").next())
            .unwrap_or_default();
        let entries: Vec<(&str, &str)> = block
            .lines()
            .filter_map(|line| line.split_once(" -> "))
            .collect();
        let is_item = |old: &str| {
            !old.contains([':', '-'])
                && old.contains(|next: char| next.is_uppercase() || next == '_')
        };
        Self {
            pronouns: entries
                .iter()
                .take(PRONOUNS)
                .map(|(old, _)| (*old).to_owned())
                .collect(),
            names: entries
                .iter()
                .filter(|(old, _)| is_item(old))
                .map(|(old, new)| ((*old).into(), (*new).into()))
                .collect(),
        }
    }

    /// Retired words in comments, and retired names in code.
    fn find(&self, file: &str, text: &str) -> Vec<String> {
        // This file names the words in order to find them.
        if file.ends_with("xtask/src/voice.rs") {
            return Vec::new();
        }
        let comments = text
            .lines()
            .enumerate()
            .filter_map(|(index, line)| Some((index, comment_of(line)?)));
        let mut found: Vec<String> = self.find_pronouns(file, comments).collect();
        for (index, line) in text
            .lines()
            .enumerate()
            // The name of a schema is part of the API and outlives the name of its type.
            .filter(|(_, line)| comment_of(line).is_none() && !line.contains("#[schema(as = "))
        {
            let code = without_strings(line);
            let words = code.split(|next: char| !next.is_alphanumeric() && next != '_');
            for (old, new) in
                words.filter_map(|word| self.names.iter().find(|(old, _)| old == word))
            {
                found.push(format!(
                    "{file}:{}: {old} is retired, see {GLOSSARY}: {new}",
                    index + 1
                ));
            }
        }
        found
    }

    fn find_pronouns<'a>(
        &'a self,
        file: &'a str,
        lines: impl Iterator<Item = (usize, &'a str)> + 'a,
    ) -> impl Iterator<Item = String> + 'a {
        lines.flat_map(move |(index, line)| {
            let words = line.split(|next: char| !next.is_alphanumeric());
            let banned = words.filter(|word| {
                self.pronouns
                    .iter()
                    .any(|pronoun| pronoun.eq_ignore_ascii_case(word))
            });
            banned.map(move |word| {
                format!("{file}:{}: '{word}' is not used, see {GLOSSARY}", index + 1)
            })
        })
    }
}

/// A line of code with the text of its string literals left out.
fn without_strings(line: &str) -> String {
    line.split('"').step_by(2).collect::<Vec<_>>().join("\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults_of(text: &str) -> Vec<String> {
        let mut voice = Voice::default();
        voice.measure("src/planted.rs", text);
        let retired = Retired::parse(
            "```banned\nwhoever -> a person\nwhatever -> any\nnobody -> no caller\nsomebody -> a person\nanew -> again\nwhosoever -> a person\nDoor -> ClusterClient\n```",
        );
        voice.banned.extend(retired.find("src/planted.rs", text));
        voice.list_faults()
    }

    #[test]
    fn plain_code_has_no_fault() {
        assert_eq!(
            faults_of("/// A cluster that a tenant has registered.\nfn list_clusters() {}\n"),
            [""; 0]
        );
    }

    #[test]
    fn each_planted_fault_is_found() {
        let long = format!("const TEXT: &str = \"{}\";\n", "x".repeat(MAX_LINE_CHARS));
        let rows = [
            ("// Which one it is.\nlet one = 1;\n", "hides the subject"),
            (
                "struct A {\n    /// Its id.\n    pub(crate) id: u8,\n}\n",
                "three words or fewer",
            ),
            (long.as_str(), "more than 100 characters"),
            ("pub fn run() {}\n", "name is one word"),
            (
                "// A call by whoever comes first.\n",
                "'whoever' is not used",
            ),
            ("struct Door;\n", "Door is retired"),
        ];
        for (planted, expected) in rows {
            let faults = faults_of(planted);
            assert!(
                faults.iter().any(|fault| fault.contains(expected)),
                "{planted}: {faults:?}"
            );
        }
    }

    #[test]
    fn names_within_strings_and_tests_are_left_alone() {
        assert_eq!(
            faults_of(
                "const KIND: &str = \"Door\";\n#[cfg(test)]\nmod tests {\n    fn run() {}\n}\n"
            ),
            [""; 0]
        );
    }
}
