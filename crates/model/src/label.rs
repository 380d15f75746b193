//! Checks the labels that users put on their resources, and parses the selectors that find these
//! resources.

use std::collections::BTreeMap;
use std::str::FromStr;

/// Labels of one resource, by key.
pub type Labels = BTreeMap<String, String>;

/// Most labels that one resource may have.
pub const MAX_LABELS: usize = 32;
/// Most bytes of a key or of a value. Kubernetes has the same limit for label values and for the
/// name part of a key.
const MAX_LABEL_LEN: usize = 63;
/// Most conditions that one selector may have.
const MAX_SELECTOR_CONDITIONS: usize = 16;

/// Error for a text that is not a label or not a selector. The message states the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidLabel(String);

fn is_label_text(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
    let outer = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= MAX_LABEL_LEN
        && bytes.iter().copied().all(inner)
        && outer(bytes.first())
        && outer(bytes.last())
}

fn parse_label_key(text: &str) -> Result<String, InvalidLabel> {
    if is_label_text(text) {
        return Ok(text.to_owned());
    }
    let rule = "letters, digits, '-', '_', '.' and '/', with a letter or digit at both ends";
    Err(InvalidLabel(format!(
        "{text:?} is no label key: 1 to {MAX_LABEL_LEN} {rule}"
    )))
}

fn parse_label_value(text: &str) -> Result<String, InvalidLabel> {
    if text.is_empty() || is_label_text(text) {
        return Ok(text.to_owned());
    }
    Err(InvalidLabel(format!(
        "{text:?} is no label value: empty, or written as a key is"
    )))
}

/// Checks labels before they are stored.
///
/// # Errors
/// Returns an error if there are more than [`MAX_LABELS`], or if a key or a value breaks the rules.
pub fn check_labels(labels: &Labels) -> Result<(), InvalidLabel> {
    if labels.len() > MAX_LABELS {
        return Err(InvalidLabel(format!("at most {MAX_LABELS} labels")));
    }
    labels.iter().try_for_each(|(name, text)| {
        parse_label_key(name)
            .and_then(|_| parse_label_value(text))
            .map(drop)
    })
}

/// Selector with the labels that a resource must have and must not have. A condition without a
/// value stands for any value of its key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    /// Conditions that a resource must all meet.
    pub required: Vec<(String, Option<String>)>,
    /// Conditions of which a resource may meet none.
    pub excluded: Vec<(String, Option<String>)>,
}

impl FromStr for LabelSelector {
    type Err = InvalidLabel;

    /// Parses the form of Kubernetes' equality-based selectors, for example
    /// `team=payments,tier!=test,owned,!old`.
    fn from_str(text: &str) -> Result<Self, InvalidLabel> {
        let mut selector = Self::default();
        let conditions: Vec<&str> = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .collect();
        if conditions.len() > MAX_SELECTOR_CONDITIONS {
            return Err(InvalidLabel(format!(
                "at most {MAX_SELECTOR_CONDITIONS} conditions"
            )));
        }
        for condition in conditions {
            if let Some((name, text)) = condition.split_once("!=") {
                selector.excluded.push((
                    parse_label_key(name.trim())?,
                    Some(parse_label_value(text.trim())?),
                ));
            } else if let Some((name, text)) = condition.split_once('=') {
                selector.required.push((
                    parse_label_key(name.trim())?,
                    Some(parse_label_value(text.trim().trim_start_matches('='))?),
                ));
            } else if let Some(name) = condition.strip_prefix('!') {
                selector
                    .excluded
                    .push((parse_label_key(name.trim())?, None));
            } else {
                selector.required.push((parse_label_key(condition)?, None));
            }
        }
        Ok(selector)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_read_as_kubernetes_writes_them() {
        let some = |text: &str| Some(text.to_owned());
        let read: LabelSelector = "team=payments, tier!=test,owned,!old,a==b"
            .parse()
            .expect("a selector");
        let with = vec![
            ("team".into(), some("payments")),
            ("owned".into(), None),
            ("a".into(), some("b")),
        ];
        assert_eq!(
            read,
            LabelSelector {
                required: with,
                excluded: vec![("tier".into(), some("test")), ("old".into(), None)]
            }
        );
        assert_eq!("".parse(), Ok(LabelSelector::default()));
        for wrong in ["a=b c", "=b", "!", "-a", "a=é", &"x,".repeat(17)] {
            assert!(wrong.parse::<LabelSelector>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn labels_are_checked() {
        let labels = |pairs: &[(&str, &str)]| -> Labels {
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        assert!(
            check_labels(&labels(&[
                ("team", "payments"),
                ("example.com/tier", ""),
                ("x", "A_1.b-c")
            ]))
            .is_ok()
        );
        for wrong in [("", "x"), ("a b", "x"), ("a", "b c"), ("a", "-")] {
            assert!(check_labels(&labels(&[wrong])).is_err(), "{wrong:?}");
        }
        let many = (0..33)
            .map(|number| (format!("k{number}"), String::new()))
            .collect();
        assert!(check_labels(&many).is_err());
    }
}
