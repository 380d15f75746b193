//! How long the credential that we hold of a cluster is good, and when it is renewed.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// A cluster that only did not answer is called unreachable from this many times in a row on.
pub const UNREACHABLE_AFTER_FAILURES: i32 = 2;
/// The longest that an old credential may live on beside the new one.
pub const MAX_CREDENTIAL_OVERLAP: Duration = Duration::from_hours(24);
/// How long it does when nobody says otherwise: a kubelet takes a minute to bring a token to an istiod, and a client
/// keeps the old one for another.
pub const DEFAULT_CREDENTIAL_OVERLAP: Duration = Duration::from_hours(1);

/// A credential of our own in a cluster. Serial numbers rise by one with each renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CredentialLifetime {
    /// Which one it is, from 1.
    pub serial: i64,
    /// When the cluster issued it.
    pub issued_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Timestamp,
    /// Until when the one before it is good as well; absent once that one is gone.
    pub previous_until: Option<Timestamp>,
}

/// How good a credential still is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialStatus {
    /// In the first two thirds of its life.
    Valid,
    /// Its renewal has failed for a third of its life.
    ExpiresSoon,
    /// It is over.
    Expired,
}

impl CredentialStatus {
    /// The form that users see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::ExpiresSoon => "expires_soon",
            Self::Expired => "expired",
        }
    }
}

impl CredentialLifetime {
    /// When it is renewed: after a third of its life, so that two thirds are left to put right what keeps it from that.
    pub fn renews_at(&self) -> Timestamp {
        self.issued_at + self.third_of_lifetime()
    }

    /// How good it is.
    pub fn status_at(&self, now: Timestamp) -> CredentialStatus {
        match now {
            now if now >= self.expires_at => CredentialStatus::Expired,
            now if now >= self.expires_at - self.third_of_lifetime() => CredentialStatus::ExpiresSoon,
            _ => CredentialStatus::Valid,
        }
    }

    fn third_of_lifetime(&self) -> SignedDuration {
        self.expires_at.duration_since(self.issued_at) / 3
    }
}

#[cfg(test)]
mod tests {
    use super::CredentialStatus::{Expired, ExpiresSoon, Valid};
    use super::*;

    fn at(day: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + day * 86_400).expect("in range")
    }

    #[test]
    fn a_credential_is_renewed_after_a_third_of_its_life_and_warns_in_the_last() {
        let life = CredentialLifetime { serial: 1, issued_at: at(0), expires_at: at(90), previous_until: None };
        assert_eq!(life.renews_at(), at(30));
        let health = [0, 59, 60, 89, 90, 91].map(|day| life.status_at(at(day)));
        assert_eq!(health, [Valid, Valid, ExpiresSoon, ExpiresSoon, Expired, Expired]);
        assert_eq!([Valid, ExpiresSoon, Expired].map(CredentialStatus::as_str), ["valid", "expires_soon", "expired"]);
    }
}
