//! Reads the policy of a roll-out from the arguments.

use meshwright_wire::{CreateRollout, OnFailure, WaveChoice, WorkloadChoice, WorkloadKind};

use crate::options::PolicyArgs;
use crate::{Failure, Result};

/// Reads the policy; `None` if no argument is about it.
pub(crate) fn parse_policy(given: &PolicyArgs) -> Result<Option<CreateRollout>> {
    let waves = given.waves.iter().map(|text| parse_wave(text));
    let default = CreateRollout::default();
    let on_failure = given.on_failure.as_ref().map(OnFailure::from_name);
    let policy = CreateRollout {
        waves: waves.collect::<Result<_>>()?,
        max_concurrent: given.max_concurrent,
        max_concurrent_per_cluster: given.per_cluster,
        max_concurrent_per_namespace: given.per_namespace,
        max_failures: given.max_failures,
        on_failure: on_failure.unwrap_or_else(|| default.on_failure.clone()),
        evict_pods: given.evict_pods,
    };
    Ok((policy != default).then_some(policy))
}

/// Reads a wave: conditions and a soak of the form `name=value`, with spaces between them.
fn parse_wave(text: &str) -> Result<WaveChoice> {
    let wrong = |problem: String| Failure::new(2, format!("--wave {text:?}: {problem}"));
    let mut wave = WaveChoice::default();
    for part in text.split_whitespace() {
        let (name, value) = part
            .split_once('=')
            .ok_or_else(|| wrong(format!("{part} is not name=value")))?;
        let listed = value.split(',').map(str::to_owned);
        match name {
            "clusters" => wave.clusters.extend(listed),
            "namespaces" => wave.namespaces.extend(listed),
            "workloads" => {
                for workload in value.split(',') {
                    wave.workloads
                        .push(parse_workload(workload).map_err(&wrong)?);
                }
            }
            "percent" => {
                let number = value.trim_end_matches('%').parse();
                wave.percent = Some(number.map_err(|_| wrong(format!("{value} is no number")))?);
            }
            "soak" => wave.soak_seconds = parse_seconds(value).map_err(&wrong)?,
            _ => {
                return Err(wrong(format!(
                    "{name} is not clusters, namespaces, workloads, percent or soak"
                )));
            }
        }
    }
    Ok(wave)
}

fn parse_workload(text: &str) -> std::result::Result<WorkloadChoice, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let [cluster, namespace, kind, name] = parts.as_slice() else {
        return Err(format!("{text} is not CLUSTER/NAMESPACE/KIND/NAME"));
    };
    // Tables show kinds as kubectl does.
    let kind = match kind.to_ascii_lowercase().as_str() {
        "statefulset" => "stateful_set".to_owned(),
        "daemonset" => "daemon_set".to_owned(),
        other => other.to_owned(),
    };
    Ok(WorkloadChoice {
        cluster: (*cluster).to_owned(),
        namespace: (*namespace).to_owned(),
        kind: WorkloadKind::from_name(kind),
        name: (*name).to_owned(),
    })
}

/// Reads a duration of whole seconds, minutes, hours or days, for example `90`, `10m` or `2d`.
fn parse_seconds(text: &str) -> std::result::Result<u32, String> {
    let (number, factor) = match text.char_indices().last() {
        Some((end, 's')) => (&text[..end], 1),
        Some((end, 'm')) => (&text[..end], 60),
        Some((end, 'h')) => (&text[..end], 60 * 60),
        Some((end, 'd')) => (&text[..end], 24 * 60 * 60),
        _ => (text, 1),
    };
    let number: Option<u32> = number.parse().ok();
    number
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| format!("{text} is not a time such as 90s, 10m, 2h or 1d"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wave_has_conditions_and_a_soak() {
        let wave = parse_wave(
            "clusters=east,west namespaces=shop percent=10% soak=10m workloads=east/shop/StatefulSet/db",
        )
        .expect("a wave");
        assert_eq!(wave.clusters, ["east", "west"]);
        assert_eq!(wave.namespaces, ["shop"]);
        assert_eq!((wave.percent, wave.soak_seconds), (Some(10), 600));
        assert_eq!(wave.workloads[0].kind.as_str(), "stateful_set");
        for wrong in [
            "shop",
            "percent=many",
            "soak=tomorrow",
            "soak=4294967295d",
            "workloads=web",
            "colour=red",
        ] {
            assert_eq!(parse_wave(wrong).expect_err(wrong).code, 2);
        }
    }

    #[test]
    fn without_arguments_there_is_no_policy() {
        assert_eq!(parse_policy(&PolicyArgs::default()).expect("none"), None);
        let given = PolicyArgs {
            on_failure: Some("continue".into()),
            ..PolicyArgs::default()
        };
        let policy = parse_policy(&given).expect("a policy").expect("one");
        assert_eq!(policy.on_failure.as_str(), "continue");
    }
}
