//! How a deletion looks at a member: its injectors, what is still there, and what stays.

use async_trait::async_trait;
use model::Name;
use model::injection::Injector;
use model::leftover::Leftover;
use model::switch::Switches;
use rollout::plan::{Line, TAGS};
use rollout::ports::{Leaving, WorldError};
use serde_json::Value;

use super::bundle::OWNER_LABEL;
use super::certificates::{REVOKED, ROOT};
use super::objects::refused;
use super::single::{MUTATING, VALIDATOR, tag_object};
use super::survey::injector;
use super::values::Rendering;
use super::{MeshWorld, kinds, selector, text};

/// Kinds of our objects that live outside the mesh's namespace in a member, and that a deletion removes.
const OUTSIDE: [&str; 4] =
    ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration", "ClusterRoleBinding", "ClusterRole"];

/// Stands for the address of a control plane where only the names of rendered objects are wanted.
const NO_ADDRESS: &str = "192.0.2.1";

#[async_trait]
impl Leaving for MeshWorld {
    async fn injectors(&self, member: &Name) -> Result<Vec<Injector>, WorldError> {
        let webhooks = self.member(member)?.door.list(MUTATING, &selector(&[(OWNER_LABEL, self.namespace())])).await?;
        Ok(webhooks.iter().filter_map(injector).collect())
    }

    async fn remains(&self, member: &Name) -> Result<Vec<String>, WorldError> {
        let door = &self.member(member)?.door;
        let mut found = Vec::new();
        for kind in OUTSIDE {
            let Some(path) = kinds::collection(kind) else { continue };
            let listed = door.list(&path, &selector(&[(OWNER_LABEL, self.namespace())])).await?;
            found.extend(super::names(&listed).into_iter().map(|name| format!("{kind} {name}")));
        }
        if door.get(&format!("/api/v1/namespaces/{}", self.namespace())).await?.is_some() {
            found.push(format!("Namespace {}", self.namespace()));
        }
        if self.look_at_certificates(member).await?.value.is_some() {
            found.push(format!("ConfigMap {ROOT}"));
        }
        Ok(found)
    }

    async fn stays(&self, member: &Name, line: &Line, left_behind: bool) -> Result<Vec<Leftover>, WorldError> {
        let mut left = Vec::new();
        if left_behind {
            left.push(Leftover::object(member, "Namespace", None, self.namespace()));
            left.extend(self.webhooks_of(member));
            let objects = self.rendered_names(member, line, "remote").await?;
            left.extend(
                objects.iter().filter(|object| is_one_of(object, &OUTSIDE)).filter_map(|it| leftover(member, it)),
            );
            left.extend([ROOT, REVOKED].map(|name| Leftover::everywhere(member, "ConfigMap", name)));
        }
        let objects = self.rendered_names(member, line, "base").await?;
        let definitions = objects.iter().filter(|object| is_one_of(object, &["CustomResourceDefinition"]));
        left.extend(definitions.filter_map(|object| leftover(member, object)));
        Ok(left)
    }
}

impl MeshWorld {
    /// The tags, and in the config cluster the default validator. An alias of an earlier upgrade has a revision's name.
    fn webhooks_of(&self, member: &Name) -> Vec<Leftover> {
        let tag = |tag: &str| {
            Leftover::object(member, "MutatingWebhookConfiguration", None, &tag_object(tag, self.namespace()))
        };
        let mut webhooks: Vec<Leftover> = TAGS.map(tag).into();
        if self.is_config(member) {
            webhooks.push(Leftover::object(member, "ValidatingWebhookConfiguration", None, VALIDATOR));
        }
        webhooks
    }

    /// The objects of a revision or of the base in a member, rendered for their names alone.
    async fn rendered_names(&self, member: &Name, line: &Line, what: &str) -> Result<Vec<Value>, WorldError> {
        let (release, charts) = self.release(&line.release)?;
        let members: Vec<Name> = self.config.members.iter().map(|member| member.name.clone()).collect();
        let none = Switches::new();
        let rendering = Rendering {
            namespace: self.namespace(),
            revision: &line.revision,
            release,
            switches: self.config.switches.get(&line.revision).unwrap_or(&none),
            members: &members,
            member: member.as_str(),
            address: NO_ADDRESS,
            replicas: self.config.replicas,
        };
        let (chart, values) =
            if what == "remote" { ("istiod", rendering.remote()) } else { ("base", rendering.base()) };
        let objects = self.config.helm.template(charts, chart, self.namespace(), &values).await;
        objects.map_err(|problem| refused(&problem))
    }
}

fn is_one_of(object: &Value, kinds: &[&str]) -> bool {
    object["kind"].as_str().is_some_and(|kind| kinds.contains(&kind))
}

/// An object without a namespace. The mesh's namespace takes those inside it along.
fn leftover(member: &Name, object: &Value) -> Option<Leftover> {
    Some(Leftover::object(member, text(object, "/kind")?, None, text(object, "/metadata/name")?))
}
