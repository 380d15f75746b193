//! State of a fake cluster, and the answers that it gives.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::ADMINISTRATOR;

#[derive(Default)]
pub(super) struct State {
    pub(super) objects: BTreeMap<String, Value>,
    pub(super) tokens: BTreeMap<String, (String, Value)>,
    /// What a `TokenRequest` is answered with instead of a token.
    pub(super) token: Option<String>,
    /// Webhook names that no dry run gets past.
    pub(super) silent: Vec<String>,
    /// Whether dry runs get no answer at all.
    pub(super) stalls: bool,
    /// How many more requests a token gets through after its Secret has gone.
    pub(super) remembered: usize,
    pub(super) requests: Vec<String>,
    pub(super) count: u64,
}

fn status(code: u16) -> (u16, Value) {
    (
        code,
        json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": "x", "code": code }),
    )
}

impl State {
    pub(super) fn put(&mut self, path: &str, mut object: Value) {
        self.count += 1;
        let known = self
            .objects
            .get(path)
            .map(|known| known["metadata"]["uid"].clone());
        let own = object["metadata"]["uid"].clone();
        object["metadata"]["uid"] = known.unwrap_or(if own.is_null() {
            format!("uid-{}", self.count).into()
        } else {
            own
        });
        object["metadata"]["resourceVersion"] = self.count.to_string().into();
        self.objects.insert(path.to_owned(), object);
    }

    pub(super) fn known(&mut self, token: &str) -> bool {
        if token == ADMINISTRATOR {
            return true;
        }
        let Some((path, uid)) = self.tokens.get(token) else {
            return false;
        };
        if self
            .objects
            .get(path)
            .is_some_and(|anchor| anchor["metadata"]["uid"] == *uid)
        {
            return true;
        }
        self.remembered = match self.remembered {
            0 => return false,
            left => left - 1,
        };
        true
    }

    pub(super) fn answer(
        &mut self,
        method: &str,
        uri: &str,
        token: &str,
        body: Value,
    ) -> (u16, Value) {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        self.requests.push(format!("{method} {path}"));
        if !self.known(token) {
            return status(401);
        }
        match (method, path) {
            ("GET", "/version") => (
                200,
                json!({ "major": "1", "minor": "33", "gitVersion": "v1.33.1" }),
            ),
            ("POST", path) if path.ends_with("/token") => self.mint(path, &body),
            ("POST", path) if path.ends_with("selfsubjectaccessreviews") => {
                (201, json!({ "status": { "allowed": true } }))
            }
            ("POST", path) if query.contains("dryRun") => self.dry_run(path, body),
            ("GET", path) if query.contains("limit=") => {
                (200, json!({ "items": self.list(path, query) }))
            }
            ("GET", path) => self
                .objects
                .get(path)
                .map_or_else(|| status(404), |object| (200, object.clone())),
            ("POST", path) => {
                let path = format!(
                    "{path}/{}",
                    body["metadata"]["name"].as_str().unwrap_or_default()
                );
                if self.objects.contains_key(&path) {
                    return status(409);
                }
                self.put(&path, encoded(body));
                (201, self.objects[&path].clone())
            }
            ("PATCH", path) => self.patch(path, body),
            ("DELETE", path) => {
                let wanted = &body["preconditions"]["uid"];
                match self.objects.get(path) {
                    None => status(404),
                    Some(object) if !wanted.is_null() && object["metadata"]["uid"] != *wanted => {
                        status(409)
                    }
                    Some(_) => (200, self.objects.remove(path).unwrap_or_default()),
                }
            }
            _ => status(405),
        }
    }

    fn patch(&mut self, path: &str, body: Value) -> (u16, Value) {
        let mut object = self.objects.get(path).cloned().unwrap_or(json!({}));
        for field in ["uid", "resourceVersion"] {
            let (wanted, found) = (&body["metadata"][field], &object["metadata"][field]);
            if !wanted.is_null() && wanted != found {
                return status(409);
            }
        }
        merge(&mut object, encoded(body));
        self.put(path, object);
        (200, self.objects[path].clone())
    }

    /// What a label selector leaves of a collection: `key` or `key=value`, several by commas.
    fn list(&self, path: &str, query: &str) -> Vec<Value> {
        let selector = query
            .split('&')
            .find_map(|part| part.strip_prefix("labelSelector="))
            .unwrap_or_default();
        let selector = selector.replace("%2F", "/").replace("%3D", "=");
        let matches = |object: &Value| {
            selector
                .split(',')
                .filter(|term| !term.is_empty())
                .all(|term| {
                    let (key, value) = term
                        .split_once('=')
                        .map_or((term, None), |(key, value)| (key, Some(value)));
                    let label = &object["metadata"]["labels"][key];
                    value.map_or(!label.is_null(), |value| label == value)
                })
        };
        let inside = |known: &&String| {
            known
                .strip_prefix(path)
                .and_then(|rest| rest.strip_prefix('/'))
                .is_some_and(|rest| !rest.contains('/'))
        };
        self.objects
            .iter()
            .filter(|(known, object)| inside(known) && matches(object))
            .map(|(_, object)| object.clone())
            .collect()
    }

    fn mint(&mut self, path: &str, body: &Value) -> (u16, Value) {
        self.count += 1;
        let anchor = &body["spec"]["boundObjectRef"];
        let (namespace, _) = path.split_once("/serviceaccounts/").expect("an account");
        let secret = format!(
            "{namespace}/secrets/{}",
            anchor["name"].as_str().unwrap_or_default()
        );
        let token = self
            .token
            .clone()
            .unwrap_or_else(|| format!("token-{}", self.count));
        self.tokens
            .insert(token.clone(), (secret, anchor["uid"].clone()));
        (
            201,
            json!({ "status": { "token": token, "expirationTimestamp": "2027-11-22T10:00:00Z" } }),
        )
    }

    /// Answers a dry run. A silent webhook is called for each pod of the namespaces that it selects
    /// by the label `scan`.
    fn dry_run(&self, path: &str, body: Value) -> (u16, Value) {
        let namespace = path.trim_end_matches("/pods");
        let scanned = self
            .objects
            .get(namespace)
            .is_some_and(|object| object["metadata"]["labels"]["scan"] == "yes");
        if scanned && !self.silent.is_empty() {
            status(500)
        } else {
            (201, body)
        }
    }
}

/// As the API server does with a Secret's `stringData`.
fn encoded(mut object: Value) -> Value {
    use base64::Engine as _;
    if let Some(Value::Object(texts)) = object
        .as_object_mut()
        .and_then(|object| object.remove("stringData"))
    {
        for (key, text) in texts {
            object["data"][key] = base64::engine::general_purpose::STANDARD
                .encode(text.as_str().unwrap_or_default())
                .into();
        }
    }
    object
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
