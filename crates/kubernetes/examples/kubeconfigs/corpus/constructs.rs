//! Constructs that must be refused, by the harm that they would do.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Build, Parts, authority, word};
use crate::text::{Node, map, text};

fn user(entries: Vec<(&str, Node)>) -> Parts {
    let user = entries
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    Parts {
        user,
        without_token: true,
        ..Parts::default()
    }
}

fn cluster(entries: Vec<(&str, Node)>) -> Parts {
    let cluster = entries
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    Parts {
        cluster,
        ..Parts::default()
    }
}

fn program(chance: &mut fastrand::Rng) -> String {
    format!("/nowhere/{}", word(chance))
}

fn exec(chance: &mut fastrand::Rng, more: Vec<(&str, Node)>) -> Parts {
    let more = more
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    let version = text("client.authentication.k8s.io/v1beta1");
    user(vec![(
        "exec",
        map([("apiVersion", version), ("command", text(program(chance)))]).with(more),
    )])
}

fn provider(chance: &mut fastrand::Rng, more: Vec<(&str, Node)>) -> Parts {
    let more = more
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    let config = map([("cmd-path", text(program(chance)))]).with(more);
    user(vec![(
        "auth-provider",
        map([("name", text("gcp")), ("config", config)]),
    )])
}

/// Programs and files on the loader's machine.
pub(super) const HERE: [(&str, Build); 18] = [
    ("exec", |chance| exec(chance, vec![])),
    ("exec with arguments", |chance| {
        let arguments = Node::List(vec![text("-c"), text(word(chance))]);
        exec(chance, vec![("args", arguments)])
    }),
    ("exec with an environment", |chance| {
        let variable = map([
            ("name", text("LD_PRELOAD")),
            ("value", text(program(chance))),
        ]);
        exec(chance, vec![("env", Node::List(vec![variable]))])
    }),
    ("exec that never asks", |chance| {
        exec(chance, vec![("interactiveMode", text("Never"))])
    }),
    ("exec with a hint", |chance| {
        exec(chance, vec![("installHint", text("run me"))])
    }),
    ("exec that is told of the cluster", |chance| {
        exec(chance, vec![("provideClusterInfo", Node::Flag(true))])
    }),
    ("exec by the search path", |chance| {
        let version = text("client.authentication.k8s.io/v1");
        user(vec![(
            "exec",
            map([
                ("apiVersion", version),
                ("command", text(format!("meshwright-{}", word(chance)))),
            ]),
        )])
    }),
    ("exec beside the loader", |chance| {
        user(vec![(
            "exec",
            map([("command", text(format!("./{}", word(chance))))]),
        )])
    }),
    ("a provider's command", |chance| provider(chance, vec![])),
    ("a provider's command with arguments", |chance| {
        let arguments = text(format!("-c {}", word(chance)));
        provider(chance, vec![("cmd-args", arguments)])
    }),
    ("a provider's command after an expired token", |chance| {
        let token = text(word(chance));
        provider(
            chance,
            vec![
                ("access-token", token),
                ("expiry", text("2001-01-01T00:00:00Z")),
            ],
        )
    }),
    ("a token out of a file", |chance| {
        user(vec![("tokenFile", text(program(chance)))])
    }),
    ("a service account's token of the loader's own", |_| {
        user(vec![(
            "tokenFile",
            text("/var/run/secrets/kubernetes.io/serviceaccount/token"),
        )])
    }),
    ("the loader's environment as a token", |_| {
        user(vec![("tokenFile", text("/proc/1/environ"))])
    }),
    ("an authority out of a file", |chance| Parts {
        without_authority: true,
        ..cluster(vec![("certificate-authority", text(program(chance)))])
    }),
    ("an authority out of a folder above", |chance| Parts {
        without_authority: true,
        ..cluster(vec![(
            "certificate-authority",
            text(format!("../../../nowhere/{}", word(chance))),
        )])
    }),
    ("a certificate and a key out of files", |chance| {
        user(vec![
            ("client-certificate", text(program(chance))),
            ("client-key", text(program(chance))),
        ])
    }),
    ("a key out of a file", |chance| {
        user(vec![
            ("client-certificate-data", authority()),
            ("client-key", text(program(chance))),
        ])
    }),
];

/// Whom to trust and whom to act for.
pub(super) const TRUST: [(&str, Build); 6] = [
    ("any server is trusted", |_| Parts {
        without_authority: true,
        ..cluster(vec![("insecure-skip-tls-verify", Node::Flag(true))])
    }),
    ("another server's name", |chance| {
        cluster(vec![(
            "tls-server-name",
            text(format!("{}.example", word(chance))),
        )])
    }),
    ("somebody else", |chance| Parts {
        without_token: false,
        ..user(vec![("as", text(word(chance)))])
    }),
    ("members of a group", |chance| {
        let groups = Node::List(vec![text("system:masters")]);
        Parts {
            without_token: false,
            ..user(vec![("as", text(word(chance))), ("as-groups", groups)])
        }
    }),
    ("a password", |chance| {
        user(vec![
            ("username", text(word(chance))),
            ("password", text(word(chance))),
        ])
    }),
    ("no encryption", |_| Parts {
        server: Some("http://8.8.8.8:6443".into()),
        without_authority: true,
        ..Parts::default()
    }),
];

/// Hosts that are none of a tenant's, in every notation: the machine itself, its network and the
/// metadata service of its cloud.
pub(super) const THERE: [&str; 56] = [
    "127.0.0.1",
    "127.0.0.1:6443",
    "127.255.255.254",
    "127.1",
    "0x7f000001",
    "0x7f.0.0.1",
    "2130706433",
    "0177.0.0.1",
    "0.0.0.0",
    "0",
    "0.1.2.3",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::]",
    "[::127.0.0.1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::10.0.0.1]",
    "[2002:7f00:1::1]",
    "[2002:a00:1::1]",
    "[2001:0:5ef5:79fb::1]",
    "169.254.169.254",
    "0xa9fea9fe",
    "2852039166",
    "[::ffff:169.254.169.254]",
    "[fd00:ec2::254]",
    "169.254.170.2",
    "169.254.0.1",
    "10.0.0.1",
    "10.255.255.255",
    "10.1",
    "012.0.0.1",
    "[::ffff:10.0.0.1]",
    "172.16.0.1",
    "172.31.255.254",
    "192.168.1.1",
    "100.64.0.1",
    "100.127.255.255",
    "192.0.0.8",
    "198.18.0.1",
    "192.0.2.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "[fe80::1]",
    "[fec0::1]",
    "[fc00::1]",
    "[fd12:3456::1]",
    "[ff02::1]",
    "[2001:db8::1]",
];

fn with_server(server: &str) -> Parts {
    Parts {
        server: Some(server.to_owned()),
        ..Parts::default()
    }
}

fn with_authority(pem: &str) -> Parts {
    Parts {
        without_authority: true,
        ..cluster(vec![(
            "certificate-authority-data",
            text(STANDARD.encode(pem)),
        )])
    }
}

/// Notations that readers disagree about, and credentials that cannot work.
pub(super) const ODD: [(&str, Build); 17] = [
    ("port 0", |_| with_server("https://8.8.8.8:0")),
    ("port 65536", |_| with_server("https://8.8.8.8:65536")),
    ("a port with a zero in front", |_| {
        with_server("https://8.8.8.8:06443")
    }),
    ("a port with a sign", |_| {
        with_server("https://8.8.8.8:+6443")
    }),
    ("no port after the colon", |_| {
        with_server("https://8.8.8.8:")
    }),
    ("a fragment", |_| with_server("https://8.8.8.8:6443/#x")),
    ("a fragment with another host", |_| {
        with_server("https://8.8.8.8#@9.9.9.9")
    }),
    ("two slashes", |_| with_server("https://8.8.8.8//")),
    ("a folder above", |_| with_server("https://8.8.8.8/..")),
    ("an escaped dot", |_| with_server("https://8.8.8.8/%2e")),
    ("a backslash", |_| with_server("https://8.8.8.8\\@9.9.9.9")),
    ("an empty token", |_| user(vec![("token", text(""))])),
    ("a token with a line break", |_| {
        user(vec![("token", text("a\nb"))])
    }),
    ("a token that is no header", |_| {
        user(vec![("token", text("a\u{1}b"))])
    }),
    ("an authority that is a key", |_| {
        with_authority("-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n")
    }),
    ("an authority of no bytes", |_| {
        with_authority("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
    }),
    ("the list of clusters twice", |_| Parts {
        file: vec![("clusters".into(), Node::List(vec![]))],
        ..Parts::default()
    }),
];
