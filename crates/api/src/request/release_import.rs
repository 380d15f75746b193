//! Checks the description of a release that is added to the catalogue, for the API and for the
//! import command of the server.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::civil::Date;
use meshwright_model::release::{Channel, KubernetesRange, Release, ReleaseState};
use meshwright_model::switch::Switch;
use meshwright_store::StoredRelease;
use meshwright_wire::{FieldError, ImportRelease};

use crate::app::ReadCharts;
use crate::request::params::{FieldResult, known_edition, known_value, parse_version};

/// JSON pointer of the field with the charts.
pub(crate) const CHARTS_POINTER: &str = "/charts";

/// Maximum length of a hub, a tag, a source or a note, in bytes.
const MAX_TEXT_BYTES: usize = 255;

/// Largest minor version of Kubernetes that a range can name.
const MAX_KUBERNETES_MINOR: u32 = 999;

/// Checks a release that is to be added to the catalogue, and reads its charts.
///
/// # Errors
/// Returns the first invalid field, with a message for the sender.
pub fn parse_import_release(
    wanted: &ImportRelease,
    read_charts: ReadCharts,
) -> Result<StoredRelease, FieldError> {
    let version = parse_version(&wanted.version)?;
    let sent = STANDARD
        .decode(&wanted.charts)
        .map_err(|_| FieldError::new(CHARTS_POINTER, "it is not base64"))?;
    let (charts, digest) =
        read_charts(&sent).map_err(|said| FieldError::new(CHARTS_POINTER, said))?;
    let quirk = |(index, quirk): (usize, &meshwright_wire::Quirk)| {
        known_value(
            &format!("/quirks/{index}"),
            quirk,
            "this quirk is not known",
        )
    };
    let release = Release {
        state: ReleaseState::Available,
        hub: parse_text("/hub", &wanted.hub, 1)?,
        tag: wanted.tag.as_deref().map_or_else(
            || Ok(version.community_version()),
            |tag| parse_text("/tag", tag, 1),
        )?,
        digest,
        released_on: parse_day("/released_on", wanted.released_on.as_ref())?,
        supported_until: parse_day("/supported_until", wanted.supported_until.as_ref())?,
        channels: known_channels(&wanted.channels)?,
        minimum_edition: known_edition("/minimum_edition", &wanted.minimum_edition)?,
        notes: parse_text("/notes", &wanted.notes, 0)?,
        kubernetes: parse_kubernetes_range(wanted)?,
        quirks: wanted
            .quirks
            .iter()
            .enumerate()
            .map(quirk)
            .collect::<Result<_, _>>()?,
        switches: Switch::defaults_of(&version),
        version,
    };
    Ok(StoredRelease { release, charts })
}

/// Checks the range of Kubernetes minor versions that the release supports.
fn parse_kubernetes_range(wanted: &ImportRelease) -> FieldResult<KubernetesRange> {
    let minor = |pointer: &str, minor: u32| {
        let said = || {
            FieldError::new(
                pointer,
                format!("a minor of Kubernetes is 1 to {MAX_KUBERNETES_MINOR}"),
            )
        };
        (1..=MAX_KUBERNETES_MINOR)
            .contains(&minor)
            .then_some(minor)
            .ok_or_else(said)
    };
    let min = minor("/kubernetes_min", wanted.kubernetes_min)?;
    let tested_max = minor("/kubernetes_tested", wanted.kubernetes_tested)?;
    if min > tested_max {
        return Err(FieldError::new(
            "/kubernetes_min",
            "the oldest Kubernetes is not newer than the newest",
        ));
    }
    Ok(KubernetesRange {
        min,
        tested_max,
        source: parse_text("/kubernetes_source", &wanted.kubernetes_source, 0)?,
    })
}

/// Checks a text of `shortest` to `MAX_TEXT_BYTES` bytes without control characters.
pub(crate) fn parse_text(pointer: &str, text: &str, shortest: usize) -> FieldResult<String> {
    let fits =
        (shortest..=MAX_TEXT_BYTES).contains(&text.len()) && !text.chars().any(char::is_control);
    let said = || {
        FieldError::new(
            pointer,
            format!("{shortest} to {MAX_TEXT_BYTES} bytes without control characters"),
        )
    };
    fits.then(|| text.to_owned()).ok_or_else(said)
}

/// Parses a day in the form YYYY-MM-DD, which the document promises; the library accepts other
/// forms too.
pub(crate) fn parse_day(pointer: &str, text: Option<&String>) -> FieldResult<Option<Date>> {
    let said = || FieldError::new(pointer, "a day is written 2027-06-30");
    let read = |text: &String| {
        text.parse()
            .ok()
            .filter(|day: &Date| day.to_string() == *text)
    };
    text.map(|text| read(text).ok_or_else(said)).transpose()
}

/// Checks that the channels of a release are known.
pub(crate) fn known_channels(
    wanted: &[meshwright_wire::Channel],
) -> FieldResult<BTreeSet<Channel>> {
    let read = |(index, channel): (usize, &meshwright_wire::Channel)| {
        known_value(
            &format!("/channels/{index}"),
            channel,
            "a channel is rapid, regular or stable",
        )
    };
    wanted.iter().enumerate().map(read).collect()
}
