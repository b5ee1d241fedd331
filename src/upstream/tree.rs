//! The processes below one process, from `/proc`.
//!
//! What is found here is signalled, and nothing more is concluded: a look may miss a process that
//! was started meanwhile, or whose entry cannot be read. That nothing is left is said by the
//! kernel alone, when a subreaper has no child any more.

use std::collections::BTreeMap;

use rustix::process::{Pid, PidfdFlags, Signal};

/// One process, as `/proc/PID/stat` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    pid: i32,
    parent: i32,
    group: i32,
}

/// Every process that can be read.
fn look() -> Vec<Entry> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.flatten().filter_map(|entry| {
        let name = entry.file_name();
        name.to_str()?.parse().ok()
    });
    pids.filter_map(read).collect()
}

fn read(pid: i32) -> Option<Entry> {
    // bytes: a process gives itself any name, and one that is not UTF-8 must not hide it
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse(pid, &stat)
}

/// The fourth and fifth field. The second is a name in parentheses, of any bytes, parentheses
/// included (proc(5)).
fn parse(pid: i32, stat: &[u8]) -> Option<Entry> {
    let after = memchr::memrchr(b')', stat)? + 1;
    let rest = std::str::from_utf8(stat.get(after..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace().skip(1);
    let mut next = || fields.next()?.parse().ok();
    Some(Entry {
        pid,
        parent: next()?,
        group: next()?,
    })
}

/// Everything below a process, nearest first, without the children that are spared and what is
/// below them.
fn below(all: &[Entry], root: i32, spared: &dyn Fn(i32) -> bool) -> Vec<Entry> {
    let mut children: BTreeMap<i32, Vec<Entry>> = BTreeMap::new();
    for entry in all {
        children.entry(entry.parent).or_default().push(*entry);
    }
    let mut found = children.remove(&root).unwrap_or_default();
    found.retain(|child| !spared(child.pid));
    let mut next = 0;
    while let Some(entry) = found.get(next) {
        let more = children.remove(&entry.pid).unwrap_or_default();
        found.extend(more);
        next += 1;
    }
    found
}

/// The children of this process that are not spared.
pub(super) fn children(spared: &dyn Fn(i32) -> bool) -> Vec<Pid> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let all = look();
    let children = all.iter().filter(|entry| entry.parent == own);
    let unknown = children.filter(|child| !spared(child.pid));
    unknown
        .filter_map(|child| Pid::from_raw(child.pid))
        .collect()
}

/// Signals everything below this process but what is spared; what is gone by then is no error.
///
/// SIGKILL goes to whole process groups too: a process that forks and ends faster than we look is
/// in the group of one we saw. A session is made by a process below us, so that nobody else can
/// be in its groups.
pub(super) fn signal(signal: Signal, spared: &dyn Fn(i32) -> bool) {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let all = look();
    let found = below(&all, own, spared);
    if signal == Signal::KILL {
        let mut groups: Vec<i32> = found.iter().map(|entry| entry.group).collect();
        groups.sort_unstable();
        groups.dedup();
        for group in groups {
            if is_theirs(group, &all, &found)
                && let Some(group) = Pid::from_raw(group)
            {
                note(rustix::process::kill_process_group(group, signal));
            }
        }
    }
    for entry in found {
        note(send(entry, signal));
    }
}

/// Whether all that is known of a process group is below us.
fn is_theirs(group: i32, all: &[Entry], found: &[Entry]) -> bool {
    let mut members = all.iter().filter(|entry| entry.group == group);
    members.all(|member| found.contains(member))
}

/// Signals this process and no other that got its number meanwhile.
fn send(entry: Entry, signal: Signal) -> rustix::io::Result<()> {
    let Some(pid) = Pid::from_raw(entry.pid) else {
        return Ok(());
    };
    match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(held) => {
            // the number is held from here on: what is read now is of whom we hold
            let same = read(entry.pid).is_some_and(|now| now.parent == entry.parent);
            let adopted = || {
                let own = rustix::process::getpid().as_raw_nonzero().get();
                read(entry.pid).is_some_and(|now| now.parent == own)
            };
            match same || adopted() {
                true => rustix::process::pidfd_send_signal(held, signal),
                false => Ok(()),
            }
        }
        Err(rustix::io::Errno::SRCH) => Ok(()),
        // before Linux 5.3, or where a sandbox forbids it
        Err(_) => rustix::process::kill_process(pid, signal),
    }
}

fn note(outcome: rustix::io::Result<()>) {
    if let Err(error) = outcome {
        tracing::trace!(%error, "A descendant was not signalled.");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: &dyn Fn(i32) -> bool = &|_| false;

    #[test]
    fn parent_and_group_are_found_behind_any_name() {
        let entry = |parent, group| {
            let pid = 12;
            Some(Entry { pid, parent, group })
        };
        assert_eq!(parse(12, b"12 (a) b) R 1) S 7 13 12 0"), entry(7, 13));
        assert_eq!(parse(12, b"12 (node) S 7 12 12 0"), entry(7, 12));
        assert_eq!(parse(12, b"12 (\xff\xfe) S 7 12 12 0"), entry(7, 12));
        assert_eq!(parse(12, b"12 (node"), None);
        assert_eq!(parse(12, b"12 (node) S 7"), None);
    }

    #[test]
    fn what_is_below_is_found_nearest_first_and_what_is_spared_is_not() {
        let entry = |pid, parent| Entry {
            pid,
            parent,
            group: pid,
        };
        // 5 and 6 name each other: a look is no snapshot
        let all = [
            entry(2, 1),
            entry(4, 3),
            entry(3, 2),
            entry(9, 8),
            entry(7, 2),
            entry(5, 6),
            entry(6, 5),
        ];
        let pids = |root, spared: &dyn Fn(i32) -> bool| -> Vec<i32> {
            below(&all, root, spared).iter().map(|e| e.pid).collect()
        };
        assert_eq!(pids(1, NONE), [2, 3, 7, 4]);
        assert_eq!(pids(2, &|pid| pid == 3), [7]);
        assert_eq!(
            pids(2, &|pid| pid == 4),
            [3, 7, 4],
            "only children are spared"
        );
        assert_eq!(pids(12, NONE), [0; 0]);
    }

    #[test]
    fn a_group_is_ended_only_where_all_of_it_is_below_us() {
        let entry = |pid, group| Entry {
            pid,
            parent: 1,
            group,
        };
        let all = [entry(2, 2), entry(3, 2), entry(4, 4), entry(5, 4)];
        assert!(is_theirs(2, &all, &all[..3]));
        assert!(!is_theirs(4, &all, &all[..3]));
    }
}
