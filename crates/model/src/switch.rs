//! Keeps the switches of istiod whose defaults changed between releases (issue 13, D11).
//!
//! A changed default takes effect without any change of ours: listeners that drain cut long
//! connections, and sidecars become native when a user's last old node leaves. A mesh therefore
//! keeps the values that it began with. Istio's own `compatibilityVersion` is never passed: it
//! covers one of these four switches, and it overrides a value that is set by name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Version;

/// Environment variable of istiod that every mesh pins. The stored form is the name of the
/// variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Switch {
    /// Connections that Envoy accepts for each socket event; 0 sets no limit. A change makes every
    /// running Envoy drain its listeners, so that long connections end 45 seconds later.
    #[serde(rename = "MAX_CONNECTIONS_PER_SOCKET_EVENT_LOOP")]
    ConnectionsPerSocketEvent,
    /// Native sidecars: `true`, `false` or `auto`, which depends on the oldest node of each member.
    #[serde(rename = "ENABLE_NATIVE_SIDECARS")]
    NativeSidecars,
    /// Routes that also match host names which end with a dot: `true` or `false`.
    #[serde(rename = "PILOT_ENABLE_ABSOLUTE_FQDN_VHOST_DOMAIN")]
    AbsoluteNames,
    /// Search for a proxy's pod by its address, if no pod has the name that the proxy states:
    /// `true` or `false`.
    #[serde(rename = "ENABLE_PROXY_FIND_POD_BY_IP")]
    FindPodByAddress,
}

/// Value of each switch of a mesh.
pub type Switches = BTreeMap<Switch, String>;

/// Behaviour of a release when a switch is not set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchDefault {
    /// Default value. For a release without the variable, this is the value that describes its
    /// behaviour.
    pub value: String,
    /// Place in Istio's source where the default was read, for people.
    pub source: String,
}

/// Newest Istio minor whose source was read for the table of defaults.
const NEWEST_REVIEWED_MINOR: u32 = 30;

impl Switch {
    /// All switches that exist.
    pub const ALL: [Self; 4] = [
        Self::ConnectionsPerSocketEvent,
        Self::NativeSidecars,
        Self::AbsoluteNames,
        Self::FindPodByAddress,
    ];

    /// Returns the name of istiod's environment variable.
    pub fn env_var(self) -> &'static str {
        match self {
            Self::ConnectionsPerSocketEvent => "MAX_CONNECTIONS_PER_SOCKET_EVENT_LOOP",
            Self::NativeSidecars => "ENABLE_NATIVE_SIDECARS",
            Self::AbsoluteNames => "PILOT_ENABLE_ABSOLUTE_FQDN_VHOST_DOMAIN",
            Self::FindPodByAddress => "ENABLE_PROXY_FIND_POD_BY_IP",
        }
    }

    /// Returns the minor that changed the default, the default before this minor, and the default
    /// since then.
    fn default_change(self) -> (u32, &'static str, &'static str) {
        match self {
            Self::ConnectionsPerSocketEvent => (26, "0", "1"),
            Self::NativeSidecars => (27, "false", "auto"),
            Self::AbsoluteNames => (27, "false", "true"),
            Self::FindPodByAddress => (27, "true", "false"),
        }
    }

    /// Returns the behaviour of a release when this switch is not set.
    pub fn default_of(self, version: &Version) -> SwitchDefault {
        let (since, before, after) = self.default_change();
        let value = if (version.major, version.minor) < (1, since) {
            before
        } else {
            after
        };
        let read = if version.major == 1 && version.minor <= NEWEST_REVIEWED_MINOR {
            format!("pilot/pkg of Istio 1.{}", version.minor)
        } else {
            format!("carried on from Istio 1.{NEWEST_REVIEWED_MINOR}, not read in this release")
        };
        SwitchDefault {
            value: value.to_owned(),
            source: read,
        }
    }

    /// Returns the behaviour of a release when no switch is set.
    pub fn defaults_of(version: &Version) -> BTreeMap<Self, SwitchDefault> {
        Self::ALL
            .map(|switch| (switch, switch.default_of(version)))
            .into()
    }

    /// Returns the value that a new mesh begins with. `auto` is replaced, because its effect would
    /// change by itself later.
    fn initial_value(self, default: &str) -> String {
        match (self, default) {
            (Self::NativeSidecars, "auto") => "false".into(),
            (_, default) => default.to_owned(),
        }
    }
}

/// Returns the values that a mesh keeps if it is created on a release with these defaults.
pub fn initial_switches(defaults: &BTreeMap<Switch, SwitchDefault>) -> Switches {
    defaults
        .iter()
        .map(|(switch, default)| (*switch, switch.initial_value(&default.value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(version: &str) -> [String; 4] {
        let version = version.parse().expect(version);
        Switch::ALL.map(|switch| switch.default_of(&version).value)
    }

    #[test]
    fn d11_each_release_says_what_it_does_when_nothing_is_set() {
        assert_eq!(values("1.25.1.1"), ["0", "false", "false", "true"]);
        assert_eq!(values("1.26.8.1"), ["1", "false", "false", "true"]);
        assert_eq!(values("1.27.9.1"), ["1", "auto", "true", "false"]);
    }

    #[test]
    fn d11_a_new_mesh_begins_with_its_releases_defaults_and_never_with_one_that_changes_by_itself()
    {
        let switches = |version: &str| {
            initial_switches(&Switch::defaults_of(&version.parse().expect(version)))
        };
        assert_eq!(
            switches("1.25.1.1")[&Switch::ConnectionsPerSocketEvent],
            "0"
        );
        assert_eq!(
            switches("1.27.9.1")[&Switch::ConnectionsPerSocketEvent],
            "1"
        );
        assert_eq!(switches("1.27.9.1")[&Switch::NativeSidecars], "false");
    }

    #[test]
    fn switches_are_stored_under_their_variables_names() {
        for switch in Switch::ALL {
            assert_eq!(
                serde_json::to_value(switch).expect("a name"),
                switch.env_var()
            );
        }
        let stored = serde_json::to_value(initial_switches(&Switch::defaults_of(
            &"1.25.1.1".parse().expect("a version"),
        )));
        assert_eq!(
            stored.expect("an object")["ENABLE_PROXY_FIND_POD_BY_IP"],
            "true"
        );
    }
}
