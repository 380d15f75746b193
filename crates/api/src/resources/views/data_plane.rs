//! Converts the last observation of a mesh into the view of its data plane.

use meshwright_model::injection::{Injection, PodLabels, injected_by, injection_conflict};
use meshwright_model::observation::{MemberObservation, Observation};
use meshwright_wire::{NamespaceView, ProxyView, WorkloadView};

/// Converts the last observation of a mesh into the view of its data plane.
pub(crate) fn data_plane(
    mesh: &meshwright_store::Mesh,
    observed: Option<(jiff::Timestamp, Observation)>,
) -> meshwright_wire::DataPlane {
    let (observed_at, survey) = observed.map_or((None, Observation::default()), |(at, survey)| {
        (Some(at), survey)
    });
    let proxies = survey.proxies.iter().map(|proxy| ProxyView {
        proxy: proxy.proxy.clone(),
        cluster: proxy.member.clone(),
        revision: proxy.revision.to_string(),
        version: proxy.version.clone(),
        synced: proxy.synced,
        error: proxy.error.clone(),
        ghost: proxy.ghost,
    });
    meshwright_wire::DataPlane {
        observed_at,
        proxies: proxies.collect(),
        namespaces: survey.members.iter().flat_map(namespace_views).collect(),
        workloads: survey
            .members
            .iter()
            .flat_map(|member| workload_views(&survey, member))
            .collect(),
        // A mesh that is being created or deleted lacks tags on purpose, so they are not missing.
        missing_tags: survey
            .members
            .iter()
            .filter(|_| mesh.state == meshwright_store::MeshState::Ready)
            .flat_map(|member| {
                let missing = member.missing_tags();
                missing.map(|tag| meshwright_wire::MissingTag {
                    cluster: member.member.to_string(),
                    tag: tag.into(),
                })
            })
            .collect(),
    }
}

/// Returns the name of the revision that injects; `None` if none or several do.
fn injecting_revision(injection: &Injection) -> Option<String> {
    if let Injection::Injected(revision) = injection {
        Some(revision.to_string())
    } else {
        None
    }
}

/// Converts the namespaces of a member, each with its injection label and conflicts. Labels of the
/// mesh's own namespace have no meaning, so it is left out.
fn namespace_views(member: &MemberObservation) -> Vec<NamespaceView> {
    let view = |namespace: &meshwright_model::observation::NamespaceObservation| {
        let labels = &namespace.labels;
        let injection = injected_by(labels, &PodLabels::default(), &member.injectors);
        let rev = labels
            .rev
            .as_ref()
            .map(|value| format!("istio.io/rev={value}"));
        NamespaceView {
            cluster: member.member.to_string(),
            name: namespace.name.clone(),
            label: rev.or_else(|| {
                labels
                    .injection
                    .as_ref()
                    .map(|value| format!("istio-injection={value}"))
            }),
            injected_by: injecting_revision(&injection),
            conflict: injection_conflict(labels, &injection).map(Into::into),
        }
    };
    let namespaces = member.namespaces.iter();
    namespaces
        .filter(|namespace| !namespace.of_mesh)
        .map(view)
        .collect()
}

/// Converts the workloads of a member, each with the sidecars of its live pods and whether a
/// restart is needed.
fn workload_views(survey: &Observation, member: &MemberObservation) -> Vec<WorkloadView> {
    let mut views = Vec::new();
    for namespace in &member.namespaces {
        for workload in &namespace.workloads {
            let injection = injected_by(&namespace.labels, &workload.template, &member.injectors);
            let behind = match &injection {
                Injection::Injected(wanted) => survey.restart_reason(workload, wanted),
                Injection::NotInjected(_) | Injection::Ambiguous(_) => None,
            };
            let carried = |pod: &Option<meshwright_model::plan::Sidecar>| {
                pod.as_ref()
                    .map_or_else(|| "none".to_owned(), |sidecar| sidecar.revision.to_string())
            };
            let mut revisions: Vec<String> = workload.live.iter().map(carried).collect();
            let mut images: Vec<String> = workload
                .live
                .iter()
                .flatten()
                .map(|sidecar| sidecar.image.clone())
                .collect();
            for list in [&mut revisions, &mut images] {
                list.sort();
                list.dedup();
            }
            views.push(WorkloadView {
                cluster: member.member.to_string(),
                name: workload.workload.to_string(),
                pods: workload.live.len(),
                revisions,
                images,
                restart_needed: behind.is_some(),
                restart_reason: behind.map(Into::into),
                wanted: injecting_revision(&injection),
                stuck: workload.stuck.map(Into::into),
            });
        }
    }
    views
}
