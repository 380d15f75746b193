//! One configuration as text, in any of the ways in which YAML lets the same thing be written.

use std::fmt::Write as _;

/// What a configuration holds.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    Map(Vec<(String, Node)>),
    List(Vec<Node>),
    Text(String),
    Flag(bool),
    /// Written as it stands.
    Raw(String),
}

pub(crate) fn map<const N: usize>(entries: [(&str, Node); N]) -> Node {
    Node::Map(
        entries
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
    )
}

pub(crate) fn text(value: impl Into<String>) -> Node {
    Node::Text(value.into())
}

impl Node {
    /// This map with more in it.
    pub(crate) fn with(self, more: Vec<(String, Self)>) -> Self {
        match self {
            Self::Map(mut entries) => {
                entries.extend(more);
                Self::Map(entries)
            }
            other => other,
        }
    }

    /// The same with every map's entries in another order.
    pub(crate) fn shuffled(self, chance: &mut fastrand::Rng) -> Self {
        match self {
            Self::Map(mut entries) => {
                chance.shuffle(&mut entries);
                Self::Map(
                    entries
                        .into_iter()
                        .map(|(key, value)| (key, value.shuffled(chance)))
                        .collect(),
                )
            }
            Self::List(items) => Self::List(
                items
                    .into_iter()
                    .map(|item| item.shuffled(chance))
                    .collect(),
            ),
            other => other,
        }
    }
}

/// How a text is disguised. What a general loader makes of it is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Block,
    Flow,
    Json,
    /// Keys in single quotes.
    Quoted,
    /// A letter of each key is an escape.
    Escaped,
    /// Keys with a question mark.
    Explicit,
    /// What matters is named once and referred to.
    Aliased,
    /// What matters is merged in.
    Merged,
    /// What matters is in a second document.
    Second,
    /// Carriage returns and comments everywhere.
    Noisy,
}

pub(crate) const STYLES: [Style; 10] = [
    Style::Block,
    Style::Flow,
    Style::Json,
    Style::Quoted,
    Style::Escaped,
    Style::Explicit,
    Style::Aliased,
    Style::Merged,
    Style::Second,
    Style::Noisy,
];

/// A scalar that no YAML reader takes for anything but text.
fn quoted(value: &str) -> String {
    serde_json::to_string(value).expect("text")
}

fn key(name: &str, style: Style) -> String {
    match style {
        Style::Json => quoted(name),
        Style::Quoted => format!("'{name}'"),
        Style::Escaped => {
            let mut letters = name.chars();
            let first = letters.next().map(u32::from).unwrap_or_default();
            format!("\"\\u{first:04x}{}\"", letters.as_str())
        }
        _ => name.to_owned(),
    }
}

/// On one line.
pub(crate) fn flow(node: &Node, style: Style) -> String {
    match node {
        Node::Map(entries) => {
            let inner: Vec<String> = entries
                .iter()
                .map(|(name, value)| format!("{}: {}", key(name, style), flow(value, style)))
                .collect();
            format!("{{{}}}", inner.join(", "))
        }
        Node::List(items) => {
            let inner: Vec<String> = items.iter().map(|item| flow(item, style)).collect();
            format!("[{}]", inner.join(", "))
        }
        Node::Text(value) => quoted(value),
        Node::Flag(value) => value.to_string(),
        Node::Raw(value) => value.clone(),
    }
}

/// Indented.
pub(crate) fn block(node: &Node, style: Style, depth: usize, width: usize, out: &mut String) {
    let indent = " ".repeat(depth * width);
    match node {
        Node::Map(entries) => {
            for (name, value) in entries {
                let name = key(name, style);
                let head = if style == Style::Explicit {
                    format!("? {name}\n{indent}:")
                } else {
                    format!("{name}:")
                };
                entry(&format!("{indent}{head}"), value, style, depth, width, out);
            }
        }
        Node::List(items) => items
            .iter()
            .for_each(|item| entry(&format!("{indent}-"), item, style, depth, width, out)),
        other => {
            let _ = writeln!(out, "{indent}{}", flow(other, style));
        }
    }
}

fn entry(head: &str, value: &Node, style: Style, depth: usize, width: usize, out: &mut String) {
    let nested = match value {
        Node::Map(entries) => !entries.is_empty(),
        Node::List(items) => !items.is_empty(),
        _ => false,
    };
    if nested {
        let _ = writeln!(out, "{head}");
        block(value, style, depth + 1, width, out);
    } else {
        let _ = writeln!(out, "{head} {}", flow(value, style));
    }
}
