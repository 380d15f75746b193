//! Single values of paths and bodies.

use axum::http::{HeaderMap, header};
use model::access::Scope;
use model::label::{self, Labels};
use model::name::InvalidName;
use model::rules::Edition;
use model::version::InvalidVersion;
use model::{Name, Version};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use store::{Mesh, Narrow, StoreError, Tx, Written};
use wire::FieldError;

use crate::problem::{ApiError, Result};

/// A field's value, or what is wrong with it.
pub(crate) type Read<T> = std::result::Result<T, FieldError>;

/// Reads an id of a path; a malformed one is as absent as an unknown one.
pub(crate) fn id<T: std::str::FromStr>(text: &str, what: &str) -> Result<T> {
    text.parse().map_err(|_| ApiError::not_found(what))
}

/// Reads the field `/name`: a DNS label.
pub(crate) fn name_field(text: &str) -> Result<Name> {
    text.parse().map_err(|error: InvalidName| ApiError::field("/name", error.to_string()))
}

/// Reads the field `/version`.
pub(crate) fn version_field(text: &str) -> Read<Version> {
    text.parse().map_err(|error: InvalidVersion| wrong("/version", error.to_string()))
}

/// Reads an edition.
pub(crate) fn edition(pointer: &str, text: &str) -> Read<Edition> {
    one_of(pointer, text, "an edition is standard, enterprise or ultimate")
}

/// Reads one of a few values by its name; `known` says which there are.
pub(crate) fn one_of<T: DeserializeOwned>(pointer: &str, text: &str, known: &str) -> Read<T> {
    serde_json::from_value(text.into()).map_err(|_| wrong(pointer, known))
}

/// What is wrong with a field, for readers that not only handlers call.
pub(crate) fn wrong(pointer: &str, message: impl Into<String>) -> FieldError {
    FieldError { pointer: pointer.into(), message: message.into() }
}

/// Refuses what is no namespace of a member. It becomes a part of paths in the member's API, so its form matters.
pub(crate) fn namespace_of(mesh: &Mesh, cluster: &str, namespace: &str, at: &str) -> Result<()> {
    if !mesh.members.iter().any(|member| member.name == cluster) {
        return Err(ApiError::field(&format!("{at}/cluster"), "it is not a member of the mesh"));
    }
    let named: std::result::Result<Name, _> = namespace.parse();
    named.map(drop).map_err(|error| ApiError::field(&format!("{at}/namespace"), error.to_string()))
}

/// Something that a body names by its id: where it is not there, the field is wrong and not the path.
pub(crate) fn named<T>(found: std::result::Result<T, StoreError>, absent: impl Fn() -> ApiError) -> Result<T> {
    match found {
        Err(StoreError::NotFound { .. }) => Err(absent()),
        other => Ok(other?),
    }
}

/// Refuses a scope whose mesh or cluster is not this tenant's.
pub(crate) async fn known_scope(tx: &mut Tx<'_>, scope: Scope, absent: impl Fn() -> ApiError) -> Result<()> {
    match scope {
        Scope::Tenant => Ok(()),
        Scope::Mesh(id) => named(tx.mesh(id).await.map(drop), absent),
        Scope::Cluster(id) => named(tx.cluster(id).await.map(drop), absent),
    }
}

/// The longest name for people.
const LONGEST_DISPLAY_NAME: usize = 128;

/// Checks what users write on their things.
pub(crate) fn written(display_name: &str, labels: &Labels) -> Result<Written> {
    let visible = !display_name.chars().any(char::is_control);
    if display_name.chars().count() > LONGEST_DISPLAY_NAME || !visible {
        let rule = format!("at most {LONGEST_DISPLAY_NAME} visible characters");
        return Err(ApiError::field("/display_name", rule));
    }
    label::check(labels).map_err(|error| ApiError::field("/labels", error.to_string()))?;
    Ok(Written { display_name: display_name.to_owned(), labels: labels.clone() })
}

/// What is changed of what users write; what is left out stays.
pub(crate) fn rewritten(known: &Written, display_name: Option<&String>, labels: Option<&Labels>) -> Result<Written> {
    written(display_name.unwrap_or(&known.display_name), labels.unwrap_or(&known.labels))
}

/// What a list is narrowed to.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filter {
    name: Option<String>,
    label_selector: Option<String>,
    #[serde(default)]
    show_deleted: bool,
}

impl Filter {
    pub(crate) fn read(&self) -> Result<Narrow> {
        let selector = self.label_selector.as_deref().unwrap_or_default();
        let wrong = |error: label::InvalidLabel| ApiError::field("?label_selector", error.to_string());
        let unnamed = |error: InvalidName| ApiError::field("?name", error.to_string());
        let name = self.name.as_deref().map(|name| name.parse::<Name>().map_err(unnamed)).transpose()?;
        Ok(Narrow {
            name: name.map(|name| name.to_string()),
            labels: selector.parse().map_err(wrong)?,
            deleted: self.show_deleted,
        })
    }
}

/// The tag of a generation.
pub(crate) fn tag(generation: i64) -> String {
    format!("\"{generation}\"")
}

/// The generation that `If-Match` names: none where it was not sent or takes anything. A tag that we never gave out matches
/// nothing.
pub(crate) fn expected(headers: &HeaderMap) -> Option<i64> {
    let sent = headers.get(header::IF_MATCH).filter(|sent| *sent != "*")?;
    let number = sent.to_str().ok().and_then(|text| text.trim_matches('"').parse().ok());
    Some(number.filter(|number| sent == tag(*number).as_str()).unwrap_or(-1))
}

/// Honours `If-Match`, where it was sent.
pub(crate) fn unmoved(headers: &HeaderMap, generation: i64) -> Result<()> {
    if expected(headers).is_none_or(|expected| expected == generation) { Ok(()) } else { Err(StoreError::Moved.into()) }
}
