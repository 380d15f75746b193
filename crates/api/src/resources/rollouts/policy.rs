//! Reads the policy of a roll-out from a request, and shows it.

use meshwright_model::Name;
use meshwright_model::plan::WorkloadRef;
use meshwright_model::rollout::{self, RestartLimits, RolloutPolicy, WorkloadSelection};
use meshwright_store::Mesh;
use meshwright_wire::{CreateRollout, RolloutWave, SelectedWorkload, WaveChoice, WorkloadChoice};

use crate::error::{ApiError, Result};
use crate::request::params::known_value;

/// Maximum length of an object's name in Kubernetes, in characters.
const MAX_OBJECT_NAME_CHARS: usize = 253;

/// Checks a policy that was sent for a mesh. `at` is the JSON pointer to it.
pub(crate) fn parse_policy(mesh: &Mesh, sent: &CreateRollout, at: &str) -> Result<RolloutPolicy> {
    let on_failure = known_value(
        &format!("{at}/on_failure"),
        &sent.on_failure,
        "on_failure is pause or continue",
    )?;
    let waves = sent.waves.iter().enumerate();
    let waves = waves.map(|(index, wave)| parse_wave(mesh, wave, &format!("{at}/waves/{index}")));
    let policy = RolloutPolicy {
        waves: waves.collect::<Result<_>>()?,
        limits: RestartLimits {
            max_concurrent: sent.max_concurrent,
            max_concurrent_per_cluster: sent.max_concurrent_per_cluster,
            max_concurrent_per_namespace: sent.max_concurrent_per_namespace,
        },
        max_failures: sent.max_failures,
        on_failure,
        evict_pods: sent.evict_pods,
    };
    policy.validate().map_err(|refused| {
        ApiError::invalid_field(&format!("{at}{}", refused.pointer), refused.message)
    })?;
    Ok(policy)
}

fn parse_wave(mesh: &Mesh, sent: &WaveChoice, at: &str) -> Result<rollout::RolloutWave> {
    let place = |field: &str, index: usize| format!("{at}/{field}/{index}");
    let clusters = sent.clusters.iter().enumerate();
    let clusters =
        clusters.map(|(index, name)| parse_member(mesh, name, &place("clusters", index)));
    let namespaces = sent.namespaces.iter().enumerate().map(|(index, name)| {
        check_object_name(name, &place("namespaces", index))?;
        Ok(name.clone())
    });
    let workloads = sent.workloads.iter().enumerate();
    let workloads =
        workloads.map(|(index, one)| parse_workload(mesh, one, &place("workloads", index)));
    Ok(rollout::RolloutWave {
        selection: WorkloadSelection {
            clusters: clusters.collect::<Result<_>>()?,
            namespaces: namespaces.collect::<Result<_>>()?,
            workloads: workloads.collect::<Result<_>>()?,
            percent: sent.percent,
        },
        soak_seconds: sent.soak_seconds,
    })
}

fn parse_workload(
    mesh: &Mesh,
    sent: &WorkloadChoice,
    at: &str,
) -> Result<rollout::SelectedWorkload> {
    check_object_name(&sent.namespace, &format!("{at}/namespace"))?;
    check_object_name(&sent.name, &format!("{at}/name"))?;
    Ok(rollout::SelectedWorkload {
        cluster: parse_member(mesh, &sent.cluster, &format!("{at}/cluster"))?,
        workload: WorkloadRef {
            namespace: sent.namespace.clone(),
            kind: known_value(
                &format!("{at}/kind"),
                &sent.kind,
                "a kind is deployment, stateful_set or daemon_set",
            )?,
            name: sent.name.clone(),
        },
    })
}

/// Reads the name of a cluster that must be a member of the mesh.
fn parse_member(mesh: &Mesh, name: &str, at: &str) -> Result<Name> {
    let known = mesh.members.iter().any(|member| member.name == name);
    let name = name.parse().ok().filter(|_| known);
    name.ok_or_else(|| ApiError::invalid_field(at, "it is not a member of the mesh"))
}

/// Checks a name that Kubernetes accepts for a namespace or a workload.
fn check_object_name(name: &str, at: &str) -> Result<()> {
    let plain = |letter: char| {
        letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-' || letter == '.'
    };
    if (1..=MAX_OBJECT_NAME_CHARS).contains(&name.len()) && name.chars().all(plain) {
        Ok(())
    } else {
        Err(ApiError::invalid_field(
            at,
            "a name has lower-case letters, digits, hyphens and points",
        ))
    }
}

/// Converts a policy to its wire form.
pub(crate) fn policy_view(policy: &RolloutPolicy) -> meshwright_wire::RolloutPolicy {
    let limits = policy.limits;
    meshwright_wire::RolloutPolicy {
        waves: policy.waves.iter().map(wave_view).collect(),
        max_concurrent: limits.max_concurrent,
        max_concurrent_per_cluster: limits.max_concurrent_per_cluster,
        max_concurrent_per_namespace: limits.max_concurrent_per_namespace,
        max_failures: policy.max_failures,
        on_failure: policy.on_failure.into(),
        evict_pods: policy.evict_pods,
    }
}

fn wave_view(wave: &rollout::RolloutWave) -> RolloutWave {
    let selection = &wave.selection;
    let workload = |one: &rollout::SelectedWorkload| SelectedWorkload {
        cluster: one.cluster.to_string(),
        namespace: one.workload.namespace.clone(),
        kind: one.workload.kind.into(),
        name: one.workload.name.clone(),
    };
    RolloutWave {
        clusters: selection.clusters.iter().map(Name::to_string).collect(),
        namespaces: selection.namespaces.clone(),
        workloads: selection.workloads.iter().map(workload).collect(),
        percent: selection.percent,
        soak_seconds: wave.soak_seconds,
    }
}
