//! Parses submitted kubeconfigs. They are as dangerous as code, because they can name programs to
//! run, files to read and hosts to call. This module has its own strict schema: anything outside
//! the schema is refused by name, and no kubeconfig is ever given to a general loader.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::client::transport;
use crate::credential::{
    ClientIdentity, Credential, RefusedKubeconfig, parse_certificates, refused_construct,
};

/// Maximum size of a kubeconfig, in bytes. One for a single cluster has about 6 KiB.
const MAX_KUBECONFIG_BYTES: usize = 256 * 1024;
/// Document of a kubeconfig. This and the following structs accept no unknown fields; a field whose
/// name begins with an underscore is accepted and ignored.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KubeconfigFile {
    #[serde(rename = "apiVersion")]
    api_version: Option<String>,
    kind: Option<String>,
    #[serde(rename = "preferences")]
    _preferences: Option<serde_json::Value>,
    #[serde(rename = "current-context")]
    current_context: String,
    clusters: Vec<NamedCluster>,
    contexts: Vec<NamedContext>,
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedCluster {
    name: String,
    cluster: ClusterEntry,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterEntry {
    server: String,
    #[serde(rename = "certificate-authority-data")]
    authority: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedContext {
    name: String,
    context: ContextEntry,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ContextEntry {
    cluster: String,
    user: String,
    #[serde(rename = "namespace")]
    _namespace: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedUser {
    name: String,
    user: UserEntry,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserEntry {
    token: Option<SecretString>,
    #[serde(rename = "client-certificate-data")]
    certificate: Option<String>,
    #[serde(rename = "client-key-data")]
    key: Option<SecretString>,
}

/// Keys that get an explanation of their own: the key, and a sentence with the field's place, the
/// danger, and the field to use in its stead where there is one.
const FORBIDDEN_KEYS: [(&str, &str); 13] = [
    (
        "exec",
        "users.exec would run a program here; use a service account's token",
    ),
    (
        "auth-provider",
        "users.auth-provider would run a program here; use a service account's token",
    ),
    (
        "tokenFile",
        "users.tokenFile would read a file here; put the token itself in",
    ),
    (
        "client-certificate",
        "users.client-certificate would read a file here; use client-certificate-data",
    ),
    (
        "client-key",
        "users.client-key would read a file here; use client-key-data",
    ),
    (
        "certificate-authority",
        "clusters.certificate-authority would read a file here; use certificate-authority-data",
    ),
    (
        "proxy-url",
        "clusters.proxy-url would send the credential through another host",
    ),
    (
        "insecure-skip-tls-verify",
        "clusters.insecure-skip-tls-verify would trust anybody; use certificate-authority-data",
    ),
    (
        "tls-server-name",
        "clusters.tls-server-name would accept another host's certificate",
    ),
    (
        "as",
        "users.as is impersonation; use the account's own credential",
    ),
    (
        "as-groups",
        "users.as-groups is impersonation; use the account's own credential",
    ),
    (
        "username",
        "users.username is a password login; use a service account's token",
    ),
    ("extensions", "extensions are not read here; remove them"),
];

impl Credential {
    /// Parses a kubeconfig that a user submitted.
    ///
    /// # Errors
    /// Names the first construct that is refused.
    pub fn parse(text: &str) -> Result<Self, RefusedKubeconfig> {
        if text.len() > MAX_KUBECONFIG_BYTES {
            return Err(refused_construct(format!(
                "it is larger than {} KiB",
                MAX_KUBECONFIG_BYTES / 1024
            )));
        }
        let value: serde_json::Value = serde_saphyr::from_str(text)
            .map_err(|_| refused_construct("it is not valid YAML or JSON"))?;
        if let Some(sentence) = find_forbidden_key(&value) {
            return Err(refused_construct(sentence));
        }
        let file: KubeconfigFile = serde_json::from_value(value)
            .map_err(|error| refused_construct(explain_shape_error(&error.to_string())))?;
        Self::from_kubeconfig(file)
    }

    /// Builds the credential from the one context of the document.
    fn from_kubeconfig(file: KubeconfigFile) -> Result<Self, RefusedKubeconfig> {
        let other = |found: &Option<String>, wanted: &str| {
            found.as_ref().is_some_and(|found| found != wanted)
        };
        if other(&file.api_version, "v1") || other(&file.kind, "Config") {
            return Err(refused_construct(
                "it is of another kind or version than Config of v1",
            ));
        }
        require_unique_names(
            "clusters",
            file.clusters.iter().map(|cluster| cluster.name.as_str()),
        )?;
        require_unique_names("users", file.users.iter().map(|user| user.name.as_str()))?;
        let [context] = file.contexts.as_slice() else {
            return Err(refused_construct("it must have exactly one context"));
        };
        if context.name != file.current_context {
            return Err(refused_construct("current-context names no context"));
        }
        let cluster = file
            .clusters
            .iter()
            .find(|cluster| cluster.name == context.context.cluster);
        let user = file
            .users
            .into_iter()
            .find(|user| user.name == context.context.user);
        let (Some(cluster), Some(user)) = (cluster, user) else {
            return Err(refused_construct(
                "the context names a cluster or user that is not there",
            ));
        };
        let authority = decode_pem(&cluster.cluster.authority, "certificate-authority-data")?;
        let identity = match (user.user.token, user.user.certificate, user.user.key) {
            (Some(token), None, None) => ClientIdentity::Token(token),
            (None, Some(certificate), Some(key)) => {
                let key = decode_pem(key.expose_secret(), "client-key-data")?;
                let key = String::from_utf8(key)
                    .map_err(|_| refused_construct("client-key-data is not PEM"))?;
                ClientIdentity::Certificate {
                    certificate: decode_pem(&certificate, "client-certificate-data")?,
                    key: key.into(),
                }
            }
            _ => {
                return Err(refused_construct(
                    "the user must have either a token, or client-certificate-data with client-key-data",
                ));
            }
        };
        if parse_certificates(&authority).is_none() {
            return Err(refused_construct(
                "certificate-authority-data holds no certificate",
            ));
        }
        let credential = Self::new(&cluster.cluster.server, authority, identity)?;
        transport::check_credential(&credential).map_err(|cause| {
            refused_construct(format!("the credential cannot be used: {cause}"))
        })?;
        Ok(credential)
    }
}

/// Explains why the document does not fit the schema. Names of fields may be repeated to the
/// caller, but values may not, because any of them may be a secret.
fn explain_shape_error(error: &str) -> String {
    let names = ["unknown field", "missing field", "duplicate field"]
        .iter()
        .any(|start| error.starts_with(start));
    if names {
        error.to_owned()
    } else {
        "a value has another type than a kubeconfig has there".into()
    }
}

/// Checks that a list has no name twice. With two entries of one name, another reader could choose
/// the other entry.
fn require_unique_names<'n>(
    list: &str,
    names: impl Iterator<Item = &'n str>,
) -> Result<(), RefusedKubeconfig> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(refused_construct(format!(
                "{list} has two entries of one name"
            )));
        }
    }
    Ok(())
}

/// Returns the sentence for the first forbidden key anywhere in the document.
fn find_forbidden_key(value: &serde_json::Value) -> Option<&'static str> {
    match value {
        serde_json::Value::Object(map) => map.iter().find_map(|(key, inner)| {
            let named = FORBIDDEN_KEYS.iter().find(|(name, _)| name == key);
            named
                .map(|(_, sentence)| *sentence)
                .or_else(|| find_forbidden_key(inner))
        }),
        serde_json::Value::Array(list) => list.iter().find_map(find_forbidden_key),
        _ => None,
    }
}

/// Decodes a field that must be base64 of PEM.
fn decode_pem(encoded: &str, field: &str) -> Result<Vec<u8>, RefusedKubeconfig> {
    let compact: String = encoded.split_whitespace().collect();
    let bytes = STANDARD
        .decode(compact)
        .map_err(|_| refused_construct(format!("{field} is not base64")))?;
    if bytes.starts_with(b"-----BEGIN ") {
        Ok(bytes)
    } else {
        Err(refused_construct(format!("{field} is not PEM")))
    }
}

#[cfg(test)]
mod tests;
