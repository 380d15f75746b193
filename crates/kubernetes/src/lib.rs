//! Talks to Kubernetes and Helm: implements the ports of `rollout` for real clusters. No other
//! crate uses kube.
//!
//! | module | purpose |
//! |---|---|
//! | [`kubeconfig`] | decides which kubeconfigs are accepted, and why others are refused |
//! | [`credential`] | defines the address and identity by which a cluster is called |
//! | [`connect`] | opens connections: each resolves the name, checks and pins an address |
//! | [`address_policy`] | decides which addresses may be called |
//! | `api_paths` | maps kinds of objects to their paths in the API |
//! | [`client`] | calls one cluster's API, with deadlines, limits and the ports' errors |
//! | `foreign` | finds webhooks of another Istio, and webhooks that do not answer |
//! | [`helm`] | renders a release's own charts into objects with Helm |
//! | `labels` | names the labels and annotations that several modules share |
//! | [`leave`] | removes our service account from a cluster, and lists what stays |
//! | [`mesh`] | implements the ports: which objects each target is made of |
//! | `object_fields` | reads fields of Kubernetes objects |
//! | `probe` | sends a pod through injection without storing it |
//! | [`problems`] | converts failed calls into problems for the user |
//! | [`registration`] | registers a cluster, and issues the next credential of our account in it |
//! | [`resolver`] | resolves host names |
//! | [`response_limits`] | bounds the size and duration of a cluster's answers |
//! | [`service_account`] | defines what that account may do, and issues its tokens |
//! | [`mesh_ca`] | generates the root certificate authority of a mesh |

pub mod address_policy;
mod addresses;
mod api_paths;
pub mod client;
pub mod connect;
pub mod credential;
mod foreign;
pub mod helm;
pub mod kubeconfig;
mod labels;
pub mod leave;
pub mod mesh;
pub mod mesh_ca;
mod object_fields;
mod probe;
pub mod problems;
pub mod registration;
pub mod resolver;
pub mod response_limits;
pub mod service_account;

pub use address_policy::AddressPolicy;
pub use client::{ClusterClient, CredentialSource};
pub use credential::{Credential, RefusedKubeconfig};
pub use helm::{Charts, Helm};
pub use mesh::{KubernetesMesh, KubernetesMeshConfig, MemberCluster, PreviousCredential};
pub use mesh_ca::Authority;
pub use resolver::Resolver;
pub use response_limits::ResponseLimits;
pub use service_account::Account;
