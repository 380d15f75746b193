//! Names the closed sets of values in bodies. A reader of a body keeps a value that it does not know,
//! and the `OpenAPI` document lists the values that the service knows.

use meshwright_model::{
    OpenEnum, access, closed_set, credential, edition, fleet, injection, leftover, observation,
    operation, plan, release, rollout, rules, upgrade, webhook,
};

/// Channel that offers a release.
pub type Channel = OpenEnum<release::Channel>;
/// State of a registered cluster.
pub type ClusterState = OpenEnum<fleet::ClusterStateName>;
/// State of the credential that Meshwright holds of a cluster.
pub type CredentialState = OpenEnum<credential::CredentialStatus>;
/// Reason why an attempt to deliver a message had no answer.
pub type DeliveryError = OpenEnum<webhook::DeliveryError>;
/// State of a delivery to a webhook.
pub type DeliveryState = OpenEnum<webhook::DeliveryState>;
/// Edition of a mesh or a tenant.
pub type Edition = OpenEnum<edition::Edition>;
/// Action of a roll-out on a workload.
pub type ForecastAction = OpenEnum<ForecastActionValue>;
/// Reason for the action of a roll-out on a workload.
pub type ForecastReasonCode = OpenEnum<ForecastReasonCodeValue>;
/// Kind of an event.
pub type EventKind = OpenEnum<webhook::EventKind>;
/// Reason why no single revision injects the pods of a namespace.
pub type InjectionConflict = OpenEnum<injection::InjectionConflict>;
/// Handling of namespaces whose label names the old revision.
pub type LabelPolicy = OpenEnum<upgrade::LabelPolicy>;
/// Kubernetes kind of an object that stays in a cluster.
pub type LeftoverKind = OpenEnum<leftover::LeftoverKind>;
/// Role of a cluster in a mesh.
pub type MemberRole = OpenEnum<fleet::MemberRole>;
/// State of a mesh.
pub type MeshState = OpenEnum<fleet::MeshStateName>;
/// Tag that every mesh has.
pub type MeshTag = OpenEnum<observation::MeshTag>;
/// Action of a roll-out's wave at its end if workloads are left.
pub type OnFailure = OpenEnum<rollout::OnFailure>;
/// Kind of an operation.
pub type OperationKind = OpenEnum<operation::OperationKind>;
/// State of an operation.
pub type OperationState = OpenEnum<operation::OperationStateName>;
/// Verb that can be sent to an operation.
pub type OperationVerb = OpenEnum<operation::Signal>;
/// Fault of a release that changes how the service acts.
pub type Quirk = OpenEnum<release::Quirk>;
/// Kind of reason against a version.
pub type ReasonCode = OpenEnum<rules::ReasonCode>;
/// Severity of a reason against a version.
pub type ReasonSeverity = OpenEnum<ReasonSeverityValue>;
/// State of a release.
pub type ReleaseState = OpenEnum<release::ReleaseState>;
/// State of a tenant that an operator can request.
pub type RequestedTenantState = OpenEnum<RequestedTenantStateValue>;
/// Reason why a restart does not reach the pods of a workload.
pub type RestartBlocker = OpenEnum<observation::RestartBlocker>;
/// Reason why a workload needs a restart.
pub type RestartReason = OpenEnum<observation::RestartReason>;
/// Way in which a roll-out replaces the pods of a workload.
pub type RolloutAction = OpenEnum<RolloutActionValue>;
/// Kind of an object whose pods a roll-out replaces.
pub type RolloutItemKind = OpenEnum<rollout::ReplacedKind>;
/// Role of a key, a person or a program.
pub type Role = OpenEnum<access::Role>;
/// Severity of a finding.
pub type Severity = OpenEnum<rules::Severity>;
/// Signature algorithm of an identity provider's tokens.
pub type SignatureAlgorithm = OpenEnum<SignatureAlgorithmValue>;
/// State of a step.
pub type StepState = OpenEnum<operation::StepState>;
/// Strategy of an upgrade.
pub type Strategy = OpenEnum<rules::Strategy>;
/// State of a tenant.
pub type TenantState = OpenEnum<fleet::TenantState>;
/// State of an upgrade.
pub type UpgradeState = OpenEnum<upgrade::UpgradeStateName>;
/// Verb that can be sent to an upgrade.
pub type UpgradeVerb = OpenEnum<UpgradeVerbValue>;
/// Kind of a workload that can be restarted.
pub type WorkloadKind = OpenEnum<plan::WorkloadKind>;
/// Reason why the service has switched a webhook off.
pub type WebhookStop = OpenEnum<webhook::WebhookStop>;

/// Severities of a reason against a version. A finding can also be a note, and a reason cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReasonSeverityValue {
    /// The reason forbids the upgrade.
    Block,
    /// The reason is shown to the user, who may go on.
    Warn,
}

closed_set!(ReasonSeverityValue {
    Block = "block",
    Warn = "warn",
});

/// States that an operator can give to a tenant. A tenant is deleted by an operation of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestedTenantStateValue {
    /// The tenant is in use.
    Active,
    /// No credential of the tenant is accepted.
    Suspended,
}

closed_set!(RequestedTenantStateValue {
    Active = "active",
    Suspended = "suspended",
});

/// Signature algorithms that need no shared secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureAlgorithmValue {
    /// RSA with PKCS #1 v1.5 and SHA-256.
    Rs256,
    /// RSA with PKCS #1 v1.5 and SHA-384.
    Rs384,
    /// RSA with PKCS #1 v1.5 and SHA-512.
    Rs512,
    /// RSA with PSS and SHA-256.
    Ps256,
    /// RSA with PSS and SHA-384.
    Ps384,
    /// RSA with PSS and SHA-512.
    Ps512,
    /// ECDSA with P-256 and SHA-256.
    Es256,
    /// ECDSA with P-384 and SHA-384.
    Es384,
    /// Edwards-curve signature.
    EdDsa,
}

closed_set!(SignatureAlgorithmValue {
    Rs256 = "RS256",
    Rs384 = "RS384",
    Rs512 = "RS512",
    Ps256 = "PS256",
    Ps384 = "PS384",
    Ps512 = "PS512",
    Es256 = "ES256",
    Es384 = "ES384",
    EdDsa = "EdDSA",
});

/// Ways in which a roll-out replaces pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RolloutActionValue {
    /// The pod template of the workload changes, and its controller replaces the pods.
    Restart,
    /// The pods are evicted one after the other, within their disruption budgets.
    Evict,
}

closed_set!(RolloutActionValue {
    Restart = "restart",
    Evict = "evict",
});

/// Actions of a roll-out on a workload, as a forecast tells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForecastActionValue {
    /// The workload is restarted.
    Restart,
    /// The pods of the workload are evicted, because a changed template does not replace them.
    Evict,
    /// The workload needs a restart, and no restart of the service replaces its pods.
    Left,
    /// Nothing is done, because no restart is needed or the pods are replaced without the service.
    None,
}

closed_set!(ForecastActionValue {
    Restart = "restart",
    Evict = "evict",
    Left = "left",
    None = "none",
});

/// Reasons for the action of a roll-out on a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForecastReasonCodeValue {
    /// Reason for a restart: a pod has no sidecar.
    NoSidecar,
    /// Reason for a restart: another revision injected a pod.
    Revision,
    /// Reason for a restart: a pod has another proxy image than the revision injects now.
    Image,
    /// The workload is left: its Deployment is paused.
    Paused,
    /// The workload is left: its update strategy is `OnDelete`.
    OnDelete,
    /// The workload is left: a partition of the `StatefulSet` keeps some of its pods.
    Partition,
    /// The workload is left: another controller owns it and would revert the change.
    Owned,
    /// The pod is left: no workload owns it that can be restarted, such as a bare pod or the pod of
    /// a Job.
    NoWorkload,
    /// Nothing is done: the workload is rolled by its Gateway when its tag moves.
    SelfRolling,
    /// Nothing is done: a new pod would start without a sidecar.
    NotInjected,
    /// Nothing is done: several webhooks select the pods, so the sidecar of a new pod is not known.
    SeveralWebhooks,
}

closed_set!(ForecastReasonCodeValue {
    NoSidecar = "no_sidecar",
    Revision = "revision",
    Image = "image",
    Paused = "paused",
    OnDelete = "on_delete",
    Partition = "partition",
    Owned = "owned",
    NoWorkload = "no_workload",
    SelfRolling = "self_rolling",
    NotInjected = "not_injected",
    SeveralWebhooks = "several_webhooks",
});

/// Verbs that a client can send to an upgrade. The service has one more, with which the forced
/// deletion of a mesh gives the upgrade up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpgradeVerbValue {
    /// Start a planned upgrade with its precheck.
    Start,
    /// End the upgrade before any cluster is changed.
    Cancel,
    /// Go on in spite of the warnings of the precheck.
    Acknowledge,
    /// Try again what failed.
    Retry,
    /// Move chosen namespaces to the canary.
    Move,
    /// Make the canary the current revision.
    Promote,
    /// Stop the work and keep it as it is.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Restore the state from before the upgrade.
    Rollback,
    /// Remove the old revision now.
    Retire,
    /// Go on without the workloads that the roll-out could not restart.
    Skip,
}

closed_set!(UpgradeVerbValue {
    Start = "start",
    Cancel = "cancel",
    Acknowledge = "acknowledge",
    Retry = "retry",
    Move = "move",
    Promote = "promote",
    Pause = "pause",
    Resume = "resume",
    Rollback = "rollback",
    Retire = "retire",
    Skip = "skip",
});

#[cfg(test)]
mod tests {
    use meshwright_model::ClosedSet;

    use super::*;

    /// Values of the service that no client can send, or that no answer of this place holds.
    fn differences<Known: ClosedSet, Sent: ClosedSet>() -> Vec<&'static str> {
        let sent = |name: &&str| Sent::from_name(name).is_none();
        assert!(
            Sent::VALUES
                .iter()
                .all(|value| Known::from_name(value.name()).is_some()),
            "the service knows every value that is sent"
        );
        Known::VALUES
            .iter()
            .map(|value| value.name())
            .filter(sent)
            .collect()
    }

    #[test]
    fn smaller_sets_lack_what_they_say_and_no_more() {
        assert_eq!(
            differences::<rules::Severity, ReasonSeverityValue>(),
            ["note"]
        );
        assert_eq!(
            differences::<fleet::TenantState, RequestedTenantStateValue>(),
            ["deleted"]
        );
        assert_eq!(
            differences::<upgrade::Verb, UpgradeVerbValue>(),
            ["abandon"]
        );
    }

    #[test]
    fn an_answer_of_a_newer_service_is_read_and_kept() {
        let sent = serde_json::json!({
            "version": "1.27.9.1",
            "strategies": [{
                "strategy": "blue_green",
                "allowed": false,
                "reasons": [{ "code": "full_moon", "severity": "sigh", "message": "Not now." }],
            }],
            "path": [],
        });
        let read: crate::UpgradeOption = serde_json::from_value(sent.clone()).expect("an answer");
        let option = &read.strategies[0];
        assert_eq!(option.strategy.known(), None);
        assert_eq!(option.strategy, "blue_green");
        assert_eq!(option.reasons[0].severity, "sigh");
        assert_eq!(serde_json::to_value(&read).expect("JSON"), sent);
    }
}
