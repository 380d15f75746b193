//! Resolves the addresses at which a member's API server may be called. Our own calls and the
//! hosted control planes' kubeconfigs and network policy all use this module, so that they agree.

use std::net::{IpAddr, SocketAddr};

use meshwright_model::problem::ProblemCode;
use meshwright_rollout::ports::ClusterError;

use crate::address_policy::AddressPolicy;

/// Reads host and port from a server's URL. The port is 443 if the URL names none.
pub(crate) fn host_and_port(server: &str) -> Option<(String, u16)> {
    let uri: http::Uri = server.parse().ok()?;
    let host = uri.host()?.trim_matches(['[', ']']).to_owned();
    Some((host, uri.port_u16().unwrap_or(443)))
}

/// Returns the name that a server's certificate is checked against, or `None` if the URL holds an
/// IP address.
pub(crate) fn tls_server_name(server: &str) -> Option<String> {
    host_and_port(server)
        .map(|(host, _)| host)
        .filter(|host| host.parse::<IpAddr>().is_err())
}

/// Returns the address of a server whose URL holds an IP address.
pub(crate) fn literal_address(server: &str) -> Option<SocketAddr> {
    let (host, port) = host_and_port(server)?;
    Some(SocketAddr::new(host.parse().ok()?, port))
}

/// Resolves a server now and returns the addresses that the policy allows. They are sorted, so that
/// the order does not change while the addresses stay the same.
///
/// # Errors
/// Returns an error if the name does not resolve, or if the policy allows none of its addresses.
pub(crate) async fn resolve_allowed(
    cluster_name: &str,
    server: &str,
    rules: &AddressPolicy,
) -> Result<Vec<SocketAddr>, ClusterError> {
    let silent = || ClusterError::unreachable(cluster_name, "the name does not resolve");
    let (host, port) = host_and_port(server).ok_or_else(silent)?;
    let found: Vec<SocketAddr> = match host.parse() {
        Ok(literal) => vec![SocketAddr::new(literal, port)],
        Err(_) => rules
            .resolver
            .resolve_host(&host, port)
            .await
            .map_err(|_| silent())?,
    };
    let mut allowed: Vec<SocketAddr> = found
        .into_iter()
        .filter(|address| rules.allows_address(address.ip()))
        .collect();
    allowed.sort_unstable();
    allowed.dedup();
    if allowed.is_empty() {
        let cause =
            "its address is loopback, private or link-local; the operator can allow the network"
                .to_owned();
        return Err(ClusterError::Refused {
            place: cluster_name.to_owned(),
            code: ProblemCode::AddressRefused,
            cause,
        });
    }
    Ok(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_checked_against_names_only() {
        assert_eq!(
            tls_server_name("https://c1.example:6443").as_deref(),
            Some("c1.example")
        );
        assert_eq!(tls_server_name("https://10.1.0.1:6443"), None);
        assert_eq!(tls_server_name("https://[2001:db8::1]:6443"), None);
        assert_eq!(
            host_and_port("https://c1.example"),
            Some(("c1.example".into(), 443))
        );
    }

    #[tokio::test]
    async fn c3_only_addresses_that_may_be_dialled_are_told() {
        let rules = AddressPolicy {
            allowed_networks: vec![("10.1.0.0".parse().expect("an address"), 16)],
            ..AddressPolicy::default()
        };
        let told = resolve_allowed("c1", "https://10.1.0.1:6443", &rules)
            .await
            .expect("allowed");
        assert_eq!(told, ["10.1.0.1:6443".parse().expect("an address")]);
        let refused = resolve_allowed("c1", "https://10.2.0.1:6443", &rules)
            .await
            .expect_err("another network");
        assert!(
            matches!(
                refused,
                ClusterError::Refused {
                    code: ProblemCode::AddressRefused,
                    ..
                }
            ),
            "{refused:?}"
        );
    }
}
