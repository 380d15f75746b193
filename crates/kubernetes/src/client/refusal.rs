//! Explains an error status of a cluster in our own words. The cluster's message is untrusted text:
//! only bounded facts are parsed from it, and the rest goes to the debug log.

use http::StatusCode;
use serde_json::Value;

/// Maximum length of a name that Kubernetes gives, in bytes: that of a DNS name.
const MAX_NAME_BYTES: usize = 253;
/// Maximum length of a field's path that we repeat, in bytes.
const MAX_FIELD_BYTES: usize = 128;

/// Error status that a cluster answered in place of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ErrorStatus {
    pub(crate) status: StatusCode,
    /// Explanation in our own words. It may name a webhook, a policy, a quota or a field.
    pub(crate) message: String,
    /// Whether the cluster's message names the webhook, policy, quota or object that refused the
    /// request. Without such a cause, a server error says nothing about the request.
    pub(crate) names_cause: bool,
}

/// Our words before and after the name of a quota that is used up.
const QUOTA_NAMED: &str = "the quota ";
const QUOTA_EXCEEDED: &str = " is exceeded";

/// Known messages of Kubernetes' own code: the start of the message, after which a quoted or plain
/// name follows, and our words before and after that name.
const KNOWN_REASONS: [(&str, &str, &str); 9] = [
    ("admission webhook ", "the admission webhook ", " denied it"),
    ("failed calling webhook ", "the webhook ", " did not answer"),
    (
        "ValidatingAdmissionPolicy ",
        "the ValidatingAdmissionPolicy ",
        " denied it",
    ),
    ("exceeded quota: ", QUOTA_NAMED, QUOTA_EXCEEDED),
    (
        "failed quota: ",
        "the quota ",
        " needs values that the object does not have",
    ),
    (
        "violates PodSecurity ",
        "the Pod Security level ",
        " does not allow it",
    ),
    ("no matches for kind ", "the kind ", " is unknown there"),
    (
        ": serviceaccount ",
        "the service account ",
        " does not exist",
    ),
    (
        "unable to create new content in namespace ",
        "the namespace ",
        " is being deleted",
    ),
];

impl ErrorStatus {
    /// Reads the body of an error answer. It should be a `Status`, but may be anything.
    pub(crate) fn from_status_body(status: StatusCode, asked: &str, body: &Value) -> Self {
        let message = body["message"].as_str().unwrap_or_default();
        tracing::debug!(
            asked,
            status = status.as_u16(),
            message,
            "a cluster refused a request"
        );
        let cause = explain_message(message);
        let names_cause = cause.is_some();
        let words = cause
            .or_else(|| invalid_field(body))
            .unwrap_or_else(|| generic_reason(status, asked, body));
        Self {
            status,
            message: words,
            names_cause,
        }
    }
}

/// Finds a known reason in a message of a cluster, and returns it in our words with the name that
/// follows it.
pub(crate) fn explain_message(message: &str) -> Option<String> {
    KNOWN_REASONS.iter().find_map(|(start, before, after)| {
        let rest = &message[message.find(start)? + start.len()..];
        let rest = rest.trim_start_matches(['"', '\'']);
        let end = rest.find(['"', '\'', ',', ' ']).unwrap_or(rest.len());
        let name = &rest[..end];
        is_plain_name(name).then(|| format!("{before}{name}{after}"))
    })
}

/// Returns whether a reason in our words tells that a quota is used up.
pub(crate) fn is_exceeded_quota(cause: &str) -> bool {
    cause.starts_with(QUOTA_NAMED) && cause.ends_with(QUOTA_EXCEEDED)
}

/// Names the field that the cluster found invalid.
fn invalid_field(body: &Value) -> Option<String> {
    let field = body.pointer("/details/causes/0/field")?.as_str()?;
    let plain = field
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b".[]-_/".contains(&byte));
    let fits = plain && !field.is_empty() && field.len() <= MAX_FIELD_BYTES;
    fits.then(|| format!("the field {field} of the object is not valid there"))
}

/// Explains a status for which no known reason was found.
fn generic_reason(status: StatusCode, asked: &str, body: &Value) -> String {
    let reason = body["reason"]
        .as_str()
        .filter(|reason| is_plain_name(reason))
        .unwrap_or("no reason");
    if status == StatusCode::FORBIDDEN {
        return format!("the account may not {asked}");
    }
    format!("it answered {} ({reason}) to {asked}", status.as_u16())
}

/// Returns whether a text has only the characters of Kubernetes' names and reasons: letters,
/// digits, dashes, dots, colons and underscores.
pub(crate) fn is_plain_name(text: &str) -> bool {
    let letters = text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-.:_".contains(&byte));
    letters && !text.is_empty() && text.len() <= MAX_NAME_BYTES
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn words(status: u16, body: &Value) -> String {
        ErrorStatus::from_status_body(
            StatusCode::from_u16(status).expect("a status"),
            "POST /api/v1/pods",
            body,
        )
        .message
    }

    #[test]
    fn a_refusal_names_its_cause_and_repeats_no_text() {
        let said =
            |message: &str| words(403, &json!({ "message": message, "reason": "Forbidden" }));
        for (message, expected) in [
            (
                "admission webhook \"policy.example.com\" denied the request: call <script>",
                "the admission webhook policy.example.com denied it",
            ),
            (
                "Internal error occurred: failed calling webhook \"rev.namespace.sidecar-injector.istio.io\": x",
                "the webhook rev.namespace.sidecar-injector.istio.io did not answer",
            ),
            (
                "pods \"a\" is forbidden: exceeded quota: compute, requested: pods=1",
                "the quota compute is exceeded",
            ),
            (
                "pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\": x",
                "the Pod Security level restricted:latest does not allow it",
            ),
            (
                "pods \"a\" is forbidden: ValidatingAdmissionPolicy 'no-pods' with binding 'b' denied request: x",
                "the ValidatingAdmissionPolicy no-pods denied it",
            ),
            (
                "pods \"a-\" is forbidden: error looking up service account shop/web: serviceaccount \"web\" not found",
                "the service account web does not exist",
            ),
            (
                "pods \"a-\" is forbidden: unable to create new content in namespace shop because it is being terminated",
                "the namespace shop is being deleted",
            ),
            (
                "admission webhook \"<b>evil</b>\" denied",
                "the account may not POST /api/v1/pods",
            ),
            ("the earth is flat", "the account may not POST /api/v1/pods"),
        ] {
            assert_eq!(said(message), expected);
        }
        let invalid = json!({ "message": "x", "reason": "Invalid", "details": { "causes": [{ "field": "spec.ports[0].port" }] } });
        assert_eq!(
            words(422, &invalid),
            "the field spec.ports[0].port of the object is not valid there"
        );
        assert_eq!(
            words(400, &json!({ "reason": "Bad Request <i>" })),
            "it answered 400 (no reason) to POST /api/v1/pods"
        );
    }
}
