//! A cluster that answers with another host's address must not get the credential there.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use meshwright_kubernetes::credential::ClientIdentity;
use meshwright_kubernetes::{AddressPolicy, ClusterClient, Credential};
use rcgen::{CertificateParams, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

/// Answers one request with an address to go on to; says what it was asked.
async fn redirects_to(
    listener: TcpListener,
    config: ServerConfig,
    elsewhere: SocketAddr,
) -> String {
    let (stream, _) = listener.accept().await.expect("a connection");
    let mut stream = TlsAcceptor::from(Arc::new(config))
        .accept(stream)
        .await
        .expect("a handshake");
    let mut asked = vec![0; 4096];
    let length = stream.read(&mut asked).await.expect("a request");
    let answer =
        format!("HTTP/1.1 302 Found\r\nLocation: http://{elsewhere}/\r\nContent-Length: 0\r\n\r\n");
    stream
        .write_all(answer.as_bytes())
        .await
        .expect("an answer");
    stream.shutdown().await.expect("an end");
    String::from_utf8_lossy(&asked[..length]).into_owned()
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let key = KeyPair::generate().expect("a key");
    let certificate = CertificateParams::new(vec!["127.0.0.1".into()])
        .and_then(|params| params.self_signed(&key))
        .expect("a certificate");
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .expect("a server");
    let ((cluster, address), (elsewhere, other)) = (listener().await, listener().await);
    let served = tokio::spawn(redirects_to(cluster, config, other));

    let identity = ClientIdentity::Token("secret-of-this-cluster".to_owned().into());
    let credential = Credential::new(
        &format!("https://{address}"),
        certificate.pem().into_bytes(),
        identity,
    );
    let allowed = vec![AddressPolicy::parse_network("127.0.0.0/8").expect("a network")];
    let rules = AddressPolicy {
        allowed_networks: allowed,
        ..AddressPolicy::default()
    };
    let client =
        ClusterClient::open("c", &credential.expect("a credential"), &rules).expect("a client");
    let answer = tokio::select! {
        answer = client.get("/version") => answer,
        _ = elsewhere.accept() => panic!("the redirect was followed"),
    };

    assert!(answer.is_err(), "{answer:?}");
    let asked = served.await.expect("one request");
    assert!(asked.contains("secret-of-this-cluster"), "{asked}");
}
