//! Reads whole numbers that are written with a fraction of zero. JSON has only one type of number,
//! so 60 and 60.0 are equal, and clients in languages with one type write either.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de::Error};

#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Whole(u32),
    Fraction(f64),
}

impl Number {
    fn into_u32(self) -> Option<u32> {
        match self {
            Self::Whole(number) => Some(number),
            // An f64 represents every u32 exactly, and Display prints it without a fraction.
            Self::Fraction(number) => format!("{number}").parse().ok(),
        }
    }
}

const NOT_U32_MESSAGE: &str = "a whole number of 32 bits is needed";

pub(crate) fn deserialize_u32<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    Number::deserialize(from)
        .ok()
        .and_then(Number::into_u32)
        .ok_or_else(|| D::Error::custom(NOT_U32_MESSAGE))
}

pub(crate) fn deserialize_optional_u32<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<u32>, D::Error> {
    let wrong = |_| D::Error::custom(NOT_U32_MESSAGE);
    let Some(number) = Option::<Number>::deserialize(from).map_err(wrong)? else {
        return Ok(None);
    };
    let whole = number.into_u32();
    whole
        .map(Some)
        .ok_or_else(|| D::Error::custom(NOT_U32_MESSAGE))
}

pub(crate) fn deserialize_u32_map<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<BTreeMap<String, u32>, D::Error> {
    let read = |(name, number): (String, Number)| number.into_u32().map(|number| (name, number));
    let known: BTreeMap<String, Number> =
        Deserialize::deserialize(from).map_err(|_| D::Error::custom(NOT_U32_MESSAGE))?;
    known
        .into_iter()
        .map(read)
        .collect::<Option<_>>()
        .ok_or_else(|| D::Error::custom(NOT_U32_MESSAGE))
}

#[cfg(test)]
mod tests {
    use crate::{CreateTenant, RotateApiKey};

    #[test]
    fn whole_numbers_may_have_a_point_and_fractions_may_not() {
        let read = |text: &str| {
            serde_json::from_str::<RotateApiKey>(&format!("{{\"overlap_seconds\": {text}}}"))
        };
        for (text, number) in [
            ("60", 60),
            ("60.0", 60),
            ("6e1", 60),
            ("0", 0),
            ("4294967295.0", u32::MAX),
        ] {
            assert_eq!(read(text).expect(text).overlap_seconds, number);
        }
        for wrong in [
            "60.5",
            "-1",
            "-1.0",
            "4294967296",
            "1e99",
            "\"60\"",
            "null",
            "[]",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let tenant: CreateTenant =
            serde_json::from_str(r#"{"name": "a", "quotas": {"meshes": 2.0}}"#).expect("quotas");
        assert_eq!(tenant.quotas["meshes"], 2);
        assert!(
            serde_json::from_str::<CreateTenant>(r#"{"name": "a", "quotas": {"meshes": 2.5}}"#)
                .is_err()
        );
    }
}
