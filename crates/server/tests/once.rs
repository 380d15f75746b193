//! What `docs/operating.md` says to do once, with the program as it is shipped.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use store::private::{PrivatePostgres, SUPERUSER};
use testkit::administer;

fn server(arguments: &[&str], database: &str, secret: &Path) -> Output {
    let mut run = Command::new(env!("CARGO_BIN_EXE_meshwright-server"));
    run.args(arguments).env("MESHWRIGHT_DATABASE_URL", database).env("MESHWRIGHT_VAULT_KEY_FILE", secret);
    run.stdin(Stdio::null()).output().expect("the server's own program")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test]
async fn a_database_is_prepared_with_what_the_program_prints() {
    let dir = tempfile::tempdir().expect("a folder");
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "07".repeat(32)).expect("a file");
    let postgres = PrivatePostgres::start(&dir.path().join("postgres")).expect("a private Postgres");
    let roles = server(&["roles"], "", &secret);
    for _ in ["the first time", "before each migration"] {
        administer(&postgres, said(&roles)).await;
    }
    administer(&postgres, "CREATE DATABASE meshwright OWNER mw_owner".into()).await;
    for (arguments, role, fine) in [
        (["migrate"].as_slice(), "mw_owner", true),
        (&["tenants", "operator-key"], "mw_worker", true),
        (&["serve", "--listen", "127.0.0.1:0"], SUPERUSER, false),
    ] {
        let done = server(arguments, &postgres.url(role, "meshwright"), &secret);
        assert_eq!(done.status.success(), fine, "{arguments:?}: {}", said(&done));
    }
}
