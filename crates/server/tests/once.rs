//! What `docs/operating.md` says to do once, with the program as it is shipped.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use meshwright_model::edition::Edition;
use meshwright_model::release::Channel;
use meshwright_store::embedded_postgres::{EmbeddedPostgres, SUPERUSER};
use meshwright_testkit::{TestDb, execute_as_superuser};

fn server(arguments: &[&str], database: &str, secret: &Path) -> Output {
    let mut run = Command::new(env!("CARGO_BIN_EXE_meshwright-server"));
    run.args(arguments)
        .env("MESHWRIGHT_DATABASE_URL", database)
        .env("MESHWRIGHT_VAULT_KEY_FILE", secret);
    run.stdin(Stdio::null())
        .output()
        .expect("the server's own program")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Writes charts without templates into a folder, and returns the folder's path.
fn write_charts(dir: &Path) -> String {
    let charts = dir.join("charts");
    for chart in ["base", "istiod"] {
        std::fs::create_dir_all(charts.join(chart)).expect("a folder");
        std::fs::write(
            charts.join(chart).join("Chart.yaml"),
            format!("name: {chart}\n"),
        )
        .expect("a file");
    }
    charts.display().to_string()
}

#[tokio::test]
async fn a_database_is_prepared_with_what_the_program_prints() {
    let dir = tempfile::tempdir().expect("a folder");
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "07".repeat(32)).expect("a file");
    let postgres =
        EmbeddedPostgres::start(&dir.path().join("postgres")).expect("a private Postgres");
    let roles = server(&["roles"], "", &secret);
    for _ in ["the first time", "before each migration"] {
        execute_as_superuser(&postgres, said(&roles)).await;
    }
    execute_as_superuser(
        &postgres,
        "CREATE DATABASE meshwright OWNER mw_owner".into(),
    )
    .await;
    for (arguments, role, fine) in [
        (["migrate"].as_slice(), "mw_owner", true),
        (&["tenants", "operator-key"], "mw_worker", true),
        (&["serve", "--listen", "127.0.0.1:0"], SUPERUSER, false),
    ] {
        let done = server(arguments, &postgres.url(role, "meshwright"), &secret);
        assert_eq!(
            done.status.success(),
            fine,
            "{arguments:?}: {}",
            said(&done)
        );
    }
}

#[tokio::test]
async fn a_release_is_imported_with_all_that_the_catalogue_knows() {
    let dir = tempfile::tempdir().expect("a folder");
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "07".repeat(32)).expect("a file");
    let charts = write_charts(dir.path());
    let db = TestDb::new().await;
    let import = |more: &[&str]| {
        let same = [
            "releases",
            "import",
            "--version",
            "1.27.9.7",
            "--charts",
            &charts,
        ];
        server(&[&same, more].concat(), &db.url("mw_worker"), &secret)
    };
    for (option, value, field) in [
        ("--channel", "slow", "/channels/0"),
        ("--minimum-edition", "free", "/minimum_edition"),
        ("--quirk", "none", "/quirks/0"),
        ("--released-on", "20260504", "/released_on"),
        ("--supported-until", "2027-02-30", "/supported_until"),
        ("--hub", "", "/hub"),
        ("--notes", "a\u{7}", "/notes"),
        ("--kubernetes-min", "36", "/kubernetes_min"),
        ("--kubernetes-tested", "1000", "/kubernetes_tested"),
    ] {
        let refused = import(&[option, value]);
        assert!(
            !refused.status.success() && said(&refused).contains(&format!("{field}: ")),
            "{}",
            said(&refused)
        );
    }
    let known = [
        "--released-on",
        "2026-05-04",
        "--channel",
        "stable",
        "--channel",
        "regular",
    ];
    let done = import(
        &[
            &known,
            [
                "--minimum-edition",
                "enterprise",
                "--notes",
                "Mind the gap.",
            ]
            .as_slice(),
        ]
        .concat(),
    );
    assert!(done.status.success(), "{}", said(&done));
    let mut tx = db.begin_beside_workers().await;
    let releases = tx.catalogue().list_releases().await.expect("the catalogue");
    drop(tx);
    let release = releases
        .iter()
        .find(|release| release.version.to_string() == "1.27.9.7")
        .expect("the release");
    assert_eq!(
        release.released_on.map(|day| day.to_string()).as_deref(),
        Some("2026-05-04")
    );
    assert_eq!(release.channels, [Channel::Regular, Channel::Stable].into());
    assert_eq!(
        (release.minimum_edition, release.notes.as_str()),
        (Edition::Enterprise, "Mind the gap.")
    );
}

#[test]
fn a_former_name_of_an_option_works_and_is_warned_of_once() {
    let help = server(
        &["work", "--width", "3", "--width=4", "--help"],
        "",
        Path::new("secret"),
    );
    assert!(help.status.success(), "{help:?}");
    let warned = String::from_utf8_lossy(&help.stderr);
    let warnings: Vec<&str> = warned.lines().collect();
    assert_eq!(
        warnings,
        ["warning: --width is now called --max-concurrent-restarts; the former name will go away"]
    );
    let shown = String::from_utf8_lossy(&help.stdout);
    assert!(shown.contains("--max-concurrent-restarts") && !shown.contains("--width"));
}
