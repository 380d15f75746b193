//! Tests against a small server that behaves like Vault's transit engine: it encrypts with its own
//! key, binds the associated data, keeps versions, and requires a token.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use meshwright_store::tenant_keys::MasterKeys;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const TOKEN: &str = "token-of-this-test";

/// Transit engine with one key, `mesh`, mounted at `transit`.
struct FakeTransitEngine {
    address: String,
    /// Status of each answer, when it is not 0.
    broken: Arc<AtomicU16>,
}

impl FakeTransitEngine {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let broken = Arc::new(AtomicU16::new(0));
        let status = broken.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, status.clone()));
            }
        });
        Self { address, broken }
    }
}

async fn serve(mut stream: TcpStream, broken: Arc<AtomicU16>) {
    let mut read = Vec::new();
    let (head, body) = loop {
        let mut part = [0; 4096];
        let count = stream.read(&mut part).await.expect("a request");
        read.extend(&part[..count]);
        let text = String::from_utf8_lossy(&read).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.lines().find_map(|line| {
            line.to_lowercase()
                .strip_prefix("content-length: ")
                .map(str::to_owned)
        });
        if body.len() >= length.and_then(|text| text.parse().ok()).unwrap_or(0) {
            break (head.to_owned(), body.to_owned());
        }
    };
    let (status, answer) = match broken.load(Ordering::SeqCst) {
        0 => answer(&head, &serde_json::from_str(&body).expect("JSON")).await,
        status => (status, json!({ "errors": ["broken"] })),
    };
    let body = answer.to_string();
    let text = format!(
        "HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).await.expect("an answer");
}

async fn answer(head: &str, body: &Value) -> (u16, Value) {
    let refused = |status, text: &str| (status, json!({ "errors": [text] }));
    if !head
        .to_lowercase()
        .contains(&format!("x-vault-token: {TOKEN}"))
    {
        return refused(403, "permission denied");
    }
    let own = MasterKeys::new([5; 32], Vec::new());
    let text = |field: &str| {
        STANDARD
            .decode(body[field].as_str().unwrap_or_default())
            .unwrap_or_default()
    };
    let context = String::from_utf8(text("associated_data")).expect("our own context");
    match head.split(' ').nth(1) {
        Some("/v1/transit/encrypt/mesh") => {
            let key = text("plaintext").try_into().expect("32 bytes");
            let sealed = own.wrap_key(&key, &context).await.expect("a sealed key");
            (
                200,
                json!({ "data": { "ciphertext": format!("vault:v1:{}", STANDARD.encode(sealed)), "key_version": 1 } }),
            )
        }
        Some("/v1/transit/decrypt/mesh") => {
            let sealed = body["ciphertext"]
                .as_str()
                .and_then(|text| text.strip_prefix("vault:v1:"));
            let Some(sealed) = sealed.and_then(|text| STANDARD.decode(text).ok()) else {
                return refused(400, "invalid ciphertext: no prefix");
            };
            match own.unwrap_key(&sealed, &context).await {
                Ok(key) => (
                    200,
                    json!({ "data": { "plaintext": STANDARD.encode(key) } }),
                ),
                Err(_) => refused(400, "cipher: message authentication failed"),
            }
        }
        _ => refused(404, "no handler for route"),
    }
}

fn token(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    writeln!(file, "{text}").expect("a line");
    file
}

#[tokio::test]
async fn a_key_comes_back_as_it_went_for_its_own_context_only() {
    let (engine, file) = (FakeTransitEngine::start().await, token(TOKEN));
    let transit = TransitKeyWrapper::new(&engine.address, "transit", "mesh", file.path().into())
        .expect("a client");
    let wrapped = transit
        .wrap_key(&[9; 32], "tenant_keys/a/1")
        .await
        .expect("a wrapped key");
    assert!(wrapped.starts_with(b"vault:v1:") && !wrapped.windows(32).any(|part| part == [9; 32]));
    assert_eq!(
        transit
            .unwrap_key(&wrapped, "tenant_keys/a/1")
            .await
            .expect("the key"),
        [9; 32]
    );
    assert!(matches!(
        transit.unwrap_key(&wrapped, "tenant_keys/b/1").await,
        Err(WrapError::Refused)
    ));
    assert!(matches!(
        transit.unwrap_key(b"\xff", "tenant_keys/a/1").await,
        Err(WrapError::Refused)
    ));
}

#[tokio::test]
async fn a_wrong_token_is_refused_and_a_new_one_in_the_file_is_used_at_once() {
    let engine = FakeTransitEngine::start().await;
    let mut file = token("an old one");
    let transit = TransitKeyWrapper::new(&engine.address, "transit", "mesh", file.path().into())
        .expect("a client");
    assert!(matches!(
        transit.wrap_key(&[9; 32], "x").await,
        Err(WrapError::Refused)
    ));
    file.as_file().set_len(0).expect("an empty file");
    std::io::Seek::rewind(&mut file).expect("its beginning");
    writeln!(file, "{TOKEN}").expect("a line");
    assert!(transit.wrap_key(&[9; 32], "x").await.is_ok());
}

#[tokio::test]
async fn a_service_that_is_sealed_or_gone_is_unavailable_not_a_refusal() {
    let (engine, file) = (FakeTransitEngine::start().await, token(TOKEN));
    let transit = TransitKeyWrapper::new(&engine.address, "transit", "mesh", file.path().into())
        .expect("a client");
    for status in [503, 500, 429] {
        engine.broken.store(status, Ordering::SeqCst);
        assert!(
            matches!(
                transit.wrap_key(&[9; 32], "x").await,
                Err(WrapError::Unavailable(_))
            ),
            "{status}"
        );
    }
    let gone = TransitKeyWrapper::new("http://127.0.0.1:1", "transit", "mesh", file.path().into())
        .expect("a client");
    assert!(matches!(
        gone.wrap_key(&[9; 32], "x").await,
        Err(WrapError::Unavailable(_))
    ));
}
