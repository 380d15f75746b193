//! Verifies tokens of identity providers: finds the tenant of a token, checks its signature and
//! claims, and returns its subject and groups.
//!
//! A token names its tenant in its audience, `meshwright:tenant_01…`. No other claim is trusted
//! before the signature was checked with a key of an issuer that this tenant trusts.

use meshwright_model::ClosedSet;
use meshwright_wire::SignatureAlgorithmValue;
use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use meshwright_model::ids::TenantId;
use meshwright_store::Provider;
use serde::Deserialize;
use serde_json::Value;

mod jwks;

pub use jwks::{Fetch, FetchError, IssuerKeys};

/// Maximum length of a token in bytes. Tokens with many groups have a few kilobytes.
const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// Difference between the clocks of the issuer and this service that is tolerated.
const CLOCK_SKEW_LEEWAY: SignedDuration = SignedDuration::from_secs(30);
/// Maximum length of a subject in bytes, as `OpenID` Connect Core specifies it.
const MAX_SUBJECT_BYTES: usize = 255;
/// Maximum number of groups of a token that are read. Further groups are ignored.
const MAX_GROUPS: usize = 200;
/// Prefix of the audience of our tokens; the id of the tenant follows it.
const AUDIENCE_PREFIX: &str = "meshwright:";

/// Returns the library's name of an algorithm that a provider may be registered with.
fn library_algorithm(algorithm: SignatureAlgorithmValue) -> Algorithm {
    match algorithm {
        SignatureAlgorithmValue::Rs256 => Algorithm::RS256,
        SignatureAlgorithmValue::Rs384 => Algorithm::RS384,
        SignatureAlgorithmValue::Rs512 => Algorithm::RS512,
        SignatureAlgorithmValue::Ps256 => Algorithm::PS256,
        SignatureAlgorithmValue::Ps384 => Algorithm::PS384,
        SignatureAlgorithmValue::Ps512 => Algorithm::PS512,
        SignatureAlgorithmValue::Es256 => Algorithm::ES256,
        SignatureAlgorithmValue::Es384 => Algorithm::ES384,
        SignatureAlgorithmValue::EdDsa => Algorithm::EdDSA,
    }
}

/// Returns the audience that tokens for a tenant must have.
pub(crate) fn tenant_audience(tenant: TenantId) -> String {
    format!("{AUDIENCE_PREFIX}{tenant}")
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn iter(&self) -> impl Iterator<Item = &String> {
        match self {
            Self::One(one) => std::slice::from_ref(one).iter(),
            Self::Many(many) => many.iter(),
        }
    }
}

/// Claims of a token. Times are seconds since 1970, and may have a fraction.
#[derive(Debug, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    exp: f64,
    nbf: Option<f64>,
    iat: Option<f64>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// Claims and header fields of a token before its signature was checked. They only say which
/// tenant, issuer and key to check the token with.
#[derive(Debug)]
pub(crate) struct UnverifiedToken {
    /// Tenant that the audience of the token names.
    pub(crate) tenant: TenantId,
    /// Issuer that the token names (`iss`).
    pub(crate) issuer: String,
    /// Id of the key that the token claims to be signed with (`kid`).
    pub(crate) key: String,
    algorithm: Algorithm,
}

/// Subject and groups of a token that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OidcIdentity {
    pub(crate) subject: String,
    pub(crate) groups: Vec<String>,
    /// Time at which the token expires.
    pub(crate) expires_at: Timestamp,
}

/// Parses a token without checking its signature. Returns `None` if it is no token, or no token for
/// one tenant of this service.
pub(crate) fn parse_unverified(token: &str) -> Option<UnverifiedToken> {
    if token.len() > MAX_TOKEN_BYTES {
        return None;
    }
    let header = decode_header(token).ok()?;
    // RFC 7515: a token with critical header extensions must be refused by a reader that does not
    // understand them, and this reader understands none.
    if header.crit.is_some() {
        return None;
    }
    let claims: Claims = jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
    let mut tenants = claims
        .aud
        .iter()
        .filter_map(|audience| audience.strip_prefix(AUDIENCE_PREFIX));
    let tenant = tenants.next()?.parse().ok()?;
    // Refuse a token for two tenants: its bearer could choose the tenant in which to use it.
    if tenants.next().is_some() {
        return None;
    }
    Some(UnverifiedToken {
        tenant,
        issuer: claims.iss,
        key: header.kid?,
        algorithm: header.alg,
    })
}

/// Verifies a token with a key of its issuer. Returns `None` if the signature, a time, the
/// audience, the subject or a required claim is wrong.
pub(crate) fn verify_token(
    token: &str,
    unproved: &UnverifiedToken,
    provider: &Provider,
    key: &DecodingKey,
    now: Timestamp,
) -> Option<OidcIdentity> {
    let known = |name: &String| {
        SignatureAlgorithmValue::from_name(name)
            .is_some_and(|known| library_algorithm(known) == unproved.algorithm)
    };
    if !provider.algorithms.iter().any(known) {
        return None;
    }
    let mut validation = Validation::new(unproved.algorithm);
    // The library's own checks are off: times and audiences are compared below, with the clock of
    // this service and for this tenant.
    (
        validation.validate_exp,
        validation.validate_nbf,
        validation.validate_aud,
    ) = (false, false, false);
    validation.required_spec_claims.clear();
    let claims = decode::<Claims>(token, key, &validation).ok()?.claims;
    let fits = claims.iss == provider.issuer
        && claims
            .aud
            .iter()
            .any(|audience| *audience == self::tenant_audience(unproved.tenant))
        && is_in_validity_period(&claims, now)
        && (1..=MAX_SUBJECT_BYTES).contains(&claims.sub.len())
        && provider
            .required_claims
            .iter()
            .all(|(name, value)| claim_text(&claims, name).as_deref() == Some(value.as_str()));
    if !fits {
        return None;
    }
    let until = SignedDuration::try_from_secs_f64(claims.exp)
        .ok()
        .and_then(|end| Timestamp::from_duration(end).ok());
    // An expiry beyond the range of timestamps is the last timestamp.
    let until = until.unwrap_or(Timestamp::MAX);
    Some(OidcIdentity {
        groups: claim_groups(&claims, &provider.groups_claim),
        subject: claims.sub,
        expires_at: until,
    })
}

/// Returns true if the token is valid at the time `now`, within the tolerated clock difference.
fn is_in_validity_period(claims: &Claims, now: Timestamp) -> bool {
    let now = now.as_duration().as_secs_f64();
    let leeway = CLOCK_SKEW_LEEWAY.as_secs_f64();
    claims.exp > now - leeway
        && [claims.nbf, claims.iat]
            .into_iter()
            .flatten()
            .all(|time| time <= now + leeway)
}

/// Returns a claim as text; booleans and numbers are written as in JSON.
fn claim_text(claims: &Claims, name: &str) -> Option<String> {
    match claims.others.get(name)? {
        Value::String(text) => Some(text.clone()),
        value @ (Value::Bool(_) | Value::Number(_)) => Some(value.to_string()),
        _ => None,
    }
}

/// Returns the groups in a claim, which must be a list of texts.
fn claim_groups(claims: &Claims, claim: &str) -> Vec<String> {
    let listed = claims
        .others
        .get(claim)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    listed
        .iter()
        .filter_map(Value::as_str)
        .take(MAX_GROUPS)
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_token_of_sixteen_kilobytes_is_read_and_a_longer_one_is_not() {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let head = part(&json!({ "alg": "EdDSA", "typ": "JWT", "kid": "k1" }));
        let claims = json!({ "iss": "https://i", "sub": "s", "aud": tenant_audience(TenantId::PLATFORM), "exp": 1 });
        let token = |length: usize| {
            let signed = format!("{head}.{}.", part(&claims));
            format!("{signed}{}", "A".repeat(length - signed.len()))
        };
        assert_eq!(MAX_TOKEN_BYTES, 16_384);
        assert_eq!(
            parse_unverified(&token(MAX_TOKEN_BYTES))
                .expect("a token")
                .tenant,
            TenantId::PLATFORM
        );
        assert!(parse_unverified(&token(MAX_TOKEN_BYTES + 1)).is_none());
    }
}
