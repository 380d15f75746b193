//! Connects to ports of pods through the API server.

use kube::api::Portforwarder;
use meshwright_rollout::ports::ClusterError;

use super::ClusterClient;

impl ClusterClient {
    /// Opens a connection to a port of a pod. It is closed when the result is dropped.
    ///
    /// # Errors
    /// Returns an error if the cluster does not answer in time or refuses the call.
    pub(crate) async fn port_forward(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
    ) -> Result<PortForward, ClusterError> {
        use k8s_openapi::api::core::v1::Pod;
        let pods: kube::Api<Pod> =
            kube::Api::namespaced(self.active_credential().client.clone(), namespace);
        let opened =
            tokio::time::timeout(self.limits().call_timeout, pods.portforward(pod, &[port])).await;
        let silent = |cause: &str| ClusterError::unreachable(self.cluster_name(), cause);
        match opened {
            Ok(Ok(forwarder)) => Ok(PortForward(forwarder)),
            Ok(Err(error)) => {
                tracing::debug!(
                    place = self.cluster_name(),
                    pod,
                    error = &error as &dyn std::error::Error,
                    "could not open a port-forward to the pod"
                );
                Err(silent("the port was not forwarded"))
            }
            Err(_) => Err(silent("the port was not forwarded in time")),
        }
    }
}

/// Connection to a port of a pod, through the API server.
pub(crate) struct PortForward(Portforwarder);

impl PortForward {
    /// Takes the stream to the port. It can be taken once.
    pub(crate) fn take_stream(
        &mut self,
        port: u16,
    ) -> Option<impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + use<>> {
        self.0.take_stream(port)
    }
}

impl Drop for PortForward {
    fn drop(&mut self) {
        // Without this, the library's task waits until the cluster closes the connection, possibly
        // for ever.
        self.0.abort();
    }
}
