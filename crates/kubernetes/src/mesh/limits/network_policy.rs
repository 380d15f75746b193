//! Builds the network policy of a mesh's namespace in the hosting cluster.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use meshwright_rollout::ports::ClusterError;
use serde_json::{Value, json};

use super::super::{KubernetesMesh, label_query, text_at};
use crate::addresses;
use crate::labels::OWNER_LABEL;

/// Ports that the users' clusters call: discovery and certificates, and webhooks.
const MEMBER_FACING_PORTS: [u16; 2] = [15012, 15017];
/// Port on which name servers listen.
const DNS_PORT: u16 = 53;

/// Egress that the network policy allows to istiods.
#[derive(Debug, Default)]
pub(super) struct AllowedEgress {
    addresses: BTreeSet<SocketAddr>,
    /// Whether istiods may call name servers. It is true only while a kubeconfig from an earlier
    /// version of the server has a member's name in place of its address.
    allows_dns: bool,
}

impl KubernetesMesh {
    /// Collects the addresses that istiods may call. A member without an allowed address does not
    /// stop this for other members: the policy keeps the addresses at that member's port that it
    /// allows now, until the member has addresses again.
    pub(super) async fn allowed_egress(&self) -> Result<AllowedEgress, ClusterError> {
        let mut reach = AllowedEgress {
            addresses: self.hosting_api_addresses().await?,
            allows_dns: false,
        };
        for member in &self.config.members {
            match self.member_addresses(&member.name).await {
                Ok(found) => reach.addresses.extend(found),
                Err(error) => {
                    tracing::debug!(
                        mesh = self.namespace(),
                        member = member.name.as_str(),
                        error = &error as &dyn std::error::Error,
                        "the member has no allowed address; the network policy keeps its former ones"
                    );
                    let port =
                        addresses::host_and_port(&member.credential.server).map(|(_, port)| port);
                    let open = allowed_addresses(&self.current_network_policy().await?).into_iter();
                    let kept = open.filter(|address| Some(address.port()) == port);
                    reach.addresses.extend(
                        kept.filter(|address| {
                            self.config.address_policy.allows_address(address.ip())
                        }),
                    );
                }
            }
        }
        // A control plane uses the address in its kubeconfig, which was checked when it was
        // written, until it gets another one. So that address stays allowed.
        let path = format!("/api/v1/namespaces/{}/secrets", self.namespace());
        let secrets = self
            .config
            .hosting
            .list(&path, &label_query(&[(OWNER_LABEL, self.namespace())]))
            .await?;
        for server in secrets.iter().flat_map(kubeconfig_servers) {
            let address = addresses::literal_address(&server)
                .filter(|address| self.config.address_policy.allows_address(address.ip()));
            reach.allows_dns |= addresses::tls_server_name(&server).is_some();
            reach.addresses.extend(address);
        }
        Ok(reach)
    }

    /// Returns the addresses of the hosting cluster's own API server as its pods reach it, because
    /// istiod reads the remote secrets there. Network plugins differ in whether a policy sees the
    /// Service's address or the one that it is rewritten to, so both are included.
    async fn hosting_api_addresses(&self) -> Result<BTreeSet<SocketAddr>, ClusterError> {
        let hosting = &self.config.hosting;
        let service = hosting
            .get("/api/v1/namespaces/default/services/kubernetes")
            .await?
            .unwrap_or_default();
        let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
        let slices = hosting
            .list(
                slices,
                &label_query(&[("kubernetes.io/service-name", "kubernetes")]),
            )
            .await?;
        let mut found =
            address_port_pairs(&service["spec"]["clusterIPs"], &service["spec"]["ports"]);
        for slice in &slices {
            for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
                found.extend(address_port_pairs(&endpoint["addresses"], &slice["ports"]));
            }
        }
        Ok(found)
    }
}

/// Combines every address of a Service or an endpoint with every port.
fn address_port_pairs(addresses: &Value, ports: &Value) -> BTreeSet<SocketAddr> {
    let addresses = addresses
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|address| address.as_str()?.parse().ok());
    let ports: Vec<u16> = ports
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|port| port["port"].as_u64()?.try_into().ok())
        .collect();
    addresses
        .flat_map(|address: IpAddr| {
            ports
                .iter()
                .map(move |port| SocketAddr::new(address, *port))
        })
        .collect()
}

/// Returns the servers in the kubeconfigs of a Secret.
fn kubeconfig_servers(secret: &Value) -> Vec<String> {
    use base64::Engine as _;
    let server = |encoded: &Value| {
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(encoded.as_str()?)
            .ok()?;
        let kubeconfig: Value = serde_json::from_slice(&bytes).ok()?;
        text_at(&kubeconfig, "/clusters/0/cluster/server").map(str::to_owned)
    };
    secret["data"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(_, encoded)| server(encoded))
        .collect()
}

fn port_rule(protocol: &str, port: u16) -> Value {
    json!({ "protocol": protocol, "port": port })
}

/// Builds the rule that lets pods call one address.
pub(super) fn egress_rule(address: &SocketAddr) -> Value {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    json!({
        "to": [{ "ipBlock": { "cidr": format!("{}/{bits}", address.ip()) } }], "ports": [port_rule("TCP", address.port())],
    })
}

/// Returns the addresses that the rules of a policy allow, as far as [`egress_rule`] wrote them.
fn allowed_addresses(policy: &Value) -> BTreeSet<SocketAddr> {
    let address = |rule: &Value| {
        let (ip, _) = text_at(rule, "/to/0/ipBlock/cidr")?.split_once('/')?;
        let port = rule.pointer("/ports/0/port")?.as_u64()?.try_into().ok()?;
        let address = SocketAddr::new(ip.parse().ok()?, port);
        (*rule == egress_rule(&address)).then_some(address)
    };
    policy["spec"]["egress"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(address)
        .collect()
}

/// Builds the network policy, which allows only the listed ingress and egress.
pub(super) fn network_policy_spec(reach: &AllowedEgress) -> Value {
    let mut egress: Vec<Value> = reach.addresses.iter().map(egress_rule).collect();
    if reach.allows_dns {
        let servers = json!({ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "kube-system" } } });
        egress.push(json!({ "to": [servers], "ports": [port_rule("UDP", DNS_PORT), port_rule("TCP", DNS_PORT)] }));
    }
    json!({
        "podSelector": {}, "policyTypes": ["Ingress", "Egress"],
        "ingress": [{ "ports": MEMBER_FACING_PORTS.map(|open| port_rule("TCP", open)) }],
        "egress": egress,
    })
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;

    use super::*;

    fn reach(addresses: &[&str], names: bool) -> AllowedEgress {
        AllowedEgress {
            addresses: addresses
                .iter()
                .map(|address| address.parse().expect(address))
                .collect(),
            allows_dns: names,
        }
    }

    #[test]
    fn c3_istiods_are_called_at_two_ports_and_call_the_checked_addresses_only() {
        let expected = json!({
            "podSelector": {}, "policyTypes": ["Ingress", "Egress"],
            "ingress": [{ "ports": [{ "protocol": "TCP", "port": 15012 }, { "protocol": "TCP", "port": 15017 }] }],
            "egress": [
                { "to": [{ "ipBlock": { "cidr": "198.18.0.1/32" } }], "ports": [{ "protocol": "TCP", "port": 6443 }] },
                { "to": [{ "ipBlock": { "cidr": "2001:db8::1/128" } }], "ports": [{ "protocol": "TCP", "port": 443 }] },
            ],
        });
        assert_eq!(
            network_policy_spec(&reach(&["[2001:db8::1]:443", "198.18.0.1:6443"], false)),
            expected
        );
    }

    #[test]
    fn c3_the_addresses_that_a_policy_opens_are_read_back_from_it_and_other_rules_are_not() {
        let written = reach(&["[2001:db8::1]:443", "198.18.0.1:6443"], true);
        let mut live = json!({ "spec": network_policy_spec(&written) });
        assert_eq!(allowed_addresses(&live), written.addresses);
        live["spec"]["egress"][0]["to"][0]["ipBlock"]["cidr"] = "198.18.0.0/16".into();
        assert_eq!(allowed_addresses(&live).len(), 1);
        assert_eq!(allowed_addresses(&Value::Null), BTreeSet::new());
    }

    #[test]
    fn c3_name_servers_are_reached_only_while_an_older_kubeconfig_names_its_member() {
        let ports = |names| {
            network_policy_spec(&reach(&[], names))
                .pointer("/egress/0/ports")
                .cloned()
        };
        assert_eq!(ports(false), None);
        assert_eq!(
            ports(true),
            Some(json!([{ "protocol": "UDP", "port": 53 }, { "protocol": "TCP", "port": 53 }]))
        );
        let kubeconfig =
            json!({ "clusters": [{ "cluster": { "server": "https://c2.example:6443" } }] })
                .to_string();
        let encoded = base64::engine::general_purpose::STANDARD.encode(kubeconfig);
        assert_eq!(
            kubeconfig_servers(&json!({ "data": { "c2": encoded, "token": "eHl6" } })),
            ["https://c2.example:6443"]
        );
    }

    #[test]
    fn c3_the_hosting_clusters_api_is_read_from_its_service_and_its_endpoints() {
        let found = address_port_pairs(
            &json!(["10.96.0.1"]),
            &json!([{ "name": "https", "port": 443, "targetPort": 6443 }]),
        );
        assert_eq!(
            found,
            BTreeSet::from(["10.96.0.1:443".parse().expect("an address")])
        );
    }
}
