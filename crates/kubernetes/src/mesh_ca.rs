//! Generates the certificate authority of a mesh. All revisions share its one root, so that all
//! sidecars trust each other.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
use serde::{Deserialize, Serialize};

/// Days for which a root is valid. Its rotation is an operation of its own.
const ROOT_LIFETIME_DAYS: i64 = 3650;
/// Days by which a root is valid before it was generated, because clocks differ.
const ROOT_BACKDATE_DAYS: i64 = 1;

/// Root certificate of a mesh and its private key. The stored form is secret.
#[derive(Clone, Serialize, Deserialize)]
pub struct Authority {
    /// Root certificate as PEM.
    pub certificate: String,
    /// Private key of the root as PEM; secret.
    pub key: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority(…)")
    }
}

/// The certificate authority could not be generated or read.
#[derive(Debug, thiserror::Error)]
#[error("the mesh's authority cannot be used")]
pub struct InvalidAuthority;

impl Authority {
    /// Generates the root of a mesh.
    ///
    /// # Errors
    /// Returns an error if the cryptographic library failed.
    pub fn generate(mesh: &str, now: jiff::Timestamp) -> Result<Self, InvalidAuthority> {
        let day = |offset: i64| {
            let date = now
                .to_zoned(jiff::tz::TimeZone::UTC)
                .date()
                .saturating_add(jiff::Span::new().days(offset));
            let part = |value: i8| u8::try_from(value).expect("months and days are positive");
            rcgen::date_time_ymd(i32::from(date.year()), part(date.month()), part(date.day()))
        };
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Meshwright");
        params
            .distinguished_name
            .push(DnType::CommonName, format!("Root of mesh {mesh}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        (params.not_before, params.not_after) = (day(-ROOT_BACKDATE_DAYS), day(ROOT_LIFETIME_DAYS));
        let key = KeyPair::generate().map_err(|_| InvalidAuthority)?;
        let certificate = params.self_signed(&key).map_err(|_| InvalidAuthority)?;
        Ok(Self {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// Serializes root and key for storage. The result is secret.
    pub fn to_stored(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("two strings")
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// Returns an error if the bytes were not written by [`Authority::to_stored`].
    pub fn from_stored(stored: &[u8]) -> Result<Self, InvalidAuthority> {
        serde_json::from_slice(stored).map_err(|_| InvalidAuthority)
    }
}
