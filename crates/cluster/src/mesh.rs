//! The ports over real clusters: which objects each target is made of, and where its value is written.
//!
//! Targets made of several objects (`bundle`) keep their value in an inventory that is written last; tags, the
//! validator, namespace labels and workloads (`single`) keep it in the object itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use model::Name;
use model::plan::{Asks, Sidecar, Target, WorkloadRef};
use model::release::Release;
use model::survey::Survey;
use model::switch::Switches;
use model::version::{RevisionName, Version};
use rollout::ports::{Fence, Mark, Permit, Seen, Settled, Usage, WorkloadSeen, World, WorldError};
use serde_json::Value;

use crate::account::Account;
use crate::authority::Authority;
use crate::dialling::Dialling;
use crate::door::Door;
use crate::kubeconfig::Credential;
use crate::render::{Charts, Helm};

mod access;
mod bundle;
mod certificates;
mod data_plane;
mod kinds;
mod leaving;
mod limits;
mod live;
mod objects;
mod pinned;
mod probe;
mod proxies;
mod records;
mod single;
mod survey;
mod tokens;
mod values;

pub(crate) use bundle::OWNER_LABEL;
pub(crate) use pinned::GROUPS;
pub(crate) use probe::taken as takes_probe;
pub(crate) use single::{MUTATING, VALIDATING};

/// How often the engine looks again while something is under way.
const TICK: Duration = Duration::from_millis(400);
/// How long it lets a burst of events pass.
const BURST: Duration = Duration::from_millis(100);

/// A member cluster.
#[derive(Debug, Clone)]
pub struct MemberDoor {
    /// Its name.
    pub name: Name,
    /// The way in.
    pub door: Door,
    /// Its address and authority, for the control planes' own access.
    pub credential: Credential,
    /// Which credential of ours that is, from 1.
    pub serial: i64,
    /// The account that it is of.
    pub account: Account,
    /// The credential before that, once its time is over and until it was seen to be refused.
    pub former: Option<Former>,
}

/// A credential of ours that is to be refused, with a connection to try it on.
#[derive(Debug, Clone)]
pub struct Former {
    /// The credential.
    pub credential: Credential,
    /// A connection that uses it.
    pub door: Door,
}

/// Everything that a mesh's world is made of.
#[derive(Debug)]
pub struct MeshWorldConfig {
    /// The mesh's namespace: the same name in the hosting cluster and in every member.
    pub namespace: String,
    /// The hosting cluster.
    pub hosting: Door,
    /// The members; the first is the config cluster.
    pub members: Vec<MemberDoor>,
    /// Which addresses of members may be called.
    pub dialling: Dialling,
    /// The mesh's own authority.
    pub authority: Authority,
    /// The releases that its revisions run, with their charts.
    pub releases: Vec<(Release, Charts)>,
    /// The values of istiod's switches that each revision keeps.
    pub switches: BTreeMap<RevisionName, Switches>,
    /// The renderer.
    pub helm: Helm,
    /// Replicas of each control plane.
    pub replicas: u32,
    /// How long the tokens that control planes read members with live.
    pub life: Duration,
}

/// One mesh's clusters.
#[derive(Debug, Clone)]
pub struct MeshWorld {
    config: Arc<MeshWorldConfig>,
    watches: Arc<live::Watches>,
    addresses: Arc<Mutex<BTreeMap<Name, Vec<SocketAddr>>>>,
}

impl MeshWorld {
    /// A world over these clusters. Nothing is called yet.
    pub fn new(config: MeshWorldConfig) -> Self {
        Self { config: Arc::new(config), watches: Arc::default(), addresses: Arc::default() }
    }

    fn namespace(&self) -> &str {
        &self.config.namespace
    }

    fn member(&self, name: &Name) -> Result<&MemberDoor, WorldError> {
        let found = self.config.members.iter().find(|member| member.name == *name);
        let cause = || "it is not a member of the mesh".to_owned();
        found.ok_or_else(|| WorldError::Refused { place: name.to_string(), code: "not_a_member", cause: cause() })
    }

    fn is_config(&self, name: &Name) -> bool {
        self.config.members.first().is_some_and(|member| member.name == *name)
    }

    fn release(&self, version: &Version) -> Result<&(Release, Charts), WorldError> {
        let found = self.config.releases.iter().find(|(release, _)| release.version == *version);
        let cause = || format!("release {version} is not in the catalogue any more");
        found.ok_or_else(|| WorldError::Refused {
            place: "the catalogue".into(),
            code: "release_missing",
            cause: cause(),
        })
    }

    /// Ends a look that takes longer than one may.
    async fn within<T>(&self, look: impl Future<Output = Result<T, WorldError>> + Send) -> Result<T, WorldError> {
        let looked = tokio::time::timeout(self.config.hosting.limits().look, look).await;
        let (place, cause) = ("a cluster of the mesh".to_owned(), "a look did not come to an end in time".to_owned());
        looked.unwrap_or(Err(WorldError::Unreachable { place, code: "look_too_slow", cause }))
    }

    /// The cluster that holds a target.
    fn door(&self, target: &Target) -> Result<&Door, WorldError> {
        match target.member() {
            Some(member) => Ok(&self.member(member)?.door),
            None => Ok(&self.config.hosting),
        }
    }
}

#[async_trait]
impl World for MeshWorld {
    async fn look(&self, target: &Target) -> Result<Seen, WorldError> {
        let look = async {
            if let Target::Certificates { member } = target {
                return self.look_at_certificates(member).await;
            }
            match single::Single::of(self, target).await? {
                Some(single) => single.look().await,
                None => self.look_at_bundle(target).await,
            }
        };
        self.within(look).await
    }

    async fn set(&self, target: &Target, to: Option<&str>, seen: &Mark, permit: &Permit) -> Result<(), WorldError> {
        if let Target::Certificates { member } = target {
            return if to.is_some() { Ok(()) } else { self.remove_certificates(member, seen, permit).await };
        }
        match single::Single::of(self, target).await? {
            Some(single) => single.set(self, to, seen, permit).await,
            None => self.set_bundle(target, to, seen, permit).await,
        }
    }

    async fn fence(&self, target: &Target, goal: Option<&str>, permit: &Permit) -> Result<Fence, WorldError> {
        // Each deletion names the object's identity and version, and istiod alone writes them.
        if let Target::Certificates { .. } = target {
            return Ok(Fence::UntilLeaseEnds);
        }
        match single::Single::of(self, target).await? {
            Some(single) => single.fence(permit).await,
            None => self.fence_bundle(target, goal, permit).await,
        }
    }

    async fn workload(&self, member: &Name, workload: &WorkloadRef) -> Result<Option<WorkloadSeen>, WorldError> {
        self.watches.workload(self.member(member)?, workload).await
    }

    async fn probe(&self, member: &Name, asks: &Asks, wanted: &Sidecar) -> Result<Result<(), String>, WorldError> {
        probe::probe(&self.member(member)?.door, self.namespace(), asks, wanted).await
    }

    async fn takes_probes(&self, member: &Name) -> Result<bool, WorldError> {
        probe::taken(&self.member(member)?.door, self.namespace(), "default").await
    }

    async fn readiness(&self, revision: &RevisionName, members: &[Name]) -> Result<Settled, WorldError> {
        self.within(self.ready_and_synced(revision, members)).await
    }

    async fn usage(&self, revision: &RevisionName, left_behind: &[Name]) -> Result<Usage, WorldError> {
        self.within(self.who_uses(revision, left_behind)).await
    }

    async fn pinned(&self, revision: &RevisionName) -> Result<Vec<String>, WorldError> {
        self.within(self.pinned_to(revision)).await
    }

    async fn survey(&self) -> Result<Survey, WorldError> {
        self.within(self.look_around()).await
    }

    async fn changed(&self) {
        tokio::time::timeout(TICK, self.watches.changed()).await.ok();
        // Events come in bursts, and each look costs the database a few questions.
        tokio::time::sleep(BURST).await;
    }
}

/// Text at a JSON pointer.
fn text<'v>(value: &'v Value, pointer: &str) -> Option<&'v str> {
    value.pointer(pointer).and_then(Value::as_str)
}

/// The names of objects.
fn names(objects: &[Value]) -> Vec<String> {
    objects.iter().filter_map(|object| text(object, "/metadata/name").map(str::to_owned)).collect()
}

/// The query of a list by labels. Values are names of ours, which need no escapes.
fn selector(labels: &[(&str, &str)]) -> String {
    let terms: Vec<String> =
        labels.iter().map(|(label, value)| format!("{}%3D{value}", label.replace('/', "%2F"))).collect();
    format!("labelSelector={}", terms.join(","))
}

/// Number at a JSON pointer; absent counts as zero, as Kubernetes writes it.
fn number(value: &Value, pointer: &str) -> i64 {
    value.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// Identity and version of an object, as a mark; absence is a version too.
fn mark_of(object: Option<&Value>) -> Mark {
    let part = |pointer: &str| object.and_then(|object| text(object, pointer)).unwrap_or_default();
    Mark(format!("{}/{}", part("/metadata/uid"), part("/metadata/resourceVersion")))
}

/// The mark as preconditions inside a patch's metadata.
fn preconditions(mark: &Mark) -> Option<(String, String)> {
    let (uid, version) = mark.0.split_once('/')?;
    (!uid.is_empty()).then(|| (uid.to_owned(), version.to_owned()))
}
