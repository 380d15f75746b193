//! Runs the command that lists events.

use meshwright_wire::EventList;

use crate::Result;
use crate::client::Client;
use crate::options::OutputFormat;
use crate::output::{eprint_line, print_value};

/// Prints events page by page up to a limit, and a line if there are more. Without that line, a
/// list that was cut looks complete.
pub(crate) async fn print_events(
    client: &Client,
    format: OutputFormat,
    after: i64,
    limit: usize,
) -> Result<()> {
    let mut all = EventList {
        items: Vec::new(),
        next_page_token: None,
    };
    let mut from = after;
    let more = loop {
        let page: EventList = client.get(&format!("/v1/events?after={from}")).await?;
        all.items.extend(page.items);
        match page.next_page_token.and_then(|token| token.parse().ok()) {
            Some(next) if all.items.len() < limit => from = next,
            next => break next.is_some() || all.items.len() > limit,
        }
    };
    all.items.truncate(limit);
    print_value(format, &all, &["seq", "at", "kind", "body"], |list| {
        let row = |event: &meshwright_wire::Event| {
            vec![
                event.seq.to_string(),
                event.at.to_string(),
                event.kind.to_string(),
                event.body.to_string(),
            ]
        };
        list.items.iter().map(row).collect()
    })?;
    if let Some(last) = all.items.last().filter(|_| more) {
        eprint_line(&format!(
            "there are more: meshwright events --after {}",
            last.seq
        ));
    }
    Ok(())
}
