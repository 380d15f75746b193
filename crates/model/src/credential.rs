//! Decides when the credential that we hold for a cluster is renewed, and how valid it is.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::closed_set;

/// Failures in a row after which a cluster that only did not answer is called unreachable.
pub const UNREACHABLE_AFTER_FAILURES: i32 = 2;
/// Longest time for which the old credential stays valid beside the new one.
pub const MAX_CREDENTIAL_OVERLAP: Duration = Duration::from_hours(24);
/// Overlap of two credentials if the caller names none. A kubelet takes a minute to bring a new
/// token to an istiod, and a client keeps the old one for another minute.
pub const DEFAULT_CREDENTIAL_OVERLAP: Duration = Duration::from_hours(1);

/// Validity of our credential in one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CredentialLifetime {
    /// Serial number, from 1; each renewal raises it by one.
    pub serial: i64,
    /// Time at which the cluster issued the credential.
    pub issued_at: Timestamp,
    /// Time at which the credential expires by itself.
    pub expires_at: Timestamp,
    /// Time until which the previous credential is valid as well; `None` once that one was removed.
    pub previous_until: Option<Timestamp>,
}

/// Validity of a credential at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialStatus {
    /// The credential is in the first two thirds of its lifetime.
    Valid,
    /// The credential is in the last third of its lifetime. The renewal, due after the first third,
    /// has failed since then.
    ExpiresSoon,
    /// The credential has expired.
    Expired,
}

closed_set!(CredentialStatus {
    Valid = "valid",
    ExpiresSoon = "expires_soon",
    Expired = "expired",
});

impl CredentialLifetime {
    /// Returns the time of the renewal: after a third of the lifetime, so that two thirds are left
    /// to repair the cause if the renewal fails.
    pub fn renews_at(&self) -> Timestamp {
        self.issued_at + self.third_of_lifetime()
    }

    /// Returns the status at the time `now`.
    pub fn status_at(&self, now: Timestamp) -> CredentialStatus {
        match now {
            now if now >= self.expires_at => CredentialStatus::Expired,
            now if now >= self.expires_at - self.third_of_lifetime() => {
                CredentialStatus::ExpiresSoon
            }
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
        let life = CredentialLifetime {
            serial: 1,
            issued_at: at(0),
            expires_at: at(90),
            previous_until: None,
        };
        assert_eq!(life.renews_at(), at(30));
        let health = [0, 59, 60, 89, 90, 91].map(|day| life.status_at(at(day)));
        assert_eq!(
            health,
            [Valid, Valid, ExpiresSoon, ExpiresSoon, Expired, Expired]
        );
        assert_eq!(
            [Valid, ExpiresSoon, Expired].map(CredentialStatus::as_str),
            ["valid", "expires_soon", "expired"]
        );
    }
}
