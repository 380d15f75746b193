//! Limits a mesh's namespace in the hosting cluster: the Pod Security standard of its pods, a
//! quota, and a network policy. A tenant's configuration drives its istiods, so these limits are
//! needed besides our own checks.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use meshwright_model::Name;
use meshwright_rollout::ports::ClusterError;
use serde_json::{Value, json};

use super::helm_values::{ISTIOD_CPU_MILLICORES, ISTIOD_MEMORY_LIMIT_GIB, ISTIOD_MEMORY_MIB};
use super::{KubernetesMesh, api_paths, label_query, text_at};
use crate::addresses;
use crate::labels::{APPLY_SET_LABEL, OWNER_LABEL};

/// Name of the quota and of the network policy.
const LIMITS_NAME: &str = "meshwright-limits";
/// Value of the target while the limits differ from those that are wanted now.
pub(super) const OUTDATED_VALUE: &str = "outdated";
/// Annotation of the network policy that holds the quota that was applied with it.
const QUOTA_ANNOTATION: &str = "meshwright.dev/quota";
/// Version of the Pod Security standards that applies. It is fixed, so that a newer cluster does
/// not tighten the rules under running pods.
const POD_SECURITY_VERSION: &str = "v1.33";
/// Maximum number of pods for each configured replica: a mesh has at most two revisions, and each
/// may replace all of its replicas at once.
const MAX_PODS_PER_REPLICA: u32 = 2 * 2;
/// Ports that the users' clusters call: discovery and certificates, and webhooks.
const MEMBER_FACING_PORTS: [u16; 2] = [15012, 15017];
/// Port on which name servers listen.
const DNS_PORT: u16 = 53;

/// Egress that the network policy allows to istiods.
#[derive(Debug, Default)]
struct AllowedEgress {
    addresses: BTreeSet<SocketAddr>,
    /// Whether istiods may call name servers. It is true only while a kubeconfig from an earlier
    /// version of the server has a member's name in place of its address.
    allows_dns: bool,
}

impl KubernetesMesh {
    /// Builds the wanted limits: the namespace with its Pod Security labels, the quota and the
    /// network policy.
    pub(super) async fn limit_objects(&self) -> Result<Vec<Value>, ClusterError> {
        let standard = self.pod_security_level().await?;
        let labels = ["enforce", "audit", "warn"].into_iter().flat_map(|mode| {
            let key = format!("pod-security.kubernetes.io/{mode}");
            [
                (format!("{key}-version"), POD_SECURITY_VERSION),
                (key, standard),
            ]
        });
        let labels: serde_json::Map<String, Value> =
            labels.map(|(key, value)| (key, value.into())).collect();
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": self.namespace(), "labels": labels },
        });
        let quota = quota_limits(self.config.replicas);
        let mut policy = self.namespaced_object(
            "networking.k8s.io/v1",
            "NetworkPolicy",
            LIMITS_NAME,
            json!({ "spec": network_policy_spec(&self.allowed_egress().await?) }),
        );
        policy["metadata"]["annotations"][QUOTA_ANNOTATION] = quota.to_string().into();
        Ok(vec![
            namespace,
            self.namespaced_object(
                "v1",
                "ResourceQuota",
                LIMITS_NAME,
                json!({ "spec": { "hard": quota } }),
            ),
            policy,
        ])
    }

    /// Returns whether the limits equal those that are wanted now.
    pub(super) async fn are_limits_current(&self) -> Result<bool, ClusterError> {
        let path = format!("/api/v1/namespaces/{}", self.namespace());
        let namespace = self.config.hosting.get(&path).await?.unwrap_or_default();
        for wanted in self.limit_objects().await? {
            if wanted["kind"] == "Namespace" {
                let labels = wanted["metadata"]["labels"]
                    .as_object()
                    .into_iter()
                    .flatten();
                if labels
                    .into_iter()
                    .any(|(key, value)| namespace["metadata"]["labels"][key] != *value)
                {
                    return Ok(false);
                }
                continue;
            }
            let live = self
                .config
                .hosting
                .get(&api_paths::object_path(&wanted).expect("a known kind"))
                .await?
                .unwrap_or_default();
            let same = |pointer: &str| live.pointer(pointer) == wanted.pointer(pointer);
            let noted = same("/metadata/annotations/meshwright.dev~1quota");
            if live.is_null() || wanted["kind"] == "NetworkPolicy" && !(same("/spec") && noted) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Brings the limits to the addresses that the members have now. A mesh without limits gets
    /// none. Safe to repeat.
    ///
    /// # Errors
    /// Returns an error if the hosting cluster does not answer or refuses a call.
    pub async fn renew_limits(&self) -> Result<(), ClusterError> {
        let target = meshwright_model::plan::Target::Limits;
        if self.observe_apply_set(&target).await?.value.as_deref() != Some(OUTDATED_VALUE) {
            return Ok(());
        }
        for mut object in self.limit_objects().await? {
            object["metadata"]["labels"][OWNER_LABEL] = self.namespace().into();
            object["metadata"]["labels"][APPLY_SET_LABEL] = Self::inventory_name(&target).into();
            self.config
                .hosting
                .apply(
                    &api_paths::object_path(&object).expect("a known kind"),
                    &object,
                    None,
                )
                .await?;
        }
        Ok(())
    }

    /// Returns a member's addresses. They are resolved once and stay the same for the life of this
    /// value.
    pub(super) async fn member_addresses(
        &self,
        name: &Name,
    ) -> Result<Vec<SocketAddr>, ClusterError> {
        if let Some(known) = self.addresses.lock().expect("no holder panics").get(name) {
            return Ok(known.clone());
        }
        let member = self.find_member(name)?;
        let found = addresses::resolve_allowed(
            name.as_str(),
            &member.credential.server,
            &self.config.address_policy,
        )
        .await?;
        self.addresses
            .lock()
            .expect("no holder panics")
            .insert(name.clone(), found.clone());
        Ok(found)
    }

    /// Returns the address of a member for a control plane's kubeconfig. It prefers one that the
    /// network policy allows already, because a name server may answer with other addresses each
    /// time.
    pub(super) async fn kubeconfig_address(&self, name: &Name) -> Result<SocketAddr, ClusterError> {
        let known = self.member_addresses(name).await?;
        let policy = self.current_network_policy().await?;
        let rules = policy["spec"]["egress"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let open = |address: &&SocketAddr| rules.contains(&egress_rule(address));
        Ok(*known
            .iter()
            .find(open)
            .or(known.first())
            .expect("no address at all is an error"))
    }

    /// Reads the network policy from the hosting cluster; null if there is none.
    async fn current_network_policy(&self) -> Result<Value, ClusterError> {
        let path = api_paths::path_by_name("NetworkPolicy", Some(self.namespace()), LIMITS_NAME)
            .expect("a known kind");
        Ok(self.config.hosting.get(&path).await?.unwrap_or_default())
    }

    /// Returns the Pod Security level: `restricted`, or `baseline` while a control plane from an
    /// earlier version of the server exists that does not meet it. A pod of that control plane that
    /// ends could not come back under `restricted`.
    async fn pod_security_level(&self) -> Result<&'static str, ClusterError> {
        let path = format!("/apis/apps/v1/namespaces/{}/deployments", self.namespace());
        let deployments = self
            .config
            .hosting
            .list(&path, &label_query(&[(OWNER_LABEL, self.namespace())]))
            .await?;
        let confined = |deployment: &Value| {
            deployment
                .pointer("/spec/template/spec/containers/0/securityContext/seccompProfile")
                .is_some()
        };
        Ok(if deployments.iter().all(confined) {
            "restricted"
        } else {
            "baseline"
        })
    }

    /// Collects the addresses that istiods may call. A member without an allowed address does not
    /// stop this for other members: the policy keeps the addresses at that member's port that it
    /// allows now, until the member has addresses again.
    async fn allowed_egress(&self) -> Result<AllowedEgress, ClusterError> {
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

/// Builds the quota: room for both revisions of a mesh, each with twice its replicas. The mesh
/// needs no disks and no third load balancer.
fn quota_limits(replicas: u32) -> Value {
    let pods = MAX_PODS_PER_REPLICA * replicas;
    json!({
        "pods": pods.to_string(), "persistentvolumeclaims": "0", "services.loadbalancers": "2",
        "requests.cpu": format!("{}m", pods * ISTIOD_CPU_MILLICORES), "requests.memory": format!("{}Mi", pods * ISTIOD_MEMORY_MIB),
        "limits.memory": format!("{}Gi", pods * ISTIOD_MEMORY_LIMIT_GIB),
    })
}

fn port_rule(protocol: &str, port: u16) -> Value {
    json!({ "protocol": protocol, "port": port })
}

/// Builds the rule that lets pods call one address.
fn egress_rule(address: &SocketAddr) -> Value {
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
fn network_policy_spec(reach: &AllowedEgress) -> Value {
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
    fn c3_the_quota_has_room_for_two_revisions_that_replace_all_of_their_replicas() {
        let expected = json!({
            "pods": "8", "persistentvolumeclaims": "0", "services.loadbalancers": "2", "requests.cpu": "800m",
            "requests.memory": "2048Mi", "limits.memory": "16Gi",
        });
        assert_eq!(quota_limits(2), expected);
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
