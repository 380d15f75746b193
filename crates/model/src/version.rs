//! Parses versions (requirement A1) and the names of revisions (A2).

use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Version of Istio as we build it, `<major>.<minor>.<patch>.<build>[-<sequence>-<vendor>]`, for
/// example `1.27.9.2` or `1.12.4.58-g3f1a2b-acme`.
///
/// The first three numbers are the community Istio version, the fourth is our own build of it, and
/// the sequence names the source commit. Two versions that differ only in their source are
/// different texts of equal precedence.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version {
    /// Major number of the community version.
    pub major: u32,
    /// Minor number of the community version.
    pub minor: u32,
    /// Patch number of the community version.
    pub patch: u32,
    /// Number of our own build of the community version.
    pub build: u32,
    source: Option<Source>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Source {
    sequence: String,
    vendor: String,
}

/// Error for a text that is not a version.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a version is <major>.<minor>.<patch>.<build>[-<sequence>-<vendor>], for example 1.27.9.2")]
pub struct InvalidVersion;

/// Four numbers that decide which of two versions is newer.
pub type Precedence = (u32, u32, u32, u32);

impl Version {
    /// Returns the four numbers that decide which version is newer. There is no `Ord`, because two
    /// different versions can have equal precedence.
    pub fn precedence(&self) -> Precedence {
        (self.major, self.minor, self.patch, self.build)
    }

    /// Returns the community Istio version, for example `1.27.9`.
    pub fn community_version(&self) -> String {
        format!("{}.{}.{}", self.major, self.minor, self.patch)
    }

    /// Returns the name that a revision of this version gets when it is created, for example
    /// `1-27-9`.
    pub fn revision_name(&self) -> RevisionName {
        RevisionName(format!("{}-{}-{}", self.major, self.minor, self.patch))
    }

    /// Returns true if the two versions differ only in the build or the source.
    pub fn is_same_community_version(&self, other: &Self) -> bool {
        (self.major, self.minor, self.patch) == (other.major, other.minor, other.patch)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}.{}.{}.{}",
            self.major, self.minor, self.patch, self.build
        )?;
        match &self.source {
            Some(Source { sequence, vendor }) => write!(f, "-{sequence}-{vendor}"),
            None => Ok(()),
        }
    }
}

/// Parses a decimal number without sign and leading zeros, so that each number has one written
/// form.
fn parse_number(text: &str) -> Result<u32, InvalidVersion> {
    let canonical = text == "0" || !text.starts_with('0');
    if canonical && text.bytes().all(|b| b.is_ascii_digit()) {
        text.parse().map_err(|_| InvalidVersion)
    } else {
        Err(InvalidVersion)
    }
}

/// Parses a sequence or a vendor: 1 to 32 lower-case letters and digits, short enough for a label
/// value.
fn parse_source_word(text: &str) -> Result<String, InvalidVersion> {
    let good = (1..=32).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if good {
        Ok(text.to_owned())
    } else {
        Err(InvalidVersion)
    }
}

impl FromStr for Version {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        let (numbers, source) = match text.split_once('-') {
            None => (text, None),
            Some((numbers, source)) => {
                let (sequence, vendor) = source.split_once('-').ok_or(InvalidVersion)?;
                (
                    numbers,
                    Some(Source {
                        sequence: parse_source_word(sequence)?,
                        vendor: parse_source_word(vendor)?,
                    }),
                )
            }
        };
        let parts: Vec<&str> = numbers.split('.').collect();
        let [major, minor, patch, build] = parts[..] else {
            return Err(InvalidVersion);
        };
        Ok(Self {
            major: parse_number(major)?,
            minor: parse_number(minor)?,
            patch: parse_number(patch)?,
            build: parse_number(build)?,
            source,
        })
    }
}

/// Name of a revision. It never changes: the revision's objects, its address and its `istio.io/rev`
/// keep this name (the *slot*), also when another version runs in the revision later.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RevisionName(String);

/// Error for a text that is not a revision name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a revision name is <major>-<minor>-<patch>, for example 1-27-9")]
pub struct InvalidRevisionName;

impl RevisionName {
    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for RevisionName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RevisionName {
    type Err = InvalidRevisionName;

    fn from_str(text: &str) -> Result<Self, InvalidRevisionName> {
        let parts: Vec<&str> = text.split('-').collect();
        let good = parts.len() == 3 && parts.iter().all(|part| parse_number(part).is_ok());
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidRevisionName)
        }
    }
}

macro_rules! text_serde {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

text_serde!(Version, RevisionName);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn version(text: &str) -> Version {
        text.parse().expect(text)
    }

    #[test]
    fn a1_examples_read_back_as_written() {
        for text in ["1.27.9.2", "1.12.4.58-g3f1a2b-acme", "0.0.0.0"] {
            assert_eq!(version(text).to_string(), text);
        }
    }

    #[test]
    fn a1_ordering_is_by_the_four_numbers_only() {
        assert!(version("1.27.9.10").precedence() > version("1.27.9.9").precedence());
        let (plain, sourced) = (version("1.12.4.58"), version("1.12.4.58-g3f1a2b-acme"));
        assert_eq!(plain.precedence(), sourced.precedence());
        assert_ne!(plain, sourced);
    }

    #[test]
    fn a2_revision_name_is_the_community_version_with_dashes() {
        assert_eq!(version("1.27.9.2").revision_name().to_string(), "1-27-9");
    }

    #[test]
    fn malformed_versions_are_refused() {
        for bad in [
            "",
            "1.2.3",
            "1.2.3.4.5",
            "1.2.3.4-",
            "1.2.3.4-g1",
            "1.2.3.4-g1-",
            "01.2.3.4",
            "+1.2.3.4",
            "1.2.3.4294967296",
            "1.2.3.4-G1-x",
            "v1.2.3.4",
        ] {
            assert_eq!(bad.parse::<Version>(), Err(InvalidVersion), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_version_reads_back(major: u32, minor: u32, patch: u32, build: u32, source in proptest::option::of(("[a-z0-9]{1,32}", "[a-z0-9]{1,32}"))) {
            let tail = source.map(|(sequence, vendor)| format!("-{sequence}-{vendor}")).unwrap_or_default();
            let text = format!("{major}.{minor}.{patch}.{build}{tail}");
            prop_assert_eq!(version(&text).to_string(), text);
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in ".{0,60}") {
            let _ = text.parse::<Version>();
            let _ = text.parse::<RevisionName>();
        }
    }
}
