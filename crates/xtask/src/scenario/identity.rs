//! Tests logins with tokens of Kubernetes service accounts. An API server is an `OpenID` provider:
//! it publishes, over TLS, the keys that it signs its accounts' tokens with. So a pipeline in a
//! user's cluster needs no key of ours.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::access::{count, equal, refused};
use super::text_field;
use crate::Result;
use crate::lab::{Lab, until};
use crate::server::{Client, Server};
use crate::story::MEMBERS;

/// Cluster role that allows everyone to read the keys of a cluster.
const DISCOVERY: &str = "system:service-account-issuer-discovery";
/// Problem code of a token that is not accepted.
const CODE: &str = "unauthenticated";
/// Time within which the keys are fetched: after a failure, the issuer is asked again after ten
/// seconds.
const SOON: Duration = Duration::from_secs(40);

/// Algorithm that a lab's API servers sign with.
const SIGNS: &str = "ES256";
/// Namespace of the pipeline's account, and name of the role binding for the keys.
const PIPELINE: &str = "pipeline";

pub(super) fn accounts(lab: &Lab, server: &Server, dir: &Path) -> Result<()> {
    for member in MEMBERS {
        lab.run_kubectl(member, &["create", "namespace", PIPELINE])?;
        for account in ["deployer", "stranger"] {
            lab.run_kubectl(
                member,
                &["create", "serviceaccount", account, "-n", PIPELINE],
            )?;
        }
    }
    let told = log_in(lab, server, dir);
    for member in MEMBERS {
        lab.run_kubectl(member, &["delete", "namespace", PIPELINE])?;
    }
    told
}

fn log_in(lab: &Lab, server: &Server, dir: &Path) -> Result<()> {
    let [member, other] = MEMBERS;
    let issuer = issuer(lab, member)?;
    let trusted = server.ask(&[
        "access",
        "trust",
        "pipelines",
        "--issuer",
        &issuer,
        "--algorithm",
        SIGNS,
    ])?;
    let (provider, audience) = (
        text_field(&trusted, "id")?,
        text_field(&trusted, "audience")?,
    );
    let mesh = text_field(&server.ask(&["mesh", "get", "demo"])?, "id")?;
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
    server.cli(&grant)?;
    let bearer = |title: &str, member: &str, account: &str, audience: &str| {
        let file = token(lab, &dir.join(title), member, account, audience)?;
        Ok::<Client, String>(server.client().with_key(file))
    };
    let deployer = bearer("deployer", member, "deployer", &audience)?;
    // The keys of the cluster cannot be read without a login yet.
    refused(&deployer, &["mesh", "list"], CODE)?;
    let everybody = [
        "create",
        "clusterrolebinding",
        PIPELINE,
        "--clusterrole",
        DISCOVERY,
        "--group",
    ];
    for member in MEMBERS {
        lab.run_kubectl(
            member,
            &[&everybody[..], &["system:unauthenticated"]].concat(),
        )?;
    }
    // The next check reports a failure better than this wait does.
    drop(until("its keys are fetched", SOON, || {
        deployer.cli(&["mesh", "list"]).ok()
    }));
    equal(
        "the mesh that it was granted",
        count(&deployer, &["mesh", "list"])?,
        1,
    )?;
    refused(
        &deployer,
        &["mesh", "change", "demo", "--label", "a=b"],
        "role_missing",
    )?;
    for (title, member, account, audience) in [
        ("for-another", member, "deployer", format!("{audience}x")),
        ("for-the-cluster", member, "deployer", issuer.clone()),
        ("of-another-issuer", other, "deployer", audience.clone()),
    ] {
        refused(
            &bearer(title, member, account, &audience)?,
            &["mesh", "list"],
            CODE,
        )?;
    }
    let stranger = bearer("stranger", member, "stranger", &audience)?;
    equal(
        "what a stranger sees",
        count(&stranger, &["mesh", "list"])?,
        0,
    )?;
    refused(&stranger, &["key", "list"], "role_missing")?;
    server.cli(&["access", "distrust", &provider])?;
    refused(&deployer, &["mesh", "list"], CODE)?;
    for member in MEMBERS {
        lab.run_kubectl(member, &["delete", "clusterrolebinding", PIPELINE])?;
    }
    Ok(())
}

/// Returns the name of the issuer in the tokens of a cluster's accounts.
fn issuer(lab: &Lab, member: &str) -> Result<String> {
    let said = lab.run_kubectl(
        member,
        &["get", "--raw", "/.well-known/openid-configuration"],
    )?;
    text_field(
        &serde_json::from_str(&said).map_err(|error| error.to_string())?,
        "issuer",
    )
}

/// Writes a token of an account for this audience to a file.
fn token(lab: &Lab, file: &Path, member: &str, account: &str, audience: &str) -> Result<PathBuf> {
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
    std::fs::write(file, lab.run_kubectl(member, &arguments)?.trim())
        .map_err(|error| error.to_string())?;
    Ok(file.to_owned())
}
