//! Inspects a member for the deletion of a mesh: its injectors, the objects that are still there,
//! and the leftovers.

use std::collections::BTreeSet;

use async_trait::async_trait;
use meshwright_model::Name;
use meshwright_model::injection::Injector;
use meshwright_model::leftover::Leftover;
use meshwright_model::switch::Switches;
use meshwright_rollout::plan::{ControlPlane, TAGS};
use meshwright_rollout::ports::{ClusterError, TeardownInspection};
use serde_json::Value;

use super::certificates::{CRL_CONFIGMAP, ROOT_CERT_CONFIGMAP};
use super::helm_values::HelmValues;
use super::objects::render_refused;
use super::observation::parse_injector;
use super::single_object::{DEFAULT_VALIDATOR, revision_webhook_name, tag_webhook_name};
use super::{KubernetesMesh, api_paths, label_query, text_at};
use crate::api_paths::MUTATING_WEBHOOKS_PATH;
use crate::labels::OWNER_LABEL;

/// Kinds of our objects in a member that are outside the mesh's namespace and that a deletion
/// removes.
const CLUSTER_SCOPED_KINDS: [&str; 4] = [
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
    "ClusterRoleBinding",
    "ClusterRole",
];

/// Stands for a control plane's address where only the names of rendered objects are needed.
const PLACEHOLDER_ADDRESS: &str = "192.0.2.1";

#[async_trait]
impl TeardownInspection for KubernetesMesh {
    async fn list_injectors(&self, member: &Name) -> Result<Vec<Injector>, ClusterError> {
        let webhooks = self
            .find_member(member)?
            .client
            .list(
                MUTATING_WEBHOOKS_PATH,
                &label_query(&[(OWNER_LABEL, self.namespace())]),
            )
            .await?;
        Ok(webhooks.iter().filter_map(parse_injector).collect())
    }

    async fn list_remaining_objects(&self, member: &Name) -> Result<Vec<String>, ClusterError> {
        let door = &self.find_member(member)?.client;
        let mut found = Vec::new();
        for kind in CLUSTER_SCOPED_KINDS {
            let Some(path) = api_paths::collection_path(kind) else {
                continue;
            };
            let listed = door
                .list(&path, &label_query(&[(OWNER_LABEL, self.namespace())]))
                .await?;
            found.extend(
                super::object_names(&listed)
                    .into_iter()
                    .map(|name| format!("{kind} {name}")),
            );
        }
        if door
            .get(&format!("/api/v1/namespaces/{}", self.namespace()))
            .await?
            .is_some()
        {
            found.push(format!("Namespace {}", self.namespace()));
        }
        if self.observe_certificates(member).await?.value.is_some() {
            found.push(format!("ConfigMap {ROOT_CERT_CONFIGMAP}"));
        }
        Ok(found)
    }

    async fn list_leftovers(
        &self,
        member: &Name,
        line: &ControlPlane,
        known_tags: Option<&BTreeSet<String>>,
    ) -> Result<Vec<Leftover>, ClusterError> {
        let mut left = Vec::new();
        if let Some(known_tags) = known_tags {
            left.push(Leftover::for_object(
                member,
                "Namespace",
                None,
                self.namespace(),
            ));
            left.extend(self.webhook_leftovers(member, known_tags));
            let objects = self.render_for_names(member, line, "remote").await?;
            left.extend(
                objects
                    .iter()
                    .filter(|object| is_of_kind(object, &CLUSTER_SCOPED_KINDS))
                    .filter_map(|it| object_leftover(member, it)),
            );
            left.extend(
                [ROOT_CERT_CONFIGMAP, CRL_CONFIGMAP]
                    .map(|name| Leftover::in_every_namespace(member, "ConfigMap", name)),
            );
        }
        let objects = self.render_for_names(member, line, "base").await?;
        let definitions = objects
            .iter()
            .filter(|object| is_of_kind(object, &["CustomResourceDefinition"]));
        left.extend(definitions.filter_map(|object| object_leftover(member, object)));
        Ok(left)
    }
}

impl KubernetesMesh {
    /// Lists the webhooks of the tags, and in the config cluster the default validator. A tag that
    /// is none of the usual ones has the name of an earlier revision, and is that revision's
    /// webhook.
    fn webhook_leftovers(&self, member: &Name, known_tags: &BTreeSet<String>) -> Vec<Leftover> {
        let webhook =
            |name: &str| Leftover::for_object(member, "MutatingWebhookConfiguration", None, name);
        let usual = TAGS.map(|tag| webhook(&tag_webhook_name(tag, self.namespace())));
        let aliases = known_tags
            .iter()
            .filter(|tag| !TAGS.contains(&tag.as_str()))
            .map(|tag| webhook(&revision_webhook_name(self, tag)));
        let mut webhooks: Vec<Leftover> = usual.into_iter().chain(aliases).collect();
        if self.is_config_cluster(member) {
            webhooks.push(Leftover::for_object(
                member,
                "ValidatingWebhookConfiguration",
                None,
                DEFAULT_VALIDATOR,
            ));
        }
        webhooks
    }

    /// Renders the objects of a revision, or of the base, in a member. Only their names are used.
    async fn render_for_names(
        &self,
        member: &Name,
        line: &ControlPlane,
        what: &str,
    ) -> Result<Vec<Value>, ClusterError> {
        let (release, charts) = self.find_release(&line.release)?;
        let members: Vec<Name> = self
            .config
            .members
            .iter()
            .map(|member| member.name.clone())
            .collect();
        let none = Switches::new();
        let rendering = HelmValues {
            namespace: self.namespace(),
            revision: &line.revision,
            release,
            switches: self.config.switches.get(&line.revision).unwrap_or(&none),
            members: &members,
            member: member.as_str(),
            address: PLACEHOLDER_ADDRESS,
            replicas: self.config.replicas,
        };
        let (chart, values) = if what == "remote" {
            ("istiod", rendering.remote_values())
        } else {
            ("base", rendering.base_values())
        };
        let objects = self
            .config
            .helm
            .template_chart(charts, chart, self.namespace(), &values)
            .await;
        objects.map_err(|problem| render_refused(&problem))
    }
}

fn is_of_kind(object: &Value, kinds: &[&str]) -> bool {
    object["kind"]
        .as_str()
        .is_some_and(|kind| kinds.contains(&kind))
}

/// Converts an object outside any namespace into a leftover. Objects inside the mesh's namespace go
/// with the namespace.
fn object_leftover(member: &Name, object: &Value) -> Option<Leftover> {
    Some(Leftover::for_object(
        member,
        text_at(object, "/kind")?,
        None,
        text_at(object, "/metadata/name")?,
    ))
}
