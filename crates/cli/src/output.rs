//! Tables for people, JSON and YAML for the rest.

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::options::Format;
use crate::{Failure, Result};

/// Prints a value; `rows` makes the table of it.
pub(crate) fn print<T: Serialize>(
    format: Format,
    value: &T,
    header: &[&str],
    rows: impl FnOnce(&T) -> Vec<Vec<String>>,
) -> Result<()> {
    match format {
        Format::Json => println!("{}", serde_json::to_string_pretty(value).map_err(Failure::other)?),
        Format::Yaml => print!("{}", serde_saphyr::to_string(value).map_err(Failure::other)?),
        Format::Table => {
            let rows = rows(value);
            if rows.is_empty() {
                println!("nothing yet");
                return Ok(());
            }
            let mut table = Table::new();
            table.load_preset(presets::NOTHING).set_header(header.iter().map(|title| title.to_uppercase()));
            table.add_rows(rows);
            println!("{table}");
        }
    }
    Ok(())
}

/// An optional value, or a dash.
pub(crate) fn or_dash(value: Option<&String>) -> String {
    value.cloned().unwrap_or_else(|| "-".into())
}
