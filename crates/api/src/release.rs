//! Reads what is said of a release, for whichever door it comes through.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::civil::Date;
use model::release::{Channel, KubernetesRange, Release, ReleaseState};
use model::switch::Switch;
use store::StoredRelease;
use wire::{FieldError, ImportRelease};

use crate::ReadCharts;
use crate::fields::{Read, edition, one_of, version_field, wrong};

/// The field with the charts.
pub(crate) const CHARTS: &str = "/charts";

/// The longest hub, tag, source or note, in bytes.
const LONGEST_TEXT: usize = 255;

/// The newest Kubernetes minor that can be meant.
const LAST_MINOR: u32 = 999;

/// Reads a release that is to be added to the catalogue.
///
/// # Errors
/// The first field that is wrong, with words for whoever sent it.
pub fn read_release(wanted: &ImportRelease, read_charts: ReadCharts) -> Result<StoredRelease, FieldError> {
    let version = version_field(&wanted.version)?;
    let sent = STANDARD.decode(&wanted.charts).map_err(|_| wrong(CHARTS, "it is not base64"))?;
    let (charts, digest) = read_charts(&sent).map_err(|said| wrong(CHARTS, said))?;
    let quirk =
        |(index, quirk): (usize, &String)| one_of(&format!("/quirks/{index}"), quirk, "nobody knows this quirk");
    let release = Release {
        state: ReleaseState::Available,
        hub: short("/hub", &wanted.hub, 1)?,
        tag: wanted.tag.as_deref().map_or_else(|| Ok(version.community()), |tag| short("/tag", tag, 1))?,
        digest,
        released_on: day("/released_on", wanted.released_on.as_ref())?,
        supported_until: day("/supported_until", wanted.supported_until.as_ref())?,
        channels: channels(&wanted.channels)?,
        minimum_edition: edition("/minimum_edition", &wanted.minimum_edition)?,
        notes: short("/notes", &wanted.notes, 0)?,
        kubernetes: kubernetes(wanted)?,
        quirks: wanted.quirks.iter().enumerate().map(quirk).collect::<Result<_, _>>()?,
        switches: Switch::defaults_of(&version),
        version,
    };
    Ok(StoredRelease { release, charts })
}

fn kubernetes(wanted: &ImportRelease) -> Read<KubernetesRange> {
    let minor = |pointer: &str, minor: u32| {
        let said = || wrong(pointer, format!("a minor of Kubernetes is 1 to {LAST_MINOR}"));
        (1..=LAST_MINOR).contains(&minor).then_some(minor).ok_or_else(said)
    };
    let min = minor("/kubernetes_min", wanted.kubernetes_min)?;
    let tested_max = minor("/kubernetes_tested", wanted.kubernetes_tested)?;
    if min > tested_max {
        return Err(wrong("/kubernetes_min", "the oldest Kubernetes is not newer than the newest"));
    }
    Ok(KubernetesRange { min, tested_max, source: short("/kubernetes_source", &wanted.kubernetes_source, 0)? })
}

pub(crate) fn short(pointer: &str, text: &str, shortest: usize) -> Read<String> {
    let fits = (shortest..=LONGEST_TEXT).contains(&text.len()) && !text.chars().any(char::is_control);
    let said = || wrong(pointer, format!("{shortest} to {LONGEST_TEXT} bytes without control characters"));
    fits.then(|| text.to_owned()).ok_or_else(said)
}

/// A day in the one form that the document promises; the library reads others, too.
pub(crate) fn day(pointer: &str, text: Option<&String>) -> Read<Option<Date>> {
    let said = || wrong(pointer, "a day is written 2027-06-30");
    let read = |text: &String| text.parse().ok().filter(|day: &Date| day.to_string() == *text);
    text.map(|text| read(text).ok_or_else(said)).transpose()
}

pub(crate) fn channels(wanted: &[String]) -> Read<BTreeSet<Channel>> {
    let read = |(index, channel): (usize, &String)| {
        one_of(&format!("/channels/{index}"), channel, "a channel is rapid, regular or stable")
    };
    wanted.iter().enumerate().map(read).collect()
}
