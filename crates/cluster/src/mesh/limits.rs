//! What a mesh's namespace in the hosting cluster may do: the Pod Security standard that its pods meet, how much they may
//! take, and who may talk to whom. A tenant's configuration drives its istiods, so all of it is needed beside our own care.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use model::Name;
use rollout::ports::WorldError;
use serde_json::{Value, json};

use super::bundle::{BUNDLE_LABEL, OWNER_LABEL};
use super::values::{CPU_MILLI, LIMIT_GIB, MEMORY_MIB};
use super::{MeshWorld, kinds, selector, text};
use crate::addresses;

/// The name of the quota and of the policy.
const NAME: &str = "meshwright-limits";
/// What the target's value is while it does not say what it ought to say by now.
pub(super) const OUTDATED: &str = "outdated";
/// On the policy: the quota that was applied with it.
const QUOTA_NOTE: &str = "meshwright.dev/quota";
/// The version of the Pod Security standards that is meant: a newer cluster does not tighten them under pods that run.
const STANDARDS: &str = "v1.33";
/// A mesh has at most two revisions, and each may replace all of its replicas at once.
const COPIES: u32 = 2 * 2;
/// Ports that the users' clusters call: discovery and certificates, and the webhooks.
const FACING_USERS: [u16; 2] = [15012, 15017];
/// Where name servers listen.
const DNS: u16 = 53;

/// What the policy lets istiods call.
#[derive(Debug, Default)]
struct Reach {
    addresses: BTreeSet<SocketAddr>,
    /// Only while a kubeconfig of an earlier server names a member instead of giving its address.
    names: bool,
}

impl MeshWorld {
    pub(super) async fn limits(&self) -> Result<Vec<Value>, WorldError> {
        let standard = self.standard().await?;
        let labels = ["enforce", "audit", "warn"].into_iter().flat_map(|mode| {
            let key = format!("pod-security.kubernetes.io/{mode}");
            [(format!("{key}-version"), STANDARDS), (key, standard)]
        });
        let labels: serde_json::Map<String, Value> = labels.map(|(key, value)| (key, value.into())).collect();
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": self.namespace(), "labels": labels },
        });
        let quota = quota(self.config.replicas);
        let mut policy =
            self.object("networking.k8s.io/v1", "NetworkPolicy", NAME, json!({ "spec": policy(&self.reach().await?) }));
        policy["metadata"]["annotations"][QUOTA_NOTE] = quota.to_string().into();
        Ok(vec![namespace, self.object("v1", "ResourceQuota", NAME, json!({ "spec": { "hard": quota } })), policy])
    }

    /// Whether the limits are what they ought to be by now.
    pub(super) async fn limits_current(&self) -> Result<bool, WorldError> {
        let path = format!("/api/v1/namespaces/{}", self.namespace());
        let namespace = self.config.hosting.get(&path).await?.unwrap_or_default();
        for wanted in self.limits().await? {
            if wanted["kind"] == "Namespace" {
                let labels = wanted["metadata"]["labels"].as_object().into_iter().flatten();
                if labels.into_iter().any(|(key, value)| namespace["metadata"]["labels"][key] != *value) {
                    return Ok(false);
                }
                continue;
            }
            let live =
                self.config.hosting.get(&kinds::path_of(&wanted).expect("a known kind")).await?.unwrap_or_default();
            let same = |pointer: &str| live.pointer(pointer) == wanted.pointer(pointer);
            let noted = same("/metadata/annotations/meshwright.dev~1quota");
            if live.is_null() || wanted["kind"] == "NetworkPolicy" && !(same("/spec") && noted) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Brings the limits to the addresses that the members have by now, for a mesh that has limits. Safe to repeat.
    ///
    /// # Errors
    /// The hosting cluster did not answer or refused.
    pub async fn renew_limits(&self) -> Result<(), WorldError> {
        let target = model::plan::Target::Limits;
        if self.look_at_bundle(&target).await?.value.as_deref() != Some(OUTDATED) {
            return Ok(());
        }
        for mut object in self.limits().await? {
            object["metadata"]["labels"][OWNER_LABEL] = self.namespace().into();
            object["metadata"]["labels"][BUNDLE_LABEL] = Self::inventory_name(&target).into();
            self.config.hosting.apply(&kinds::path_of(&object).expect("a known kind"), &object, None).await?;
        }
        Ok(())
    }

    /// A member's addresses, the same for the whole of this world's life.
    pub(super) async fn addresses(&self, name: &Name) -> Result<Vec<SocketAddr>, WorldError> {
        if let Some(known) = self.addresses.lock().expect("no holder panics").get(name) {
            return Ok(known.clone());
        }
        let member = self.member(name)?;
        let found = addresses::checked(name.as_str(), &member.credential.server, &self.config.dialling).await?;
        self.addresses.lock().expect("no holder panics").insert(name.clone(), found.clone());
        Ok(found)
    }

    /// The address of a member that a control plane is told: one that the policy lets it call already, where there is one. A
    /// name server may answer with other addresses each time.
    pub(super) async fn told_address(&self, name: &Name) -> Result<SocketAddr, WorldError> {
        let known = self.addresses(name).await?;
        let policy = self.live_policy().await?;
        let rules = policy["spec"]["egress"].as_array().cloned().unwrap_or_default();
        let open = |address: &&SocketAddr| rules.contains(&block(address));
        Ok(*known.iter().find(open).or(known.first()).expect("no address at all is an error"))
    }

    /// The policy as the hosting cluster has it by now; null without one.
    async fn live_policy(&self) -> Result<Value, WorldError> {
        let path = kinds::path("NetworkPolicy", Some(self.namespace()), NAME).expect("a known kind");
        Ok(self.config.hosting.get(&path).await?.unwrap_or_default())
    }

    /// The strictest standard, unless a control plane of an earlier server, which does not meet it, is still there: a pod of
    /// it that ends could not come back.
    async fn standard(&self) -> Result<&'static str, WorldError> {
        let path = format!("/apis/apps/v1/namespaces/{}/deployments", self.namespace());
        let deployments = self.config.hosting.list(&path, &selector(&[(OWNER_LABEL, self.namespace())])).await?;
        let confined = |deployment: &Value| {
            deployment.pointer("/spec/template/spec/containers/0/securityContext/seccompProfile").is_some()
        };
        Ok(if deployments.iter().all(confined) { "restricted" } else { "baseline" })
    }

    /// A member without an address that may be called stops the care for no other member: the policy keeps what it lets
    /// istiods call at that member's port, until the member has addresses again.
    async fn reach(&self) -> Result<Reach, WorldError> {
        let mut reach = Reach { addresses: self.hosting_api().await?, names: false };
        for member in &self.config.members {
            match self.addresses(&member.name).await {
                Ok(found) => reach.addresses.extend(found),
                Err(error) => {
                    tracing::debug!(
                        mesh = self.namespace(),
                        member = member.name.as_str(),
                        error = &error as &dyn std::error::Error,
                        "a member has no address for the policy"
                    );
                    let port = addresses::host_and_port(&member.credential.server).map(|(_, port)| port);
                    let open = open_addresses(&self.live_policy().await?).into_iter();
                    let kept = open.filter(|address| Some(address.port()) == port);
                    reach.addresses.extend(kept.filter(|address| self.config.dialling.allows(address.ip())));
                }
            }
        }
        // A control plane goes on at the address that it was told, which was checked then, until it is told another one.
        let path = format!("/api/v1/namespaces/{}/secrets", self.namespace());
        let secrets = self.config.hosting.list(&path, &selector(&[(OWNER_LABEL, self.namespace())])).await?;
        for server in secrets.iter().flat_map(servers) {
            let address = addresses::literal(&server).filter(|address| self.config.dialling.allows(address.ip()));
            reach.names |= addresses::name_of(&server).is_some();
            reach.addresses.extend(address);
        }
        Ok(reach)
    }

    /// The hosting cluster's own API server as its pods reach it: istiod reads the remote secrets there. Whether a policy is
    /// judged before or after the Service's address is rewritten is left to the network, so both are named.
    async fn hosting_api(&self) -> Result<BTreeSet<SocketAddr>, WorldError> {
        let hosting = &self.config.hosting;
        let service = hosting.get("/api/v1/namespaces/default/services/kubernetes").await?.unwrap_or_default();
        let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
        let slices = hosting.list(slices, &selector(&[("kubernetes.io/service-name", "kubernetes")])).await?;
        let mut found = pairs(&service["spec"]["clusterIPs"], &service["spec"]["ports"]);
        for slice in &slices {
            for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
                found.extend(pairs(&endpoint["addresses"], &slice["ports"]));
            }
        }
        Ok(found)
    }
}

/// Every address with every port, of a Service or an endpoint.
fn pairs(addresses: &Value, ports: &Value) -> BTreeSet<SocketAddr> {
    let addresses = addresses.as_array().into_iter().flatten().filter_map(|address| address.as_str()?.parse().ok());
    let ports: Vec<u16> =
        ports.as_array().into_iter().flatten().filter_map(|port| port["port"].as_u64()?.try_into().ok()).collect();
    addresses.flat_map(|address: IpAddr| ports.iter().map(move |port| SocketAddr::new(address, *port))).collect()
}

/// The servers of the kubeconfigs in a Secret.
fn servers(secret: &Value) -> Vec<String> {
    use base64::Engine as _;
    let server = |encoded: &Value| {
        let bytes = base64::engine::general_purpose::STANDARD.decode(encoded.as_str()?).ok()?;
        let kubeconfig: Value = serde_json::from_slice(&bytes).ok()?;
        text(&kubeconfig, "/clusters/0/cluster/server").map(str::to_owned)
    };
    secret["data"].as_object().into_iter().flatten().filter_map(|(_, encoded)| server(encoded)).collect()
}

/// Room for both revisions of a mesh, each with its replicas twice. Nothing here needs a disk, or a third address.
fn quota(replicas: u32) -> Value {
    let pods = COPIES * replicas;
    json!({
        "pods": pods.to_string(), "persistentvolumeclaims": "0", "services.loadbalancers": "2",
        "requests.cpu": format!("{}m", pods * CPU_MILLI), "requests.memory": format!("{}Mi", pods * MEMORY_MIB),
        "limits.memory": format!("{}Gi", pods * LIMIT_GIB),
    })
}

fn port(protocol: &str, port: u16) -> Value {
    json!({ "protocol": protocol, "port": port })
}

/// The rule that lets pods call one address.
fn block(address: &SocketAddr) -> Value {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    json!({
        "to": [{ "ipBlock": { "cidr": format!("{}/{bits}", address.ip()) } }], "ports": [port("TCP", address.port())],
    })
}

/// The addresses that the rules of a policy let pods call, as [`block`] writes them.
fn open_addresses(policy: &Value) -> BTreeSet<SocketAddr> {
    let address = |rule: &Value| {
        let (ip, _) = text(rule, "/to/0/ipBlock/cidr")?.split_once('/')?;
        let port = rule.pointer("/ports/0/port")?.as_u64()?.try_into().ok()?;
        let address = SocketAddr::new(ip.parse().ok()?, port);
        (*rule == block(&address)).then_some(address)
    };
    policy["spec"]["egress"].as_array().into_iter().flatten().filter_map(address).collect()
}

fn policy(reach: &Reach) -> Value {
    let mut egress: Vec<Value> = reach.addresses.iter().map(block).collect();
    if reach.names {
        let servers =
            json!({ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "kube-system" } } });
        egress.push(json!({ "to": [servers], "ports": [port("UDP", DNS), port("TCP", DNS)] }));
    }
    json!({
        "podSelector": {}, "policyTypes": ["Ingress", "Egress"],
        "ingress": [{ "ports": FACING_USERS.map(|open| port("TCP", open)) }],
        "egress": egress,
    })
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;

    use super::*;

    fn reach(addresses: &[&str], names: bool) -> Reach {
        Reach { addresses: addresses.iter().map(|address| address.parse().expect(address)).collect(), names }
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
        assert_eq!(policy(&reach(&["[2001:db8::1]:443", "198.18.0.1:6443"], false)), expected);
    }

    #[test]
    fn c3_the_addresses_that_a_policy_opens_are_read_back_from_it_and_other_rules_are_not() {
        let written = reach(&["[2001:db8::1]:443", "198.18.0.1:6443"], true);
        let mut live = json!({ "spec": policy(&written) });
        assert_eq!(open_addresses(&live), written.addresses);
        live["spec"]["egress"][0]["to"][0]["ipBlock"]["cidr"] = "198.18.0.0/16".into();
        assert_eq!(open_addresses(&live).len(), 1);
        assert_eq!(open_addresses(&Value::Null), BTreeSet::new());
    }

    #[test]
    fn c3_name_servers_are_reached_only_while_an_older_kubeconfig_names_its_member() {
        let ports = |names| policy(&reach(&[], names)).pointer("/egress/0/ports").cloned();
        assert_eq!(ports(false), None);
        assert_eq!(ports(true), Some(json!([{ "protocol": "UDP", "port": 53 }, { "protocol": "TCP", "port": 53 }])));
        let kubeconfig = json!({ "clusters": [{ "cluster": { "server": "https://c2.example:6443" } }] }).to_string();
        let encoded = base64::engine::general_purpose::STANDARD.encode(kubeconfig);
        assert_eq!(servers(&json!({ "data": { "c2": encoded, "token": "eHl6" } })), ["https://c2.example:6443"]);
    }

    #[test]
    fn c3_the_quota_has_room_for_two_revisions_that_replace_all_of_their_replicas() {
        let expected = json!({
            "pods": "8", "persistentvolumeclaims": "0", "services.loadbalancers": "2", "requests.cpu": "800m",
            "requests.memory": "2048Mi", "limits.memory": "16Gi",
        });
        assert_eq!(quota(2), expected);
    }

    #[test]
    fn c3_the_hosting_clusters_api_is_read_from_its_service_and_its_endpoints() {
        let found = pairs(&json!(["10.96.0.1"]), &json!([{ "name": "https", "port": 443, "targetPort": 6443 }]));
        assert_eq!(found, BTreeSet::from(["10.96.0.1:443".parse().expect("an address")]));
    }
}
