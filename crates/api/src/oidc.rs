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
const LONGEST: usize = 16 * 1024;
/// How far clocks may differ.
const LEEWAY: SignedDuration = SignedDuration::from_secs(30);
/// The longest subject, as the specification has it.
const LONGEST_SUBJECT: usize = 255;
/// So many groups of a token are looked at.
const MOST_GROUPS: usize = 200;
/// What an audience of ours begins with.
const AUDIENCE: &str = "meshwright:";

/// The algorithms that a provider may be registered with: signatures only that need no shared secret.
pub(crate) const ALGORITHMS: [(&str, Algorithm); 9] = [
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
pub(crate) fn audience(tenant: TenantId) -> String {
    format!("{AUDIENCE}{tenant}")
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
pub(crate) struct Unproved {
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
pub(crate) struct Person {
    pub(crate) subject: String,
    pub(crate) groups: Vec<String>,
    /// When the token ends.
    pub(crate) until: Timestamp,
}

/// Reads what a token says of itself; `None` where it is none of ours, or none at all.
pub(crate) fn read(token: &str) -> Option<Unproved> {
    if token.len() > LONGEST {
        return None;
    }
    let header = decode_header(token).ok()?;
    // RFC 7515: a token that says what must be understood is refused by a reader that does not, and this one knows no extension.
    if header.crit.is_some() {
        return None;
    }
    let claims: Claims = jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
    let mut tenants = claims.aud.iter().filter_map(|audience| audience.strip_prefix(AUDIENCE));
    let tenant = tenants.next()?.parse().ok()?;
    // A token for two tenants would be good for whichever one its bearer chose.
    if tenants.next().is_some() {
        return None;
    }
    Some(Unproved { tenant, issuer: claims.iss, key: header.kid?, algorithm: header.alg })
}

/// Proves a token with a key of its issuer.
pub(crate) fn prove(
    token: &str,
    unproved: &Unproved,
    provider: &Provider,
    key: &DecodingKey,
    now: Timestamp,
) -> Option<Person> {
    let known =
        |name: &String| ALGORITHMS.iter().any(|(known, algorithm)| known == name && *algorithm == unproved.algorithm);
    if !provider.algorithms.iter().any(known) {
        return None;
    }
    let mut validation = Validation::new(unproved.algorithm);
    // Times and audiences are compared below, by our own clock and for our own tenant.
    (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
    validation.required_spec_claims.clear();
    let claims = decode::<Claims>(token, key, &validation).ok()?.claims;
    let fits = claims.iss == provider.issuer
        && claims.aud.iter().any(|audience| *audience == self::audience(unproved.tenant))
        && in_time(&claims, now)
        && (1..=LONGEST_SUBJECT).contains(&claims.sub.len())
        && provider.required_claims.iter().all(|(name, value)| said(&claims, name).as_deref() == Some(value.as_str()));
    if !fits {
        return None;
    }
    let until = SignedDuration::try_from_secs_f64(claims.exp).ok().and_then(|end| Timestamp::from_duration(end).ok());
    // A token that never ends is one for as long as time is counted.
    let until = until.unwrap_or(Timestamp::MAX);
    Some(Person { groups: groups(&claims, &provider.groups_claim), subject: claims.sub, until })
}

fn in_time(claims: &Claims, now: Timestamp) -> bool {
    let now = now.as_duration().as_secs_f64();
    let leeway = LEEWAY.as_secs_f64();
    claims.exp > now - leeway && [claims.nbf, claims.iat].into_iter().flatten().all(|time| time <= now + leeway)
}

/// A claim as text: booleans and numbers as JSON writes them.
fn said(claims: &Claims, name: &str) -> Option<String> {
    match claims.others.get(name)? {
        Value::String(text) => Some(text.clone()),
        value @ (Value::Bool(_) | Value::Number(_)) => Some(value.to_string()),
        _ => None,
    }
}

fn groups(claims: &Claims, claim: &str) -> Vec<String> {
    let listed = claims.others.get(claim).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    listed.iter().filter_map(Value::as_str).take(MOST_GROUPS).map(str::to_owned).collect()
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
        let claims = json!({ "iss": "https://i", "sub": "s", "aud": audience(TenantId::PLATFORM), "exp": 1 });
        let token = |length: usize| {
            let signed = format!("{head}.{}.", part(&claims));
            format!("{signed}{}", "A".repeat(length - signed.len()))
        };
        assert_eq!(LONGEST, 16_384);
        assert_eq!(read(&token(LONGEST)).expect("a token").tenant, TenantId::PLATFORM);
        assert!(read(&token(LONGEST + 1)).is_none());
    }
}
