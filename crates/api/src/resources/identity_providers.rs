//! Handles requests for the identity providers that a tenant trusts, and for the role bindings that
//! say what their users may do.

use axum::Json;
use axum::extract::Path;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use meshwright_model::access::{Action, Grant, UnknownRole, UnknownScope};
use meshwright_model::ids::{BindingId, ProviderId};
use meshwright_model::quota::QuotaResource;
use meshwright_store::{Binding, Page, Provider, Subject};
use meshwright_wire::{
    CreateIdentityProvider, CreateRoleBinding, IdentityProvider, IdentityProviderList, RoleBinding,
    RoleBindingList, SignatureAlgorithm, SignatureAlgorithmValue,
};

use crate::error::{ApiError, Result};
use crate::oidc;
use crate::request::caller::{Authenticated, Caller};
use crate::request::mutation::{Body, EmptyBody, MutationOutcome};
use crate::request::pagination::{ListRequest, Unfiltered};
use crate::request::params::{
    known_value, parse_id, parse_name, require_known_scope, require_referenced,
};

/// Maximum length of an issuer, a subject, a group, or the name or value of a claim, in bytes.
pub(crate) const MAX_IDENTITY_TEXT_BYTES: usize = 255;
/// Maximum number of claims that a provider may require.
const MAX_REQUIRED_CLAIMS: usize = 20;

fn provider_view(caller: &Caller, provider: &Provider) -> IdentityProvider {
    IdentityProvider {
        id: provider.id.to_string(),
        name: provider.name.clone(),
        issuer: provider.issuer.clone(),
        audience: oidc::tenant_audience(caller.tenant),
        algorithms: provider
            .algorithms
            .iter()
            .map(SignatureAlgorithm::from_name)
            .collect(),
        groups_claim: provider.groups_claim.clone(),
        required_claims: provider.required_claims.clone(),
        created_at: provider.created_at,
    }
}

fn binding_view(binding: &Binding) -> RoleBinding {
    let (subject, group) = match &binding.subject {
        Subject::User(subject) => (Some(subject.clone()), None),
        Subject::Group(group) => (None, Some(group.clone())),
    };
    RoleBinding {
        id: binding.id.to_string(),
        provider_id: binding.provider.to_string(),
        subject,
        group,
        role: binding.grant.role.into(),
        scope: binding.grant.scope.to_string(),
        created_at: binding.created_at,
    }
}

/// Checks that a text has 1 to `MAX_IDENTITY_TEXT_BYTES` bytes.
fn check_length(pointer: &str, text: &str) -> Result<()> {
    let fits = (1..=MAX_IDENTITY_TEXT_BYTES).contains(&text.len());
    if fits {
        Ok(())
    } else {
        Err(ApiError::invalid_field(
            pointer,
            format!("1 to {MAX_IDENTITY_TEXT_BYTES} bytes"),
        ))
    }
}

/// Checks an issuer: an https address without a user, a query or a fragment, because the path of
/// the discovery document is appended to it.
fn parse_issuer(text: &str) -> Result<String> {
    check_length("/issuer", text)?;
    let uri: Option<Uri> = text.parse().ok();
    let plain = uri.as_ref().is_some_and(|uri| {
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        uri.scheme_str() == Some("https") && !authority.contains('@') && uri.query().is_none()
    });
    if plain && !text.contains('#') {
        Ok(text.to_owned())
    } else {
        Err(ApiError::invalid_field(
            "/issuer",
            "an https address without a user, a query or a fragment",
        ))
    }
}

/// Trust an identity provider
///
/// Registers an issuer whose tokens are accepted if their audience is the one in the answer. Role
/// bindings say what the bearer of a token may do; without a role binding the bearer may do
/// nothing.
#[utoipa::path(post, path = "/v1/identity-providers", operation_id = "createIdentityProvider", tag = "access", request_body = CreateIdentityProvider,
    responses((status = 201, body = IdentityProvider)))]
pub(crate) async fn create_identity_provider(
    Authenticated(caller, database): Authenticated,
    body: Body<CreateIdentityProvider>,
) -> Result<Response> {
    caller.require_permission(Action::ChangeAccess)?;
    let mut change = caller
        .begin_mutation(database, "createIdentityProvider", &body)
        .await?;
    change
        .tx
        .tenants()
        .check_quota(QuotaResource::IdentityProviders)
        .await?;
    let wanted = &body.value;
    let known = |sent: &SignatureAlgorithm| sent.known().is_some();
    if wanted.algorithms.is_empty() || !wanted.algorithms.iter().all(known) {
        let names = SignatureAlgorithmValue::ALL.map(SignatureAlgorithmValue::as_str);
        return Err(ApiError::invalid_field(
            "/algorithms",
            format!("one or more of {}", names.join(", ")),
        ));
    }
    check_length("/groups_claim", &wanted.groups_claim)?;
    if wanted.required_claims.len() > MAX_REQUIRED_CLAIMS {
        return Err(ApiError::invalid_field(
            "/required_claims",
            format!("at most {MAX_REQUIRED_CLAIMS}"),
        ));
    }
    for (name, value) in &wanted.required_claims {
        check_length("/required_claims", name)?;
        check_length("/required_claims", value)?;
    }
    let provider = Provider {
        id: ProviderId(caller.app.clock.new_uuid()),
        name: parse_name(&wanted.name)?.to_string(),
        issuer: parse_issuer(&wanted.issuer)?,
        algorithms: wanted.algorithms.iter().map(ToString::to_string).collect(),
        groups_claim: wanted.groups_claim.clone(),
        required_claims: wanted.required_claims.clone(),
        created_at: caller.app.clock.now(),
    };
    change
        .tx
        .identities()
        .create_identity_provider(&provider)
        .await?;
    let shown = provider_view(
        &caller,
        &change
            .tx
            .identities()
            .get_identity_provider(provider.id)
            .await?,
    );
    let done = MutationOutcome::new(StatusCode::CREATED, provider.id)
        .with_location(format!("/v1/identity-providers/{}", provider.id));
    change.commit_response(done, &shown).await
}

/// List trusted identity providers
///
/// Returns the identity providers that the tenant trusts, from the oldest to the newest.
#[utoipa::path(get, path = "/v1/identity-providers", operation_id = "listIdentityProviders", tag = "access",
    params(("page_size" = Option<i64>, Query, description = "Number of items on a page, from 1 to 500"), ("page_token" = Option<String>, Query)),
    responses((status = 200, body = IdentityProviderList)))]
pub(crate) async fn list_identity_providers(
    Authenticated(caller, database): Authenticated,
    list: ListRequest<Unfiltered>,
) -> Result<Json<IdentityProviderList>> {
    caller.require_permission(Action::ReadAccess)?;
    let found = database
        .begin_read()
        .await?
        .identities()
        .list_identity_providers(list.page(&caller)?)
        .await?;
    let (shown, next_page_token) = list.split_page(&caller, found, |provider| provider.id.0);
    let items = shown
        .iter()
        .map(|provider| provider_view(&caller, provider))
        .collect();
    Ok(Json(IdentityProviderList {
        items,
        next_page_token,
    }))
}

/// Get an identity provider
///
/// Returns the identity provider with its issuer and the audience that its tokens must have.
#[utoipa::path(get, path = "/v1/identity-providers/{provider_id}", operation_id = "getIdentityProvider", tag = "access",
    params(("provider_id" = String, Path)), responses((status = 200, body = IdentityProvider)))]
pub(crate) async fn get_identity_provider(
    Authenticated(caller, database): Authenticated,
    Path(provider): Path<String>,
) -> Result<Json<IdentityProvider>> {
    caller.require_permission(Action::ReadAccess)?;
    let found = database
        .begin_read()
        .await?
        .identities()
        .get_identity_provider(parse_id(&provider, "identity provider")?)
        .await?;
    Ok(Json(provider_view(&caller, &found)))
}

/// Stop trusting an identity provider
///
/// Removes the identity provider and its role bindings. Tokens of its issuer are refused from now
/// on.
#[utoipa::path(delete, path = "/v1/identity-providers/{provider_id}", operation_id = "deleteIdentityProvider", tag = "access",
    params(("provider_id" = String, Path)), responses((status = 204)))]
pub(crate) async fn delete_identity_provider(
    Authenticated(caller, database): Authenticated,
    Path(provider): Path<String>,
    body: Body<EmptyBody>,
) -> Result<Response> {
    caller.require_permission(Action::ChangeAccess)?;
    let mut change = caller
        .begin_mutation(database, "deleteIdentityProvider", &body)
        .await?;
    let found = change
        .tx
        .identities()
        .get_identity_provider(parse_id(&provider, "identity provider")?)
        .await?;
    change
        .tx
        .identities()
        .delete_identity_provider(found.id)
        .await?;
    change
        .commit_deletion(found.id, &provider_view(&caller, &found))
        .await
}

/// Grant a role binding
///
/// Grants a role on the whole tenant, one mesh or one cluster. The holder is one person or program
/// (`subject`) or all members of a `group`.
#[utoipa::path(post, path = "/v1/role-bindings", operation_id = "createRoleBinding", tag = "access", request_body = CreateRoleBinding,
    responses((status = 201, body = RoleBinding)))]
pub(crate) async fn create_role_binding(
    Authenticated(caller, database): Authenticated,
    body: Body<CreateRoleBinding>,
) -> Result<Response> {
    caller.require_permission(Action::ChangeAccess)?;
    let mut change = caller
        .begin_mutation(database, "createRoleBinding", &body)
        .await?;
    change
        .tx
        .tenants()
        .check_quota(QuotaResource::RoleBindings)
        .await?;
    let wanted = &body.value;
    let subject = match (&wanted.subject, &wanted.group) {
        (Some(subject), None) => Subject::User(subject.clone()),
        (None, Some(group)) => Subject::Group(group.clone()),
        _ => {
            return Err(ApiError::invalid_field(
                "/subject",
                "give either a subject or a group",
            ));
        }
    };
    let (Subject::User(text) | Subject::Group(text)) = &subject;
    check_length("/subject", text)?;
    let role = known_value("/role", &wanted.role, &UnknownRole.to_string())?;
    let scope = wanted
        .scope
        .parse()
        .map_err(|error: UnknownScope| ApiError::invalid_field("/scope", error.to_string()))?;
    let absent = || ApiError::invalid_field("/provider_id", "there is no such identity provider");
    let provider: ProviderId = wanted.provider_id.parse().map_err(|_| absent())?;
    require_referenced(
        change.tx.identities().get_identity_provider(provider).await,
        absent,
    )?;
    require_known_scope(&mut change.tx, scope, || {
        ApiError::invalid_field("/scope", "there is no such mesh or cluster")
    })
    .await?;
    let (id, created_at) = (
        BindingId(caller.app.clock.new_uuid()),
        caller.app.clock.now(),
    );
    let binding = Binding {
        id,
        provider,
        subject,
        grant: Grant { role, scope },
        created_at,
    };
    change.tx.identities().create_role_binding(&binding).await?;
    change
        .commit_response(
            MutationOutcome::new(StatusCode::CREATED, id),
            &binding_view(&binding),
        )
        .await
}

/// List all role bindings
///
/// Returns the role bindings of the tenant, from the oldest to the newest.
#[utoipa::path(get, path = "/v1/role-bindings", operation_id = "listRoleBindings", tag = "access",
    params(("page_size" = Option<i64>, Query, description = "Number of items on a page, from 1 to 500"), ("page_token" = Option<String>, Query)),
    responses((status = 200, body = RoleBindingList)))]
pub(crate) async fn list_role_bindings(
    Authenticated(caller, database): Authenticated,
    list: ListRequest<Unfiltered>,
) -> Result<Json<RoleBindingList>> {
    caller.require_permission(Action::ReadAccess)?;
    let found = database
        .begin_read()
        .await?
        .identities()
        .list_role_bindings(None, list.page(&caller)?)
        .await?;
    let (shown, next_page_token) = list.split_page(&caller, found, |binding| binding.id.0);
    Ok(Json(RoleBindingList {
        items: shown.iter().map(binding_view).collect(),
        next_page_token,
    }))
}

/// Revoke a role binding
///
/// Removes the role binding. The role no longer holds from the next request on.
#[utoipa::path(delete, path = "/v1/role-bindings/{binding_id}", operation_id = "deleteRoleBinding", tag = "access",
    params(("binding_id" = String, Path)), responses((status = 204)))]
pub(crate) async fn delete_role_binding(
    Authenticated(caller, database): Authenticated,
    Path(binding): Path<String>,
    body: Body<EmptyBody>,
) -> Result<Response> {
    caller.require_permission(Action::ChangeAccess)?;
    let mut change = caller
        .begin_mutation(database, "deleteRoleBinding", &body)
        .await?;
    let found = change
        .tx
        .identities()
        .list_role_bindings(Some(parse_id(&binding, "role binding")?), Page::ALL)
        .await?
        .pop();
    let found = found.ok_or_else(|| ApiError::not_found("role binding"))?;
    change.tx.identities().delete_role_binding(found.id).await?;
    change
        .commit_deletion(found.id, &binding_view(&found))
        .await
}
