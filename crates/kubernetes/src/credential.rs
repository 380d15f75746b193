//! Address of a cluster with the identity to use there, and its stored form. Server and token are
//! checked here, also when a stored credential is read.

use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

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

pub(crate) fn refused_construct(construct: impl Into<String>) -> RefusedKubeconfig {
    RefusedKubeconfig {
        construct: construct.into(),
    }
}

impl Credential {
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
