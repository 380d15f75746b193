//! Parses and checks single values of paths, queries, headers and bodies.

use axum::http::{HeaderMap, header};
use meshwright_model::access::Scope;
use meshwright_model::edition::Edition;
use meshwright_model::label::{self, Labels};
use meshwright_model::name::InvalidName;
use meshwright_model::version::InvalidVersion;
use meshwright_model::{ClosedSet, Name, OpenEnum, Version};
use meshwright_store::{ListFilter, Mesh, StoreError, Tx, UserMetadata};
use meshwright_wire::FieldError;
use serde::Deserialize;

use crate::error::{ApiError, Result};

/// Value of a field, or the error that names the field. The error is not an `ApiError`, because the
/// import of a release, which the server's command line runs too, returns it.
pub(crate) type FieldResult<T> = std::result::Result<T, FieldError>;

/// Parses an id from a path. A malformed id gets the same 404 as an unknown one.
pub(crate) fn parse_id<T: std::str::FromStr>(text: &str, what: &str) -> Result<T> {
    text.parse().map_err(|_| ApiError::not_found(what))
}

/// Parses the field `/name`, which must be a DNS label.
pub(crate) fn parse_name(text: &str) -> Result<Name> {
    text.parse()
        .map_err(|error: InvalidName| ApiError::invalid_field("/name", error.to_string()))
}

/// Parses the field `/version`, which must be a version of Istio with a build number.
pub(crate) fn parse_version(text: &str) -> FieldResult<Version> {
    text.parse()
        .map_err(|error: InvalidVersion| FieldError::new("/version", error.to_string()))
}

/// Checks that an edition is known: `standard`, `enterprise` or `ultimate`.
pub(crate) fn known_edition(pointer: &str, sent: &OpenEnum<Edition>) -> FieldResult<Edition> {
    known_value(
        pointer,
        sent,
        "an edition is standard, enterprise or ultimate",
    )
}

/// Checks that a value of a closed set is known. `message` lists the set.
pub(crate) fn known_value<T: ClosedSet>(
    pointer: &str,
    sent: &OpenEnum<T>,
    message: &str,
) -> FieldResult<T> {
    sent.known()
        .ok_or_else(|| FieldError::new(pointer, message))
}

/// Checks that the cluster is a member of the mesh, and that the namespace has a valid name and is
/// not the mesh's own. The name becomes a part of paths in the member's API, so an unchecked name
/// could change the path.
pub(crate) fn require_member_namespace(
    mesh: &Mesh,
    cluster: &str,
    namespace: &str,
    at: &str,
) -> Result<()> {
    if !mesh.members.iter().any(|member| member.name == cluster) {
        return Err(ApiError::invalid_field(
            &format!("{at}/cluster"),
            "it is not a member of the mesh",
        ));
    }
    // Gateways in the mesh's own namespace ask for their sidecar themselves.
    if namespace == mesh.namespace() {
        return Err(ApiError::invalid_field(
            &format!("{at}/namespace"),
            "it is the mesh's own namespace, which gets no injection label",
        ));
    }
    let named: std::result::Result<Name, _> = namespace.parse();
    named
        .map(drop)
        .map_err(|error| ApiError::invalid_field(&format!("{at}/namespace"), error.to_string()))
}

/// Turns "not found" into `absent` for an object that a body names by its id. The field is wrong
/// then, and not the path.
pub(crate) fn require_referenced<T>(
    found: std::result::Result<T, StoreError>,
    absent: impl Fn() -> ApiError,
) -> Result<T> {
    match found {
        Err(StoreError::NotFound { .. }) => Err(absent()),
        other => Ok(other?),
    }
}

/// Checks that the mesh or cluster of a scope belongs to the tenant of the transaction.
pub(crate) async fn require_known_scope(
    tx: &mut Tx<'_>,
    scope: Scope,
    absent: impl Fn() -> ApiError,
) -> Result<()> {
    match scope {
        Scope::Tenant => Ok(()),
        Scope::Mesh(id) => require_referenced(tx.meshes().get_mesh(id).await.map(drop), absent),
        Scope::Cluster(id) => {
            require_referenced(tx.clusters().get_cluster(id).await.map(drop), absent)
        }
    }
}

/// Maximum length of a display name, in characters.
const MAX_DISPLAY_NAME_CHARS: usize = 128;

/// Checks a display name and labels, which users give to clusters and meshes.
pub(crate) fn parse_metadata(display_name: &str, labels: &Labels) -> Result<UserMetadata> {
    let visible = !display_name.chars().any(char::is_control);
    if display_name.chars().count() > MAX_DISPLAY_NAME_CHARS || !visible {
        let rule = format!("at most {MAX_DISPLAY_NAME_CHARS} visible characters");
        return Err(ApiError::invalid_field("/display_name", rule));
    }
    label::check_labels(labels)
        .map_err(|error| ApiError::invalid_field("/labels", error.to_string()))?;
    Ok(UserMetadata {
        display_name: display_name.to_owned(),
        labels: labels.clone(),
    })
}

/// Checks a change of display name and labels. A value that is left out stays.
pub(crate) fn merge_metadata(
    known: &UserMetadata,
    display_name: Option<&String>,
    labels: Option<&Labels>,
) -> Result<UserMetadata> {
    parse_metadata(
        display_name.unwrap_or(&known.display_name),
        labels.unwrap_or(&known.labels),
    )
}

/// Filter of a list, by name, by labels, and by whether deleted objects are shown.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResourceFilter {
    name: Option<String>,
    label_selector: Option<String>,
    #[serde(default)]
    show_deleted: bool,
}

impl ResourceFilter {
    /// Parses the filter into the form that the store takes.
    pub(crate) fn to_list_filter(&self) -> Result<ListFilter> {
        let selector = self.label_selector.as_deref().unwrap_or_default();
        let wrong = |error: label::InvalidLabel| {
            ApiError::invalid_field("?label_selector", error.to_string())
        };
        let unnamed = |error: InvalidName| ApiError::invalid_field("?name", error.to_string());
        let name = self
            .name
            .as_deref()
            .map(|name| name.parse::<Name>().map_err(unnamed))
            .transpose()?;
        Ok(ListFilter {
            name: name.map(|name| name.to_string()),
            labels: selector.parse().map_err(wrong)?,
            include_deleted: self.show_deleted,
        })
    }
}

/// Returns the `ETag` of a generation.
pub(crate) fn etag(generation: i64) -> String {
    format!("\"{generation}\"")
}

/// Returns the generation that `If-Match` names. It is `None` if the header was not sent or is `*`,
/// and -1, which equals no generation, for a tag that we never gave out.
pub(crate) fn expected_generation(headers: &HeaderMap) -> Option<i64> {
    let sent = headers.get(header::IF_MATCH).filter(|sent| *sent != "*")?;
    let number = sent
        .to_str()
        .ok()
        .and_then(|text| text.trim_matches('"').parse().ok());
    Some(
        number
            .filter(|number| sent == etag(*number).as_str())
            .unwrap_or(-1),
    )
}

/// Refuses a request whose `If-Match` names another generation.
pub(crate) fn check_if_match(headers: &HeaderMap, generation: i64) -> Result<()> {
    if expected_generation(headers).is_none_or(|expected| expected == generation) {
        Ok(())
    } else {
        Err(StoreError::StaleVersion.into())
    }
}
