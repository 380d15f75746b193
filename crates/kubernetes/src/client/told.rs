//! Parses JSON from a cluster and sanitizes it while parsing: no control characters, no text of
//! unlimited length, no more values than memory should hold. All answers are parsed here, so no
//! caller can forget it.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Maximum length of a text, in bytes; the rest is cut off. The longest text that we need is a
/// proxy's configuration in an environment variable.
const MAX_TEXT_BYTES: usize = 16 * 1024;
/// Maximum length of a name, in bytes: that of a DNS name.
const MAX_NAME_BYTES: usize = 253;
/// Maximum length of a message for people, in bytes.
const MAX_MESSAGE_BYTES: usize = 1024;
/// Fields whose text is a name.
const NAME_FIELDS: [&str; 7] = [
    "name",
    "namespace",
    "uid",
    "kind",
    "reason",
    "gitVersion",
    "proxy",
];
/// Fields whose text is a message for people.
const MESSAGE_FIELDS: [&str; 3] = ["message", "lastError", "last_error"];
/// Maximum number of values in one object: arrays, maps and their contents. The largest custom
/// resource definitions have about 100,000.
const MAX_OBJECT_VALUES: usize = 400_000;
/// Fields whose text is data: line breaks in it have a meaning, and it may be as long as the
/// answer.
const DATA_FIELDS: [&str; 5] = ["data", "binaryData", "stringData", "caBundle", "token"];

/// Parses an object that a cluster sent.
///
/// # Errors
/// Returns an error if the bytes are no JSON, or hold more values than one object may have.
pub(crate) fn parse_object(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    let mut input = serde_json::Deserializer::from_slice(bytes);
    let value = SanitizedValue::new(&Cell::new(MAX_OBJECT_VALUES)).deserialize(&mut input)?;
    input.end()?;
    Ok(value)
}

/// Replaces control characters and marks that change the direction of writing by spaces, and cuts
/// the text off after `most` bytes.
fn clean_text(text: &str, most: usize) -> String {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end]
        .chars()
        .map(|letter| if is_hidden_char(letter) { ' ' } else { letter })
        .collect()
}

/// Returns whether a character is invisible: a control character, a zero-width character, or a mark
/// that changes the direction of writing.
fn is_hidden_char(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Removes the same characters from data, but keeps line breaks and tabs and cuts nothing off.
fn clean_data(text: &str) -> String {
    text.chars()
        .filter(|letter| *letter == '\n' || *letter == '\t' || !is_hidden_char(*letter))
        .collect()
}

/// Error message for a page that has too many objects.
const TOO_MANY_OBJECTS: &str = "a page has too many objects";

/// Returns whether a page was refused because it has too many objects.
pub(crate) fn is_page_too_long(error: &serde_json::Error) -> bool {
    error.to_string().starts_with(TOO_MANY_OBJECTS)
}

/// Deserializes one value and sanitizes its text.
#[derive(Clone, Copy)]
pub(crate) struct SanitizedValue<'b> {
    values_left: &'b Cell<usize>,
    text: TextRule,
}

/// Rule for sanitizing the text of a value.
#[derive(Clone, Copy)]
enum TextRule {
    /// Text of at most this many bytes, without control characters.
    Short(usize),
    /// Data that keeps its line breaks and may be as long as the answer.
    Data,
}

impl TextRule {
    /// Chooses the rule for a field by its name. All fields inside a data field are data as well.
    fn for_field(field: &str, around: Self) -> Self {
        let is = |list: &[&str]| list.contains(&field);
        match around {
            Self::Data => Self::Data,
            Self::Short(_) if is(&DATA_FIELDS) => Self::Data,
            Self::Short(_) if is(&NAME_FIELDS) => Self::Short(MAX_NAME_BYTES),
            Self::Short(_) if is(&MESSAGE_FIELDS) => Self::Short(MAX_MESSAGE_BYTES),
            Self::Short(_) => Self::Short(MAX_TEXT_BYTES),
        }
    }
}

impl<'b> SanitizedValue<'b> {
    fn new(left: &'b Cell<usize>) -> Self {
        Self {
            values_left: left,
            text: TextRule::Short(MAX_TEXT_BYTES),
        }
    }

    fn sanitize_text(self, text: &str) -> String {
        match self.text {
            TextRule::Short(most) => clean_text(text, most),
            TextRule::Data => clean_data(text),
        }
    }

    fn count_value<E: Error>(self) -> Result<(), E> {
        let left = self.values_left.get().checked_sub(1);
        self.values_left
            .set(left.ok_or_else(|| E::custom("an object has too many values"))?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for SanitizedValue<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, input: D) -> Result<Value, D::Error> {
        self.count_value()?;
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for SanitizedValue<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(self.sanitize_text(text).into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(self)? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let text = TextRule::for_field(&name, self.text);
            values.insert(
                clean_text(&name, MAX_TEXT_BYTES),
                fields.next_value_seed(Self { text, ..self })?,
            );
        }
        Ok(values.into())
    }
}

/// One page of a list, reduced to what `keep` returned for each object.
pub(crate) struct ObjectPage<T> {
    pub(crate) items: Vec<T>,
    /// Token of the next page; empty on the last page.
    pub(crate) next: String,
    /// Resource version of the whole list, from which a watch continues.
    pub(crate) version: String,
}

/// Parses one page of a list.
///
/// # Errors
/// Fails as [`parse_object`] does, or if the page has more objects than `most`.
pub(crate) fn parse_page<T>(
    bytes: &[u8],
    most: usize,
    keep: &impl Fn(&Value) -> T,
) -> Result<ObjectPage<T>, serde_json::Error> {
    let mut input = serde_json::Deserializer::from_slice(bytes);
    let found = serde::Deserializer::deserialize_map(&mut input, PageVisitor { most, keep })?;
    input.end()?;
    Ok(found)
}

/// Parses an array and keeps only what `keep` returns for each entry.
///
/// # Errors
/// Fails as [`parse_page`] does.
pub(crate) fn parse_array<T>(
    bytes: &[u8],
    most: usize,
    keep: &impl Fn(&Value) -> T,
) -> Result<Vec<T>, serde_json::Error> {
    let mut input = serde_json::Deserializer::from_slice(bytes);
    let items = ItemsVisitor { most, keep }.deserialize(&mut input)?;
    input.end()?;
    Ok(items)
}

/// Visitor for a page of a list, with the maximum number of its objects.
struct PageVisitor<'k, K> {
    most: usize,
    keep: &'k K,
}

impl<'de, T, K: Fn(&Value) -> T> Visitor<'de> for PageVisitor<'_, K> {
    type Value = ObjectPage<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<ObjectPage<T>, A::Error> {
        let mut page = ObjectPage {
            items: Vec::new(),
            next: String::new(),
            version: String::new(),
        };
        while let Some(name) = fields.next_key::<String>()? {
            if name == "items" {
                page.items = fields.next_value_seed(ItemsVisitor {
                    most: self.most,
                    keep: self.keep,
                })?;
                continue;
            }
            let value =
                fields.next_value_seed(SanitizedValue::new(&Cell::new(MAX_OBJECT_VALUES)))?;
            if name == "metadata" {
                let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
                (page.next, page.version) = (text("continue"), text("resourceVersion"));
            }
        }
        Ok(page)
    }
}

/// Visitor for the objects of a list or the entries of an array, with their maximum number.
struct ItemsVisitor<'k, K> {
    most: usize,
    keep: &'k K,
}

impl<'de, T, K: Fn(&Value) -> T> DeserializeSeed<'de> for ItemsVisitor<'_, K> {
    type Value = Vec<T>;

    fn deserialize<D: serde::Deserializer<'de>>(self, input: D) -> Result<Vec<T>, D::Error> {
        input.deserialize_option(self)
    }
}

impl<'de, T, K: Fn(&Value) -> T> Visitor<'de> for ItemsVisitor<'_, K> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("objects")
    }

    /// A server may write an empty list as null.
    fn visit_none<E>(self) -> Result<Vec<T>, E> {
        Ok(Vec::new())
    }

    fn visit_some<D: serde::Deserializer<'de>>(self, input: D) -> Result<Vec<T>, D::Error> {
        input.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut items = Vec::new();
        while let Some(object) =
            list.next_element_seed(SanitizedValue::new(&Cell::new(MAX_OBJECT_VALUES)))?
        {
            if items.len() == self.most {
                return Err(A::Error::custom(TOO_MANY_OBJECTS));
            }
            items.push((self.keep)(&object));
        }
        Ok(items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_of_a_cluster_keeps_a_control_character_or_grows_without_end() {
        let told =
            parse_object(br#"{"a\u0000b":"x\u0000\u001b[31m\u202ey","long":"?"}"#).expect("JSON");
        assert_eq!(told["a b"], "x  [31m y");
        let (long, lines) = ("é".repeat(20_000), "x\\ny".repeat(20_000));
        let long = format!(
            r#"{{"value":"{long}","message":"{long}","name":"{long}","data":{{"key":"{lines}"}}}}"#
        );
        let told = parse_object(long.as_bytes()).expect("JSON");
        let length = |field: &str| told[field].as_str().map(str::len);
        assert_eq!(
            [length("value"), length("message"), length("name")],
            [Some(16_384), Some(1_024), Some(252)]
        );
        assert_eq!(
            told["data"]["key"]
                .as_str()
                .map(|text| (text.len(), text.contains('\n'))),
            Some((60_000, true))
        );
    }

    #[test]
    fn small_values_do_not_add_up_to_more_memory_than_an_object_may_take() {
        let many = format!("[{}0]", "0,".repeat(MAX_OBJECT_VALUES));
        assert!(parse_object(many.as_bytes()).is_err());
        let objects = format!(r#"{{"items":[{}{{}}]}}"#, "{},".repeat(10));
        assert!(parse_page(objects.as_bytes(), 10, &Value::clone).is_err());
        assert_eq!(
            parse_page(objects.as_bytes(), 11, &Value::clone)
                .expect("a page")
                .items
                .len(),
            11
        );
        assert!(
            parse_page(br#"{"items":null,"metadata":{}}"#, 1, &Value::clone)
                .expect("a page")
                .items
                .is_empty()
        );
    }
}
