//! Names the labels and annotations that several modules share.

/// Label that marks an object as ours and names the mesh that it belongs to.
pub(crate) const OWNER_LABEL: &str = "meshwright.dev/mesh";
/// Label that names the inventory of an object. An object that has it and is in no inventory was
/// written by a worker that had lost its lease.
pub(crate) const APPLY_SET_LABEL: &str = "meshwright.dev/bundle";
/// Annotation on a pod template whose change restarts the workload; its value derives from the
/// operation.
pub(crate) const RESTART_ANNOTATION: &str = "meshwright.dev/restart";
/// Annotation that a fence sets and removes to change an object's version.
pub(crate) const FENCE_ANNOTATION: &str = "meshwright.dev/fence";
/// Label by which a pod asks for a sidecar or declines one.
pub(crate) const SIDECAR_INJECT_LABEL: &str = "sidecar.istio.io/inject";
