//! Forecasts a roll-out from the last observation of the mesh: a pure function. The roll-out itself
//! asks each cluster by a dry run, so it may find more.

use jiff::Timestamp;
use meshwright_model::injection::{Injection, injected_by};
use meshwright_model::observation::{
    MemberObservation, NamespaceObservation, Observation, RestartBlocker, RestartReason,
    WorkloadObservation,
};
use meshwright_model::rollout::{ReplacedKind, RolloutPolicy};
use meshwright_wire::{
    ForecastActionValue as Action, ForecastReason, ForecastReasonCodeValue as Code, ForecastWave,
    ForecastWorkload, RolloutForecast,
};

/// Forecasts the restarts of a roll-out with this policy.
pub(super) fn forecast(
    policy: &RolloutPolicy,
    observed: Option<&(Timestamp, Observation)>,
) -> RolloutForecast {
    let mut workloads = Vec::new();
    if let Some((_, survey)) = observed {
        for member in &survey.members {
            for namespace in &member.namespaces {
                forecast_namespace(policy, survey, (member, namespace), &mut workloads);
            }
        }
    }
    workloads.sort_by_key(|workload| workload.wave);
    RolloutForecast {
        observed_at: observed.map(|(at, _)| *at),
        waves: forecast_waves(policy, &workloads),
        workloads,
    }
}

/// Adds the workloads of a namespace that are in the mesh, and the pods that no workload owns.
fn forecast_namespace(
    policy: &RolloutPolicy,
    survey: &Observation,
    (member, namespace): (&MemberObservation, &NamespaceObservation),
    into: &mut Vec<ForecastWorkload>,
) {
    for workload in &namespace.workloads {
        let Some((action, reason)) = judge(survey, member, namespace, workload) else {
            continue;
        };
        let wave = policy.wave_of(&member.member, &workload.workload, namespace.of_mesh);
        let action = match (action, workload.stuck) {
            (Action::Left, Some(_)) if policy.evict_pods => Action::Evict,
            (action, _) => action,
        };
        into.push(ForecastWorkload {
            wave: to_u32(wave + 1),
            cluster: member.member.to_string(),
            namespace: namespace.name.clone(),
            kind: ReplacedKind::from(workload.workload.kind).into(),
            name: workload.workload.name.clone(),
            pods: to_u32(workload.live.len()),
            action: action.into(),
            reason: reason.map(describe),
        });
    }
    for pod in &namespace.unreachable {
        into.push(ForecastWorkload {
            wave: to_u32(policy.waves.len() + 1),
            cluster: member.member.to_string(),
            namespace: namespace.name.clone(),
            kind: ReplacedKind::Pod.into(),
            name: pod.clone(),
            pods: 1,
            action: Action::Left.into(),
            reason: Some(describe(Code::NoWorkload)),
        });
    }
}

/// Returns the action on a workload and the reason for it; `None` for a workload outside the mesh.
fn judge(
    survey: &Observation,
    member: &MemberObservation,
    namespace: &NamespaceObservation,
    workload: &WorkloadObservation,
) -> Option<(Action, Option<Code>)> {
    let carries = workload.live.iter().any(Option::is_some);
    let wanted = match injected_by(&namespace.labels, &workload.template, &member.injectors) {
        Injection::Injected(wanted) => wanted,
        Injection::NotInjected(_) => {
            return carries.then_some((Action::None, Some(Code::NotInjected)));
        }
        Injection::Ambiguous(_) => return Some((Action::None, Some(Code::SeveralWebhooks))),
    };
    let Some(reason) = survey.restart_reason(workload, &wanted) else {
        return Some((Action::None, None));
    };
    Some(match workload.stuck {
        Some(RestartBlocker::SelfRolling) => (Action::None, Some(Code::SelfRolling)),
        Some(RestartBlocker::Paused) => (Action::Left, Some(Code::Paused)),
        Some(RestartBlocker::OnDelete) => (Action::Left, Some(Code::OnDelete)),
        Some(RestartBlocker::Partition) => (Action::Left, Some(Code::Partition)),
        Some(RestartBlocker::Owned) => (Action::Left, Some(Code::Owned)),
        None => (
            Action::Restart,
            Some(match reason {
                RestartReason::NoSidecar => Code::NoSidecar,
                RestartReason::Revision => Code::Revision,
                RestartReason::Image => Code::Image,
            }),
        ),
    })
}

/// Describes a reason in a sentence.
fn describe(code: Code) -> ForecastReason {
    let message = match code {
        Code::NoSidecar => "A pod has no sidecar.",
        Code::Revision => "Another revision injected a pod.",
        Code::Image => "A pod has another proxy image than its revision injects now.",
        Code::Paused => "The Deployment is paused, so a restart would wait for its owner.",
        Code::OnDelete => "The update strategy is OnDelete, so a changed template replaces no pod.",
        Code::Partition => "A partition of the StatefulSet keeps some of its pods.",
        Code::Owned => "Another controller owns it and would take a restart back.",
        Code::NoWorkload => {
            "No workload owns the pod that can be restarted, and its sidecar was not compared."
        }
        Code::SelfRolling => "Its Gateway rolls it when the tag moves.",
        Code::NotInjected => "A new pod would start without a sidecar.",
        Code::SeveralWebhooks => {
            "Several webhooks select its pods, so the wanted one is not known."
        }
    };
    ForecastReason {
        code: code.into(),
        message: message.into(),
    }
}

/// Sums up the waves of the policy, and the last one, which restarts all that is left.
fn forecast_waves(policy: &RolloutPolicy, workloads: &[ForecastWorkload]) -> Vec<ForecastWave> {
    let listed = policy
        .waves
        .iter()
        .map(|wave| (wave.selection.describe(), wave.soak_seconds));
    let last = ("all that is left".to_owned(), 0);
    let waves = (1..).zip(listed.chain([last]));
    let summed = waves.map(|(number, (title, soak_seconds))| {
        let of_wave = |actions: &'static [Action]| {
            let named = |workload: &ForecastWorkload| {
                actions.iter().any(|action| workload.action == *action)
            };
            workloads
                .iter()
                .filter(move |workload| workload.wave == number && named(workload))
        };
        let moved = &[Action::Restart, Action::Evict];
        ForecastWave {
            number,
            title,
            restarts: to_u32(of_wave(moved).count()),
            pods: of_wave(moved).map(|workload| workload.pods).sum(),
            left: to_u32(of_wave(&[Action::Left]).count()),
            soak_seconds,
        }
    });
    summed.collect()
}

fn to_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
