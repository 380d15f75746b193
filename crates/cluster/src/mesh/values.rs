//! The values that a release's charts are rendered with: a closed set, none of it from tenants.

use model::release::Release;
use model::version::RevisionName;
use serde_json::{Value, json};

/// Where istiod finds the tokens of members; the kubeconfigs that it reads name these files.
pub(super) const TOKENS: &str = "/var/run/secrets/meshwright";

/// What the values derive from.
pub(super) struct Rendering<'a> {
    pub(super) namespace: &'a str,
    pub(super) revision: &'a RevisionName,
    pub(super) release: &'a Release,
    /// The config cluster.
    pub(super) config: &'a str,
    /// The member that is rendered for.
    pub(super) member: &'a str,
    pub(super) address: &'a str,
    pub(super) replicas: u32,
}

impl Rendering<'_> {
    /// The name under which sidecars find their control plane. It names the revision: two revisions never share it.
    pub(super) fn discovery(&self) -> String {
        format!("istiod-{}.{}.svc:15012", self.revision, self.namespace)
    }

    /// The hosting side. `remotePilotAddress` stays unset: it would give every sidecar an address that nobody serves.
    pub(super) fn hosted(&self) -> Value {
        let mut values = self.common(self.config);
        merge(
            &mut values,
            json!({
                "replicaCount": self.replicas, "autoscaleEnabled": false,
                "resources": { "requests": { "cpu": "100m", "memory": "256Mi" }, "limits": { "memory": "2Gi" } },
                "global": { "caAddress": self.discovery(), "externalIstiod": true },
                "meshConfig": { "defaultConfig": { "discoveryAddress": self.discovery() } },
                "env": {
                    "LOCAL_CLUSTER_SECRET_WATCHER": "true",
                    "ISTIOD_CUSTOM_HOST": self.address,
                    "INJECTION_WEBHOOK_CONFIG_NAME": format!("istio-sidecar-injector-{}-{}", self.revision, self.namespace),
                    "VALIDATION_WEBHOOK_CONFIG_NAME": format!("istio-validator-{}-{}", self.revision, self.namespace),
                    "PILOT_INSECURE_MULTICLUSTER_KUBECONFIG_OPTIONS": "tokenFile",
                    // Proxies fetch keys themselves: istiod would follow any address that a tenant writes down.
                    "PILOT_JWT_ENABLE_REMOTE_JWKS": "envoy",
                },
            }),
        );
        values
    }

    /// The member's side.
    pub(super) fn remote(&self) -> Value {
        let mut values = self.common(self.member);
        let injection =
            format!("https://{}:15017/inject/cluster/{}/net/{}", self.address, self.member, network(self.member));
        merge(
            &mut values,
            json!({
                "profile": "remote",
                "global": { "externalIstiod": true, "configCluster": self.config == self.member, "remotePilotAddress": self.address },
                "istiodRemote": { "injectionURL": injection },
                "base": { "validationURL": self.validation() },
            }),
        );
        values
    }

    /// The cluster's base: definitions everywhere, the default validator in the config cluster only.
    pub(super) fn base(&self) -> Value {
        let validated = self.config == self.member;
        let mut values = self.common(self.member);
        let revision = if validated { self.revision.as_str() } else { "" };
        merge(
            &mut values,
            json!({ "defaultRevision": revision, "base": { "validationURL": self.validation() }, "global": { "configCluster": validated } }),
        );
        values
    }

    fn validation(&self) -> String {
        format!("https://{}:15017/validate", self.address)
    }

    fn common(&self, cluster: &str) -> Value {
        json!({
            "revision": self.revision.as_str(),
            "global": {
                "istioNamespace": self.namespace, "hub": self.release.hub, "tag": self.release.tag, "network": network(cluster),
                "meshID": self.namespace, "multiCluster": { "clusterName": cluster },
            },
        })
    }
}

/// Each cluster is a network of its own: pods of two clusters do not reach each other without a gateway.
pub(super) fn network(member: &str) -> String {
    format!("net-{member}")
}

/// Deep merge; the right side wins.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
