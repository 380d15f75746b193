//! Reads the processor time and the memory of processes from `/proc`.

use anyhow::Context as _;

use crate::Result;

/// Clock ticks in a second, the unit of times in `/proc`.
const CLOCK_TICKS_PER_SECOND: f64 = 100.0;

/// Parent of a process, its own processor seconds, and those of its children that have ended.
pub(crate) struct ProcessStat {
    pub(crate) parent: u32,
    pub(crate) own_seconds: f64,
    pub(crate) ended_children_seconds: f64,
}

/// Returns the figures of a process, or `None` if it does not run.
pub(crate) fn read_process_stat(process: u32) -> Option<ProcessStat> {
    const PARENT: usize = 1;
    const USER: usize = 11;
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // Fields are counted after the name, which stands in parentheses and may contain any character.
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    let seconds = |at: usize| Some(fields.get(at)?.parse::<f64>().ok()? / CLOCK_TICKS_PER_SECOND);
    let own = seconds(USER)? + seconds(USER + 1)?;
    Some(ProcessStat {
        parent: fields.get(PARENT)?.parse().ok()?,
        own_seconds: own,
        ended_children_seconds: seconds(USER + 2)? + seconds(USER + 3)?,
    })
}

/// Returns the processor seconds that a process has used so far.
pub(crate) fn process_cpu_seconds(process: u32) -> Result<f64> {
    read_process_stat(process)
        .map(|stat| stat.own_seconds)
        .with_context(|| format!("process {process} does not run"))
}

/// Returns the resident memory of a process in bytes.
pub(crate) fn process_memory_bytes(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap_or_default();
    let kilobytes: u64 = line
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .with_context(|| format!("{path} has no size"))?;
    Ok(kilobytes * 1024)
}
