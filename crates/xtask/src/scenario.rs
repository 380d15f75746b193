//! The main job on the lab, as a newcomer watches it and as `tests/run` judges it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use crate::lab::{Lab, Server, until};
use crate::story::{self, MEMBERS, carries, differences, is_gone, samples, stamps};
use crate::{Result, judge};

const OLD: (&str, &str, &str) = ("1.25.1.1", "1-25-1", "lab/proxyv2:1.25.1");
const NEW: (&str, &str, &str) = ("1.27.9.1", "1-27-9", "lab/proxyv2:1.27.9");

#[derive(Debug, Args)]
pub(crate) struct Quickstart {
    /// End when the main job is done instead of staying up.
    #[arg(long)]
    exit_when_done: bool,
    /// Write seconds for each part and the end state's assertions to this file.
    #[arg(long)]
    report: Option<PathBuf>,
    /// Where the API listens.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: String,
    /// Folder for the server's state.
    #[arg(long)]
    dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct All {
    /// Folder for everything that is written.
    #[arg(long)]
    dir: PathBuf,
    /// Where the API listens.
    #[arg(long, default_value = "127.0.0.1:18089")]
    listen: String,
}

/// Seconds of each part, in order.
struct Parts(Vec<(String, f64)>);

impl Parts {
    fn run<T>(&mut self, title: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("\n== {title}");
        let start = Instant::now();
        let done = work().map_err(|error| format!("{title}: {error}"))?;
        self.0.push((title.into(), start.elapsed().as_secs_f64()));
        Ok(done)
    }
}

fn field(value: &Value, key: &str) -> Result<String> {
    value[key].as_str().map(str::to_owned).ok_or_else(|| format!("the answer has no {key}"))
}

/// Registers both members and brings a mesh up on the old version, with workloads in it.
fn mesh_up(lab: &Lab, server: &Server, parts: &mut Parts) -> Result<()> {
    parts.run("register two clusters", || {
        MEMBERS.iter().try_for_each(|member| {
            let kubeconfig = lab.kubeconfig(member)?.display().to_string();
            server.watch(&["cluster", "register", member, "--kubeconfig", &kubeconfig, "--wait"]).map(|_| ())
        })
    })?;
    parts.run("create a mesh on 1.25.1", || {
        server.watch(&["mesh", "create", "demo", "--version", OLD.0, "--cluster", "c1", "--cluster", "c2", "--wait"])
    })?;
    parts.run("start sample workloads", || samples(lab))
}

fn plan(server: &Server, version: &str, strategy: &str, hold: &str) -> Result<String> {
    let arguments = [
        "upgrade",
        "plan",
        "demo",
        "--version",
        version,
        "--strategy",
        strategy,
        "--hold-seconds",
        hold,
        "--start",
        "--wait",
    ];
    field(&server.watch(&arguments)?, "id")
}

fn ask(server: &Server, verb: &str, upgrade: &str, wanted: &str) -> Result<()> {
    let state = field(&server.watch(&["upgrade", verb, upgrade, "--wait"])?, "state")?;
    if state == wanted { Ok(()) } else { Err(format!("{verb} led to {state}, not to {wanted}")) }
}

pub(crate) fn quickstart(options: &Quickstart) -> Result<()> {
    let mut parts = Parts(Vec::new());
    let mut lab = parts.run("start a hosting cluster and two user clusters", || Lab::up("quickstart", 2))?;
    let server = parts.run("start Meshwright", || Server::start(&lab, &options.dir, &options.listen))?;
    let own = Instant::now();
    mesh_up(&lab, &server, &mut parts)?;
    let recording = options.dir.join("recording.jsonl");
    let mut recorder = lab.record(&recording)?;
    let upgrade = parts.run("canary: bring 1.27.9 up beside 1.25.1", || plan(&server, NEW.0, "canary", "0"))?;
    parts.run("promote, roll every sidecar, retire 1.25.1", || ask(&server, "promote", &upgrade, "succeeded"))?;
    let meshwright_seconds = own.elapsed().as_secs_f64();
    std::thread::sleep(Duration::from_secs(1));
    crate::output(std::process::Command::new("kill").arg(recorder.id().to_string()))?;
    recorder.wait().map_err(|error| error.to_string())?;
    let assertions = parts.run("look at what came of it", || assertions(&lab, &recording))?;
    println!("\n{}", server.cli(&["mesh", "workloads", "demo"])?);
    let report = json!({
        "parts": parts.0.iter().map(|(title, seconds)| json!({ "part": title, "seconds": seconds })).collect::<Vec<_>>(),
        "meshwright_seconds": meshwright_seconds, "assertions": assertions,
    });
    if let Some(file) = &options.report {
        std::fs::write(file, format!("{report:#}\n")).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    println!("1.25.1 → 1.27.9 in {meshwright_seconds:.0} s of Meshwright's own work: {assertions}");
    if options.exit_when_done {
        return Ok(());
    }
    println!("\nMeshwright stays up at {}. Look around, from another terminal:", server.address);
    println!("  target/debug/meshwright login --server {} --key-file {}", server.address, server.key_file().display());
    println!("  target/debug/meshwright mesh options demo");
    println!("Press Enter, or Ctrl-C, to end everything.");
    lab.keep();
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(|error| error.to_string())?;
    drop(server);
    crate::output(std::process::Command::new("tests/lab/lab").args(["down", "--name", "quickstart"])).map(|_| ())
}

/// Acceptance: every live pod moved, nobody was ever without a sidecar, everything was restarted once, the old is gone.
fn assertions(lab: &Lab, recording: &Path) -> Result<Value> {
    let pods = carries(lab, NEW.1, NEW.2)?;
    is_gone(lab, OLD.1)?;
    let stamps = stamps(lab)?;
    if let Some((workload, count)) = stamps.iter().find(|(_, count)| **count > 1) {
        return Err(format!("{workload} was restarted {count} times"));
    }
    if let Some(workload) = stamps.keys().find(|workload| workload.contains("/unmeshed/")) {
        return Err(format!("{workload} was restarted without a need"));
    }
    let judge = judge::read(recording)?;
    if !judge.breaches.is_empty() {
        return Err(judge.breaches.join("\n"));
    }
    Ok(
        json!({ "pods_on_the_new_revision": pods, "workloads_restarted_once": stamps.len(), "events_without_a_breach": judge.events }),
    )
}

pub(crate) fn all(options: &All) -> Result<()> {
    let mut parts = Parts(Vec::new());
    let lab = parts.run("start a lab", || Lab::up("scenario", 2))?;
    let server = parts.run("start Meshwright", || Server::start(&lab, &options.dir, &options.listen))?;
    mesh_up(&lab, &server, &mut parts)?;
    let mut passed = 0;
    let mut tell = |title: &str, parts: &mut Parts, work: &mut dyn FnMut() -> Result<()>| {
        parts.run(title, work)?;
        passed += 1;
        println!("scenario passed: {title}");
        Ok::<(), String>(())
    };
    tell("istioctl agrees with our tags", &mut parts, &mut || istioctl_agrees(&lab, &server))?;
    tell("a killed istiod is started again", &mut parts, &mut || killed_istiod(&lab, &server))?;
    tell("a silent member stops a promotion before it begins", &mut parts, &mut || silent_member(&lab, &server))?;
    for stage in ["deployed", "moved", "holding"] {
        tell(&format!("rollback restores everything: {stage}"), &mut parts, &mut || {
            rollback_from(&lab, &server, stage)
        })?;
    }
    tell("holding ends with one call", &mut parts, &mut || holding_ends(&lab, &server))?;
    tell("in place within a community version restarts nothing", &mut parts, &mut || in_place(&lab, &server))?;
    tell("bad input is answered with a code", &mut parts, &mut || bad_input(&lab, &server))?;
    println!("\n{passed} scenarios passed");
    Ok(())
}

/// Goes to a stage and back, and compares everything in every cluster.
fn rollback_from(lab: &Lab, server: &Server, stage: &str) -> Result<()> {
    settle(lab)?;
    let before = lab.dump()?;
    let upgrade = plan(server, NEW.0, "canary", "3600")?;
    match stage {
        "moved" => {
            server.watch(&["upgrade", "move", &upgrade, "--namespace", "c1/shop", "--wait"])?;
        }
        "holding" => ask(server, "promote", &upgrade, "holding")?,
        _ => {}
    }
    ask(server, "rollback", &upgrade, "rolled_back")?;
    carries(lab, OLD.1, OLD.2)?;
    is_gone(lab, NEW.1)?;
    settle(lab)?;
    let differs = differences(&before, &lab.dump()?);
    if differs.is_empty() { Ok(()) } else { Err(format!("{} lines differ:\n{}", differs.len(), shorten(&differs))) }
}

/// Waits until nothing is on its way any more, so that two dumps can be compared.
fn settle(lab: &Lab) -> Result<()> {
    until("the lab has settled", Duration::from_mins(1), || {
        let first = lab.dump().ok()?;
        std::thread::sleep(Duration::from_millis(700));
        (first == lab.dump().ok()?).then_some(())
    })
}

fn shorten(lines: &[String]) -> String {
    lines.iter().take(12).map(|line| line.chars().take(1500).collect::<String>()).collect::<Vec<_>>().join("\n")
}

fn namespace(server: &Server) -> Result<String> {
    let mesh: Value = serde_json::from_str(&server.cli(&["mesh", "get", "demo", "-o", "json"])?)
        .map_err(|error| error.to_string())?;
    field(&mesh, "namespace")
}

fn istioctl_agrees(lab: &Lab, server: &Server) -> Result<()> {
    let namespace = namespace(server)?;
    for member in MEMBERS {
        let said = lab.istioctl(member, &["tag", "list", "-i", &namespace])?;
        for tag in ["stable", "default", "canary"] {
            let pointed = said.lines().any(|line| line.split_whitespace().take(2).eq([tag, OLD.1]));
            if !pointed {
                return Err(format!("istioctl does not see {tag} on {} in {member}:\n{said}", OLD.1));
            }
        }
    }
    Ok(())
}

fn killed_istiod(lab: &Lab, server: &Server) -> Result<()> {
    let namespace = namespace(server)?;
    let pods = lab.get("hosting", &["pods", "-n", &namespace])?;
    let name = pods.first().and_then(|pod| pod["metadata"]["name"].as_str()).ok_or("no istiod runs")?.to_owned();
    lab.signal(&format!("hosting/pod/{namespace}/{name}"), "KILL")?;
    until("the killed istiod is ready again", Duration::from_secs(90), || {
        let pods = lab.get("hosting", &["pods", "-n", &namespace]).ok()?;
        let pod = pods.into_iter().find(|pod| pod["metadata"]["name"] == name.as_str())?;
        let status = &pod["status"]["containerStatuses"][0];
        (status["restartCount"].as_i64() > Some(0) && status["ready"] == true).then_some(())
    })
}

/// Everything is looked at in every member before the first tag moves, so a silent one stops the promotion with nothing moved.
fn silent_member(lab: &Lab, server: &Server) -> Result<()> {
    let upgrade = plan(server, NEW.0, "canary", "3600")?;
    lab.signal("c2/kube-apiserver", "STOP")?;
    let stopped = ask(server, "promote", &upgrade, "holding").err();
    let tags = lab.kubectl(
        "c1",
        &[
            "get",
            "mutatingwebhookconfiguration",
            "istio-revision-tag-default",
            "-o",
            "jsonpath={.metadata.labels.istio\\.io/rev}",
        ],
    );
    lab.signal("c2/kube-apiserver", "CONT")?;
    let state: Value = serde_json::from_str(&server.cli(&["upgrade", "get", &upgrade, "-o", "json"])?)
        .map_err(|error| error.to_string())?;
    if stopped.is_none() || state["problem"]["code"] != "cluster_unreachable" || tags? != OLD.1 {
        return Err(format!("the promotion was not stopped as it should be: {state}"));
    }
    until("the member answers again", Duration::from_mins(1), || lab.get("c2", &["nodes"]).ok())?;
    ask(server, "retry", &upgrade, "holding")?;
    ask(server, "rollback", &upgrade, "rolled_back")?;
    carries(lab, OLD.1, OLD.2).map(|_| ())
}

fn holding_ends(lab: &Lab, server: &Server) -> Result<()> {
    let upgrade = plan(server, NEW.0, "canary", "3600")?;
    ask(server, "promote", &upgrade, "holding")?;
    ask(server, "retire", &upgrade, "succeeded")?;
    carries(lab, NEW.1, NEW.2)?;
    is_gone(lab, OLD.1)
}

fn in_place(lab: &Lab, server: &Server) -> Result<()> {
    let before = stamps(lab)?;
    let upgrade = plan(server, "1.27.9.2", "in_place", "0")?;
    server.watch(&["upgrade", "get", &upgrade])?;
    carries(lab, NEW.1, NEW.2)?;
    if stamps(lab)? == before {
        Ok(())
    } else {
        Err("something was restarted although the proxy's image is the same".into())
    }
}

/// Each input with the code that answers it.
fn bad_input(lab: &Lab, server: &Server) -> Result<()> {
    let rows: [(&[&str], &str); 6] = [
        (&["upgrade", "plan", "demo", "--version", "1.99.0.1"], "version_not_in_catalogue"),
        (&["upgrade", "plan", "demo", "--version", "1.25.1.1"], "upgrade_refused"),
        (&["upgrade", "plan", "demo", "--version", "nonsense"], "invalid_field"),
        (&["cluster", "delete", "c1"], "cluster_in_use"),
        (&["upgrade", "start", "upgrade_00000000000000000000000000"], "not_found"),
        (
            &[
                "mesh",
                "set-injection",
                "demo",
                "--cluster",
                "c1",
                "--namespace",
                "shop",
                "--label",
                "istio.io/rev=gone",
            ],
            "no_such_revision",
        ),
    ];
    for (arguments, code) in rows {
        let refused = server.cli(arguments).err().ok_or_else(|| format!("{arguments:?} was accepted"))?;
        if !refused.contains(&format!("({code})")) {
            return Err(format!("{arguments:?} was not answered with {code}: {refused}"));
        }
    }
    // A namespace with both labels is found before anything is touched.
    lab.kubectl("c1", &["label", "namespace", "shop", "istio.io/rev=stable"])?;
    let blocked = plan(server, "1.27.9.2", "in_place", "0").err();
    lab.kubectl("c1", &["label", "namespace", "shop", "istio.io/rev-"])?;
    if blocked.is_none() {
        return Err("a namespace with both labels, or the same version again, was accepted".into());
    }
    story::carries(lab, NEW.1, NEW.2).map(|_| ())
}
