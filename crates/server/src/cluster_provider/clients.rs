//! Keeps one client for each cluster, and gives it the credential that the database holds now.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use meshwright_kubernetes::problems::problem_from_error;
use meshwright_kubernetes::{ClusterClient, Credential, CredentialSource};
use meshwright_model::ids::{ClusterId, HostingClusterId, TenantId};
use meshwright_model::operation::Problem;
use meshwright_store::Store;

use super::{KubernetesClusterProvider, OPERATOR_HINT, RENEW_HINT, unusable_problem};

/// Client of each cluster, by the id of the cluster.
pub(super) type ClientCache = HashMap<String, CachedClient>;

/// Client of a cluster, which is kept for as long as it is used.
pub(super) struct CachedClient {
    /// Credential that the client was opened with, in its stored form.
    stored_credential: Vec<u8>,
    client: ClusterClient,
    last_used: Instant,
}

/// Time after which an unused client is dropped with its credential. Clusters that are still
/// registered are checked much more often than this.
const CLIENT_IDLE_TIMEOUT: Duration = Duration::from_mins(15);

/// Owner of a credential in the database: a member cluster or a hosting cluster.
#[derive(Debug, Clone, Copy)]
pub(super) enum CredentialOwner {
    Member(TenantId, ClusterId),
    Hosting(HostingClusterId),
}

impl std::fmt::Display for CredentialOwner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Member(_, id) => write!(f, "{id}"),
            Self::Hosting(id) => write!(f, "{id}"),
        }
    }
}

/// Reads the credential of a cluster again when the one in use is no longer valid. A claim can go
/// on after a renewal has replaced the credential that it began with.
struct StoredCredentialSource {
    store: Store,
    owner: CredentialOwner,
}

#[async_trait]
impl CredentialSource for StoredCredentialSource {
    async fn current_credential(&self) -> Option<Credential> {
        let stored = match self.owner {
            CredentialOwner::Member(tenant, id) => {
                let mut tx = self.store.begin(tenant).await.ok()?;
                tx.clusters().cluster_kubeconfig(id).await
            }
            CredentialOwner::Hosting(id) => self.store.hosting_kubeconfig(id).await,
        };
        let stored = stored.inspect_err(|error| {
            tracing::warn!(cluster.id = %self.owner, error = error as &dyn std::error::Error, "could not read the credential of the cluster again");
        });
        Credential::from_stored(&stored.ok()?).ok()
    }
}

impl KubernetesClusterProvider {
    /// Returns the client of a cluster, which is opened once for each credential. The client with
    /// the former credential is dropped, and so are clients that are no longer used. Opening makes
    /// no call: the first check finds a cluster whose name does not resolve unreachable, after the
    /// usual timeout.
    pub(super) async fn cluster_client(
        &self,
        held: CredentialOwner,
        cluster_name: &str,
        stored: &[u8],
    ) -> Result<(ClusterClient, Credential), Problem> {
        let hint = if matches!(held, CredentialOwner::Hosting(_)) {
            OPERATOR_HINT
        } else {
            RENEW_HINT
        };
        let credential = Credential::from_stored(stored)
            .map_err(|_| unusable_problem("A stored credential", hint))?;
        let id = held.to_string();
        let mut cached = self.clients.lock().await;
        if let Some(open) = cached
            .get_mut(&id)
            .filter(|open| open.stored_credential == stored)
        {
            open.last_used = Instant::now();
            return Ok((open.client.clone(), credential));
        }
        cached.retain(|_, open| open.last_used.elapsed() < CLIENT_IDLE_TIMEOUT);
        let client = ClusterClient::open(cluster_name, &credential, &self.address_policy)
            .map_err(|error| problem_from_error(&error))?;
        let client = client.with_credential_source(Arc::new(StoredCredentialSource {
            store: self.store.clone(),
            owner: held,
        }));
        cached.insert(
            id,
            CachedClient {
                stored_credential: stored.to_vec(),
                client: client.clone(),
                last_used: Instant::now(),
            },
        );
        Ok((client, credential))
    }
}
