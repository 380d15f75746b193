//! Searches what a run has left behind for the secret marker, in all encodings that our code uses.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use serde_json::json;

use super::PLAIN_MARKER;
use crate::Result;

/// Returns a secret as it is and in the encodings that our own code uses: hexadecimal and base64.
pub(super) fn encoded_forms(secret: &str) -> BTreeSet<String> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD_NO_PAD;
    let hex = secret
        .bytes()
        .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    // Base64 encodes three bytes at a time, so a secret looks different at each of three offsets.
    // The first and last characters depend on the bytes around the secret and are cut off.
    let shifted = (0..3).map(|shift| {
        let text = STANDARD_NO_PAD.encode(format!("{}{secret}", &"..."[..shift]));
        text[4..text.len() - 4].to_owned()
    });
    shifted.chain([secret.to_owned(), hex]).collect()
}

pub(super) fn check_for_leaks(
    haystacks: &[(String, Vec<u8>)],
    words: &BTreeSet<String>,
    requests: usize,
) -> Result<()> {
    let found = |bytes: &[u8], word: &str| memchr::memmem::find(bytes, word.as_bytes()).is_some();
    let finder: Vec<&str> = words.iter().map(String::as_str).collect();
    let leaks: Vec<String> = haystacks
        .iter()
        .flat_map(|(title, bytes)| {
            finder
                .iter()
                .filter(|word| found(bytes, word))
                .map(move |word| format!("{title} shows {word}"))
        })
        .collect();
    let seen: Vec<&str> = haystacks
        .iter()
        .filter(|(_, bytes)| found(bytes, PLAIN_MARKER))
        .map(|(title, _)| title.as_str())
        .collect();
    let bytes: usize = haystacks.iter().map(|(_, bytes)| bytes.len()).sum();
    println!(
        "{}",
        json!({ "requests": requests, "places": haystacks.len(), "bytes": bytes, "words": words.len(), "leaks": leaks.len() })
    );
    for leak in &leaks {
        println!("{leak}");
    }
    for needed in [
        "answers",
        "the dump",
        "the API's log",
        "write-ahead log",
        "table",
    ] {
        if !seen.iter().any(|title| title.contains(needed)) {
            bail!("what is no secret was not found in {needed}: the judge is blind");
        }
    }
    for (place, word) in [
        (
            "metrics",
            r#"meshwright_operations_total{kind="register_cluster",state="failed"}"#,
        ),
        (
            "metrics",
            r#"meshwright_deliveries_total{outcome="arrived"}"#,
        ),
        ("metrics", r#"route="/v1/clusters",status="202"}"#),
        ("traces", "POST /v1/clusters"),
        ("traces", "operation.id"),
    ] {
        if !haystacks
            .iter()
            .any(|(title, bytes)| title == place && found(bytes, word))
        {
            bail!("{word} was not found in the {place}: the judge is blind");
        }
    }
    // This finding shows that a worker has sent a credential to a cluster.
    if !haystacks
        .iter()
        .any(|(title, bytes)| title == "the dump" && found(bytes, "credential_expired"))
    {
        bail!("no cluster has refused a credential: the judge is blind");
    }
    // This state shows that a worker has sent signed messages to a webhook.
    if !haystacks
        .iter()
        .any(|(title, bytes)| title == "the dump" && found(bytes, "\tdelivered\t"))
    {
        bail!("no message has arrived at a webhook: the judge is blind");
    }
    if leaks.is_empty() {
        Ok(())
    } else {
        Err(anyhow!("a secret is shown"))
    }
}

pub(super) fn read_files_below(folder: &Path, into: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    let place = || folder.display().to_string();
    for entry in std::fs::read_dir(folder).with_context(place)? {
        let path = entry.with_context(place)?.path();
        if path.is_dir() {
            read_files_below(&path, into)?;
            continue;
        }
        let kind = if path.to_string_lossy().contains("pg_wal") {
            "write-ahead log"
        } else {
            "table"
        };
        // A running Postgres may delete a file between the listing and the read.
        if let Ok(bytes) = std::fs::read(&path) {
            into.push((format!("{kind} {}", path.display()), bytes));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::SECRET_MARKER;
    use super::*;

    #[test]
    fn every_disguise_is_found_wherever_it_begins() {
        use base64::Engine as _;
        for before in ["", "a", "ab", "abc"] {
            let shown = base64::engine::general_purpose::STANDARD
                .encode(format!("{before}{SECRET_MARKER}{before}"));
            assert!(
                encoded_forms(SECRET_MARKER)
                    .iter()
                    .any(|disguise| shown.contains(disguise.as_str())),
                "{shown}"
            );
        }
    }
}
