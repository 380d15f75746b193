//! Builds the values that a release's charts are rendered with. The set is closed, and none of it
//! comes from tenants.

use meshwright_model::Name;
use meshwright_model::network;
use meshwright_model::release::Release;
use meshwright_model::switch::Switches;
use meshwright_model::version::RevisionName;
use serde_json::{Value, json};

/// Folder in istiod's pods with the tokens of members; the kubeconfigs that istiod reads name its
/// files.
pub(super) const TOKENS_DIR: &str = "/var/run/secrets/meshwright";
/// CPU request of one istiod, in millicores.
pub(super) const ISTIOD_CPU_MILLICORES: u32 = 100;
/// Memory request of one istiod, in MiB.
pub(super) const ISTIOD_MEMORY_MIB: u32 = 256;
/// Memory limit of one istiod, in GiB.
pub(super) const ISTIOD_MEMORY_LIMIT_GIB: u32 = 2;
/// Pattern that matches the names of all Kubernetes Services, as istiod compares them.
const CLUSTER_SERVICES: &str = "*.svc.cluster.local";

/// Facts that the values derive from.
pub(super) struct HelmValues<'a> {
    pub(super) namespace: &'a str,
    pub(super) revision: &'a RevisionName,
    pub(super) release: &'a Release,
    /// Values of istiod's switches that the mesh keeps.
    pub(super) switches: &'a Switches,
    /// Names of all members of the mesh; the first is the config cluster.
    pub(super) members: &'a [Name],
    /// Name of the member that the charts are rendered for.
    pub(super) member: &'a str,
    pub(super) address: &'a str,
    pub(super) replicas: u32,
}

impl HelmValues<'_> {
    /// Returns the address at which sidecars find their control plane. It contains the revision, so
    /// two revisions never share it.
    pub(super) fn discovery_address(&self) -> String {
        format!("istiod-{}.{}.svc:15012", self.revision, self.namespace)
    }

    /// Returns the name of the config cluster.
    fn config_cluster(&self) -> &str {
        self.members.first().map(Name::as_str).unwrap_or_default()
    }

    /// Builds the values for the hosting cluster. `remotePilotAddress` stays unset, because it
    /// would give every sidecar an address that no control plane serves. `compatibilityVersion`
    /// stays unset too, because it would override switches that are set by name.
    pub(super) fn hosted_values(&self) -> Value {
        let mut values = self.shared_values(self.config_cluster());
        merge_values(
            &mut values,
            json!({
                "replicaCount": self.replicas, "autoscaleEnabled": false,
                "resources": {
                    "requests": { "cpu": format!("{ISTIOD_CPU_MILLICORES}m"), "memory": format!("{ISTIOD_MEMORY_MIB}Mi") },
                    "limits": { "memory": format!("{ISTIOD_MEMORY_LIMIT_GIB}Gi") },
                },
                "seccompProfile": { "type": "RuntimeDefault" },
                "global": { "caAddress": self.discovery_address(), "externalIstiod": true },
                "meshConfig": self.mesh_config(),
                "env": {
                    "LOCAL_CLUSTER_SECRET_WATCHER": "true",
                    "ISTIOD_CUSTOM_HOST": self.address,
                    "INJECTION_WEBHOOK_CONFIG_NAME": format!("istio-sidecar-injector-{}-{}", self.revision, self.namespace),
                    "VALIDATION_WEBHOOK_CONFIG_NAME": format!("istio-validator-{}-{}", self.revision, self.namespace),
                    "PILOT_INSECURE_MULTICLUSTER_KUBECONFIG_OPTIONS": "tokenFile",
                    // Proxies fetch keys themselves, because istiod would call any address that a
                    // tenant writes down.
                    "PILOT_JWT_ENABLE_REMOTE_JWKS": "envoy",
                    // A tenant's gateway could name any host, and istiod cannot reach a name
                    // server.
                    "RESOLVE_HOSTNAME_GATEWAYS": "false",
                },
            }),
        );
        merge_values(&mut values, json!({ "env": self.switch_env() }));
        values
    }

    /// Returns the switches as environment variables of istiod.
    fn switch_env(&self) -> Value {
        self.switches
            .iter()
            .map(|(switch, value)| (switch.env_var(), value.as_str()))
            .collect()
    }

    /// Builds the mesh configuration that istiod gives to every proxy of the mesh.
    fn mesh_config(&self) -> Value {
        let mut config =
            json!({ "defaultConfig": { "discoveryAddress": self.discovery_address() } });
        if network::services_stay_local(self.members) {
            // Only Kubernetes Services stay local. The endpoints of a ServiceEntry belong to the
            // config cluster, and a wider pattern would take them from the proxies of every other
            // member.
            let local =
                json!({ "settings": { "clusterLocal": true }, "hosts": [CLUSTER_SERVICES] });
            config["serviceSettings"] = json!([local]);
        }
        config
    }

    /// Builds the values for a member.
    pub(super) fn remote_values(&self) -> Value {
        let mut values = self.shared_values(self.member);
        let injection = format!(
            "https://{}:15017/inject/cluster/{}/net/{}",
            self.address,
            self.member,
            network_name(self.member)
        );
        merge_values(
            &mut values,
            json!({
                "profile": "remote",
                "global": { "externalIstiod": true, "configCluster": self.config_cluster() == self.member, "remotePilotAddress": self.address },
                "istiodRemote": { "injectionURL": injection },
                "base": { "validationURL": self.validation_url() },
            }),
        );
        values
    }

    /// Builds the values of the base chart: definitions in every member, and the default validator
    /// in the config cluster only.
    pub(super) fn base_values(&self) -> Value {
        let validated = self.config_cluster() == self.member;
        let mut values = self.shared_values(self.member);
        let revision = if validated {
            self.revision.as_str()
        } else {
            ""
        };
        merge_values(
            &mut values,
            json!({ "defaultRevision": revision, "base": { "validationURL": self.validation_url() }, "global": { "configCluster": validated } }),
        );
        values
    }

    fn validation_url(&self) -> String {
        format!("https://{}:15017/validate", self.address)
    }

    /// Builds the values that all renders of a revision share.
    fn shared_values(&self, cluster: &str) -> Value {
        json!({
            "revision": self.revision.as_str(),
            "global": {
                "istioNamespace": self.namespace, "hub": self.release.hub, "tag": self.release.tag, "network": network_name(cluster),
                "meshID": self.namespace, "multiCluster": { "clusterName": cluster },
            },
        })
    }
}

/// Returns the name of a member's network. Each cluster is a network of its own, because pods of
/// two clusters do not reach each other without a gateway.
pub(super) fn network_name(member: &str) -> String {
    format!("net-{member}")
}

/// Merges two values recursively; the right side wins.
fn merge_values(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge_values(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

#[cfg(test)]
mod tests {
    use meshwright_model::switch::{Switch, initial_switches};

    use super::*;

    fn release(version: &str) -> Release {
        let version: meshwright_model::Version = version.parse().expect(version);
        serde_json::from_value(json!({
            "version": version, "state": "available", "hub": "registry.example", "tag": version.community_version(), "digest": "",
            "supported_until": null, "kubernetes": { "min": 29, "tested_max": 33, "source": "test" }, "quirks": [],
            "switches": Switch::defaults_of(&version),
        }))
        .expect("a release")
    }

    /// Builds the hosted values of a mesh with these members that began on one version and runs
    /// another now.
    fn hosted(members: &[&str], began_on: &str, runs: &str) -> Value {
        let members: Vec<Name> = members
            .iter()
            .map(|name| name.parse().expect(name))
            .collect();
        let revision = release(began_on).version.revision_name();
        let rendering = HelmValues {
            namespace: "mesh-a",
            revision: &revision,
            release: &release(runs),
            switches: &initial_switches(&release(began_on).switches),
            members: &members,
            member: "c1",
            address: "10.0.0.9",
            replicas: 2,
        };
        rendering.hosted_values()
    }

    #[test]
    fn d11_a_mesh_keeps_the_switches_that_it_began_with_in_a_newer_release() {
        let env = &hosted(&["c1"], "1.25.1.1", "1.27.9.1")["env"];
        assert_eq!(env["MAX_CONNECTIONS_PER_SOCKET_EVENT_LOOP"], "0");
        assert_eq!(env["ENABLE_NATIVE_SIDECARS"], "false");
        assert_eq!(env["PILOT_ENABLE_ABSOLUTE_FQDN_VHOST_DOMAIN"], "false");
        assert_eq!(env["ENABLE_PROXY_FIND_POD_BY_IP"], "true");
        let env = &hosted(&["c1"], "1.27.9.1", "1.27.9.1")["env"];
        assert_eq!(env["MAX_CONNECTIONS_PER_SOCKET_EVENT_LOOP"], "1");
        assert_eq!(env["ENABLE_NATIVE_SIDECARS"], "false");
    }

    #[test]
    fn d11_istios_own_compatibility_version_is_never_passed() {
        assert!(
            !hosted(&["c1"], "1.25.1.1", "1.27.9.1")
                .to_string()
                .contains("compatibilityVersion")
        );
    }

    #[test]
    fn d10_services_stay_in_their_cluster_while_networks_have_no_gateways() {
        let settings = |members: &[&str]| {
            hosted(members, "1.27.9.1", "1.27.9.1")["meshConfig"]["serviceSettings"].take()
        };
        let local =
            json!([{ "settings": { "clusterLocal": true }, "hosts": ["*.svc.cluster.local"] }]);
        assert_eq!(settings(&["c1", "c2"]), local);
        assert_eq!(settings(&["c1"]), Value::Null);
    }

    #[test]
    fn c3_istiod_fits_the_restricted_pod_security_standard_and_asks_no_name_server() {
        let values = hosted(&["c1"], "1.27.9.1", "1.27.9.1");
        assert_eq!(values["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(values["env"]["RESOLVE_HOSTNAME_GATEWAYS"], "false");
    }
}
