//! Opens the clusters of a mesh, with the releases that its revisions run.

use meshwright_kubernetes::{
    Authority, Charts, KubernetesMesh, KubernetesMeshConfig, MemberCluster,
};
use meshwright_model::ids::{ClusterId, MeshId, TenantId};
use meshwright_model::operation::Problem;
use meshwright_model::problem::ProblemCode;
use meshwright_model::release::Release;
use meshwright_model::rollout::RolloutPolicy;
use meshwright_model::upgrade::LabelPolicy;
use meshwright_model::version::Version;
use meshwright_rollout::plan::{ControlPlane, MeshTopology};
use meshwright_store::Mesh;

use super::clients::CredentialOwner;
use super::{KubernetesClusterProvider, store_problem};

impl KubernetesClusterProvider {
    async fn load_release(&self, version: &Version) -> Result<(Release, Charts), Problem> {
        let stored = self
            .store
            .get_release(version)
            .await
            .map_err(store_problem)?;
        let charts = Charts::unpack(&stored.charts).map_err(|_| {
            Problem::new(
                ProblemCode::ReleaseDamaged,
                "The release's charts do not unpack.",
                "Import it again.",
            )
        })?;
        Ok((stored.release, charts))
    }

    async fn open_members(
        &self,
        tenant: TenantId,
        mesh: &Mesh,
    ) -> Result<Vec<MemberCluster>, Problem> {
        let mut members = Vec::with_capacity(mesh.members.len());
        for member in &mesh.members {
            members.push(self.open_member(tenant, member.cluster).await?.1);
        }
        Ok(members)
    }

    /// Loads the mesh that a cluster is a member of.
    pub(super) async fn load_mesh_of_cluster(
        &self,
        tenant: TenantId,
        cluster: ClusterId,
    ) -> Result<Option<Mesh>, Problem> {
        let mut tx = self.store.begin(tenant).await.map_err(store_problem)?;
        match tx
            .clusters()
            .mesh_of_cluster(cluster)
            .await
            .map_err(store_problem)?
        {
            Some(mesh) => tx
                .meshes()
                .get_mesh(mesh)
                .await
                .map(Some)
                .map_err(store_problem),
            None => Ok(None),
        }
    }

    pub(super) async fn open_mesh_clusters(
        &self,
        tenant: TenantId,
        mesh: MeshId,
    ) -> Result<(KubernetesMesh, MeshTopology), Problem> {
        let mut tx = self.store.begin(tenant).await.map_err(store_problem)?;
        let mesh = tx.meshes().get_mesh(mesh).await.map_err(store_problem)?;
        let authority = tx
            .meshes()
            .mesh_authority(mesh.id)
            .await
            .map_err(store_problem)?;
        drop(tx);
        let mut releases = vec![self.load_release(&mesh.current.version).await?];
        if let Some(target) = &mesh.target {
            releases.push(self.load_release(&target.version).await?);
        }
        let stored = self
            .store
            .hosting_kubeconfig(mesh.hosting_cluster)
            .await
            .map_err(store_problem)?;
        let (hosting, _) = self
            .cluster_client(
                CredentialOwner::Hosting(mesh.hosting_cluster),
                "the hosting cluster",
                &stored,
            )
            .await?;
        let members = self.open_members(tenant, &mesh).await?;
        let layout = MeshTopology {
            members: members.iter().map(|member| member.name.clone()).collect(),
            current: control_plane(&mesh.current, &releases)?,
            target: mesh
                .target
                .as_ref()
                .map(|target| control_plane(target, &releases))
                .transpose()?,
            max_concurrent_restarts: self.max_concurrent_restarts,
            label_policy: LabelPolicy::Relabel,
            rollout: RolloutPolicy::default(),
        };
        let authority = Authority::from_stored(&authority).map_err(|_| {
            Problem::new(
                ProblemCode::AuthorityDamaged,
                "The mesh's authority does not open.",
                "Tell the operator.",
            )
        })?;
        // In an upgrade in place, both revisions have the same name, and the target has taken the
        // switches of the current one.
        let revisions = [&mesh.current].into_iter().chain(&mesh.target);
        let config = KubernetesMeshConfig {
            namespace: mesh.namespace(),
            hosting,
            members,
            address_policy: self.address_policy.clone(),
            authority,
            releases,
            switches: revisions
                .map(|revision| (revision.name.clone(), revision.switches.clone()))
                .collect(),
            helm: self.helm.clone(),
            replicas: self.replicas,
            token_lifetime: self.credential_lifetime,
        };
        Ok((KubernetesMesh::new(config), layout))
    }
}

fn control_plane(
    revision: &meshwright_store::Revision,
    releases: &[(Release, Charts)],
) -> Result<ControlPlane, Problem> {
    let release = releases
        .iter()
        .map(|(release, _)| release)
        .find(|release| release.version == revision.version);
    let release = release.ok_or_else(|| {
        Problem::new(
            ProblemCode::ReleaseMissing,
            "A release of the mesh is not in the catalogue.",
            "Import it again.",
        )
    })?;
    let image = format!("{}/proxyv2:{}", release.hub, release.tag);
    Ok(ControlPlane {
        revision: revision.name.clone(),
        release: revision.version.clone(),
        image,
    })
}
