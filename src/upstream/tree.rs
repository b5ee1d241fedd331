//! The processes below one process, from `/proc`.

use std::collections::BTreeMap;

use rustix::process::{Pid, Signal};

/// Every descendant of a process, nearest first. Orphans come back to a subreaper, so below the
/// guard nothing can hide.
pub(super) fn descendants(root: Pid) -> Vec<Pid> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if let Ok(stat) = std::fs::read_to_string(entry.path().join("stat"))
            && let Some(parent) = parent(&stat)
        {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut wave = vec![root.as_raw_nonzero().get()];
    while let Some(pid) = wave.pop() {
        for child in children.remove(&pid).unwrap_or_default() {
            found.extend(Pid::from_raw(child));
            wave.push(child);
        }
    }
    found
}

/// The fourth field of `/proc/PID/stat`. The second is a name in parentheses that may itself
/// hold spaces and parentheses (proc(5)).
fn parent(stat: &str) -> Option<i32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Signals every descendant; one that is gone by then is no error.
pub(super) fn signal(root: Pid, signal: Signal) {
    for pid in descendants(root) {
        if let Err(error) = rustix::process::kill_process(pid, signal) {
            tracing::trace!(%error, "A descendant was not signalled.");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_found_behind_any_name() {
        assert_eq!(parent("12 (a) b) R 1) S 7 12 12 0"), Some(7));
        assert_eq!(parent("12 (node) S 7 12 12 0"), Some(7));
        assert_eq!(parent("12 (node"), None);
    }
}
