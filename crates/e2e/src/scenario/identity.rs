//! Tests logins with tokens of Kubernetes service accounts. An API server is an `OpenID` provider:
//! it publishes, over TLS, the keys that it signs its accounts' tokens with. So a pipeline in a
//! user's cluster needs no key of ours.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::access::{assert_equal, assert_refused, count_items};
use super::text_field;
use crate::Result;
use crate::assertions::MEMBER_CLUSTERS;
use crate::lab::{Lab, wait_until};
use crate::server::{CliClient, DevServer};

/// Cluster role that allows everyone to read the keys of a cluster.
const DISCOVERY_ROLE: &str = "system:service-account-issuer-discovery";
/// Problem code of a token that is not accepted.
const REFUSAL_CODE: &str = "unauthenticated";
/// Time within which the keys are fetched: after a failure, the issuer is asked again after ten
/// seconds.
const KEY_FETCH_TIMEOUT: Duration = Duration::from_secs(40);

/// Algorithm that a lab's API servers sign with.
const SIGNING_ALGORITHM: &str = "ES256";
/// Namespace of the pipeline's account, and name of the role binding for the keys.
const PIPELINE: &str = "pipeline";

pub(super) fn check_account_login(lab: &Lab, server: &DevServer, dir: &Path) -> Result<()> {
    for member in MEMBER_CLUSTERS {
        lab.run_kubectl(member, &["create", "namespace", PIPELINE])?;
        for account in ["deployer", "stranger"] {
            lab.run_kubectl(
                member,
                &["create", "serviceaccount", account, "-n", PIPELINE],
            )?;
        }
    }
    let told = check_tokens(lab, server, dir);
    for member in MEMBER_CLUSTERS {
        lab.run_kubectl(member, &["delete", "namespace", PIPELINE])?;
    }
    told
}

fn check_tokens(lab: &Lab, server: &DevServer, dir: &Path) -> Result<()> {
    let [member, other] = MEMBER_CLUSTERS;
    let issuer = cluster_issuer(lab, member)?;
    let (provider, audience) = trust_issuer(server, &issuer)?;
    let bearer = |title: &str, member: &str, account: &str, audience: &str| {
        let file = write_token(lab, &dir.join(title), member, account, audience)?;
        Ok::<CliClient, anyhow::Error>(server.clone_client().with_key(file))
    };
    let deployer = bearer("deployer", member, "deployer", &audience)?;
    // The keys of the cluster cannot be read without a login yet.
    assert_refused(&deployer, &["mesh", "list"], REFUSAL_CODE)?;
    publish_keys(lab)?;
    // The next check reports a failure better than this wait does.
    drop(wait_until(
        "its keys are fetched",
        KEY_FETCH_TIMEOUT,
        || deployer.run_cli(&["mesh", "list"]).ok(),
    ));
    assert_equal(
        "the mesh that it was granted",
        count_items(&deployer, &["mesh", "list"])?,
        1,
    )?;
    assert_refused(
        &deployer,
        &["mesh", "change", "demo", "--label", "a=b"],
        "role_missing",
    )?;
    for (title, member, account, audience) in [
        ("for-another", member, "deployer", format!("{audience}x")),
        ("for-the-cluster", member, "deployer", issuer.clone()),
        ("of-another-issuer", other, "deployer", audience.clone()),
    ] {
        assert_refused(
            &bearer(title, member, account, &audience)?,
            &["mesh", "list"],
            REFUSAL_CODE,
        )?;
    }
    let stranger = bearer("stranger", member, "stranger", &audience)?;
    assert_equal(
        "what a stranger sees",
        count_items(&stranger, &["mesh", "list"])?,
        0,
    )?;
    assert_refused(&stranger, &["key", "list"], "role_missing")?;
    server.run_cli(&["access", "distrust", &provider])?;
    assert_refused(&deployer, &["mesh", "list"], REFUSAL_CODE)?;
    for member in MEMBER_CLUSTERS {
        lab.run_kubectl(member, &["delete", "clusterrolebinding", PIPELINE])?;
    }
    Ok(())
}

/// Trusts the issuer, and grants its account `deployer` the mesh. Returns the id of the identity
/// provider, and the audience that tokens for us name.
fn trust_issuer(server: &DevServer, issuer: &str) -> Result<(String, String)> {
    let trusted = server.run_json(&[
        "access",
        "trust",
        "pipelines",
        "--issuer",
        issuer,
        "--algorithm",
        SIGNING_ALGORITHM,
    ])?;
    let (provider, audience) = (
        text_field(&trusted, "id")?,
        text_field(&trusted, "audience")?,
    );
    let mesh = text_field(&server.run_json(&["mesh", "get", "demo"])?, "id")?;
    let subject = format!("system:serviceaccount:{PIPELINE}:deployer");
    let grant = [
        "access",
        "grant",
        "viewer",
        "--provider",
        &provider,
        "--subject",
        &subject,
        "--scope",
        &mesh,
    ];
    server.run_cli(&grant)?;
    Ok((provider, audience))
}

/// Lets clients without a login read the keys of each member.
fn publish_keys(lab: &Lab) -> Result<()> {
    let binding = [
        "create",
        "clusterrolebinding",
        PIPELINE,
        "--clusterrole",
        DISCOVERY_ROLE,
        "--group",
        "system:unauthenticated",
    ];
    MEMBER_CLUSTERS
        .iter()
        .try_for_each(|member| lab.run_kubectl(member, &binding).map(drop))
}

/// Returns the name of the issuer in the tokens of a cluster's accounts.
fn cluster_issuer(lab: &Lab, member: &str) -> Result<String> {
    let said = lab.run_kubectl(
        member,
        &["get", "--raw", "/.well-known/openid-configuration"],
    )?;
    text_field(&serde_json::from_str(&said)?, "issuer")
}

/// Writes a token of an account for this audience to a file.
fn write_token(
    lab: &Lab,
    file: &Path,
    member: &str,
    account: &str,
    audience: &str,
) -> Result<PathBuf> {
    let arguments = [
        "create",
        "token",
        account,
        "-n",
        PIPELINE,
        "--audience",
        audience,
        "--duration",
        "10m",
    ];
    std::fs::write(file, lab.run_kubectl(member, &arguments)?.trim())?;
    Ok(file.to_owned())
}
