//! Loads hostile kubeconfigs under a system call tracer. Meshwright's loader must run no program,
//! open no file and call no host that is not the tenant's. A general loader gets the same inputs
//! and must fall for nearly all classes; otherwise the corpus proves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use serde_json::json;

use crate::{Result, run_command};

/// Paths that the name service, the dynamic linker and the runtime open for any input.
const EXPECTED_OPENS: [&str; 11] = [
    "/etc/hosts",
    "/etc/resolv.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/ld.so.cache",
    "/lib/",
    "/usr/lib/",
    "/proc/self/",
    "/proc/sys/",
    "/sys/fs/cgroup/",
];
/// Socket of a name service cache, which may be asked.
const NAME_SERVICE_SOCKET: &str = "/nscd/socket";
/// Inputs of each class that the general loader gets. Falling for one of them is enough.
const GENERAL_SEEDS: usize = 2;
/// Percentage of classes that the general loader must fall for.
const MIN_HARMED_PERCENT: usize = 95;
/// System calls that the tracer records.
const TRACED_SYSCALLS: &str =
    "trace=execve,execveat,open,openat,openat2,creat,connect,sendto,sendmsg,sendmmsg,write";

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Minimum number of inputs that our loader gets.
    #[arg(long, default_value_t = 10_000)]
    inputs: usize,
    /// Number of seeds, each of which makes one input of every class; it overrides `--inputs`.
    #[arg(long)]
    seeds: Option<usize>,
}

/// Calls that were traced while one input was loaded.
#[derive(Debug, Default)]
struct InputTrace {
    class: String,
    harm: String,
    verdict: String,
    execs: Vec<String>,
    opens: Vec<String>,
    dials: Vec<String>,
}

impl InputTrace {
    /// Returns whether the loader did what the input is meant to cause, as system calls or its own
    /// settings show.
    fn did_harm(&self) -> bool {
        match self.harm.as_str() {
            "Here" => !(self.execs.is_empty() && self.opens.is_empty()),
            "There" => !self.dials.is_empty(),
            "Trust" => self.verdict == "trusting",
            _ => false,
        }
    }

    /// Returns whether the input harms a careless loader. Other inputs only have to be refused or
    /// accepted.
    fn can_harm(&self) -> bool {
        !matches!(self.harm.as_str(), "None" | "Odd")
    }

    /// Returns what went wrong with this input, if anything did.
    fn find_fault(&self) -> Option<String> {
        let plain = self.harm == "None";
        let wanted = if plain { "accepted" } else { "refused" };
        let dials = if plain { &[] } else { self.dials.as_slice() };
        let wrong = self
            .execs
            .iter()
            .chain(&self.opens)
            .chain(dials)
            .next()
            .cloned();
        let wrong =
            wrong.or_else(|| (self.verdict != wanted).then(|| format!("it was {}", self.verdict)));
        let blind = plain && self.dials.is_empty();
        wrong.or_else(|| blind.then(|| "its server was not called: the judge is blind".into()))
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    run_command(Command::new("cargo").args([
        "build",
        "--locked",
        "--quiet",
        "-p",
        "meshwright-kubernetes",
        "--example",
        "kubeconfigs",
    ]))?;
    let dir = tempfile::tempdir()?;
    let general = trace_loader(dir.path(), "general", GENERAL_SEEDS)?;
    let classes: BTreeSet<&str> = general
        .iter()
        .filter(|seen| seen.can_harm())
        .map(|seen| seen.class.as_str())
        .collect();
    let fell: BTreeSet<&str> = general
        .iter()
        .filter(|seen| seen.did_harm())
        .map(|seen| seen.class.as_str())
        .collect();
    for class in classes.difference(&fell) {
        println!("the general loader did not fall for: {class}");
    }
    let seeds = options
        .seeds
        .unwrap_or_else(|| options.inputs.div_ceil(general.len() / GENERAL_SEEDS));
    let ours = trace_loader(dir.path(), "ours", seeds)?;
    let faults: Vec<String> = ours
        .iter()
        .filter_map(|seen| Some(format!("{}: {}", seen.class, seen.find_fault()?)))
        .collect();
    faults
        .iter()
        .take(20)
        .for_each(|fault| println!("FAULT: {fault}"));
    let sum = |of: fn(&InputTrace) -> usize| {
        ours.iter()
            .filter(|seen| seen.harm != "None")
            .map(of)
            .sum::<usize>()
    };
    let totals = json!({
        "classes": classes.len(), "inputs": ours.len(), "faults": faults.len(),
        "programs": sum(|seen| seen.execs.len()), "files": sum(|seen| seen.opens.len()), "calls": sum(|seen| seen.dials.len()),
        "general_loader_falls_for": fell.len(),
    });
    println!("{totals}");
    if fell.len() * 100 < classes.len() * MIN_HARMED_PERCENT {
        bail!("the corpus is dead: a general loader falls for too little of it");
    }
    if faults.is_empty() {
        Ok(())
    } else {
        Err(anyhow!("{} faults", faults.len()))
    }
}

/// Runs a loader over the corpus under the tracer, in a network namespace without any interface
/// that is up, and parses the trace.
fn trace_loader(dir: &Path, subject: &str, seeds: usize) -> Result<Vec<InputTrace>> {
    let log = dir.join(subject);
    let mut run = Command::new("unshare");
    run.args([
        "--net",
        "strace",
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-yy",
        "-s",
        "300",
        "-e",
        TRACED_SYSCALLS,
        "-e",
        "signal=none",
        "-o",
    ]);
    run.arg(&log).args([
        "target/debug/examples/kubeconfigs",
        subject,
        &seeds.to_string(),
    ]);
    if subject == "ours" {
        // A loader that follows these variables calls a host that no kubeconfig names. The general
        // loader follows them and would get no further, so only our loader gets them.
        run.envs([
            ("HTTPS_PROXY", "http://10.66.66.66:3128"),
            ("https_proxy", "http://10.66.66.66:3128"),
        ]);
    }
    run_command(&mut run)?;
    let bytes = std::fs::read(&log)?;
    parse_trace(&String::from_utf8_lossy(&bytes))
}

fn parse_trace(log: &str) -> Result<Vec<InputTrace>> {
    let mut all: Vec<InputTrace> = Vec::new();
    let mut open: BTreeMap<String, usize> = BTreeMap::new();
    for line in log.lines() {
        let Some((_, call)) = line.split_once(' ') else {
            continue;
        };
        let call = call.trim_start();
        if let Some(said) = printed_line(call) {
            let mut words = said.splitn(4, ' ');
            match (words.next(), words.next(), words.next(), words.next()) {
                (Some("begin"), Some(number), Some(harm), Some(class)) => {
                    open.insert(number.into(), all.len());
                    all.push(InputTrace {
                        class: class.into(),
                        harm: harm.into(),
                        ..InputTrace::default()
                    });
                }
                (Some("end"), Some(number), Some(verdict), None) => {
                    let at = open.remove(number).context("an end without a beginning")?;
                    verdict.clone_into(&mut all[at].verdict);
                }
                _ => {}
            }
        } else if let Some(seen) = all.last_mut() {
            record_call(call, seen);
        }
    }
    if open.is_empty() && !all.is_empty() {
        Ok(all)
    } else {
        Err(anyhow!("the tracer's log ends in the middle"))
    }
}

/// Returns the line that the loader itself printed, if the call is a write to standard output.
fn printed_line(call: &str) -> Option<&str> {
    let (_, text) = call.strip_prefix("write(1<")?.split_once('"')?;
    Some(text.split("\\n\"").next().unwrap_or(text))
}

/// Records a call if it starts a program, opens a file that is not expected, or contacts a host.
fn record_call(call: &str, seen: &mut InputTrace) {
    let name = call.split('(').next().unwrap_or_default();
    match name {
        "execve" | "execveat" => seen.execs.push(call.to_owned()),
        "open" | "openat" | "openat2" | "creat" => {
            let path = call.split('"').nth(1).unwrap_or_default();
            if !EXPECTED_OPENS.iter().any(|known| path.starts_with(known)) {
                seen.opens.push(call.to_owned());
            }
        }
        "connect" | "sendto" | "sendmsg" | "sendmmsg" if is_dial(name, call) => {
            seen.dials.push(call.to_owned());
        }
        _ => {}
    }
}

/// Returns whether a call contacts a host: a connection, or a datagram to anything but a name
/// server. A datagram socket that is only connected sends nothing; the name service does that to
/// find out which source address would be used.
fn is_dial(name: &str, call: &str) -> bool {
    let of = |kind: &str| {
        call.split(',')
            .next()
            .is_some_and(|first| first.contains(kind))
    };
    let asks_names = call.contains("htons(53)") || call.contains(":53]");
    match name {
        _ if of("<TCP") => name == "connect",
        _ if of("<UDP") => name != "connect" && !asks_names,
        "connect" if of("<UNIX") => !call.contains(NAME_SERVICE_SOCKET),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(between: &str) -> Result<Vec<InputTrace>> {
        let log = format!(
            "7 write(1<pipe:[1]>, \"begin 0 Here exec, Block\\n\", 19) = 19\n{between}\n7 write(1<pipe:[1]>, \"end 0 refused\\n\", 14) = 14"
        );
        parse_trace(&log)
    }

    #[test]
    fn programs_files_and_calls_are_seen_and_what_a_name_service_does_is_not() {
        for fault in [
            "8 execve(\"/nowhere/x\", [\"x\"], 0x1 /* 3 vars */ <unfinished ...>",
            "7 openat(AT_FDCWD</work>, \"/nowhere/x\", O_RDONLY|O_CLOEXEC) = -1 ENOENT (No such file or directory)",
            "7 connect(9<TCP:[1]>, {sa_family=AF_INET, sin_port=htons(443), sin_addr=inet_addr(\"127.0.0.1\")}, 16) = -1 ENETUNREACH",
            "7 sendto(9<UDP:[10.0.0.1:1->10.0.0.2:99]>, \"x\", 1, 0, NULL, 0) = 1",
            "7 connect(9<UNIX-STREAM:[1]>, {sa_family=AF_UNIX, sun_path=\"/run/docker.sock\"}, 110) = 0",
        ] {
            let seen = lines(fault).expect("a log");
            assert!(seen[0].find_fault().is_some(), "{fault}");
        }
        for fine in [
            "7 openat(AT_FDCWD</work>, \"/etc/hosts\", O_RDONLY|O_CLOEXEC) = 9</etc/hosts>",
            "7 connect(9<UDP:[1]>, {sa_family=AF_INET, sin_port=htons(0), sin_addr=inet_addr(\"127.0.0.1\")}, 16) = 0",
            "7 connect(9<UNIX-STREAM:[1]>, {sa_family=AF_UNIX, sun_path=\"/var/run/nscd/socket\"}, 110) = -1 ENOENT",
            "7 write(9<anon_inode:[eventfd]>, \"\\1\", 8) = 8",
        ] {
            let seen = lines(fine).expect("a log");
            assert_eq!(seen[0].find_fault(), None, "{fine}");
        }
        assert!(parse_trace("").is_err());
    }
}
