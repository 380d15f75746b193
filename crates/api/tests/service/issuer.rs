//! An identity provider that signs what it is told to, and whose documents can be had or not.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use meshwright_api::{Fetch, FetchError};
use serde_json::{Value, json};

pub(crate) const ISSUER: &str = "https://login.example";

#[derive(Default)]
pub(crate) struct FakeIssuer {
    /// Key name → private key and what is published of it.
    keys: Mutex<BTreeMap<String, (Vec<u8>, Value)>>,
    pub(crate) down: AtomicBool,
    pub(crate) asked: AtomicUsize,
}

impl std::fmt::Debug for FakeIssuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FakeIssuer")
    }
}

#[async_trait]
impl Fetch for FakeIssuer {
    async fn get(&self, url: &str) -> Result<Vec<u8>, FetchError> {
        if self.down.load(Ordering::SeqCst) {
            return Err(FetchError("it is down".into()));
        }
        let answer = match url.strip_prefix(ISSUER) {
            Some("/.well-known/openid-configuration") => {
                self.asked.fetch_add(1, Ordering::SeqCst);
                json!({ "issuer": ISSUER, "jwks_uri": format!("{ISSUER}/keys") })
            }
            Some("/keys") => {
                let keys = self.keys.lock().expect("no holder panics");
                json!({ "keys": keys.values().map(|(_, public)| public).collect::<Vec<_>>() })
            }
            _ => return Err(FetchError(format!("{url} is not here"))),
        };
        Ok(answer.to_string().into_bytes())
    }
}

impl FakeIssuer {
    /// Makes a key and publishes it.
    pub(crate) fn publish(&self, name: &str) {
        let pair = Ed25519KeyPair::generate().expect("a key");
        let x = URL_SAFE_NO_PAD.encode(pair.public_key());
        let public = json!({ "kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": name, "x": x });
        let private = pair.to_pkcs8().expect("a form").as_ref().to_vec();
        self.keys
            .lock()
            .expect("no holder panics")
            .insert(name.into(), (private, public));
    }

    /// Stops publishing a key and returns it, because a thief still has it.
    pub(crate) fn withdraw(&self, name: &str) -> Vec<u8> {
        self.keys
            .lock()
            .expect("no holder panics")
            .remove(name)
            .expect("a published key")
            .0
    }

    /// The private half of a key that is still published, as a thief has it.
    pub(crate) fn private(&self, name: &str) -> Vec<u8> {
        self.keys.lock().expect("no holder panics")[name].0.clone()
    }

    /// What is published of a key.
    pub(crate) fn public(&self, name: &str) -> Value {
        self.keys.lock().expect("no holder panics")[name].1.clone()
    }

    pub(crate) fn sign(&self, name: &str, claims: &Value) -> String {
        let private = self.keys.lock().expect("no holder panics")[name].0.clone();
        signed(&private, name, claims)
    }
}

pub(crate) fn signed(private: &[u8], name: &str, claims: &Value) -> String {
    let header = Header {
        kid: Some(name.into()),
        ..Header::new(Algorithm::EdDSA)
    };
    encode(&header, claims, &EncodingKey::from_ed_der(private)).expect("a token")
}
