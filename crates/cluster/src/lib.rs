//! Kubernetes and Helm: the only crate that names kube. Implements the ports of `rollout` for real clusters.
//!
//! | module | what it knows |
//! |---|---|
//! | [`kubeconfig`] | which configurations are accepted, and why the others are refused |
//! | [`connect`] | one connection: resolved, checked and pinned on every connect |
//! | [`dialling`] | which addresses may be called |
//! | [`door`] | one cluster's API: requests with deadlines, errors in the ports' words |
//! | `foreign` | webhooks of another Istio, and webhooks that do not answer |
//! | [`render`] | a release's own charts to objects |
//! | [`leave`] | how our account goes from a cluster, and what stays |
//! | [`mesh`] | the ports: what each target is made of in real clusters |
//! | [`register`] | the first contact with a cluster, and the next credential of our account in it |
//! | [`account`] | what that account may do, and the tokens that it lives by |
//! | [`authority`] | a mesh's own certificate authority |

pub mod account;
mod addresses;
pub mod authority;
pub mod connect;
pub mod dialling;
pub mod door;
mod foreign;
pub mod kubeconfig;
pub mod leave;
pub mod mesh;
pub mod register;
pub mod render;

pub use account::Account;
pub use authority::Authority;
pub use dialling::AddressPolicy;
pub use door::{ClusterClient, CredentialSource, ResponseLimits};
pub use kubeconfig::{Credential, RefusedKubeconfig};
pub use mesh::{PreviousCredential, MemberCluster, KubernetesMesh, KubernetesMeshConfig};
pub use render::{Charts, Helm};
