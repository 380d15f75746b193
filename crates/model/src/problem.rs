//! Names the problems that the service reports. `docs/problems.md` explains each of them, and its
//! sections are compared with this list.

use crate::closed_set;

/// Stable identifier of a problem or a finding. The name of a value is stored and sent, so it never
/// changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProblemCode {
    /// See the section `address_refused` of `docs/problems.md`.
    AddressRefused,
    /// See the section `another_cluster` of `docs/problems.md`.
    AnotherCluster,
    /// See the section `answer_too_large` of `docs/problems.md`.
    AnswerTooLarge,
    /// See the section `answer_too_slow` of `docs/problems.md`.
    AnswerTooSlow,
    /// See the section `answer_unreadable` of `docs/problems.md`.
    AnswerUnreadable,
    /// See the section `attempts_exhausted` of `docs/problems.md`.
    AttemptsExhausted,
    /// See the section `authority_damaged` of `docs/problems.md`.
    AuthorityDamaged,
    /// See the section `bad_idempotency_key` of `docs/problems.md`.
    BadIdempotencyKey,
    /// See the section `body_too_large` of `docs/problems.md`.
    BodyTooLarge,
    /// See the section `body_too_slow` of `docs/problems.md`.
    BodyTooSlow,
    /// See the section `both_labels` of `docs/problems.md`.
    BothLabels,
    /// See the section `cannot_restart` of `docs/problems.md`.
    CannotRestart,
    /// See the section `changed_by_someone_else` of `docs/problems.md`.
    ChangedBySomeoneElse,
    /// See the section `charts_refused` of `docs/problems.md`.
    ChartsRefused,
    /// See the section `cluster_changed` of `docs/problems.md`.
    ClusterChanged,
    /// See the section `cluster_gone` of `docs/problems.md`.
    ClusterGone,
    /// See the section `cluster_in_a_mesh` of `docs/problems.md`.
    ClusterInAMesh,
    /// See the section `cluster_in_use` of `docs/problems.md`.
    ClusterInUse,
    /// See the section `cluster_not_ready` of `docs/problems.md`.
    ClusterNotReady,
    /// See the section `cluster_refused` of `docs/problems.md`.
    ClusterRefused,
    /// See the section `cluster_registered_already` of `docs/problems.md`.
    ClusterRegisteredAlready,
    /// See the section `cluster_unreachable` of `docs/problems.md`.
    ClusterUnreachable,
    /// See the section `contact_too_slow` of `docs/problems.md`.
    ContactTooSlow,
    /// See the section `control_plane_not_ready` of `docs/problems.md`.
    ControlPlaneNotReady,
    /// See the section `creation_cancelled` of `docs/problems.md`.
    CreationCancelled,
    /// See the section `credential_expired` of `docs/problems.md`.
    CredentialExpired,
    /// See the section `credential_refused` of `docs/problems.md`.
    CredentialRefused,
    /// Work of the service is retried later, because the database did not answer. No user sees this
    /// code.
    Database,
    /// See the section `deletion_cancelled` of `docs/problems.md`.
    DeletionCancelled,
    /// See the section `deletion_protected` of `docs/problems.md`.
    DeletionProtected,
    /// See the section `deregistration_under_way` of `docs/problems.md`.
    DeregistrationUnderWay,
    /// See the section `dry_run_failed` of `docs/problems.md`.
    DryRunFailed,
    /// See the section `edition_not_granted` of `docs/problems.md`.
    EditionNotGranted,
    /// See the section `events_expired` of `docs/problems.md`.
    EventsExpired,
    /// See the section `foreign_istio` of `docs/problems.md`.
    ForeignIstio,
    /// See the section `granted_already` of `docs/problems.md`.
    GrantedAlready,
    /// See the section `hosting_cluster_in_use` of `docs/problems.md`.
    HostingClusterInUse,
    /// See the section `idempotency_key_reused` of `docs/problems.md`.
    IdempotencyKeyReused,
    /// See the section `if_match_missing` of `docs/problems.md`.
    IfMatchMissing,
    /// See the section `injected_by_another_revision` of `docs/problems.md`.
    InjectedByAnotherRevision,
    /// See the section `internal` of `docs/problems.md`.
    Internal,
    /// See the section `invalid_field` of `docs/problems.md`.
    InvalidField,
    /// See the section `invalid_transition` of `docs/problems.md`.
    InvalidTransition,
    /// See the section `issuer_known` of `docs/problems.md`.
    IssuerKnown,
    /// See the section `kubeconfig_refused` of `docs/problems.md`.
    KubeconfigRefused,
    /// See the section `kubernetes_too_old` of `docs/problems.md`.
    KubernetesTooOld,
    /// See the section `label_names_revision` of `docs/problems.md`.
    LabelNamesRevision,
    /// See the section `last_owner` of `docs/problems.md`.
    LastOwner,
    /// See the section `list_repeats` of `docs/problems.md`.
    ListRepeats,
    /// See the section `list_too_long` of `docs/problems.md`.
    ListTooLong,
    /// See the section `list_too_slow` of `docs/problems.md`.
    ListTooSlow,
    /// See the section `look_too_slow` of `docs/problems.md`.
    LookTooSlow,
    /// See the section `malformed_body` of `docs/problems.md`.
    MalformedBody,
    /// See the section `malformed_query` of `docs/problems.md`.
    MalformedQuery,
    /// See the section `malformed_request` of `docs/problems.md`.
    MalformedRequest,
    /// See the section `member_answers` of `docs/problems.md`.
    MemberAnswers,
    /// See the section `mesh_busy` of `docs/problems.md`.
    MeshBusy,
    /// See the section `mesh_not_deleted` of `docs/problems.md`.
    MeshNotDeleted,
    /// See the section `mesh_not_failed` of `docs/problems.md`.
    MeshNotFailed,
    /// See the section `mesh_not_ready` of `docs/problems.md`.
    MeshNotReady,
    /// See the section `method_not_allowed` of `docs/problems.md`.
    MethodNotAllowed,
    /// See the section `moved_on` of `docs/problems.md`.
    MovedOn,
    /// See the section `name_taken` of `docs/problems.md`.
    NameTaken,
    /// See the section `namespace_not_found` of `docs/problems.md`.
    NamespaceNotFound,
    /// See the section `next_pod_refused` of `docs/problems.md`.
    NextPodRefused,
    /// See the section `no_hosting_cluster` of `docs/problems.md`.
    NoHostingCluster,
    /// See the section `no_members` of `docs/problems.md`.
    NoMembers,
    /// See the section `no_progress` of `docs/problems.md`.
    NoProgress,
    /// See the section `no_such_revision` of `docs/problems.md`.
    NoSuchRevision,
    /// See the section `no_target` of `docs/problems.md`.
    NoTarget,
    /// See the section `not_a_member` of `docs/problems.md`.
    NotAMember,
    /// See the section `not_found` of `docs/problems.md`.
    NotFound,
    /// See the section `not_injected` of `docs/problems.md`.
    NotInjected,
    /// See the section `not_json` of `docs/problems.md`.
    NotJson,
    /// See the section `operation_ended` of `docs/problems.md`.
    OperationEnded,
    /// See the section `paused_by_user` of `docs/problems.md`.
    PausedByUser,
    /// See the section `permission_missing` of `docs/problems.md`.
    PermissionMissing,
    /// See the section `pod_without_workload` of `docs/problems.md`.
    PodWithoutWorkload,
    /// See the section `probe_refused` of `docs/problems.md`.
    ProbeRefused,
    /// See the section `proxy_too_old` of `docs/problems.md`.
    ProxyTooOld,
    /// See the section `quota_exceeded` of `docs/problems.md`.
    QuotaExceeded,
    /// See the section `rate_limited` of `docs/problems.md`.
    RateLimited,
    /// See the section `reason_missing` of `docs/problems.md`.
    ReasonMissing,
    /// See the section `record_damaged` of `docs/problems.md`.
    RecordDamaged,
    /// See the section `registration_cancelled` of `docs/problems.md`.
    RegistrationCancelled,
    /// See the section `release_damaged` of `docs/problems.md`.
    ReleaseDamaged,
    /// See the section `release_known` of `docs/problems.md`.
    ReleaseKnown,
    /// See the section `release_missing` of `docs/problems.md`.
    ReleaseMissing,
    /// See the section `render_failed` of `docs/problems.md`.
    RenderFailed,
    /// See the section `renewal_under_way` of `docs/problems.md`.
    RenewalUnderWay,
    /// See the section `request_in_flight` of `docs/problems.md`.
    RequestInFlight,
    /// See the section `resource_names_revision` of `docs/problems.md`.
    ResourceNamesRevision,
    /// See the section `revision_in_use` of `docs/problems.md`.
    RevisionInUse,
    /// See the section `revision_missing` of `docs/problems.md`.
    RevisionMissing,
    /// See the section `revision_name_taken` of `docs/problems.md`.
    RevisionNameTaken,
    /// See the section `role_missing` of `docs/problems.md`.
    RoleMissing,
    /// See the section `rollout_partial` of `docs/problems.md`.
    RolloutPartial,
    /// See the section `rotation_under_way` of `docs/problems.md`.
    RotationUnderWay,
    /// See the section `secrets_erased` of `docs/problems.md`.
    SecretsErased,
    /// See the section `services_stay_local` of `docs/problems.md`.
    ServicesStayLocal,
    /// See the section `stage_of_an_upgrade` of `docs/problems.md`.
    StageOfAnUpgrade,
    /// See the section `step_timed_out` of `docs/problems.md`.
    StepTimedOut,
    /// See the section `still_there` of `docs/problems.md`.
    StillThere,
    /// See the section `tag_split` of `docs/problems.md`.
    TagSplit,
    /// See the section `template_names_revision` of `docs/problems.md`.
    TemplateNamesRevision,
    /// See the section `tenant_in_use` of `docs/problems.md`.
    TenantInUse,
    /// See the section `tenant_suspended` of `docs/problems.md`.
    TenantSuspended,
    /// See the section `token_unusable` of `docs/problems.md`.
    TokenUnusable,
    /// See the section `try_again` of `docs/problems.md`.
    TryAgain,
    /// See the section `unauthenticated` of `docs/problems.md`.
    Unauthenticated,
    /// See the section `undelete_too_late` of `docs/problems.md`.
    UndeleteTooLate,
    /// See the section `unknown_arguments` of `docs/problems.md`.
    UnknownArguments,
    /// See the section `unknown_step` of `docs/problems.md`.
    UnknownStep,
    /// See the section `unknown_version` of `docs/problems.md`.
    UnknownVersion,
    /// See the section `upgrade_abandoned` of `docs/problems.md`.
    UpgradeAbandoned,
    /// See the section `upgrade_refused` of `docs/problems.md`.
    UpgradeRefused,
    /// See the section `version_not_in_catalogue` of `docs/problems.md`.
    VersionNotInCatalogue,
    /// See the section `version_refused` of `docs/problems.md`.
    VersionRefused,
    /// See the section `webhook_disabled` of `docs/problems.md`.
    WebhookDisabled,
    /// See the section `webhook_failed` of `docs/problems.md`.
    WebhookFailed,
    /// See the section `webhook_silent` of `docs/problems.md`.
    WebhookSilent,
    /// See the section `workload_not_ready` of `docs/problems.md`.
    WorkloadNotReady,
}

closed_set!(ProblemCode {
    AddressRefused = "address_refused",
    AnotherCluster = "another_cluster",
    AnswerTooLarge = "answer_too_large",
    AnswerTooSlow = "answer_too_slow",
    AnswerUnreadable = "answer_unreadable",
    AttemptsExhausted = "attempts_exhausted",
    AuthorityDamaged = "authority_damaged",
    BadIdempotencyKey = "bad_idempotency_key",
    BodyTooLarge = "body_too_large",
    BodyTooSlow = "body_too_slow",
    BothLabels = "both_labels",
    CannotRestart = "cannot_restart",
    ChangedBySomeoneElse = "changed_by_someone_else",
    ChartsRefused = "charts_refused",
    ClusterChanged = "cluster_changed",
    ClusterGone = "cluster_gone",
    ClusterInAMesh = "cluster_in_a_mesh",
    ClusterInUse = "cluster_in_use",
    ClusterNotReady = "cluster_not_ready",
    ClusterRefused = "cluster_refused",
    ClusterRegisteredAlready = "cluster_registered_already",
    ClusterUnreachable = "cluster_unreachable",
    ContactTooSlow = "contact_too_slow",
    ControlPlaneNotReady = "control_plane_not_ready",
    CreationCancelled = "creation_cancelled",
    CredentialExpired = "credential_expired",
    CredentialRefused = "credential_refused",
    Database = "database",
    DeletionCancelled = "deletion_cancelled",
    DeletionProtected = "deletion_protected",
    DeregistrationUnderWay = "deregistration_under_way",
    DryRunFailed = "dry_run_failed",
    EditionNotGranted = "edition_not_granted",
    EventsExpired = "events_expired",
    ForeignIstio = "foreign_istio",
    GrantedAlready = "granted_already",
    HostingClusterInUse = "hosting_cluster_in_use",
    IdempotencyKeyReused = "idempotency_key_reused",
    IfMatchMissing = "if_match_missing",
    InjectedByAnotherRevision = "injected_by_another_revision",
    Internal = "internal",
    InvalidField = "invalid_field",
    InvalidTransition = "invalid_transition",
    IssuerKnown = "issuer_known",
    KubeconfigRefused = "kubeconfig_refused",
    KubernetesTooOld = "kubernetes_too_old",
    LabelNamesRevision = "label_names_revision",
    LastOwner = "last_owner",
    ListRepeats = "list_repeats",
    ListTooLong = "list_too_long",
    ListTooSlow = "list_too_slow",
    LookTooSlow = "look_too_slow",
    MalformedBody = "malformed_body",
    MalformedQuery = "malformed_query",
    MalformedRequest = "malformed_request",
    MemberAnswers = "member_answers",
    MeshBusy = "mesh_busy",
    MeshNotDeleted = "mesh_not_deleted",
    MeshNotFailed = "mesh_not_failed",
    MeshNotReady = "mesh_not_ready",
    MethodNotAllowed = "method_not_allowed",
    MovedOn = "moved_on",
    NameTaken = "name_taken",
    NamespaceNotFound = "namespace_not_found",
    NextPodRefused = "next_pod_refused",
    NoHostingCluster = "no_hosting_cluster",
    NoMembers = "no_members",
    NoProgress = "no_progress",
    NoSuchRevision = "no_such_revision",
    NoTarget = "no_target",
    NotAMember = "not_a_member",
    NotFound = "not_found",
    NotInjected = "not_injected",
    NotJson = "not_json",
    OperationEnded = "operation_ended",
    PausedByUser = "paused_by_user",
    PermissionMissing = "permission_missing",
    PodWithoutWorkload = "pod_without_workload",
    ProbeRefused = "probe_refused",
    ProxyTooOld = "proxy_too_old",
    QuotaExceeded = "quota_exceeded",
    RateLimited = "rate_limited",
    ReasonMissing = "reason_missing",
    RecordDamaged = "record_damaged",
    RegistrationCancelled = "registration_cancelled",
    ReleaseDamaged = "release_damaged",
    ReleaseKnown = "release_known",
    ReleaseMissing = "release_missing",
    RenderFailed = "render_failed",
    RenewalUnderWay = "renewal_under_way",
    RequestInFlight = "request_in_flight",
    ResourceNamesRevision = "resource_names_revision",
    RevisionInUse = "revision_in_use",
    RevisionMissing = "revision_missing",
    RevisionNameTaken = "revision_name_taken",
    RoleMissing = "role_missing",
    RolloutPartial = "rollout_partial",
    RotationUnderWay = "rotation_under_way",
    SecretsErased = "secrets_erased",
    ServicesStayLocal = "services_stay_local",
    StageOfAnUpgrade = "stage_of_an_upgrade",
    StepTimedOut = "step_timed_out",
    StillThere = "still_there",
    TagSplit = "tag_split",
    TemplateNamesRevision = "template_names_revision",
    TenantInUse = "tenant_in_use",
    TenantSuspended = "tenant_suspended",
    TokenUnusable = "token_unusable",
    TryAgain = "try_again",
    Unauthenticated = "unauthenticated",
    UndeleteTooLate = "undelete_too_late",
    UnknownArguments = "unknown_arguments",
    UnknownStep = "unknown_step",
    UnknownVersion = "unknown_version",
    UpgradeAbandoned = "upgrade_abandoned",
    UpgradeRefused = "upgrade_refused",
    VersionNotInCatalogue = "version_not_in_catalogue",
    VersionRefused = "version_refused",
    WebhookDisabled = "webhook_disabled",
    WebhookFailed = "webhook_failed",
    WebhookSilent = "webhook_silent",
    WorkloadNotReady = "workload_not_ready",
});

impl ProblemCode {
    /// Returns true for a code that no user sees, and that no page explains.
    pub fn is_internal(self) -> bool {
        matches!(self, Self::Database)
    }
}
