//! Talks to Kubernetes and Helm: implements the ports of `rollout` for real clusters. No other
//! crate uses kube.
//!
//! | module | purpose |
//! |---|---|
//! | [`kubeconfig`] | decides which kubeconfigs are accepted, and why others are refused |
//! | [`connect`] | opens connections: each resolves the name, checks and pins an address |
//! | [`dialling`] | decides which addresses may be called |
//! | [`door`] | calls one cluster's API, with deadlines, limits and the ports' errors |
//! | `foreign` | finds webhooks of another Istio, and webhooks that do not answer |
//! | [`render`] | renders a release's own charts into objects with Helm |
//! | [`leave`] | removes our service account from a cluster, and lists what stays |
//! | [`mesh`] | implements the ports: which objects each target is made of |
//! | [`register`] | registers a cluster, and issues the next credential of our account in it |
//! | [`account`] | defines what that account may do, and issues its tokens |
//! | [`authority`] | generates the root certificate authority of a mesh |

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
