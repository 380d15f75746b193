//! Identity providers that a tenant trusts, and what those who come from them may do.

use axum::Json;
use axum::extract::Path;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use model::access::{Action, Grant, UnknownRole, UnknownScope};
use model::ids::{BindingId, ProviderId};
use model::quota::Counted;
use store::{Binding, Page, Provider, Subject};
use wire::{
    CreateIdentityProvider, CreateRoleBinding, IdentityProvider, IdentityProviderList, RoleBinding, RoleBindingList,
};

use crate::auth::{Asked, Caller};
use crate::change::{Body, Done, Nothing};
use crate::fields::{id, known_scope, name_field, named};
use crate::oidc::{self, ALGORITHMS};
use crate::paging::{List, Unfiltered};
use crate::problem::{ApiError, Result};

/// The longest issuer, subject, group or claim.
pub(crate) const LONGEST: usize = 255;
/// The most claims that a provider may require.
const MOST_CLAIMS: usize = 20;

fn provider_view(caller: &Caller, provider: &Provider) -> IdentityProvider {
    IdentityProvider {
        id: provider.id.to_string(),
        name: provider.name.clone(),
        issuer: provider.issuer.clone(),
        audience: oidc::audience(caller.tenant),
        algorithms: provider.algorithms.clone(),
        groups_claim: provider.groups_claim.clone(),
        required_claims: provider.required_claims.clone(),
        created_at: provider.created_at,
    }
}

fn binding_view(binding: &Binding) -> RoleBinding {
    let (subject, group) = match &binding.subject {
        Subject::Subject(subject) => (Some(subject.clone()), None),
        Subject::Group(group) => (None, Some(group.clone())),
    };
    RoleBinding {
        id: binding.id.to_string(),
        provider_id: binding.provider.to_string(),
        subject,
        group,
        role: binding.grant.role.as_str().into(),
        scope: binding.grant.scope.to_string(),
        created_at: binding.created_at,
    }
}

fn short(pointer: &str, text: &str) -> Result<()> {
    let fits = (1..=LONGEST).contains(&text.len());
    if fits { Ok(()) } else { Err(ApiError::field(pointer, format!("1 to {LONGEST} bytes"))) }
}

/// An issuer is an https address without anything behind its path: a discovery document is looked for below it.
fn issuer(text: &str) -> Result<String> {
    short("/issuer", text)?;
    let uri: Option<Uri> = text.parse().ok();
    let plain = uri.as_ref().is_some_and(|uri| {
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        uri.scheme_str() == Some("https") && !authority.contains('@') && uri.query().is_none()
    });
    if plain && !text.contains('#') {
        Ok(text.to_owned())
    } else {
        Err(ApiError::field("/issuer", "an https address without a user, a query or a fragment"))
    }
}

/// Trust an identity provider
///
/// Tokens of this issuer get in when their audience is the one in the answer. What their bearers may do is said by role
/// bindings; without one they may do nothing.
#[utoipa::path(post, path = "/v1/identity-providers", operation_id = "createIdentityProvider", tag = "access", request_body = CreateIdentityProvider,
    responses((status = 201, body = IdentityProvider)))]
pub(crate) async fn create_identity_provider(
    Asked(caller, database): Asked,
    body: Body<CreateIdentityProvider>,
) -> Result<Response> {
    caller.may(Action::ChangeAccess)?;
    let mut change = caller.change(database, "createIdentityProvider", &body).await?;
    change.tx.room_for(Counted::IdentityProviders).await?;
    let wanted = &body.value;
    let known = |name: &String| ALGORITHMS.iter().any(|(known, _)| known == name);
    if wanted.algorithms.is_empty() || !wanted.algorithms.iter().all(known) {
        let names: Vec<&str> = ALGORITHMS.iter().map(|(name, _)| *name).collect();
        return Err(ApiError::field("/algorithms", format!("one or more of {}", names.join(", "))));
    }
    short("/groups_claim", &wanted.groups_claim)?;
    if wanted.required_claims.len() > MOST_CLAIMS {
        return Err(ApiError::field("/required_claims", format!("at most {MOST_CLAIMS}")));
    }
    for (name, value) in &wanted.required_claims {
        short("/required_claims", name)?;
        short("/required_claims", value)?;
    }
    let provider = Provider {
        id: ProviderId(caller.app.clock.uuid()),
        name: name_field(&wanted.name)?.to_string(),
        issuer: issuer(&wanted.issuer)?,
        algorithms: wanted.algorithms.clone(),
        groups_claim: wanted.groups_claim.clone(),
        required_claims: wanted.required_claims.clone(),
        created_at: caller.app.clock.now(),
    };
    change.tx.create_provider(&provider).await?;
    let shown = provider_view(&caller, &change.tx.provider(provider.id).await?);
    let done = Done::new(StatusCode::CREATED, provider.id).at(format!("/v1/identity-providers/{}", provider.id));
    change.done(done, &shown).await
}

/// List identity providers
#[utoipa::path(get, path = "/v1/identity-providers", operation_id = "listIdentityProviders", tag = "access",
    params(("page_size" = Option<i64>, Query, description = "1 to 500"), ("page_token" = Option<String>, Query)),
    responses((status = 200, body = IdentityProviderList)))]
pub(crate) async fn list_identity_providers(
    Asked(caller, database): Asked,
    list: List<Unfiltered>,
) -> Result<Json<IdentityProviderList>> {
    caller.may(Action::ReadAccess)?;
    let found = database.begin().await?.providers(list.page(&caller)?).await?;
    let (shown, next_page_token) = list.cut(&caller, found, |provider| provider.id.0);
    let items = shown.iter().map(|provider| provider_view(&caller, provider)).collect();
    Ok(Json(IdentityProviderList { items, next_page_token }))
}

/// Get an identity provider
#[utoipa::path(get, path = "/v1/identity-providers/{provider_id}", operation_id = "getIdentityProvider", tag = "access",
    params(("provider_id" = String, Path)), responses((status = 200, body = IdentityProvider)))]
pub(crate) async fn get_identity_provider(
    Asked(caller, database): Asked,
    Path(provider): Path<String>,
) -> Result<Json<IdentityProvider>> {
    caller.may(Action::ReadAccess)?;
    let found = database.begin().await?.provider(id(&provider, "identity provider")?).await?;
    Ok(Json(provider_view(&caller, &found)))
}

/// Trust an identity provider no longer
///
/// At once: its tokens and its role bindings are worth nothing any more.
#[utoipa::path(delete, path = "/v1/identity-providers/{provider_id}", operation_id = "deleteIdentityProvider", tag = "access",
    params(("provider_id" = String, Path)), responses((status = 204)))]
pub(crate) async fn delete_identity_provider(
    Asked(caller, database): Asked,
    Path(provider): Path<String>,
    body: Body<Nothing>,
) -> Result<Response> {
    caller.may(Action::ChangeAccess)?;
    let mut change = caller.change(database, "deleteIdentityProvider", &body).await?;
    let found = change.tx.provider(id(&provider, "identity provider")?).await?;
    change.tx.delete_provider(found.id).await?;
    change.gone(found.id, &provider_view(&caller, &found)).await
}

/// Grant a role
///
/// To one person or program by `subject`, or to everybody of a `group`; on the whole tenant, one mesh or one cluster.
#[utoipa::path(post, path = "/v1/role-bindings", operation_id = "createRoleBinding", tag = "access", request_body = CreateRoleBinding,
    responses((status = 201, body = RoleBinding)))]
pub(crate) async fn create_role_binding(
    Asked(caller, database): Asked,
    body: Body<CreateRoleBinding>,
) -> Result<Response> {
    caller.may(Action::ChangeAccess)?;
    let mut change = caller.change(database, "createRoleBinding", &body).await?;
    change.tx.room_for(Counted::RoleBindings).await?;
    let wanted = &body.value;
    let subject = match (&wanted.subject, &wanted.group) {
        (Some(subject), None) => Subject::Subject(subject.clone()),
        (None, Some(group)) => Subject::Group(group.clone()),
        _ => return Err(ApiError::field("/subject", "give either a subject or a group")),
    };
    let (Subject::Subject(text) | Subject::Group(text)) = &subject;
    short("/subject", text)?;
    let role = wanted.role.parse().map_err(|error: UnknownRole| ApiError::field("/role", error.to_string()))?;
    let scope = wanted.scope.parse().map_err(|error: UnknownScope| ApiError::field("/scope", error.to_string()))?;
    let absent = || ApiError::field("/provider_id", "there is no such identity provider");
    let provider: ProviderId = wanted.provider_id.parse().map_err(|_| absent())?;
    named(change.tx.provider(provider).await, absent)?;
    known_scope(&mut change.tx, scope, || ApiError::field("/scope", "there is no such mesh or cluster")).await?;
    let (id, created_at) = (BindingId(caller.app.clock.uuid()), caller.app.clock.now());
    let binding = Binding { id, provider, subject, grant: Grant { role, scope }, created_at };
    change.tx.create_binding(&binding).await?;
    change.done(Done::new(StatusCode::CREATED, id), &binding_view(&binding)).await
}

/// List role bindings
#[utoipa::path(get, path = "/v1/role-bindings", operation_id = "listRoleBindings", tag = "access",
    params(("page_size" = Option<i64>, Query, description = "1 to 500"), ("page_token" = Option<String>, Query)),
    responses((status = 200, body = RoleBindingList)))]
pub(crate) async fn list_role_bindings(
    Asked(caller, database): Asked,
    list: List<Unfiltered>,
) -> Result<Json<RoleBindingList>> {
    caller.may(Action::ReadAccess)?;
    let found = database.begin().await?.bindings(None, list.page(&caller)?).await?;
    let (shown, next_page_token) = list.cut(&caller, found, |binding| binding.id.0);
    Ok(Json(RoleBindingList { items: shown.iter().map(binding_view).collect(), next_page_token }))
}

/// Take a role back
///
/// From the next request on.
#[utoipa::path(delete, path = "/v1/role-bindings/{binding_id}", operation_id = "deleteRoleBinding", tag = "access",
    params(("binding_id" = String, Path)), responses((status = 204)))]
pub(crate) async fn delete_role_binding(
    Asked(caller, database): Asked,
    Path(binding): Path<String>,
    body: Body<Nothing>,
) -> Result<Response> {
    caller.may(Action::ChangeAccess)?;
    let mut change = caller.change(database, "deleteRoleBinding", &body).await?;
    let found = change.tx.bindings(Some(id(&binding, "role binding")?), Page::ALL).await?.pop();
    let found = found.ok_or_else(|| ApiError::not_found("role binding"))?;
    change.tx.delete_binding(found.id).await?;
    change.gone(found.id, &binding_view(&found)).await
}
