//! Decides which addresses may be called. A tenant chooses the host name in a kubeconfig, so the
//! provider's own networks must be out of reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::resolver::{Resolver, SystemResolver};
use crate::response_limits::ResponseLimits;

/// Policy for every call to a cluster: allowed addresses, limits on its answers, and the caller's
/// name.
#[derive(Debug, Clone)]
pub struct AddressPolicy {
    /// Networks that the operator allows although they are private, as `address/bits`.
    pub allowed_networks: Vec<(IpAddr, u8)>,
    /// Name of the worker that calls. It is part of the user agent, which the cluster's own audit
    /// log shows.
    pub worker_name: String,
    /// Resolver that turns names into addresses on every connect.
    pub resolver: Arc<dyn Resolver>,
    /// Limits on the size and duration of a cluster's answers.
    pub limits: ResponseLimits,
}

impl Default for AddressPolicy {
    fn default() -> Self {
        let (allowed, caller) = (Vec::new(), String::new());
        Self {
            allowed_networks: allowed,
            worker_name: caller,
            resolver: Arc::new(SystemResolver),
            limits: ResponseLimits::default(),
        }
    }
}

impl AddressPolicy {
    /// Parses a network such as `10.0.0.0/8`. Returns `None` if the text is not one.
    pub fn parse_network(text: &str) -> Option<(IpAddr, u8)> {
        let (address, bits) = text.split_once('/')?;
        let (address, bits): (IpAddr, u8) = (address.parse().ok()?, bits.parse().ok()?);
        let most = if address.is_ipv4() { 32 } else { 128 };
        (bits <= most).then_some((address, bits))
    }

    /// Returns whether an address may be called. An IPv4 address inside IPv6 is checked as IPv4.
    pub fn allows_address(&self, address: IpAddr) -> bool {
        self.is_allowed_by_operator(address) || is_globally_reachable(embedded_ipv4(address))
    }

    /// Returns whether the text of a host allows a call. An IP address must be allowed; a name
    /// passes here, because its addresses are checked on every connect.
    pub fn allows_host(&self, host: &str) -> bool {
        host.parse()
            .map_or(true, |address| self.allows_address(address))
    }

    /// Returns whether an address is in a network that the operator has allowed explicitly.
    pub fn is_allowed_by_operator(&self, address: IpAddr) -> bool {
        let address = embedded_ipv4(address);
        self.allowed_networks
            .iter()
            .any(|(network, bits)| is_in_network(address, *network, *bits))
    }
}

/// Extracts the IPv4 address from an IPv4-mapped or NAT64 address; returns other addresses
/// unchanged.
fn embedded_ipv4(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    let octets = v6.octets();
    let nat64 = v6.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
    let tail = || IpAddr::from([octets[12], octets[13], octets[14], octets[15]]);
    v6.to_ipv4_mapped()
        .map_or_else(|| if nat64 { tail() } else { address }, IpAddr::from)
}

/// Returns whether an address is in a network. IPv4 and IPv6 never match each other.
fn is_in_network(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let same = |a: &[u8], b: &[u8]| {
        (0..usize::from(bits)).all(|bit| (a[bit / 8] ^ b[bit / 8]) & (0x80 >> (bit % 8)) == 0)
    };
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(&a.octets(), &b.octets()),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(&a.octets(), &b.octets()),
        _ => false,
    }
}

const fn v4_network(a: u8, b: u8, c: u8, bits: u8) -> (IpAddr, u8) {
    (IpAddr::V4(Ipv4Addr::new(a, b, c, 0)), bits)
}

const fn v6_network(a: u16, b: u16, bits: u8) -> (IpAddr, u8) {
    (IpAddr::V6(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0)), bits)
}

/// Networks that are not globally reachable according to IANA's special-purpose address registries:
/// private and shared networks, loopback, link-local (where cloud metadata services are), protocol
/// assignments, documentation, benchmarks, multicast and reserved.
const SPECIAL_PURPOSE_NETWORKS: [(IpAddr, u8); 19] = [
    v4_network(0, 0, 0, 8),
    v4_network(10, 0, 0, 8),
    v4_network(100, 64, 0, 10),
    v4_network(127, 0, 0, 8),
    v4_network(169, 254, 0, 16),
    v4_network(172, 16, 0, 12),
    v4_network(192, 0, 0, 24),
    v4_network(192, 0, 2, 24),
    v4_network(192, 88, 99, 24),
    v4_network(192, 168, 0, 16),
    v4_network(198, 18, 0, 15),
    v4_network(198, 51, 100, 24),
    v4_network(203, 0, 113, 24),
    v4_network(224, 0, 0, 4),
    v4_network(240, 0, 0, 4),
    // Teredo and other protocol assignments, whose addresses can embed one that a third party
    // chose.
    v6_network(0x2001, 0, 23),
    v6_network(0x2001, 0xdb8, 32),
    v6_network(0x2002, 0, 16),
    v6_network(0x3fff, 0, 20),
];
/// The part of IPv6 that is allocated as globally reachable.
const GLOBAL_UNICAST_V6: (IpAddr, u8) = v6_network(0x2000, 0, 3);

/// Returns whether an address is globally reachable.
fn is_globally_reachable(address: IpAddr) -> bool {
    let special = SPECIAL_PURPOSE_NETWORKS
        .iter()
        .any(|(network, bits)| is_in_network(address, *network, *bits));
    !special
        && (address.is_ipv4() || is_in_network(address, GLOBAL_UNICAST_V6.0, GLOBAL_UNICAST_V6.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_loopback_and_metadata_addresses_are_refused_in_every_disguise() {
        let rules = AddressPolicy::default();
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "::1",
            "fe80::1",
            "fc00::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "240.0.0.1",
            "224.0.0.1",
            "192.0.0.8",
            "198.19.255.255",
            "::127.0.0.1",
            "::ffff:0:127.0.0.1",
            "64:ff9b:1::10.0.0.1",
            "2002:7f00:1::1",
            "2001:0:5ef5:79fb::1",
            "fec0::1",
            "2001:db8::1",
        ] {
            assert!(
                !rules.allows_address(address.parse().expect(address)),
                "{address}"
            );
        }
        for address in [
            "8.8.8.8",
            "172.32.0.1",
            "2001:4860:4860::8888",
            "64:ff9b::808:808",
        ] {
            assert!(
                rules.allows_address(address.parse().expect(address)),
                "{address}"
            );
        }
    }

    #[test]
    fn the_operator_can_allow_a_network_and_no_more_than_that() {
        let allowed = vec![AddressPolicy::parse_network("10.1.0.0/16").expect("a network")];
        let rules = AddressPolicy {
            allowed_networks: allowed,
            ..AddressPolicy::default()
        };
        assert!(rules.allows_address("10.1.255.1".parse().expect("an address")));
        assert!(rules.allows_address("::ffff:10.1.0.1".parse().expect("an address")));
        assert!(!rules.allows_address("10.2.0.1".parse().expect("an address")));
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/8"] {
            assert!(AddressPolicy::parse_network(bad).is_none(), "{bad}");
        }
    }
}
