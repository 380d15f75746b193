//! Sends requests that carry the secret marker in every possible field.

use std::collections::BTreeSet;

use futures::StreamExt;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::peers::Peers;
use super::{PLAIN_MARKER, SECRET_MARKER};
use crate::Result;

/// Requests that are under way at once.
const MAX_IN_FLIGHT: usize = 16;

/// Sends requests that carry the secret in every possible field. Returns the text of all answers
/// without the secrets that an answer is meant to show, and some of those secrets, which are
/// searched for as well.
pub(super) async fn send_requests(
    requests: usize,
    address: &str,
    owner: &str,
    peers: &Peers,
) -> Result<(Vec<u8>, BTreeSet<String>)> {
    let http = reqwest::Client::new();
    let sent = (0..requests).map(|number| {
        let request = build_request(number, &http, &format!("http://{address}"), owner, peers);
        async move {
            let answer = request.send().await?;
            let headers = format!("{:?}", answer.headers());
            Ok::<_, anyhow::Error>((headers, answer.text().await?))
        }
    });
    let answers: Vec<Result<(String, String)>> = futures::stream::iter(sent)
        .buffer_unordered(MAX_IN_FLIGHT)
        .collect()
        .await;
    let (mut all, mut secrets) = (Vec::new(), BTreeSet::new());
    for answer in answers {
        let (headers, mut body) = answer?;
        if let Ok(Value::Object(shown)) = serde_json::from_str::<Value>(&body)
            && let Some(secret) = shown.get("secret").and_then(Value::as_str)
        {
            body = body.replace(secret, "");
            // Searching for thousands of secrets would take too long, so 20 stand for all.
            if secrets.len() < 20 {
                secrets.insert(secret.rsplit('_').next().unwrap_or(secret).to_owned());
            }
        }
        all.extend(headers.bytes().chain(body.bytes()));
    }
    Ok((all, secrets))
}

fn build_request(
    number: usize,
    http: &reqwest::Client,
    base: &str,
    owner: &str,
    peers: &Peers,
) -> RequestBuilder {
    use base64::Engine as _;
    let to = |method: Method, path: &str| {
        http.request(method, format!("{base}{path}"))
            .bearer_auth(owner)
    };
    let register = |kubeconfig: String| {
        let body = json!({ "name": format!("c{number}"), "display_name": PLAIN_MARKER, "labels": { PLAIN_MARKER: "x" }, "kubeconfig": kubeconfig });
        to(Method::POST, "/v1/clusters")
            .header("Idempotency-Key", format!("{number}"))
            .json(&body)
    };
    let pem = |text: &str| {
        base64::engine::general_purpose::STANDARD.encode(format!("-----BEGIN X-----\n{text}\n"))
    };
    match number % 12 {
        0 => register(peers.build_kubeconfig(&json!({ "token": SECRET_MARKER })).to_string()),
        1 => register(
            peers
                .build_kubeconfig(&json!({ "client-certificate-data": pem("x"), "client-key-data": pem(SECRET_MARKER) }))
                .to_string(),
        ),
        // Secrets in fields where they do not belong: the error must not repeat them.
        2 => register(peers.build_kubeconfig(&json!(SECRET_MARKER)).to_string()),
        3 => register(peers.build_kubeconfig(&json!({ "token": [SECRET_MARKER] })).to_string()),
        4 => register(peers.build_kubeconfig(&json!({ "token": SECRET_MARKER, "client-key-data": SECRET_MARKER })).to_string()),
        5 => register(format!("users: [{{user: {{token: {SECRET_MARKER}}}\n {SECRET_MARKER}")),
        6 => register(SECRET_MARKER.into()),
        7 => to(Method::POST, "/v1/clusters")
            .json(&json!({ "name": format!("c{number}"), "kubeconfig": { "token": SECRET_MARKER } })),
        8 => to(Method::POST, "/v1/api-keys")
            .header("Idempotency-Key", format!("{number}"))
            .json(&json!({ "name": format!("k{number}"), "role": "viewer" })),
        9 => http.get(format!("{base}/v1/meshes")).bearer_auth(format!("mwk_x_y_{SECRET_MARKER}")),
        10 => {
            http.get(format!("{base}/v1/meshes")).bearer_auth(format!("eyJhbGciOiJSUzI1NiJ9.{}.{SECRET_MARKER}", pem(SECRET_MARKER)))
        }
        // Create only a few webhooks, because every event is sent to each of them.
        11 if number < 12 * 5 => to(Method::POST, "/v1/webhooks")
            .header("Idempotency-Key", format!("{number}"))
            .json(&json!({ "name": format!("w{number}"), "url": format!("https://localhost:{}/{PLAIN_MARKER}", peers.webhook.port()), "kinds": ["operation.state"] })),
        _ => to(Method::GET, &format!("/v1/clusters?label_selector={PLAIN_MARKER}")),
    }
}
