//! The root certificates that istiod writes into every namespace of a member, and its revocation list beside them.
//!
//! istiod leaves both behind when it goes. They are judged by their content: only those beside our own root are ours, so
//! that another mesh's are never touched.

use std::collections::BTreeSet;

use model::Name;
use rollout::ports::{Mark, Permit, Seen, Settled, WorldError};
use serde_json::{Value, json};

use super::{MeshWorld, mark_of, preconditions, text};

/// The `ConfigMap` with the root of the mesh that a namespace belongs to.
pub(super) const ROOT: &str = "istio-ca-root-cert";
/// The `ConfigMap` with that root's revocation list, from Istio 1.27 on.
pub(super) const REVOKED: &str = "istio-ca-crl";
/// Value of the target while there are any.
const PRESENT: &str = "present";

impl MeshWorld {
    /// The revocation lists come first: without the root beside it, a list cannot be told from another mesh's.
    async fn certificates(&self, member: &Name) -> Result<Vec<Value>, WorldError> {
        let door = &self.member(member)?.door;
        let named = |name: &str| format!("fieldSelector=metadata.name%3D{name}");
        let mut roots = door.list("/api/v1/configmaps", &named(ROOT)).await?;
        let ours = self.config.authority.certificate.trim();
        roots.retain(|root| text(root, "/data/root-cert.pem").is_some_and(|root| root.trim() == ours));
        let places: BTreeSet<&str> = roots.iter().filter_map(|root| text(root, "/metadata/namespace")).collect();
        let mut lists = door.list("/api/v1/configmaps", &named(REVOKED)).await?;
        lists.retain(|list| text(list, "/metadata/namespace").is_some_and(|place| places.contains(place)));
        lists.extend(roots);
        Ok(lists)
    }

    pub(super) async fn look_at_certificates(&self, member: &Name) -> Result<Seen, WorldError> {
        let found = self.certificates(member).await?;
        let value = (!found.is_empty()).then(|| PRESENT.to_owned());
        Ok(Seen { value, mark: mark_of_all(&found), settled: Settled::Yes, partial: false })
    }

    /// Removes what was seen, each by its identity and version. istiod alone writes them, so there is nothing to set.
    pub(super) async fn remove_certificates(
        &self,
        member: &Name,
        seen: &Mark,
        permit: &Permit,
    ) -> Result<(), WorldError> {
        let door = &self.member(member)?.door;
        let found = self.certificates(member).await?;
        if mark_of_all(&found) != *seen {
            return Err(WorldError::Changed { place: format!("{ROOT} in {member}") });
        }
        for object in &found {
            let (Some(namespace), Some(name)) = (text(object, "/metadata/namespace"), text(object, "/metadata/name"))
            else {
                continue;
            };
            let known = preconditions(&mark_of(Some(object)));
            let known = known.map(|(uid, version)| json!({ "uid": uid, "resourceVersion": version }));
            door.delete(&format!("/api/v1/namespaces/{namespace}/configmaps/{name}"), known, Some(permit)).await?;
        }
        Ok(())
    }
}

fn mark_of_all(objects: &[Value]) -> Mark {
    Mark(objects.iter().map(|object| mark_of(Some(object)).0).collect::<Vec<_>>().join(","))
}
