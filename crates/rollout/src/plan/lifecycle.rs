//! Builds the plans that create and delete a mesh, and those that install and remove one control
//! plane.

use meshwright_model::Name;
use meshwright_model::injection::Injector;
use meshwright_model::plan::{Plan, Step, Target};

use super::{
    ControlPlane, MeshTopology, PRESENT, TAGS, await_ready_step, create_step, probe_step_for,
    remove_step, set_step, tag_target,
};

/// Plans the creation of a mesh. The bootstrap of a member comes before the remote access to it,
/// because istiod decides whether it leads in a member when it first sees the member.
pub fn plan_create(layout: &MeshTopology) -> Plan {
    let line = &layout.current;
    let tags = layout
        .members
        .iter()
        .flat_map(|member| TAGS.map(|name| create_step(tag_target(member, name), &line.revision)));
    let probes = layout
        .members
        .iter()
        .flat_map(|member| TAGS.map(|name| probe_step_for(member, name, line)));
    Plan::default()
        .with_wave(
            "mesh namespace and authority",
            [create_step(Target::MeshNamespace, PRESENT)],
        )
        .with_wave(
            "system namespace and accounts in each member",
            layout.step_per_member(|member| {
                create_step(
                    Target::MemberBootstrap {
                        member: member.clone(),
                    },
                    PRESENT,
                )
            }),
        )
        .with_wave(
            "access of the control planes to each member",
            layout.step_per_member(|member| {
                create_step(
                    Target::RemoteAccess {
                        member: member.clone(),
                    },
                    PRESENT,
                )
            }),
        )
        .followed_by(plan_control_plane_install(layout, line))
        .with_wave("tags", tags)
        .with_wave("dry runs through the tags", probes)
        .with_wave(
            "validation",
            layout.config_cluster().map(|member| {
                create_step(
                    Target::Validator {
                        member: member.clone(),
                    },
                    &line.revision,
                )
            }),
        )
}

/// Plans the installation of one control plane beside the existing ones. No object refers to the
/// new one yet.
pub(super) fn plan_control_plane_install(layout: &MeshTopology, line: &ControlPlane) -> Plan {
    let revision = &line.revision;
    let objects = |member: &Name| Target::MemberObjects {
        member: member.clone(),
        revision: revision.clone(),
    };
    Plan::default()
        .with_wave(
            "address",
            [create_step(
                Target::Address {
                    revision: revision.clone(),
                },
                PRESENT,
            )],
        )
        .with_wave(
            "custom resource definitions",
            layout.step_per_member(|member| crd_step(member, line)),
        )
        .with_wave(
            "roles, service and webhook in each member",
            layout.step_per_member(|member| create_step(objects(member), &line.release)),
        )
        .followed_by(plan_limits())
        .with_wave(
            "control plane",
            [create_step(
                Target::ControlPlane {
                    revision: revision.clone(),
                },
                &line.release,
            )],
        )
        .with_wave("ready and synced", [await_ready_step(layout, line)])
        .with_wave(
            "dry runs",
            layout.step_per_member(|member| probe_step_for(member, revision.as_str(), line)),
        )
}

/// Plans the update of the limits of the mesh's namespace in the hosting cluster to the present
/// addresses of the members.
pub(super) fn plan_limits() -> Plan {
    Plan::default().with_wave(
        "limits of the mesh's namespace",
        [create_step(Target::Limits, PRESENT)],
    )
}

/// Builds the step that installs Istio's custom resource definitions. They belong to the cluster
/// and only move forward, so the step itself reads the present release.
pub(super) fn crd_step(member: &Name, line: &ControlPlane) -> Step {
    create_step(
        Target::Crds {
            member: member.clone(),
        },
        &line.release,
    )
}

/// Plans the removal of one control plane. The webhook is removed after istiod, so that a late pod
/// fails visibly and does not start without a sidecar.
pub(super) fn plan_control_plane_removal(layout: &MeshTopology, line: &ControlPlane) -> Plan {
    let revision = &line.revision;
    let objects = |member: &Name| Target::MemberObjects {
        member: member.clone(),
        revision: revision.clone(),
    };
    Plan::default()
        .with_wave(
            "control plane",
            [remove_step(
                Target::ControlPlane {
                    revision: revision.clone(),
                },
                &line.release,
            )],
        )
        .with_wave(
            "roles, service and webhook in each member",
            layout.step_per_member(|member| remove_step(objects(member), &line.release)),
        )
        .with_wave(
            "address",
            [remove_step(
                Target::Address {
                    revision: revision.clone(),
                },
                PRESENT,
            )],
        )
}

/// Result of the check of each member before a deletion.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberReachability {
    /// Members that answer, each with the mesh's injectors in it.
    pub answering: Vec<(Name, Vec<Injector>)>,
    /// Members that are lost to us and are left behind, because a person forced the deletion.
    pub left_behind: Vec<Name>,
}

/// Plans the deletion of a mesh, with the second revision that an abandoned upgrade may have left.
/// Objects that istiod writes into every namespace are removed after istiod, which would write them
/// again. Custom resource definitions stay, because users may have resources of these kinds.
pub fn plan_delete(layout: &MeshTopology, farewell: &MemberReachability) -> Plan {
    let answering = farewell.answering.iter();
    let here = MeshTopology {
        members: answering.map(|(member, _)| member.clone()).collect(),
        ..layout.clone()
    };
    let validator = layout
        .config_cluster()
        .filter(|member| here.members.contains(*member));
    let lines_down = layout
        .control_planes()
        .rev()
        .fold(Plan::default(), |plan, line| {
            plan.followed_by(plan_control_plane_removal(&here, line))
        });
    plan_last_looks(layout, &farewell.left_behind)
        .with_wave(
            "validation",
            validator.map(|member| {
                let member = member.clone();
                removal_step(
                    Target::Validator { member },
                    layout.current.revision.as_str(),
                )
            }),
        )
        .with_wave("tags", tag_removal_steps(layout, farewell))
        .followed_by(lines_down)
        .with_wave(
            "objects of former revisions",
            former_revision_steps(layout, farewell),
        )
        .followed_by(plan_namespace_removal(layout, &here))
        .with_wave(
            "members that are left behind",
            leave_behind_steps(&farewell.left_behind),
        )
}

/// Plans the checks before the first removal. Nothing may use the mesh, and the members that are
/// left behind must still not answer. The wait can take days, so these members are checked before
/// it, at each check of it, directly after it, and at the end of the deletion. A member that
/// answers is not left behind.
fn plan_last_looks(layout: &MeshTopology, left_behind: &[Name]) -> Plan {
    let unused = |line: &ControlPlane| Step::AwaitUnused {
        revision: line.revision.clone(),
        left_behind: left_behind.to_vec(),
        own_tags: false,
    };
    Plan::default()
        .with_wave(
            "members that do not answer",
            leave_behind_steps(left_behind),
        )
        .with_wave("nothing uses the mesh", layout.control_planes().map(unused))
        .with_wave(
            "members that still do not answer",
            leave_behind_steps(left_behind),
        )
}

fn leave_behind_steps(members: &[Name]) -> impl Iterator<Item = Step> {
    members.iter().map(|member| Step::LeaveBehind {
        member: member.clone(),
    })
}

/// Builds the steps that remove the tags in the members that answer. Aliases that earlier upgrades
/// left are names of the mesh too and are removed. The webhooks of the mesh's control planes go
/// with their objects.
fn tag_removal_steps(layout: &MeshTopology, farewell: &MemberReachability) -> Vec<Step> {
    let mut steps = Vec::new();
    for (member, injectors) in &farewell.answering {
        let tags = injectors
            .iter()
            .filter(|tag| !is_own_name(layout, &tag.value) && !is_revision_webhook(tag));
        steps.extend(
            tags.map(|tag| removal_step(tag_target(member, &tag.value), tag.revision.as_str())),
        );
    }
    steps
}

/// Builds the steps that remove the objects of revisions which the mesh no longer has. An abandoned
/// upgrade left them in a member that a forced deletion left behind, and the mesh was restored
/// since. The value is the release, which the revision does not tell: the steps start from the name
/// of the revision, and the caller replaces it by the present value.
fn former_revision_steps(layout: &MeshTopology, farewell: &MemberReachability) -> Vec<Step> {
    let mut steps = Vec::new();
    for (member, injectors) in &farewell.answering {
        let former = injectors
            .iter()
            .filter(|of| is_revision_webhook(of) && !is_own_name(layout, &of.value));
        steps.extend(former.map(|of| {
            let target = Target::MemberObjects {
                member: member.clone(),
                revision: of.revision.clone(),
            };
            removal_step(target, of.revision.as_str())
        }));
    }
    steps
}

/// Returns true if a name is that of a revision of the mesh.
fn is_own_name(layout: &MeshTopology, name: &str) -> bool {
    let mut lines = layout.control_planes();
    lines.any(|line| line.revision.as_str() == name)
}

/// Returns true for the webhook that belongs to the objects of a revision.
fn is_revision_webhook(injector: &Injector) -> bool {
    injector.value == injector.revision.as_str()
}

/// Plans the removal of the mesh's namespaces, in the members that answer (`here`) and at last in
/// the hosting cluster, with everything in them that no control plane owns.
fn plan_namespace_removal(layout: &MeshTopology, here: &MeshTopology) -> Plan {
    let gone = |target: Target| removal_step(target, PRESENT);
    Plan::default()
        .with_wave(
            "root certificates in each namespace",
            here.step_per_member(|member| {
                let member = member.clone();
                gone(Target::Certificates { member })
            }),
        )
        .with_wave(
            "access of the control planes",
            layout.step_per_member(|member| {
                let member = member.clone();
                gone(Target::RemoteAccess { member })
            }),
        )
        .with_wave(
            "system namespace and accounts",
            here.step_per_member(|member| {
                let member = member.clone();
                gone(Target::MemberBootstrap { member })
            }),
        )
        .with_wave(
            "nothing is left",
            here.step_per_member(|member| Step::AwaitGone {
                member: member.clone(),
            }),
        )
        .with_wave("limits of the mesh's namespace", [gone(Target::Limits)])
        .with_wave(
            "mesh namespace and authority",
            [gone(Target::MeshNamespace)],
        )
}

/// Builds the step that removes a target with this value.
fn removal_step(target: Target, from: &str) -> Step {
    set_step(target, Some(from.to_owned()), None)
}
