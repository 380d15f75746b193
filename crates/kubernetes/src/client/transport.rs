//! Builds the HTTP client of one credential: its certificate authority, its identity, and our own
//! connector, which checks addresses.

use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use kube::config::AuthInfo;
use secrecy::ExposeSecret as _;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tower::{ServiceBuilder, ServiceExt as _};

use crate::address_policy::AddressPolicy;
use crate::connect::{ConnectError, connect};
use crate::credential::{ClientIdentity, Credential, parse_certificates};

/// Maximum number of idle connections that are kept for the next call: one for each list that runs
/// at the same time.
const MAX_IDLE_CONNECTIONS: usize = 8;

/// Builds the client configuration of a credential.
fn build_config(credential: &Credential) -> Result<kube::Config, &'static str> {
    let server = credential
        .server
        .parse()
        .map_err(|_| "its address cannot be read")?;
    let mut config = kube::Config::new(server);
    config.root_cert = Some(
        parse_certificates(&credential.authority)
            .ok_or("its certificate authority holds no certificate")?,
    );
    config.auth_info = auth_info(&credential.identity);
    // Fails only if a provider is installed already, for example by another thread meanwhile.
    drop(CryptoProvider::install_default(
        aws_lc_rs::default_provider(),
    ));
    Ok(config)
}

/// Explanation for a credential from which no TLS configuration or header can be built.
const UNUSABLE_CREDENTIAL: &str = "its certificate, key or token cannot be used";

/// Checks that a client can be built from a credential.
///
/// # Errors
/// Names the part of the credential that cannot be used.
pub(crate) fn check_credential(credential: &Credential) -> Result<(), &'static str> {
    let config = build_config(credential)?;
    config
        .rustls_client_config()
        .map_err(|_| UNUSABLE_CREDENTIAL)?;
    config
        .auth_layer()
        .map(|_| ())
        .map_err(|_| UNUSABLE_CREDENTIAL)
}

/// Builds the client without calling the cluster. It follows no redirects and uses no proxy.
///
/// # Errors
/// Names the part of the credential that cannot be used.
pub(super) fn build_client(
    credential: &Credential,
    rules: &AddressPolicy,
) -> Result<kube::Client, &'static str> {
    let mut config = build_config(credential)?;
    let caller = format!(
        "meshwright/{} ({})",
        env!("CARGO_PKG_VERSION"),
        rules.worker_name
    );
    let caller = caller
        .parse()
        .map_err(|_| "the worker's name is not printable")?;
    config.headers.push((http::header::USER_AGENT, caller));
    let unusable = |_| UNUSABLE_CREDENTIAL;
    let (rules, time) = (rules.clone(), rules.limits.call_timeout);
    let tcp = tower::service_fn(move |server| Box::pin(connect(rules.clone(), server)));
    let tls = config
        .rustls_https_connector_with_connector(tcp)
        .map_err(unusable)?;
    // The client continues a TLS handshake for a later call, so one that hangs would outlive the
    // call that began it.
    let connector = tower::service_fn(move |server: http::Uri| {
        let tls = tls.clone();
        Box::pin(async move {
            let connected = tokio::time::timeout(time, tls.oneshot(server)).await;
            connected.unwrap_or_else(|_| Err(ConnectError::TooSlow.into()))
        })
    });
    let client: legacy::Client<_, Body> = legacy::Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
        .build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(unusable)?)
        .layer(config.extra_headers_layer().map_err(unusable)?)
        .map_err(tower::BoxError::from)
        .service(client);
    Ok(ClientBuilder::new(service, "default").build())
}

fn auth_info(identity: &ClientIdentity) -> AuthInfo {
    use base64::Engine as _;
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    match identity {
        ClientIdentity::Token(token) => AuthInfo {
            token: Some(token.expose_secret().to_owned().into()),
            ..AuthInfo::default()
        },
        ClientIdentity::Certificate { certificate, key } => AuthInfo {
            client_certificate_data: Some(encode(certificate)),
            client_key_data: Some(encode(key.expose_secret().as_bytes()).into()),
            ..AuthInfo::default()
        },
    }
}
