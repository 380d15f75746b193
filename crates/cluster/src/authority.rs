//! A mesh's own certificate authority: one root, the same for every revision, so that all sidecars trust each other.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
use serde::{Deserialize, Serialize};

/// How long a root is good for; its rotation is an operation of its own.
const ROOT_LIFETIME_DAYS: i64 = 3650;
/// Clocks differ: the root is good from a little before it was made.
const ROOT_BACKDATE_DAYS: i64 = 1;

/// A root certificate and its key, as PEM. The stored form is secret.
#[derive(Clone, Serialize, Deserialize)]
pub struct Authority {
    /// The root certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority(…)")
    }
}

/// The authority could not be made or read.
#[derive(Debug, thiserror::Error)]
#[error("the mesh's authority cannot be used")]
pub struct InvalidAuthority;

impl Authority {
    /// Makes a root for a mesh.
    ///
    /// # Errors
    /// The cryptographic library failed.
    pub fn generate(mesh: &str, now: jiff::Timestamp) -> Result<Self, InvalidAuthority> {
        let day = |offset: i64| {
            let date = now.to_zoned(jiff::tz::TimeZone::UTC).date().saturating_add(jiff::Span::new().days(offset));
            let part = |value: i8| u8::try_from(value).expect("months and days are positive");
            rcgen::date_time_ymd(i32::from(date.year()), part(date.month()), part(date.day()))
        };
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, "Meshwright");
        params.distinguished_name.push(DnType::CommonName, format!("Root of mesh {mesh}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        (params.not_before, params.not_after) = (day(-ROOT_BACKDATE_DAYS), day(ROOT_LIFETIME_DAYS));
        let key = KeyPair::generate().map_err(|_| InvalidAuthority)?;
        let certificate = params.self_signed(&key).map_err(|_| InvalidAuthority)?;
        Ok(Self { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// The stored form. Secret.
    pub fn to_stored(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("two strings")
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// It was not written by [`Authority::stored`].
    pub fn from_stored(stored: &[u8]) -> Result<Self, InvalidAuthority> {
        serde_json::from_slice(stored).map_err(|_| InvalidAuthority)
    }
}
