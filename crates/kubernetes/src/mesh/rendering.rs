//! Renders the objects that come from Istio's charts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshwright_model::Name;
use meshwright_model::operation::Problem;
use meshwright_model::problem::ProblemCode;
use meshwright_model::switch::Switches;
use meshwright_model::version::{RevisionName, Version};
use meshwright_rollout::ports::{ClusterError, Readiness};
use serde_json::Value;

use super::helm_values::HelmValues;
use super::objects::render_refused;
use super::{KubernetesMesh, MemberCluster, text_at};
use crate::helm::Charts;

impl KubernetesMesh {
    /// Renders the chart for one purpose (`hosted`, `remote`, `definitions` or `base`) with all its
    /// values.
    pub(super) async fn render_objects(
        &self,
        member: &str,
        revision: &RevisionName,
        value: &str,
        what: &str,
    ) -> Result<Vec<Value>, ClusterError> {
        let version: Version = value.parse().map_err(|_| {
            render_refused(&Problem::new(
                ProblemCode::UnknownVersion,
                format!("{value} is no version"),
                "",
            ))
        })?;
        let (release, charts): &(_, Charts) = self.find_release(&version)?;
        let needs_address = what != "definitions";
        let address = if needs_address {
            self.assigned_address(revision).await?
        } else {
            Some(String::new())
        };
        let address = address.ok_or_else(|| {
            ClusterError::unreachable("the hosting cluster", "no address was assigned yet")
        })?;
        let members: Vec<Name> = self
            .config
            .members
            .iter()
            .map(|member| member.name.clone())
            .collect();
        let none = Switches::new();
        let rendering = HelmValues {
            namespace: self.namespace(),
            revision,
            release,
            switches: self.config.switches.get(revision).unwrap_or(&none),
            members: &members,
            member,
            address: &address,
            replicas: self.config.replicas,
        };
        let (chart, values) = match what {
            "hosted" => ("istiod", rendering.hosted_values()),
            "remote" => ("istiod", rendering.remote_values()),
            _ => ("base", rendering.base_values()),
        };
        let objects = self
            .config
            .helm
            .template_chart(charts, chart, self.namespace(), &values)
            .await;
        objects.map_err(|problem| render_refused(&problem))
    }

    /// Renders Istio's custom resource definitions for a member.
    pub(super) async fn istio_crds(
        &self,
        member: &MemberCluster,
        value: &str,
    ) -> Result<Vec<Value>, ClusterError> {
        let revision = value
            .parse::<Version>()
            .map(|version| version.revision_name());
        let revision = revision.map_err(|_| {
            render_refused(&Problem::new(
                ProblemCode::UnknownVersion,
                format!("{value} is no version"),
                "",
            ))
        })?;
        let objects = self
            .render_objects(member.name.as_str(), &revision, value, "definitions")
            .await?;
        Ok(objects
            .into_iter()
            .filter(|object| object["kind"] == "CustomResourceDefinition")
            .collect())
    }

    /// Returns whether the cluster serves all of Istio's custom resource definitions.
    pub(super) async fn crds_readiness(&self, member: &Name) -> Result<Readiness, ClusterError> {
        let client = &self.find_member(member)?.client;
        let listed = client
            .list(
                "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
                "",
            )
            .await?;
        let ours = listed.iter().filter(|object| {
            text_at(object, "/spec/group").is_some_and(|group| group.ends_with(".istio.io"))
        });
        let waiting = ours.filter(|object| {
            let conditions = object
                .pointer("/status/conditions")
                .and_then(Value::as_array);
            !conditions.is_some_and(|list| {
                list.iter().any(|condition| {
                    condition["type"] == "Established" && condition["status"] == "True"
                })
            })
        });
        Ok(match waiting.count() {
            0 => Readiness::Ready,
            left => Readiness::Pending(format!("{left} definitions are not established yet")),
        })
    }

    /// Renders a revision's objects in a member. Webhooks are created with the CA bundle of our own
    /// root: without it they would refuse every pod until istiod has patched them.
    pub(super) async fn member_objects(
        &self,
        member: &MemberCluster,
        revision: &RevisionName,
        value: &str,
    ) -> Result<Vec<Value>, ClusterError> {
        let mut objects = self
            .render_objects(member.name.as_str(), revision, value, "remote")
            .await?;
        let bundle = STANDARD.encode(&self.config.authority.certificate);
        for object in &mut objects {
            if object["kind"] == "MutatingWebhookConfiguration"
                && let Some(webhooks) = object["webhooks"].as_array_mut()
            {
                for webhook in webhooks {
                    webhook["clientConfig"]["caBundle"] = bundle.clone().into();
                }
            }
        }
        Ok(objects)
    }

    /// Renders the default validator, which is part of the base chart. The module of the tags moves
    /// it.
    pub(super) async fn default_validator(
        &self,
        revision: &RevisionName,
        value: &str,
    ) -> Result<Option<Value>, ClusterError> {
        let Some(config) = self.config.members.first() else {
            return Ok(None);
        };
        let objects = self
            .render_objects(config.name.as_str(), revision, value, "base")
            .await?;
        Ok(objects
            .into_iter()
            .find(|object| object["kind"] == "ValidatingWebhookConfiguration"))
    }
}
