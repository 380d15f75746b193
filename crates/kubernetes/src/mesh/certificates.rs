//! Removes the root certificates that istiod writes into every namespace of a member, and the
//! revocation lists beside them.
//!
//! istiod leaves both behind when it is removed. Their content decides whose they are: a revocation
//! list counts as ours only beside our own root, so that those of another mesh are never touched.

use std::collections::BTreeSet;

use meshwright_model::Name;
use meshwright_rollout::ports::{ClusterError, FencingToken, ObjectVersion, Observed, Readiness};
use serde_json::{Value, json};

use super::{KubernetesMesh, object_version, text_at, uid_and_version};

/// Name of the `ConfigMap` with the root certificate of the mesh that a namespace belongs to.
pub(super) const ROOT_CERT_CONFIGMAP: &str = "istio-ca-root-cert";
/// Name of the `ConfigMap` with that root's revocation list, from Istio 1.27 on.
pub(super) const CRL_CONFIGMAP: &str = "istio-ca-crl";
/// Value of the target while any such `ConfigMap` exists.
const PRESENT_VALUE: &str = "present";

impl KubernetesMesh {
    /// Lists our certificates in a member. The revocation lists come first: once the root beside it
    /// is gone, a list cannot be told from another mesh's.
    async fn list_root_certificates(&self, member: &Name) -> Result<Vec<Value>, ClusterError> {
        let client = &self.find_member(member)?.client;
        let named = |name: &str| format!("fieldSelector=metadata.name%3D{name}");
        let mut roots = client
            .list("/api/v1/configmaps", &named(ROOT_CERT_CONFIGMAP))
            .await?;
        let ours = self.config.authority.certificate.trim();
        roots.retain(|root| {
            text_at(root, "/data/root-cert.pem").is_some_and(|root| root.trim() == ours)
        });
        let namespaces: BTreeSet<&str> = roots
            .iter()
            .filter_map(|root| text_at(root, "/metadata/namespace"))
            .collect();
        let mut lists = client
            .list("/api/v1/configmaps", &named(CRL_CONFIGMAP))
            .await?;
        lists.retain(|list| {
            text_at(list, "/metadata/namespace")
                .is_some_and(|namespace| namespaces.contains(namespace))
        });
        lists.extend(roots);
        Ok(lists)
    }

    pub(super) async fn observe_certificates(
        &self,
        member: &Name,
    ) -> Result<Observed, ClusterError> {
        let found = self.list_root_certificates(member).await?;
        let value = (!found.is_empty()).then(|| PRESENT_VALUE.to_owned());
        Ok(Observed {
            value,
            version: combined_version(&found),
            readiness: Readiness::Ready,
            partial: false,
            gone: false,
        })
    }

    /// Deletes the observed objects, each by its uid and version. Only istiod writes them, so this
    /// target has no other change.
    pub(super) async fn remove_certificates(
        &self,
        member: &Name,
        seen: &ObjectVersion,
        permit: &FencingToken,
    ) -> Result<(), ClusterError> {
        let client = &self.find_member(member)?.client;
        let found = self.list_root_certificates(member).await?;
        if combined_version(&found) != *seen {
            return Err(ClusterError::Changed {
                place: format!("{ROOT_CERT_CONFIGMAP} in {member}"),
            });
        }
        for object in &found {
            let (Some(namespace), Some(name)) = (
                text_at(object, "/metadata/namespace"),
                text_at(object, "/metadata/name"),
            ) else {
                continue;
            };
            let known = uid_and_version(&object_version(Some(object)));
            let known =
                known.map(|(uid, version)| json!({ "uid": uid, "resourceVersion": version }));
            client
                .delete(
                    &format!("/api/v1/namespaces/{namespace}/configmaps/{name}"),
                    known,
                    Some(permit),
                )
                .await?;
        }
        Ok(())
    }
}

fn combined_version(objects: &[Value]) -> ObjectVersion {
    ObjectVersion(
        objects
            .iter()
            .map(|object| object_version(Some(object)).0)
            .collect::<Vec<_>>()
            .join(","),
    )
}
