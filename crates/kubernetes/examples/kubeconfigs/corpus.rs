//! Writes kubeconfigs that would run a program here, read a file here, call a host that is none of
//! a tenant's, or trust any server.
//!
//! A class is one harmful construct in one notation. Each class has as many inputs as there are
//! seeds.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::text::{Node, STYLES, Style, block, flow, map, text};

mod constructs;

use constructs::{HERE, ODD, THERE, TRUST};

/// Harm that a class would do to a loader that does not check it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Harm {
    /// A program is run, or a file is opened.
    Here,
    /// A host is called.
    There,
    /// Another server is trusted, or another user is acted for.
    Trust,
    /// Two readers disagree about it, or no call by it can succeed: it must be refused at once.
    Odd,
    /// None: it must be accepted, and its server is called.
    None,
}

type Build = fn(&mut fastrand::Rng) -> Parts;

/// What is special about a class: entries of the cluster and of the user.
#[derive(Debug, Clone, Default)]
pub(crate) struct Parts {
    server: Option<String>,
    cluster: Vec<(String, Node)>,
    user: Vec<(String, Node)>,
    /// Entries of the file, which may be there twice then.
    file: Vec<(String, Node)>,
    without_authority: bool,
    without_token: bool,
}

/// One class.
pub(crate) struct Class {
    pub(crate) name: String,
    pub(crate) harm: Harm,
    build: Box<dyn Fn(&mut fastrand::Rng) -> Parts>,
    style: Style,
}

impl Class {
    /// One of its inputs.
    pub(crate) fn input(&self, seed: u64) -> String {
        let mut chance = fastrand::Rng::with_seed(seed);
        let parts = (self.build)(&mut chance);
        write(parts, self.style, &mut chance)
    }
}

fn word(chance: &mut fastrand::Rng) -> String {
    (0..chance.usize(3..12))
        .map(|_| chance.lowercase())
        .collect()
}

fn authority() -> Node {
    text(STANDARD.encode(include_str!("authority.pem")))
}

/// Puts a configuration together and writes it down.
fn write(parts: Parts, style: Style, chance: &mut fastrand::Rng) -> String {
    let server = parts
        .server
        .unwrap_or_else(|| "https://8.8.8.8:6443".to_owned());
    let mut cluster = map([("server", text(server))]).with(parts.cluster);
    if !parts.without_authority {
        cluster = cluster.with(vec![("certificate-authority-data".into(), authority())]);
    }
    let mut user = map([]).with(parts.user);
    if !parts.without_token {
        user = user.with(vec![("token".into(), text(word(chance)))]);
    }
    let (cluster, user) = (cluster.shuffled(chance), user.shuffled(chance));
    match style {
        Style::Aliased | Style::Merged => {
            let named = map([
                ("c", Node::Raw(format!("&c {}", flow(&cluster, style)))),
                ("u", Node::Raw(format!("&u {}", flow(&user, style)))),
            ]);
            let refer = |name: &str| {
                Node::Raw(if style == Style::Merged {
                    format!("{{<<: *{name}}}")
                } else {
                    format!("*{name}")
                })
            };
            // An anchor must stand before its aliases, so nothing is shuffled here.
            let file = file(refer("c"), refer("u"), chance);
            text_of(
                &map([("preferences", named)]).with(entries(file)),
                style,
                chance,
            )
        }
        Style::Second => {
            let first = map([("apiVersion", text("v1")), ("kind", text("Config"))]);
            let second = file(cluster, user, chance).shuffled(chance);
            format!(
                "{}---\n{}",
                text_of(&first, style, chance),
                text_of(&second, style, chance)
            )
        }
        _ => {
            let file = file(cluster, user, chance).with(parts.file);
            text_of(&file.shuffled(chance), style, chance)
        }
    }
}

fn entries(node: Node) -> Vec<(String, Node)> {
    if let Node::Map(entries) = node {
        entries
    } else {
        Vec::new()
    }
}

fn file(cluster: Node, user: Node, chance: &mut fastrand::Rng) -> Node {
    let (c, u, x) = (word(chance), word(chance), word(chance));
    let context = map([("cluster", text(c.as_str())), ("user", text(u.as_str()))]);
    map([
        ("apiVersion", text("v1")),
        ("kind", text("Config")),
        ("current-context", text(x.as_str())),
        (
            "clusters",
            Node::List(vec![map([("name", text(c)), ("cluster", cluster)])]),
        ),
        (
            "contexts",
            Node::List(vec![map([("name", text(x)), ("context", context)])]),
        ),
        (
            "users",
            Node::List(vec![map([("name", text(u)), ("user", user)])]),
        ),
    ])
}

fn text_of(node: &Node, style: Style, chance: &mut fastrand::Rng) -> String {
    if matches!(style, Style::Flow | Style::Json) {
        return format!("{}\n", flow(node, style));
    }
    let mut out = String::new();
    block(node, style, 0, chance.usize(2..5), &mut out);
    if style != Style::Noisy {
        return out;
    }
    let noisy = out.lines().map(|line| {
        if chance.bool() {
            format!("{line}  # {}\r\n\r\n", word(chance))
        } else {
            format!("{line}\r\n")
        }
    });
    noisy.collect()
}

/// Lists all classes, and plain configurations that must be accepted: these show that the judge
/// sees calls.
pub(crate) fn classes() -> Vec<Class> {
    let plain = STYLES
        .into_iter()
        .filter(|style| !matches!(style, Style::Aliased | Style::Merged | Style::Second));
    let mut all: Vec<Class> = plain
        .map(|style| Class {
            name: format!("a plain configuration, {style:?}"),
            harm: Harm::None,
            build: Box::new(|_| Parts::default()),
            style,
        })
        .collect();
    let shaped = [(Harm::Here, &HERE[..]), (Harm::Trust, &TRUST[..])];
    for (harm, constructs) in shaped {
        for (name, build) in constructs {
            for style in STYLES {
                all.push(Class {
                    name: format!("{name}, {style:?}"),
                    harm,
                    build: Box::new(build),
                    style,
                });
            }
        }
    }
    for (name, build) in ODD {
        all.push(Class {
            name: name.into(),
            harm: Harm::Odd,
            build: Box::new(build),
            style: Style::Block,
        });
    }
    for host in THERE {
        let build = move |_: &mut fastrand::Rng| Parts {
            server: Some(format!("https://{host}")),
            ..Parts::default()
        };
        all.push(Class {
            name: format!("the server {host}"),
            harm: Harm::There,
            build: Box::new(build),
            style: Style::Block,
        });
    }
    all
}
