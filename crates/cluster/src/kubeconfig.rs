//! Submitted kubeconfigs are code: they can name programs to run, files to read and hosts to call. This is our own strict
//! schema. Whatever is not on it is refused by name, and nothing is ever given to a general loader.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

/// The largest configuration that is looked at. One cluster's is about 6 KiB.
const MAX_BYTES: usize = 256 * 1024;

/// How to reach one cluster: the only form in which credentials are stored.
#[derive(Debug, Clone)]
pub struct Credential {
    /// `https://host[:port]`.
    pub server: String,
    /// The authority that signs the server, as PEM.
    pub authority: Vec<u8>,
    /// Who we are.
    pub identity: Identity,
}

/// Who we are to a cluster.
#[derive(Debug, Clone)]
pub enum Identity {
    /// A bearer token.
    Token(SecretString),
    /// A client certificate and its key, as PEM.
    Certificate {
        /// The certificate.
        certificate: Vec<u8>,
        /// Its key.
        key: SecretString,
    },
}

/// A kubeconfig that is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the kubeconfig is refused: {construct}")]
pub struct RefusedKubeconfig {
    /// The construct that is refused, in words for the user.
    pub construct: String,
}

fn refused(construct: impl Into<String>) -> RefusedKubeconfig {
    RefusedKubeconfig { construct: construct.into() }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(rename = "kind")]
    _kind: Option<String>,
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
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cluster {
    server: String,
    #[serde(rename = "certificate-authority-data")]
    authority: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Context {
    cluster: String,
    user: String,
    #[serde(rename = "namespace")]
    _namespace: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct User {
    token: Option<SecretString>,
    #[serde(rename = "client-certificate-data")]
    certificate: Option<String>,
    #[serde(rename = "client-key-data")]
    key: Option<SecretString>,
}

/// Constructs that deserve a sentence of their own: where they are, their name, what to do instead.
const FORBIDDEN: [(&str, &str); 13] = [
    ("exec", "users.exec would run a program here; use a service account's token"),
    ("auth-provider", "users.auth-provider would run a program here; use a service account's token"),
    ("tokenFile", "users.tokenFile would read a file here; put the token itself in"),
    ("client-certificate", "users.client-certificate would read a file here; use client-certificate-data"),
    ("client-key", "users.client-key would read a file here; use client-key-data"),
    ("certificate-authority", "clusters.certificate-authority would read a file here; use certificate-authority-data"),
    ("proxy-url", "clusters.proxy-url would send the credential through another host"),
    (
        "insecure-skip-tls-verify",
        "clusters.insecure-skip-tls-verify would trust anybody; use certificate-authority-data",
    ),
    ("tls-server-name", "clusters.tls-server-name would accept another host's certificate"),
    ("as", "users.as is impersonation; use the account's own credential"),
    ("as-groups", "users.as-groups is impersonation; use the account's own credential"),
    ("username", "users.username is a password login; use a service account's token"),
    ("extensions", "extensions are not read here; remove them"),
];

impl Credential {
    /// Reads a submitted kubeconfig.
    ///
    /// # Errors
    /// The first construct that is refused, by name.
    pub fn parse(text: &str) -> Result<Self, RefusedKubeconfig> {
        if text.len() > MAX_BYTES {
            return Err(refused(format!("it is larger than {} KiB", MAX_BYTES / 1024)));
        }
        let value: serde_json::Value =
            serde_saphyr::from_str(text).map_err(|_| refused("it is not valid YAML or JSON"))?;
        if let Some(sentence) = forbidden(&value) {
            return Err(refused(sentence));
        }
        let file: File = serde_json::from_value(value).map_err(|error| refused(shape(&error.to_string())))?;
        Self::of(file)
    }

    fn of(file: File) -> Result<Self, RefusedKubeconfig> {
        let [context] = file.contexts.as_slice() else { return Err(refused("it must have exactly one context")) };
        if context.name != file.current_context {
            return Err(refused("current-context names no context"));
        }
        let cluster = file.clusters.iter().find(|cluster| cluster.name == context.context.cluster);
        let user = file.users.into_iter().find(|user| user.name == context.context.user);
        let (Some(cluster), Some(user)) = (cluster, user) else {
            return Err(refused("the context names a cluster or user that is not there"));
        };
        let authority = pem(&cluster.cluster.authority, "certificate-authority-data")?;
        let identity = match (user.user.token, user.user.certificate, user.user.key) {
            (Some(token), None, None) => Identity::Token(token),
            (None, Some(certificate), Some(key)) => {
                let key = pem(key.expose_secret(), "client-key-data")?;
                let key = String::from_utf8(key).map_err(|_| refused("client-key-data is not PEM"))?;
                Identity::Certificate { certificate: pem(&certificate, "client-certificate-data")?, key: key.into() }
            }
            _ => {
                return Err(refused(
                    "the user must have either a token, or client-certificate-data with client-key-data",
                ));
            }
        };
        Self::new(&cluster.cluster.server, authority, identity)
    }

    /// A credential of ours, or one that was read.
    ///
    /// # Errors
    /// The server is not an `https` address without path, query or user.
    pub fn new(server: &str, authority: Vec<u8>, identity: Identity) -> Result<Self, RefusedKubeconfig> {
        let uri: http::Uri = server.parse().map_err(|_| refused("clusters.server is not an address"))?;
        let plain = uri.scheme_str() == Some("https") && uri.path() == "/" && uri.query().is_none();
        let host =
            uri.authority().is_some_and(|authority| !authority.as_str().contains('@') && !authority.host().is_empty());
        if !(plain && host) {
            return Err(refused("clusters.server must be https://host[:port], without user, path or query"));
        }
        Ok(Self { server: server.trim_end_matches('/').to_owned(), authority, identity })
    }

    /// The stored form, which [`Credential::open`] reads. Secret.
    pub fn stored(&self) -> Vec<u8> {
        let (token, certificate, key) = match &self.identity {
            Identity::Token(token) => (Some(token.expose_secret().to_owned()), None, None),
            Identity::Certificate { certificate, key } => {
                (None, Some(STANDARD.encode(certificate)), Some(key.expose_secret().to_owned()))
            }
        };
        let stored = Stored {
            server: self.server.clone(),
            authority: STANDARD.encode(&self.authority),
            token,
            certificate,
            key,
        };
        serde_json::to_vec(&stored).expect("strings only")
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// It was not written by [`Credential::stored`].
    pub fn open(stored: &[u8]) -> Result<Self, RefusedKubeconfig> {
        let damaged = || refused("the stored credential is damaged");
        let stored: Stored = serde_json::from_slice(stored).map_err(|_| damaged())?;
        let bytes = |text: &str| STANDARD.decode(text).map_err(|_| damaged());
        let identity = match (stored.token, stored.certificate, stored.key) {
            (Some(token), ..) => Identity::Token(token.into()),
            (None, Some(certificate), Some(key)) => {
                Identity::Certificate { certificate: bytes(&certificate)?, key: key.into() }
            }
            _ => return Err(damaged()),
        };
        Self::new(&stored.server, bytes(&stored.authority)?, identity)
    }
}

#[derive(Serialize, Deserialize)]
struct Stored {
    server: String,
    authority: String,
    token: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
}

/// What is wrong with the shape. Names of fields may be repeated to the caller, and values may not: any may be a secret.
fn shape(error: &str) -> String {
    let names = ["unknown field", "missing field", "duplicate field"].iter().any(|start| error.starts_with(start));
    if names { error.to_owned() } else { "a value has another type than a kubeconfig has there".into() }
}

/// The first forbidden key anywhere in the document.
fn forbidden(value: &serde_json::Value) -> Option<&'static str> {
    match value {
        serde_json::Value::Object(map) => map.iter().find_map(|(key, inner)| {
            let named = FORBIDDEN.iter().find(|(name, _)| name == key);
            named.map(|(_, sentence)| *sentence).or_else(|| forbidden(inner))
        }),
        serde_json::Value::Array(list) => list.iter().find_map(forbidden),
        _ => None,
    }
}

fn pem(encoded: &str, field: &str) -> Result<Vec<u8>, RefusedKubeconfig> {
    let compact: String = encoded.split_whitespace().collect();
    let bytes = STANDARD.decode(compact).map_err(|_| refused(format!("{field} is not base64")))?;
    if bytes.starts_with(b"-----BEGIN ") { Ok(bytes) } else { Err(refused(format!("{field} is not PEM"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A configuration that is accepted; `patch` puts something else in.
    fn config(from: &str, to: &str) -> String {
        let pem = STANDARD.encode("-----BEGIN CERTIFICATE-----\n");
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: c\n  cluster:\n    server: https://c.example:6443\n    certificate-authority-data: {pem}\ncontexts:\n- name: c\n  context: {{cluster: c, user: u}}\nusers:\n- name: u\n  user:\n    token: abc\n"
        )
        .replace(from, to)
    }

    fn refusal(from: &str, to: &str) -> String {
        Credential::parse(&config(from, to)).expect_err("it must be refused").construct
    }

    #[test]
    fn a_plain_configuration_survives_storage() {
        let credential = Credential::parse(&config("", "")).expect("accepted");
        let opened = Credential::open(&credential.stored()).expect("opens");
        assert_eq!((opened.server.as_str(), opened.authority), ("https://c.example:6443", credential.authority));
        assert!(matches!(opened.identity, Identity::Token(token) if token.expose_secret() == "abc"));
    }

    #[test]
    fn a_certificate_with_its_key_survives_storage() {
        let pem = |text: &str| STANDARD.encode(format!("-----BEGIN {text}-----\n"));
        let user = format!("client-certificate-data: {}\n    client-key-data: {}", pem("CERTIFICATE"), pem("KEY"));
        let credential = Credential::parse(&config("token: abc", &user)).expect("accepted");
        assert_eq!(credential.authority, b"-----BEGIN CERTIFICATE-----\n");
        for known in [&credential, &Credential::open(&credential.stored()).expect("opens")] {
            let Identity::Certificate { certificate, key } = &known.identity else { panic!("{known:?}") };
            assert_eq!(certificate, b"-----BEGIN CERTIFICATE-----\n");
            assert_eq!(key.expose_secret(), "-----BEGIN KEY-----\n");
        }
    }

    #[test]
    fn a_quarter_of_a_mebibyte_is_read_and_no_more() {
        let plain = config("", "");
        let padded = |length: usize| format!("{plain}#{}", "x".repeat(length - plain.len() - 1));
        assert!(Credential::parse(&padded(262_144)).is_ok());
        let refused = Credential::parse(&padded(262_145)).expect_err("too large");
        assert_eq!(refused.construct, "it is larger than 256 KiB");
    }

    #[test]
    fn each_dangerous_construct_is_refused_by_name() {
        for (construct, reason) in FORBIDDEN {
            assert_eq!(refusal("    token: abc", &format!("    {construct}: x")), reason);
            assert_eq!(refusal("    server:", &format!("    {construct}: x\n    server:")), reason);
        }
    }

    #[test]
    fn unknown_fields_second_contexts_and_odd_servers_are_refused() {
        assert!(refusal("    token: abc", "    token: abc\n    surprise: 1").contains("surprise"));
        assert!(
            refusal("contexts:\n", "contexts:\n- name: d\n  context: {cluster: c, user: u}\n")
                .contains("exactly one context")
        );
        for server in [
            "http://c.example",
            "https://u@c.example",
            "https://c.example/path",
            "https://c.example?q",
            "file:///etc/passwd",
            "c.example",
        ] {
            assert!(refusal("https://c.example:6443", server).contains("server"), "{server}");
        }
        for misplaced in [" s3cret", " [s3cret]", " {token: {s: s3cret}}"] {
            let said = refusal("\n    token: abc", misplaced);
            assert!(said.contains("another type") && !said.contains("s3cret"), "{said}");
        }
        assert!(refusal("token: abc", "token: abc\n    client-key-data: eA==").contains("either a token"));
        assert!(Credential::parse(&"a".repeat(MAX_BYTES + 1)).is_err());
        assert!(Credential::parse("{").is_err());
    }
}
