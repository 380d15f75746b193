//! Parses arguments that several commands take.

use std::collections::BTreeMap;
use std::path::Path;

use crate::client::percent_encode;
use crate::options::{MetadataArgs, SelectorArgs};
use crate::{Failure, Result};

/// Reads a text file that the user named.
pub(crate) fn read_text_file(file: &Path) -> Result<String> {
    std::fs::read_to_string(file)
        .map_err(|error| Failure::new(2, format!("{}: {error}", file.display())))
}

pub(crate) fn add_label_selector(path: &str, selector: &SelectorArgs) -> String {
    let separator = if path.contains('?') { '&' } else { '?' };
    let narrowed =
        |text: &String| format!("{path}{separator}label_selector={}", percent_encode(text));
    selector
        .selector
        .as_ref()
        .map_or_else(|| path.to_owned(), narrowed)
}

/// Parses the labels that replace all former ones; `None` if none was given.
pub(crate) fn parse_new_labels(written: &MetadataArgs) -> Result<Option<BTreeMap<String, String>>> {
    let labels = parse_key_values("--label", &written.labels)?;
    Ok((!labels.is_empty()).then_some(labels))
}

/// Parses texts of the form `name=value`.
pub(crate) fn parse_key_values(option: &str, texts: &[String]) -> Result<BTreeMap<String, String>> {
    let read = |text: &String| {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| Failure::new(2, format!("{option} is name=value, not {text}")))?;
        Ok((name.to_owned(), value.to_owned()))
    };
    texts.iter().map(read).collect()
}
