//! Reads the catalogue of known facts about Istio releases, `deploy/catalogue.yaml`: faults that change how Meshwright acts,
//! and the Kubernetes versions that a release was tested on.

use std::str::FromStr;

use meshwright_model::release::{KubernetesRange, Quirk};
use serde::Deserialize;

/// The catalogue that is compiled into the programs.
const BUILT_IN: &str = include_str!("../../../deploy/catalogue.yaml");

/// A community version's three numbers.
type Community = (u32, u32, u32);

/// A catalogue that cannot be read. The message names the row and its line.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidCatalogue(String);

impl std::fmt::Display for InvalidCatalogue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the release catalogue: {}", self.0)
    }
}

impl std::error::Error for InvalidCatalogue {}

/// Known facts about Istio releases.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    quirks: Vec<QuirkRow>,
    kubernetes: Vec<KubernetesRow>,
}

/// The evidence for a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Evidence {
    /// The fact was seen on real control planes.
    Lab,
    /// The fact was read in the source code or in a published table.
    Source,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct QuirkRow {
    quirk: Quirk,
    releases: Vec<ReleaseRange>,
    #[serde(rename = "evidence")]
    _evidence: Evidence,
    #[serde(rename = "source")]
    _source: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct KubernetesRow {
    istio: String,
    min: u32,
    tested_max: u32,
    #[serde(rename = "evidence")]
    _evidence: Evidence,
    source: String,
}

/// Community versions of one minor version, both ends included: `1.27.4 - 1.27.9`, or `1.27.6 -` without an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct ReleaseRange {
    first: Community,
    last: Community,
}

impl TryFrom<String> for ReleaseRange {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || {
            format!(
                "'{text}' is no range of one minor version such as '1.27.4 - 1.27.9' or '1.27.6 -'"
            )
        };
        let (first, last) = text.split_once('-').ok_or_else(wrong)?;
        let first = parse_community(first.trim()).ok_or_else(wrong)?;
        let last = match last.trim() {
            "" => (first.0, first.1, u32::MAX),
            last => parse_community(last).ok_or_else(wrong)?,
        };
        let one_minor = (first.0, first.1) == (last.0, last.1) && first.2 <= last.2;
        one_minor.then_some(Self { first, last }).ok_or_else(wrong)
    }
}

/// Reads `major.minor.patch`; what follows a third dot, such as our own build number, does not count.
fn parse_community(text: &str) -> Option<Community> {
    let mut numbers = text.split('.').map(u32::from_str);
    let mut next = || numbers.next().and_then(Result::ok);
    Some((next()?, next()?, next()?))
}

impl Catalogue {
    /// The catalogue that is compiled into the programs.
    ///
    /// # Panics
    /// Never: a test reads it.
    pub fn built_in() -> Self {
        Self::parse(BUILT_IN).expect("a test reads the catalogue that is compiled in")
    }

    /// Reads a catalogue in YAML.
    ///
    /// # Errors
    /// The message names the row that is not known or not readable, with its line.
    pub fn parse(text: &str) -> Result<Self, InvalidCatalogue> {
        serde_saphyr::from_str(text).map_err(|error| InvalidCatalogue(error.to_string()))
    }

    /// The quirks of a release. A version is a community version with or without a build number, for example `1.27.9.1`.
    pub fn quirks_of(&self, version: &str) -> Vec<Quirk> {
        let Some(community) = parse_community(version) else {
            return Vec::new();
        };
        let has = |row: &&QuirkRow| {
            row.releases
                .iter()
                .any(|range| (range.first..=range.last).contains(&community))
        };
        self.quirks
            .iter()
            .filter(has)
            .map(|row| row.quirk)
            .collect()
    }

    /// The Kubernetes minors that a release was tested on, with the source.
    pub fn kubernetes_of(&self, version: &str) -> Option<KubernetesRange> {
        let (major, minor, _) = parse_community(version)?;
        let row = self
            .kubernetes
            .iter()
            .find(|row| row.istio == format!("{major}.{minor}"))?;
        Some(KubernetesRange {
            min: row.min,
            tested_max: row.tested_max,
            source: row.source.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiled_in_catalogue_knows_each_quirk_by_its_releases() {
        let catalogue = Catalogue::built_in();
        let rows = [
            ("1.25.1.1", vec![]),
            (
                "1.26.8.1",
                vec![
                    Quirk::RemoteSecretDeadlock,
                    Quirk::RemoteSecretRemovalDeadlock,
                ],
            ),
            ("1.27.1.4", vec![]),
            ("1.27.3.1", vec![Quirk::RemoteSecretRemovalDeadlock]),
            (
                "1.27.9.1",
                vec![
                    Quirk::RemoteSecretDeadlock,
                    Quirk::RemoteSecretRemovalDeadlock,
                    Quirk::DebugEndpointsRestricted,
                ],
            ),
            (
                "1.30.1.1",
                vec![
                    Quirk::RemoteSecretRemovalDeadlock,
                    Quirk::RemoteSecretSwapStale,
                    Quirk::DebugEndpointsRestricted,
                    Quirk::HashableString,
                ],
            ),
        ];
        for (version, expected) in rows {
            assert_eq!(catalogue.quirks_of(version), expected, "{version}");
        }
        assert_eq!(catalogue.kubernetes_of("1.27.9.1").expect("a row").min, 29);
        assert_eq!(catalogue.kubernetes_of("1.40.0.1"), None);
    }

    #[test]
    fn a_row_that_is_not_known_is_named_with_its_line() {
        let text = "quirks:\n  - quirk: unheard-of\n    releases: [1.27.4 -]\n    evidence: lab\n    source: x\nkubernetes: []\n";
        let error = Catalogue::parse(text)
            .expect_err("an unknown quirk")
            .to_string();
        assert!(
            error.contains("unheard-of") && error.contains("line 2"),
            "{error}"
        );
        for range in ["1.27.4", "1.27.4 - 1.28.0", "1.27.9 - 1.27.4", "x - y"] {
            let text = format!(
                "quirks:\n  - quirk: hashable-string\n    releases: ['{range}']\n    evidence: lab\n    source: x\nkubernetes: []\n"
            );
            let error = Catalogue::parse(&text).expect_err(range).to_string();
            assert!(error.contains(range) && error.contains("line 3"), "{error}");
        }
    }
}
