//! Parses submitted kubeconfigs. They are as dangerous as code, because they can name programs to
//! run, files to read and hosts to call. This module has its own strict schema: anything outside
//! the schema is refused by name, and no kubeconfig is ever given to a general loader.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::client::transport;

/// Maximum size of a kubeconfig, in bytes. One for a single cluster has about 6 KiB.
const MAX_KUBECONFIG_BYTES: usize = 256 * 1024;
/// Maximum size of a token, in bytes. A service account's token has about a kilobyte.
const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// Maximum length of a host name, in bytes, as DNS defines it.
const MAX_HOST_BYTES: usize = 253;
/// Maximum length of one label of a host name, in bytes, as DNS defines it.
const MAX_DNS_LABEL_BYTES: usize = 63;

/// Address of a cluster with the identity to use there. This is the only form in which credentials
/// are stored.
#[derive(Debug, Clone)]
pub struct Credential {
    /// URL of the API server as `https://host[:port]`, without path.
    pub server: String,
    /// Certificate authority that signs the server's certificate, as PEM.
    pub authority: Vec<u8>,
    /// Identity by which we authenticate to the cluster.
    pub identity: ClientIdentity,
}

/// Identity by which we authenticate to a cluster.
#[derive(Debug, Clone)]
pub enum ClientIdentity {
    /// Bearer token of 1 to 16,384 visible ASCII characters.
    Token(SecretString),
    /// Client certificate and its key, as PEM.
    Certificate {
        /// Client certificate as PEM.
        certificate: Vec<u8>,
        /// Private key of the certificate as PEM; secret.
        key: SecretString,
    },
}

/// The kubeconfig was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the kubeconfig is refused: {construct}")]
pub struct RefusedKubeconfig {
    /// Construct that was refused, described for the user.
    pub construct: String,
}

fn refused_construct(construct: impl Into<String>) -> RefusedKubeconfig {
    RefusedKubeconfig {
        construct: construct.into(),
    }
}

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

    /// Builds a credential from its parts, and checks server and token.
    ///
    /// # Errors
    /// Returns an error if the server is not `https://host[:port]`, or if the token cannot be sent
    /// in a header.
    pub fn new(
        server: &str,
        authority: Vec<u8>,
        identity: ClientIdentity,
    ) -> Result<Self, RefusedKubeconfig> {
        let server = server.strip_suffix('/').unwrap_or(server);
        if !server
            .strip_prefix("https://")
            .is_some_and(is_host_and_port)
        {
            return Err(refused_construct(
                "clusters.server must be https://host[:port], without user, path, query or fragment",
            ));
        }
        if let ClientIdentity::Token(token) = &identity
            && !is_bearer_token(token.expose_secret())
        {
            return Err(refused_construct(
                "users.token must be 1 to 16384 visible characters without spaces or line breaks",
            ));
        }
        Ok(Self {
            server: server.to_owned(),
            authority,
            identity,
        })
    }

    /// Returns the name or the IP address of the server, without brackets.
    pub fn host(&self) -> &str {
        let authority = self.server.strip_prefix("https://").unwrap_or_default();
        split_port(authority).0.trim_matches(['[', ']'])
    }

    /// Serializes the credential for [`Credential::from_stored`]. The result is secret.
    pub fn to_stored(&self) -> Vec<u8> {
        let (token, certificate, key) = match &self.identity {
            ClientIdentity::Token(token) => (Some(token.expose_secret().to_owned()), None, None),
            ClientIdentity::Certificate { certificate, key } => (
                None,
                Some(STANDARD.encode(certificate)),
                Some(key.expose_secret().to_owned()),
            ),
        };
        let stored = StoredCredential {
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
    /// Returns an error if the bytes were not written by [`Credential::to_stored`].
    pub fn from_stored(stored: &[u8]) -> Result<Self, RefusedKubeconfig> {
        let damaged = || refused_construct("the stored credential is damaged");
        let stored: StoredCredential = serde_json::from_slice(stored).map_err(|_| damaged())?;
        let bytes = |text: &str| STANDARD.decode(text).map_err(|_| damaged());
        let identity = match (stored.token, stored.certificate, stored.key) {
            (Some(token), ..) => ClientIdentity::Token(token.into()),
            (None, Some(certificate), Some(key)) => ClientIdentity::Certificate {
                certificate: bytes(&certificate)?,
                key: key.into(),
            },
            _ => return Err(damaged()),
        };
        Self::new(&stored.server, bytes(&stored.authority)?, identity)
    }
}

/// Stored form of a credential: its field names are data.
#[derive(Serialize, Deserialize)]
struct StoredCredential {
    server: String,
    authority: String,
    token: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
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

/// Splits `host:port` before the port. An IPv6 address in brackets contains colons that do not
/// count.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

/// Returns whether a text is a host with an optional port, in a notation that all readers
/// understand in the same way.
fn is_host_and_port(text: &str) -> bool {
    let (host, port) = split_port(text);
    let port_fits = port.is_none_or(|port| {
        let digits = !port.starts_with('0') && port.bytes().all(|byte| byte.is_ascii_digit());
        digits && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    port_fits && is_host(host)
}

/// Returns whether a text is an IPv6 address in brackets, a full IPv4 address, or a DNS name.
fn is_host(host: &str) -> bool {
    if let Some(literal) = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        return literal.parse::<Ipv6Addr>().is_ok();
    }
    let is_label = |label: &str| {
        let letters = label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        letters
            && (1..=MAX_DNS_LABEL_BYTES).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // Resolvers read `127.1`, `0x7f000001` and `2130706433` as addresses.
    let last = host.rsplit('.').next().unwrap_or_default();
    let number = last.starts_with(|first: char| first.is_ascii_digit())
        && (last.bytes().all(|byte| byte.is_ascii_digit())
            || last.starts_with("0x")
            || last.starts_with("0X"));
    let named = host.len() <= MAX_HOST_BYTES && host.split('.').all(is_label);
    if number {
        host.parse::<Ipv4Addr>().is_ok()
    } else {
        named
    }
}

/// Returns whether a token can be sent in a header unchanged.
fn is_bearer_token(token: &str) -> bool {
    (1..=MAX_TOKEN_BYTES).contains(&token.len())
        && token.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Decodes the certificates of a PEM bundle to DER. Returns `None` if it holds none.
pub(crate) fn parse_certificates(pem: &[u8]) -> Option<Vec<Vec<u8>>> {
    let text = std::str::from_utf8(pem).ok()?;
    let blocks = text.split("-----BEGIN CERTIFICATE-----").skip(1);
    let decoded: Option<Vec<Vec<u8>>> = blocks
        .map(|block| {
            let body: String = block
                .split("-----END CERTIFICATE-----")
                .next()?
                .split_whitespace()
                .collect();
            STANDARD.decode(body).ok().filter(|der| !der.is_empty())
        })
        .collect();
    decoded.filter(|list| !list.is_empty())
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
mod tests {
    use super::*;

    /// Generates a certificate and its key, as PEM.
    fn signed() -> (String, String) {
        let key = rcgen::KeyPair::generate().expect("a key");
        let made = rcgen::CertificateParams::new(vec!["c.example".into()])
            .and_then(|params| params.self_signed(&key));
        (made.expect("a certificate").pem(), key.serialize_pem())
    }

    /// Builds a kubeconfig that is accepted, and then replaces `from` in it by `to`.
    fn config(from: &str, to: &str) -> String {
        let pem = STANDARD.encode(signed().0);
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: c\n  cluster:\n    server: 'https://c.example:6443'\n    certificate-authority-data: {pem}\ncontexts:\n- name: c\n  context: {{cluster: c, user: u}}\nusers:\n- name: u\n  user:\n    token: abc\n"
        )
        .replace(from, to)
    }

    fn refusal(from: &str, to: &str) -> String {
        Credential::parse(&config(from, to))
            .expect_err("it must be refused")
            .construct
    }

    #[test]
    fn a_plain_configuration_survives_storage() {
        let credential = Credential::parse(&config("", "")).expect("accepted");
        let opened = Credential::from_stored(&credential.to_stored()).expect("opens");
        assert_eq!(
            (opened.server.as_str(), opened.authority),
            ("https://c.example:6443", credential.authority)
        );
        assert!(
            matches!(opened.identity, ClientIdentity::Token(token) if token.expose_secret() == "abc")
        );
    }

    #[test]
    fn a_certificate_with_its_key_survives_storage() {
        let (ours, its_key) = signed();
        let encoded = |pem: &str| STANDARD.encode(pem);
        let user = format!(
            "client-certificate-data: {}\n    client-key-data: {}",
            encoded(&ours),
            encoded(&its_key)
        );
        let credential = Credential::parse(&config("token: abc", &user)).expect("accepted");
        for known in [
            &credential,
            &Credential::from_stored(&credential.to_stored()).expect("opens"),
        ] {
            let ClientIdentity::Certificate { certificate, key } = &known.identity else {
                panic!("{known:?}")
            };
            assert_eq!(certificate, ours.as_bytes());
            assert_eq!(key.expose_secret(), its_key);
        }
        let other = format!(
            "client-certificate-data: {}\n    client-key-data: {}",
            encoded(&ours),
            encoded("-----BEGIN KEY-----\n")
        );
        assert!(refusal("token: abc", &other).contains("cannot be used"));
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
        for (construct, reason) in FORBIDDEN_KEYS {
            assert_eq!(
                refusal("    token: abc", &format!("    {construct}: x")),
                reason
            );
            assert_eq!(
                refusal("    server:", &format!("    {construct}: x\n    server:")),
                reason
            );
        }
    }

    #[test]
    fn unknown_fields_second_contexts_and_odd_servers_are_refused() {
        assert!(refusal("    token: abc", "    token: abc\n    surprise: 1").contains("surprise"));
        assert!(
            refusal(
                "contexts:\n",
                "contexts:\n- name: d\n  context: {cluster: c, user: u}\n"
            )
            .contains("exactly one context")
        );
        for server in [
            "http://c.example",
            "https://u@c.example",
            "https://c.example/path",
            "https://c.example?q",
            "file:///etc/passwd",
            "c.example",
            "https://",
            "https://c.example:",
            "https://c.example:0",
            "https://c.example:65536",
            "https://c.example:0443",
            "https://c.example:+443",
            "https://c.example:6443:6443",
            "https://c.example/#x",
            "https://c.example#@d.example",
            "https://c.example//",
            "https://c.example/..",
            "https://c.example/%2e",
            "https://c.example\\\\d.example",
            "https://c.exa mple",
            "HTTPS://c.example",
            "https://-c.example",
            "https://c..example",
            "https://127.1",
            "https://0x7f000001",
            "https://2130706433",
            "https://0177.0.0.1",
            "https://[::1%25lo]",
            "https://[::1",
        ] {
            assert!(
                refusal("https://c.example:6443", server).contains("server"),
                "{server}"
            );
        }
        for server in [
            "https://c.example/",
            "https://192.0.2.1",
            "https://[2001:db8::1]:6443",
            "https://C-1.example:1",
        ] {
            assert!(
                Credential::parse(&config("https://c.example:6443", server)).is_ok(),
                "{server}"
            );
        }
        for misplaced in [" s3cret", " [s3cret]", " {token: {s: s3cret}}"] {
            let said = refusal("\n    token: abc", misplaced);
            assert!(
                said.contains("another type") && !said.contains("s3cret"),
                "{said}"
            );
        }
        assert!(
            refusal("token: abc", "token: abc\n    client-key-data: eA==")
                .contains("either a token")
        );
        assert!(Credential::parse(&"a".repeat(MAX_KUBECONFIG_BYTES + 1)).is_err());
    }

    #[test]
    fn double_names_other_kinds_and_credentials_that_cannot_work_are_refused_at_once() {
        assert!(refusal("kind: Config", "kind: Secret").contains("another kind"));
        assert!(refusal("apiVersion: v1", "apiVersion: v2").contains("another kind"));
        let pem = STANDARD.encode(signed().0);
        let second = format!(
            "clusters:\n- name: c\n  cluster: {{server: 'https://d.example', certificate-authority-data: {pem}}}\n"
        );
        assert!(refusal("clusters:\n", &second).contains("clusters has two entries"));
        assert!(
            refusal("users:\n", "users:\n- name: u\n  user: {token: x}\n")
                .contains("users has two entries")
        );
        assert!(
            Credential::parse(&config("kind: Config", "kind: Config\nkind: Config")).is_err(),
            "a key twice"
        );
        for token in ["\"\"", "'a b'", "\"a\\nb\"", "\"a\\u0000\"", "\u{e9}"] {
            assert!(
                refusal("token: abc", &format!("token: {token}")).contains("users.token"),
                "{token}"
            );
        }
        for authority in [
            "",
            "-----BEGIN CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "-----BEGIN PRIVATE KEY-----\n",
        ] {
            let config = config("", "");
            let sent =
                config.lines().map(
                    |line| match line.split_once("certificate-authority-data: ") {
                        Some((indent, _)) => format!(
                            "{indent}certificate-authority-data: {}\n",
                            STANDARD.encode(authority)
                        ),
                        None => format!("{line}\n"),
                    },
                );
            assert!(
                Credential::parse(&sent.collect::<String>()).is_err(),
                "{authority}"
            );
        }
        assert!(Credential::parse("{").is_err());
    }
}
