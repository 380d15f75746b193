//! Runs the commands on the audit log. Verification runs in this program, so that the service
//! cannot influence its result.

use std::path::Path;

use meshwright_model::audit::{Anchor, ChainVerifier, ChainedEntry, Digest, Entry, hex};
use meshwright_wire::{AuditEntry, AuditEntryList, AuditHead};

use crate::client::Client;
use crate::options::{AuditCommand, OutputFormat};
use crate::output::{print_json_line, print_line, print_value};
use crate::{Failure, Result};

pub(crate) async fn run_audit_command(
    client: &Client,
    format: OutputFormat,
    command: AuditCommand,
) -> Result<()> {
    match command {
        AuditCommand::List { after } => {
            let list: AuditEntryList = client
                .get(&format!("/v1/audit-entries?after={after}&page_size=100"))
                .await?;
            print_value(
                format,
                &list,
                &["seq", "at", "actor", "action", "target"],
                |list| {
                    let row = |entry: &AuditEntry| {
                        let AuditEntry {
                            seq,
                            at,
                            actor,
                            action,
                            target,
                            ..
                        } = entry.clone();
                        vec![seq.to_string(), at.to_string(), actor, action, target]
                    };
                    list.items.iter().map(row).collect()
                },
            )
        }
        AuditCommand::Export => for_each_entry(client, print_json_line).await,
        AuditCommand::Anchor => print_json_line(&fetch_anchor(client).await?),
        AuditCommand::Verify { anchors } => verify_audit_log(client, anchors.as_deref()).await,
    }
}

async fn fetch_anchor(client: &Client) -> Result<Anchor> {
    let head: AuditHead = client.get("/v1/audit-head").await?;
    let hash = hex::decode(&head.hash)
        .ok_or_else(|| Failure::other("the service's digest cannot be read"))?;
    let tenant = head.tenant_id.parse().map_err(Failure::other)?;
    Ok(Anchor {
        tenant,
        seq: head.seq,
        hash,
        at: head.at,
    })
}

/// Calls `read` with each entry of the log, oldest first.
async fn for_each_entry(
    client: &Client,
    mut read: impl FnMut(&AuditEntry) -> Result<()>,
) -> Result<()> {
    let mut after = 0;
    loop {
        let page: AuditEntryList = client
            .get(&format!("/v1/audit-entries?after={after}&page_size=1000"))
            .await?;
        page.items.iter().try_for_each(&mut read)?;
        match page.next_after {
            Some(next) => after = next,
            None => return Ok(()),
        }
    }
}

fn sha256(bytes: &[u8]) -> Digest {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("a SHA-256 has 32 bytes")
}

fn parse_chained_entry(entry: &AuditEntry) -> Result<ChainedEntry> {
    let digest = |text: &str| {
        let unreadable = || Failure::other(format!("entry {}: a digest cannot be read", entry.seq));
        hex::decode(text).ok_or_else(unreadable)
    };
    let optional = |text: &Option<String>| text.as_deref().map(digest).transpose();
    Ok(ChainedEntry {
        seq: entry.seq,
        hash: digest(&entry.hash)?,
        entry: Entry {
            at: entry.at,
            actor: entry.actor.clone(),
            action: entry.action.clone(),
            target: entry.target.clone(),
            request_id: entry.request_id.clone(),
            before: optional(&entry.before_sha256)?,
            after: optional(&entry.after_sha256)?,
        },
    })
}

/// Verifies the whole log. Only the anchors are trusted: the digests are computed here.
async fn verify_audit_log(client: &Client, anchors: Option<&Path>) -> Result<()> {
    let unreadable = |path: &Path, error: &dyn std::fmt::Display| {
        Failure::new(2, format!("{}: {error}", path.display()))
    };
    let mut known: Vec<Anchor> = Vec::new();
    if let Some(path) = anchors {
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            known.push(serde_json::from_str(line).map_err(|error| unreadable(path, &error))?);
        }
    }
    // The log can grow while it is read. Its newest entry is read first and must be found in the
    // log.
    let now = fetch_anchor(client).await?;
    let tenant = now.tenant;
    known.push(now);
    let mut verifier = ChainVerifier::new(tenant, &known, sha256);
    let broken = |breach: meshwright_model::audit::ChainError| {
        Failure::new(1, format!("the audit log is not whole: {breach}"))
    };
    for_each_entry(client, |entry| {
        verifier
            .verify_next(&parse_chained_entry(entry)?)
            .map_err(broken)
    })
    .await?;
    let head = verifier.verify_end().map_err(broken)?;
    let own = known
        .iter()
        .filter(|anchor| anchor.tenant == tenant)
        .count()
        - 1;
    print_line(&format!("whole: {} entries, {own} anchors agree", head.seq))
}
