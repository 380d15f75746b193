//! Loads a corpus of hostile kubeconfigs under a tracer, as Meshwright does or as a general loader
//! does.
//!
//! `cargo e2e kubeconfigs` runs it in an empty network. A line is printed before and after each
//! input, so that the tracer can attribute the calls between them to this input.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use meshwright_kubernetes::{AddressPolicy, ClusterClient, Credential};
use meshwright_rollout::ports::ClusterError;

mod corpus;
mod text;

/// Timeout of a general loader, whose requests are never answered.
const CALL_TIMEOUT: Duration = Duration::from_millis(300);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (subject, seeds) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["ours", seeds] => (Subject::Ours, seeds.parse().unwrap_or(0)),
        ["general", seeds] => (Subject::General, seeds.parse().unwrap_or(0)),
        _ => {
            eprintln!("kubeconfigs ours|general SEEDS");
            return ExitCode::FAILURE;
        }
    };
    if !is_alone() {
        eprintln!("there is a network here: run it by cargo e2e kubeconfigs");
        return ExitCode::FAILURE;
    }
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    let classes = corpus::classes();
    for seed in 0..seeds {
        for (number, class) in classes.iter().enumerate() {
            let input = class.input(seed);
            print_line(&format!("begin {number} {:?} {}", class.harm, class.name));
            let verdict = match subject {
                Subject::Ours => runtime.block_on(load_with_meshwright(&input)),
                Subject::General => load_with_kube(&runtime, &input),
            };
            print_line(&format!("end {number} {verdict}"));
        }
    }
    ExitCode::SUCCESS
}

#[derive(Clone, Copy)]
enum Subject {
    Ours,
    General,
}

/// Whether nothing outside can be reached: there is no interface but the machine's own.
fn is_alone() -> bool {
    let interfaces = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
    interfaces
        .lines()
        .skip(2)
        .all(|line| line.trim_start().starts_with("lo:"))
}

/// One call of the system for each line: the tracer sees it whole, in its place.
fn print_line(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes())
        .and_then(|()| out.flush())
        .expect("somebody listens");
}

/// As a registration does it: read, connect, ask.
async fn load_with_meshwright(input: &str) -> &'static str {
    let Ok(credential) = Credential::parse(input) else {
        return "refused";
    };
    match ClusterClient::open("c", &credential, &AddressPolicy::default()) {
        Err(_) => "refused",
        // A name is checked when it is called. No cluster answers in a network with nothing in it.
        Ok(client) => match client.get("/version").await {
            Err(ClusterError::Refused { .. }) => "refused",
            _ => "accepted",
        },
    }
}

fn load_with_kube(runtime: &tokio::runtime::Runtime, input: &str) -> &'static str {
    let Ok(file) = Kubeconfig::from_yaml(input) else {
        return "refused";
    };
    runtime.block_on(async {
        let Ok(mut config) =
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await
        else {
            return "refused";
        };
        let auth = &config.auth_info;
        let trusting = config.accept_invalid_certs
            || config.tls_server_name.is_some()
            || auth.impersonate.is_some()
            || auth.password.is_some()
            || config.cluster_url.scheme_str() != Some("https");
        config.connect_timeout = Some(CALL_TIMEOUT);
        // The client panics for a token that no header can carry. Such a panic is a refusal here.
        let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            kube::Client::try_from(config)
        }));
        let Ok(Ok(client)) = made else {
            return "refused";
        };
        let _ = tokio::time::timeout(CALL_TIMEOUT, client.apiserver_version()).await;
        if trusting { "trusting" } else { "accepted" }
    })
}
