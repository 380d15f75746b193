//! Tokens of identity providers: which tenant they are for, whether they are what they say, and who it is.
//!
//! A token names its tenant in its audience, `meshwright:tenant_01…`. Nothing else of it is believed before its signature
//! was checked with a key of an issuer that this very tenant trusts.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use model::ids::TenantId;
use serde::Deserialize;
use serde_json::Value;
use store::Provider;

mod keys;

pub use keys::{Fetch, FetchError, IssuerKeys};

/// The longest token; with many groups they have a few kilobytes.
const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// How far clocks may differ.
const CLOCK_SKEW_LEEWAY: SignedDuration = SignedDuration::from_secs(30);
/// The longest subject, as the specification has it.
const MAX_SUBJECT_BYTES: usize = 255;
/// So many groups of a token are looked at.
const MAX_GROUPS: usize = 200;
/// What an audience of ours begins with.
const AUDIENCE_PREFIX: &str = "meshwright:";

/// The algorithms that a provider may be registered with: signatures only that need no shared secret.
pub(crate) const SIGNATURE_ALGORITHMS: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

/// The audience of a tenant's tokens.
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

/// What a token says. Times are seconds since 1970, which may have a fraction.
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

/// What a token says of itself before anything of it is believed: where to look for what decides.
#[derive(Debug)]
pub(crate) struct UnverifiedToken {
    /// For which tenant.
    pub(crate) tenant: TenantId,
    /// By which issuer.
    pub(crate) issuer: String,
    /// Signed with which key.
    pub(crate) key: String,
    algorithm: Algorithm,
}

/// Who it is, proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OidcIdentity {
    pub(crate) subject: String,
    pub(crate) groups: Vec<String>,
    /// When the token ends.
    pub(crate) expires_at: Timestamp,
}

/// Reads what a token says of itself; `None` where it is none of ours, or none at all.
pub(crate) fn parse_unverified(token: &str) -> Option<UnverifiedToken> {
    if token.len() > MAX_TOKEN_BYTES {
        return None;
    }
    let header = decode_header(token).ok()?;
    // RFC 7515: a token that says what must be understood is refused by a reader that does not, and this one knows no extension.
    if header.crit.is_some() {
        return None;
    }
    let claims: Claims = jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
    let mut tenants = claims.aud.iter().filter_map(|audience| audience.strip_prefix(AUDIENCE_PREFIX));
    let tenant = tenants.next()?.parse().ok()?;
    // A token for two tenants would be good for whichever one its bearer chose.
    if tenants.next().is_some() {
        return None;
    }
    Some(UnverifiedToken { tenant, issuer: claims.iss, key: header.kid?, algorithm: header.alg })
}

/// Proves a token with a key of its issuer.
pub(crate) fn verify_token(
    token: &str,
    unproved: &UnverifiedToken,
    provider: &Provider,
    key: &DecodingKey,
    now: Timestamp,
) -> Option<OidcIdentity> {
    let known =
        |name: &String| SIGNATURE_ALGORITHMS.iter().any(|(known, algorithm)| known == name && *algorithm == unproved.algorithm);
    if !provider.algorithms.iter().any(known) {
        return None;
    }
    let mut validation = Validation::new(unproved.algorithm);
    // Times and audiences are compared below, by our own clock and for our own tenant.
    (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
    validation.required_spec_claims.clear();
    let claims = decode::<Claims>(token, key, &validation).ok()?.claims;
    let fits = claims.iss == provider.issuer
        && claims.aud.iter().any(|audience| *audience == self::tenant_audience(unproved.tenant))
        && is_in_validity_period(&claims, now)
        && (1..=MAX_SUBJECT_BYTES).contains(&claims.sub.len())
        && provider.required_claims.iter().all(|(name, value)| claim_text(&claims, name).as_deref() == Some(value.as_str()));
    if !fits {
        return None;
    }
    let until = SignedDuration::try_from_secs_f64(claims.exp).ok().and_then(|end| Timestamp::from_duration(end).ok());
    // A token that never ends is one for as long as time is counted.
    let until = until.unwrap_or(Timestamp::MAX);
    Some(OidcIdentity { groups: claim_groups(&claims, &provider.groups_claim), subject: claims.sub, expires_at: until })
}

fn is_in_validity_period(claims: &Claims, now: Timestamp) -> bool {
    let now = now.as_duration().as_secs_f64();
    let leeway = CLOCK_SKEW_LEEWAY.as_secs_f64();
    claims.exp > now - leeway && [claims.nbf, claims.iat].into_iter().flatten().all(|time| time <= now + leeway)
}

/// A claim as text: booleans and numbers as JSON writes them.
fn claim_text(claims: &Claims, name: &str) -> Option<String> {
    match claims.others.get(name)? {
        Value::String(text) => Some(text.clone()),
        value @ (Value::Bool(_) | Value::Number(_)) => Some(value.to_string()),
        _ => None,
    }
}

fn claim_groups(claims: &Claims, claim: &str) -> Vec<String> {
    let listed = claims.others.get(claim).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    listed.iter().filter_map(Value::as_str).take(MAX_GROUPS).map(str::to_owned).collect()
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
        assert_eq!(parse_unverified(&token(MAX_TOKEN_BYTES)).expect("a token").tenant, TenantId::PLATFORM);
        assert!(parse_unverified(&token(MAX_TOKEN_BYTES + 1)).is_none());
    }
}
