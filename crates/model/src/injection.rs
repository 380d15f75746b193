//! Decides which control plane injects a pod. This is Istio's selection by webhook selectors as a
//! pure function.
//!
//! The rules come from the `istio-sidecar-injector` and revision-tag webhook templates of Istio
//! 1.25 and 1.27. The API server calls every webhook whose selectors match, so two matches give a
//! pod that is half of one version and half of another.

use serde::{Deserialize, Serialize};

use crate::{RevisionName, closed_set};

/// Labels of a namespace that injection reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceLabels {
    /// Value of `istio-injection`; `None` without the label.
    pub injection: Option<String>,
    /// Value of `istio.io/rev`; `None` without the label.
    pub rev: Option<String>,
}

/// Labels of a pod that injection reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodLabels {
    /// Value of `sidecar.istio.io/inject`; `None` without the label.
    pub inject: Option<String>,
    /// Value of `istio.io/rev`; `None` without the label.
    pub rev: Option<String>,
}

/// Injection webhook configuration of a revision or of a revision tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Injector {
    /// Value of `istio.io/rev` that the webhook selects: the name of the revision or of the tag.
    pub value: String,
    /// Revision whose control plane the webhook calls.
    pub revision: RevisionName,
    /// True for the tag `default`, which also selects `istio-injection=enabled` and
    /// `sidecar.istio.io/inject=true`.
    pub serves_default: bool,
}

/// Result of the injection webhooks for a new pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Injection {
    /// Exactly one webhook matches, and its revision injects the pod.
    Injected(RevisionName),
    /// No webhook matches: the pod starts without a sidecar, and no error is reported.
    NotInjected(NoInjection),
    /// Several webhooks match: the pod becomes a hybrid of their revisions.
    Ambiguous(Vec<RevisionName>),
}

/// Reason why a pod gets no sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoInjection {
    /// Neither the namespace nor the pod asks for a sidecar.
    NotRequested,
    /// A label of the namespace or of the pod forbids it.
    OptedOut,
    /// A label asks for a value that no webhook selects. Users fear this fault most, because
    /// Kubernetes and Istio report nothing.
    NoSuchRevision,
}

/// Reason why no single revision injects the pods of a namespace that asks for sidecars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InjectionConflict {
    /// The namespace has both label keys, and Istio would ignore one of them.
    BothLabels,
    /// Several webhooks select the pods.
    SeveralWebhooks,
    /// A label asks for a value that no webhook selects.
    NoSuchRevision,
}

closed_set!(InjectionConflict {
    BothLabels = "both_labels",
    SeveralWebhooks = "several_webhooks",
    NoSuchRevision = "no_such_revision",
});

/// Applies the selectors of every webhook to one pod, and returns the revision that injects it.
pub fn injected_by(
    namespace: &NamespaceLabels,
    pod: &PodLabels,
    injectors: &[Injector],
) -> Injection {
    let mut matching: Vec<RevisionName> = injectors
        .iter()
        .filter(|i| i.matches_pod(namespace, pod))
        .map(|i| i.revision.clone())
        .collect();
    if matching.len() == 1 {
        return Injection::Injected(matching.remove(0));
    }
    if matching.is_empty() {
        Injection::NotInjected(no_injection_reason(namespace, pod))
    } else {
        Injection::Ambiguous(matching)
    }
}

impl Injector {
    /// Returns true when one of the configuration's entries selects the pod. At most one of them
    /// can.
    fn matches_pod(&self, namespace: &NamespaceLabels, pod: &PodLabels) -> bool {
        let refused = pod.inject.as_deref() == Some("false");
        let unlabelled = namespace.injection.is_none() && namespace.rev.is_none();
        let mine = |rev: &Option<String>| rev.as_ref() == Some(&self.value);
        let by_namespace_rev = mine(&namespace.rev) && namespace.injection.is_none() && !refused;
        let by_pod_rev = unlabelled && mine(&pod.rev) && !refused;
        let enabled = namespace.injection.as_deref() == Some("enabled");
        let by_namespace = self.serves_default && enabled && !refused;
        let by_pod = self.serves_default
            && unlabelled
            && pod.inject.as_deref() == Some("true")
            && pod.rev.is_none();
        by_namespace_rev || by_pod_rev || by_namespace || by_pod
    }
}

fn no_injection_reason(namespace: &NamespaceLabels, pod: &PodLabels) -> NoInjection {
    let namespace_refuses = namespace
        .injection
        .as_deref()
        .is_some_and(|value| value != "enabled");
    if pod.inject.as_deref() == Some("false") || namespace_refuses {
        return NoInjection::OptedOut;
    }
    let asked = namespace.injection.is_some()
        || namespace.rev.is_some()
        || pod.rev.is_some()
        || pod.inject.as_deref() == Some("true");
    if asked {
        NoInjection::NoSuchRevision
    } else {
        NoInjection::NotRequested
    }
}

/// Returns true for a namespace with both label keys. Our API refuses this and the precheck reports
/// it, because Istio would ignore one of the two labels.
pub fn labels_conflict(namespace: &NamespaceLabels) -> bool {
    namespace.injection.is_some() && namespace.rev.is_some()
}

/// Returns the reason why no single revision injects the pods of a namespace, from the result of the
/// webhooks for a pod without labels of its own; `None` without a conflict.
pub fn injection_conflict(
    namespace: &NamespaceLabels,
    injection: &Injection,
) -> Option<InjectionConflict> {
    match injection {
        _ if labels_conflict(namespace) => Some(InjectionConflict::BothLabels),
        Injection::Ambiguous(_) => Some(InjectionConflict::SeveralWebhooks),
        Injection::NotInjected(NoInjection::NoSuchRevision) => {
            Some(InjectionConflict::NoSuchRevision)
        }
        Injection::Injected(_) | Injection::NotInjected(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn revision(text: &str) -> RevisionName {
        text.parse().expect(text)
    }

    /// Returns the webhooks of a mesh in the middle of a canary: two revisions, and the three tags
    /// that every mesh has.
    fn canary_mesh() -> Vec<Injector> {
        let injector = |value: &str, to: &str| Injector {
            value: value.into(),
            revision: revision(to),
            serves_default: value == "default",
        };
        vec![
            injector("1-25-1", "1-25-1"),
            injector("1-27-9", "1-27-9"),
            injector("stable", "1-25-1"),
            injector("default", "1-25-1"),
            injector("canary", "1-27-9"),
        ]
    }

    fn injected(
        injection: Option<&str>,
        rev: Option<&str>,
        inject: Option<&str>,
        pod_rev: Option<&str>,
    ) -> String {
        let own = |value: Option<&str>| value.map(str::to_owned);
        let namespace = NamespaceLabels {
            injection: own(injection),
            rev: own(rev),
        };
        let pod = PodLabels {
            inject: own(inject),
            rev: own(pod_rev),
        };
        match injected_by(&namespace, &pod, &canary_mesh()) {
            Injection::Injected(revision) => revision.to_string(),
            Injection::NotInjected(why) => format!("{why:?}"),
            Injection::Ambiguous(all) => format!("{all:?}"),
        }
    }

    #[test]
    fn b4_each_label_form_reaches_its_revision() {
        assert_eq!(injected(Some("enabled"), None, None, None), "1-25-1");
        assert_eq!(injected(None, Some("stable"), None, None), "1-25-1");
        assert_eq!(injected(None, Some("1-25-1"), None, None), "1-25-1");
        assert_eq!(injected(None, Some("1-27-9"), None, None), "1-27-9");
        assert_eq!(injected(None, Some("canary"), None, None), "1-27-9");
    }

    /// Compares the whole table: the result of istiod's webhooks for every combination of label
    /// values that matter.
    #[test]
    fn the_truth_table_holds() {
        let injections = [None, Some("enabled"), Some("disabled")];
        let revs = [None, Some("1-27-9"), Some("gone")];
        let injects = [None, Some("true"), Some("false")];
        let mut table = String::new();
        for injection in injections {
            for rev in revs {
                for inject in injects {
                    for pod_rev in revs {
                        let row = [injection, rev, inject, pod_rev]
                            .map(|value| value.unwrap_or("-"))
                            .join(" ");
                        table +=
                            &format!("{row} => {}\n", injected(injection, rev, inject, pod_rev));
                    }
                }
            }
        }
        assert_eq!(table, include_str!("../tests/injection.txt"));
    }

    proptest! {
        #[test]
        fn a_pod_that_opts_out_is_never_injected(injection in proptest::option::of("enabled|disabled|x"), rev in proptest::option::of("stable|default|canary|1-25-1|gone"), pod_rev in proptest::option::of("stable|1-27-9|gone")) {
            let namespace = NamespaceLabels { injection, rev };
            let pod = PodLabels { inject: Some("false".into()), rev: pod_rev };
            prop_assert_eq!(injected_by(&namespace, &pod, &canary_mesh()), Injection::NotInjected(NoInjection::OptedOut));
        }

        #[test]
        fn distinct_values_never_give_a_hybrid(injection in proptest::option::of("enabled|disabled"), rev in proptest::option::of("stable|default|canary|1-25-1"), inject in proptest::option::of("true|false"), pod_rev in proptest::option::of("stable|1-27-9")) {
            let namespace = NamespaceLabels { injection, rev };
            let pod = PodLabels { inject, rev: pod_rev };
            let several = matches!(injected_by(&namespace, &pod, &canary_mesh()), Injection::Ambiguous(_));
            prop_assert!(!several);
        }
    }

    #[test]
    fn a_second_object_for_a_living_value_gives_a_hybrid() {
        let mut injectors = canary_mesh();
        injectors.push(Injector {
            value: "1-25-1".into(),
            revision: revision("1-27-9"),
            serves_default: false,
        });
        let namespace = NamespaceLabels {
            injection: None,
            rev: Some("1-25-1".into()),
        };
        assert_eq!(
            injected_by(&namespace, &PodLabels::default(), &injectors),
            Injection::Ambiguous(vec![revision("1-25-1"), revision("1-27-9")])
        );
    }
}
