//! The command line at a terminal and in a pipe, as a shell starts it.

use std::process::{Command, Stdio};

fn meshwright() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshwright"));
    command
        .env_remove("MESHWRIGHT_SERVER")
        .env_remove("MESHWRIGHT_KEY_FILE")
        .stdin(Stdio::null());
    command
}

#[test]
fn a_reader_that_leaves_early_ends_the_command_without_a_complaint() {
    let mut child = meshwright()
        .args(["completion", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
    assert_eq!(ended.status.code(), Some(0));
}

#[test]
fn an_address_that_is_none_is_refused_with_an_example() {
    let ended = meshwright()
        .args([
            "--server",
            "host:8080",
            "--key-file",
            "/dev/null",
            "mesh",
            "list",
        ])
        .env("HOME", env!("CARGO_TARGET_TMPDIR"))
        .output()
        .expect("it runs");
    assert_eq!(ended.status.code(), Some(2));
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(
        said.contains("--server host:8080") && said.contains("https://meshwright.example"),
        "{said}"
    );
}
