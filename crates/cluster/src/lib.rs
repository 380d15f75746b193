//! Kubernetes and Helm: the only crate that names kube. Implements the ports.
