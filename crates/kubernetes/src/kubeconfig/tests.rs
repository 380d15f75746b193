use super::*;

/// Generates a certificate and its key, as PEM.
fn signed() -> (String, String) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let made = rcgen::CertificateParams::new(vec!["c.example".into()])
        .and_then(|params| params.self_signed(&key));
    (made.expect("a certificate").pem(), key.serialize_pem())
}

/// Builds a kubeconfig that is accepted, and then replaces `from` in it by `to`.
fn config(from: &str, to: &str) -> String {
    let pem = STANDARD.encode(signed().0);
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: c\n  cluster:\n    server: 'https://c.example:6443'\n    certificate-authority-data: {pem}\ncontexts:\n- name: c\n  context: {{cluster: c, user: u}}\nusers:\n- name: u\n  user:\n    token: abc\n"
    )
    .replace(from, to)
}

fn refusal(from: &str, to: &str) -> String {
    Credential::parse(&config(from, to))
        .expect_err("it must be refused")
        .construct
}

#[test]
fn a_plain_configuration_survives_storage() {
    let credential = Credential::parse(&config("", "")).expect("accepted");
    let opened = Credential::from_stored(&credential.to_stored()).expect("opens");
    assert_eq!(
        (opened.server.as_str(), opened.authority),
        ("https://c.example:6443", credential.authority)
    );
    assert!(
        matches!(opened.identity, ClientIdentity::Token(token) if token.expose_secret() == "abc")
    );
}

#[test]
fn a_certificate_with_its_key_survives_storage() {
    let (ours, its_key) = signed();
    let encoded = |pem: &str| STANDARD.encode(pem);
    let user = format!(
        "client-certificate-data: {}\n    client-key-data: {}",
        encoded(&ours),
        encoded(&its_key)
    );
    let credential = Credential::parse(&config("token: abc", &user)).expect("accepted");
    for known in [
        &credential,
        &Credential::from_stored(&credential.to_stored()).expect("opens"),
    ] {
        let ClientIdentity::Certificate { certificate, key } = &known.identity else {
            panic!("{known:?}")
        };
        assert_eq!(certificate, ours.as_bytes());
        assert_eq!(key.expose_secret(), its_key);
    }
    let other = format!(
        "client-certificate-data: {}\n    client-key-data: {}",
        encoded(&ours),
        encoded("-----BEGIN KEY-----\n")
    );
    assert!(refusal("token: abc", &other).contains("cannot be used"));
}

#[test]
fn a_quarter_of_a_mebibyte_is_read_and_no_more() {
    let plain = config("", "");
    let padded = |length: usize| format!("{plain}#{}", "x".repeat(length - plain.len() - 1));
    assert!(Credential::parse(&padded(262_144)).is_ok());
    let refused = Credential::parse(&padded(262_145)).expect_err("too large");
    assert_eq!(refused.construct, "it is larger than 256 KiB");
}

#[test]
fn each_dangerous_construct_is_refused_by_name() {
    for (construct, reason) in FORBIDDEN_KEYS {
        assert_eq!(
            refusal("    token: abc", &format!("    {construct}: x")),
            reason
        );
        assert_eq!(
            refusal("    server:", &format!("    {construct}: x\n    server:")),
            reason
        );
    }
}

#[test]
fn unknown_fields_second_contexts_and_odd_servers_are_refused() {
    assert!(refusal("    token: abc", "    token: abc\n    surprise: 1").contains("surprise"));
    assert!(
        refusal(
            "contexts:\n",
            "contexts:\n- name: d\n  context: {cluster: c, user: u}\n"
        )
        .contains("exactly one context")
    );
    for server in [
        "http://c.example",
        "https://u@c.example",
        "https://c.example/path",
        "https://c.example?q",
        "file:///etc/passwd",
        "c.example",
        "https://",
        "https://c.example:",
        "https://c.example:0",
        "https://c.example:65536",
        "https://c.example:0443",
        "https://c.example:+443",
        "https://c.example:6443:6443",
        "https://c.example/#x",
        "https://c.example#@d.example",
        "https://c.example//",
        "https://c.example/..",
        "https://c.example/%2e",
        "https://c.example\\\\d.example",
        "https://c.exa mple",
        "HTTPS://c.example",
        "https://-c.example",
        "https://c..example",
        "https://127.1",
        "https://0x7f000001",
        "https://2130706433",
        "https://0177.0.0.1",
        "https://[::1%25lo]",
        "https://[::1",
    ] {
        assert!(
            refusal("https://c.example:6443", server).contains("server"),
            "{server}"
        );
    }
    for server in [
        "https://c.example/",
        "https://192.0.2.1",
        "https://[2001:db8::1]:6443",
        "https://C-1.example:1",
    ] {
        assert!(
            Credential::parse(&config("https://c.example:6443", server)).is_ok(),
            "{server}"
        );
    }
    for misplaced in [" s3cret", " [s3cret]", " {token: {s: s3cret}}"] {
        let said = refusal("\n    token: abc", misplaced);
        assert!(
            said.contains("another type") && !said.contains("s3cret"),
            "{said}"
        );
    }
    assert!(
        refusal("token: abc", "token: abc\n    client-key-data: eA==").contains("either a token")
    );
    assert!(Credential::parse(&"a".repeat(MAX_KUBECONFIG_BYTES + 1)).is_err());
}

#[test]
fn double_names_other_kinds_and_credentials_that_cannot_work_are_refused_at_once() {
    assert!(refusal("kind: Config", "kind: Secret").contains("another kind"));
    assert!(refusal("apiVersion: v1", "apiVersion: v2").contains("another kind"));
    let pem = STANDARD.encode(signed().0);
    let second = format!(
        "clusters:\n- name: c\n  cluster: {{server: 'https://d.example', certificate-authority-data: {pem}}}\n"
    );
    assert!(refusal("clusters:\n", &second).contains("clusters has two entries"));
    assert!(
        refusal("users:\n", "users:\n- name: u\n  user: {token: x}\n")
            .contains("users has two entries")
    );
    assert!(
        Credential::parse(&config("kind: Config", "kind: Config\nkind: Config")).is_err(),
        "a key twice"
    );
    for token in ["\"\"", "'a b'", "\"a\\nb\"", "\"a\\u0000\"", "\u{e9}"] {
        assert!(
            refusal("token: abc", &format!("token: {token}")).contains("users.token"),
            "{token}"
        );
    }
    for authority in [
        "",
        "-----BEGIN CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "-----BEGIN PRIVATE KEY-----\n",
    ] {
        let config = config("", "");
        let sent =
            config.lines().map(
                |line| match line.split_once("certificate-authority-data: ") {
                    Some((indent, _)) => format!(
                        "{indent}certificate-authority-data: {}\n",
                        STANDARD.encode(authority)
                    ),
                    None => format!("{line}\n"),
                },
            );
        assert!(
            Credential::parse(&sent.collect::<String>()).is_err(),
            "{authority}"
        );
    }
    assert!(Credential::parse("{").is_err());
}
