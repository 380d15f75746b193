//! Maintains the credentials of a cluster and the access of control planes to it.

use meshwright_kubernetes::MemberCluster;
use meshwright_kubernetes::problems::problem_unless_changed;
use meshwright_model::ids::{ClusterId, TenantId};
use meshwright_model::operation::Problem;
use meshwright_rollout::ports::ClusterError;
use meshwright_store::{ClusterHealth, MeshState};

use super::KubernetesClusterProvider;

impl KubernetesClusterProvider {
    /// Checks a cluster and maintains its credentials and the control planes' access to it. The
    /// findings are read separately.
    pub(super) async fn maintain_cluster(
        &self,
        tenant: TenantId,
        id: ClusterId,
    ) -> Result<(MemberCluster, ClusterHealth), Problem> {
        let tended = |kubernetes_version, settled| ClusterHealth {
            kubernetes_version,
            old_credentials_revoked: settled,
            findings: Vec::new(),
        };
        let (cluster, mut member) = self.open_member(tenant, id).await?;
        let renewed = cluster
            .credential_lifetime
            .and_then(|life| life.previous_until);
        let over = renewed.is_some_and(|until| until <= self.clock.now());
        if over {
            member.previous = self.former_credential(tenant, id, &member).await?;
        }
        let mesh = self.load_mesh_of_cluster(tenant, id).await?;
        let Some(mesh) = mesh.filter(|mesh| renewed.is_some() || mesh.state == MeshState::Ready)
        else {
            let (kubernetes_version, retired) = member.check_health(over).await?;
            // Without an end time of a previous credential, there is no previous credential.
            let settled = retired || renewed.is_none();
            return Ok((member, tended(kubernetes_version, settled)));
        };
        let (kubernetes_version, _) = member.check_health(false).await?;
        // The operation that creates or deletes the mesh takes care of its members.
        if mesh.state != MeshState::Ready {
            return Ok((member, tended(kubernetes_version, false)));
        }
        let clusters = match self.open_mesh_clusters(tenant, mesh.id).await {
            Ok((clusters, _)) => clusters,
            Err(problem) if problem.code == meshwright_worker::DATABASE_CODE => {
                return Err(problem);
            }
            // The mesh is faulty, which must not keep its members from being maintained.
            Err(problem) => {
                tracing::warn!(cluster.id = %id, mesh.id = %mesh.id, code = problem.code.as_str(), "could not open the mesh; its control planes' access to the member is not maintained");
                return Ok((member, tended(kubernetes_version, renewed.is_none())));
            }
        };
        if renewed.is_none() {
            // An error here comes from the hosting cluster or the mesh and says nothing about this
            // member.
            if let Err(error) = clusters.follow_member_address(&member.name).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(cluster.id = %id, mesh.id = %mesh.id, error, "could not bring the new address of the member to its control planes");
            }
            return Ok((member, tended(kubernetes_version, true)));
        }
        // The limits belong to the whole mesh. An error must not keep this member from being
        // maintained.
        if let Err(error) = clusters.renew_limits().await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(cluster.id = %id, mesh.id = %mesh.id, error, "could not renew the limits of the mesh");
        }
        let renewed =
            ignore_other_cluster_errors(&member, clusters.renew_access(&member.name).await)?;
        // Old tokens are removed only in a round that found all access current. A writer that put
        // an old token back in the meantime is noticed by the renewal above.
        let settled = over
            && renewed
            && ignore_other_cluster_errors(&member, clusters.retire_tokens(&member).await)?;
        Ok((member, tended(kubernetes_version, settled)))
    }
}

/// Returns false for an error of the hosting cluster or of another member: it says nothing about
/// this member, whose maintenance is just not settled yet.
fn ignore_other_cluster_errors(
    member: &MemberCluster,
    answer: Result<bool, ClusterError>,
) -> Result<bool, Problem> {
    match answer {
        Err(
            ClusterError::Unreachable { place, code, .. }
            | ClusterError::Refused { place, code, .. },
        ) if place != member.client.cluster_name() => {
            tracing::warn!(
                member = member.name.as_str(),
                place,
                code = code.as_str(),
                "could not maintain the control planes of the member"
            );
            Ok(false)
        }
        answer => problem_unless_changed(answer),
    }
}
