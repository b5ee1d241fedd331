//! Grants that give more than when they were approved: a pattern, a name or a later end that came
//! while `approved_by` and `approved_at` stayed as they were.
//!
//! What stood there then is read from git, for each role the last [`COMMITS`] commits of its file
//! along the first parents of `HEAD`. Where there is no git, no checkout or no history, nothing is
//! said: this is a help for reviewers and no rule that publication rests on.

use std::path::Path;

use super::git;
use super::problem::{Problems, Sink, Spot};
use super::source::{Grant, Role, Server, Sources, role_of};
use super::yaml::FILE_BYTES;
use crate::clock::Utc;
use crate::pin::Kind;
use crate::policy::pattern::Pattern;
use crate::registry::doc::PinMode;
use crate::text::printable;

/// How far back the file of one role is read.
const COMMITS: &str = "200";
/// Most things that one message names.
const NAMED: usize = 5;

/// Warns of every approval that something was added to.
pub(super) fn wider(dir: &Path, sources: &mut Sources) {
    let mut problems = std::mem::take(&mut sources.problems);
    for role in &sources.roles {
        let Some(history) = history(dir, role) else {
            break;
        };
        one(role, &history, sources, &mut problems);
    }
    sources.problems = problems;
}

/// The role as it stood at each commit that changed it, the newest first, up to the first that
/// cannot be read. `None` where git does not answer.
fn history(dir: &Path, role: &Role) -> Option<Vec<Role>> {
    let file = format!("roles/{}.yaml", role.name);
    let ask = [
        "rev-list",
        "--first-parent",
        "-n",
        COMMITS,
        "--end-of-options",
        "HEAD",
        "--",
        &file,
    ];
    let commits = git::git(dir, "HEAD", &ask, &[]).ok()?;
    let commits = String::from_utf8(commits).ok()?;
    let wanted: String = commits
        .lines()
        .map(|commit| format!("{commit}:./{file}\n"))
        .collect();
    let found = git::git(dir, "HEAD", &["cat-file", "--batch"], wanted.as_bytes()).ok()?;
    let mut rest = found.as_slice();
    let mut roles = Vec::new();
    while let Some(content) = git::object(&mut rest) {
        let text = std::str::from_utf8(content).ok();
        let text = text.filter(|text| text.len() <= FILE_BYTES);
        let Some(then) = text.and_then(|text| role_of(dir, role.name.as_str(), text)) else {
            break;
        };
        roles.push(then);
    }
    Some(roles)
}

/// What makes two grants the same approval.
fn same(one: &Grant, two: &Grant) -> bool {
    one.server.value == two.server.value
        && one.approved_by.value == two.approved_by.value
        && one.approved_at.value == two.approved_at.value
}

fn one(role: &Role, history: &[Role], sources: &Sources, problems: &mut Problems) {
    let mut sink = Sink {
        file: &role.file,
        problems,
    };
    for (i, grant) in role.grants.iter().enumerate() {
        // several grants under one approval are one thing
        if role.grants.iter().take(i).any(|other| same(other, grant)) {
            continue;
        }
        let of = |role: &Role| -> Vec<Approved> {
            let grants = role.grants.iter().filter(|other| same(other, grant));
            grants.map(Approved::of).collect()
        };
        let standing = history
            .iter()
            .map(of)
            .take_while(|grants| !grants.is_empty());
        let Some(then) = standing.last() else {
            continue;
        };
        let more = added(&of(role), &then, sources.server(&grant.server.value));
        if more.is_empty() {
            continue;
        }
        let count = more.len();
        let mut named = more.into_iter().take(NAMED).collect::<Vec<_>>().join(", ");
        if count > NAMED {
            named.push_str(&format!(" and {} more", count - NAMED));
        }
        let message = format!(
            "the grant for `{}` gives more than {} approved on {}: {named}",
            grant.server.value, grant.approved_by.value, grant.approved_at.value
        );
        let fix = "have it approved again, and write by whom and when; or take out what was added";
        sink.warning(grant.approved_at.at, "wider-than-approved", message, fix);
    }
}

/// What one grant gives, and until when.
struct Approved {
    lists: [Vec<String>; 3],
    until: u64,
}

const KINDS: [(usize, Option<Kind>, &str); 3] = [
    (0, Some(Kind::Tool), "tool"),
    (1, Some(Kind::Prompt), "prompt"),
    (2, None, "resource"),
];

impl Approved {
    fn of(grant: &Grant) -> Self {
        let texts = |spots: &[Spot<String>]| spots.iter().map(|spot| spot.value.clone()).collect();
        Self {
            lists: [&grant.tools, &grant.prompts, &grant.resources].map(|list| texts(list)),
            until: grant.expires.as_ref().map_or(u64::MAX, |spot| spot.value),
        }
    }

    fn list(&self, kind: usize) -> &[String] {
        self.lists.get(kind).map_or(&[], Vec::as_slice)
    }
}

/// Until when a name, or all that a pattern means, is given; `None` when it is not.
fn until(grants: &[Approved], kind: usize, name: &str) -> Option<u64> {
    let gives = |grant: &&Approved| {
        let mut patterns = grant.list(kind).iter();
        patterns.any(|pattern| Pattern::glob(pattern).matches(name))
    };
    grants.iter().filter(gives).map(|grant| grant.until).max()
}

/// What is given now and was not then, in words.
fn added(now: &[Approved], then: &[Approved], server: Option<&Server>) -> Vec<String> {
    let pinned = server.filter(|server| server.doc.pin != PinMode::Off && !server.pin_broken);
    let pinned = pinned.and_then(|server| server.pin.as_ref());
    let mut more = Vec::new();
    let mut longer = false;
    for (index, kind, word) in KINDS {
        let patterns = now.iter().flat_map(|grant| grant.list(index));
        let mut names: Vec<String> = match pinned.zip(kind) {
            Some((pin, kind)) => {
                let patterns: Vec<Pattern> = patterns.map(|text| Pattern::glob(text)).collect();
                let entries = kind.of(&pin.surface).iter().map(|entry| &entry.name);
                let given = entries.filter(|name| patterns.iter().any(|p| p.matches(name)));
                given.cloned().collect()
            }
            None => patterns.cloned().collect(),
        };
        names.sort();
        names.dedup();
        for name in names {
            match until(then, index, &name) {
                None => more.push(format!("{word} `{}`", printable(&name))),
                Some(was) => longer |= until(now, index, &name).is_some_and(|is| is > was),
            }
        }
    }
    if longer {
        let end = |grants: &[Approved]| grants.iter().map(|grant| grant.until).max();
        more.push(match end(now) {
            None | Some(u64::MAX) => "no end".to_owned(),
            Some(end) => format!("an end at {}", Utc(end)),
        });
    }
    more
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use insta::assert_snapshot;

    use crate::admin::tests::Org;

    /// Commits everything, by a git that reads no settings of this machine.
    fn commit(org: &Org) {
        let git = |words: &[&str]| {
            let mut git = Command::new("git");
            git.arg("-C").arg(org.dir()).args(words);
            git.env("GIT_CONFIG_GLOBAL", "/dev/null");
            git.env("GIT_CONFIG_NOSYSTEM", "1");
            let ended = git.output().unwrap();
            assert!(ended.status.success(), "{words:?}: {ended:?}");
        };
        git(&["init", "-q"]);
        git(&["add", "-A"]);
        let who = ["-c", "user.name=x", "-c", "user.email=x@example.com"];
        git(&[&who[..], &["commit", "-q", "-m", "x"]].concat());
    }

    fn edited(from: &str, to: &str) -> Org {
        let org = Org::new();
        commit(&org);
        org.edit("roles/eng.yaml", from, to);
        org
    }

    #[test]
    fn a_grant_that_was_widened_under_its_old_approval_is_warned_of() {
        let org = Org::new();
        org.edit(
            "roles/eng.yaml",
            "tools: [read_*, write]",
            "tools: [read_file]",
        );
        commit(&org);
        assert_eq!(org.check(), "");
        org.edit(
            "roles/eng.yaml",
            "tools: [read_file]",
            "tools: [read_*, write]",
        );
        let widened = org.check();
        assert_snapshot!(widened, @r#"
roles/eng.yaml:10:18: warning: the grant for `gh` gives more than jane approved on 2026-11-20: tool `read_tree`, tool `write` [wider-than-approved]
  fix: have it approved again, and write by whom and when; or take out what was added
"#);
        // it stays so when it is committed, and another file changes meanwhile
        commit(&org);
        org.edit("roles/eng.yaml", "title: engineers", "title: all engineers");
        commit(&org);
        assert_eq!(org.check(), widened);
        // approved again
        org.edit(
            "roles/eng.yaml",
            "approved_at: 2026-11-20",
            "approved_at: 2026-11-21",
        );
        assert_eq!(org.check(), "");
    }

    #[test]
    fn a_later_end_is_wider_and_an_earlier_one_is_not() {
        assert_snapshot!(edited("expires: 2027-11-20", "expires: 2028-11-20").check(), @r#"
roles/eng.yaml:10:18: warning: the grant for `gh` gives more than jane approved on 2026-11-20: an end at 2028-11-20T00:00:00Z [wider-than-approved]
  fix: have it approved again, and write by whom and when; or take out what was added
"#);
        assert_snapshot!(edited("    expires: 2027-11-20\n", "").check(), @r#"
roles/eng.yaml:10:18: warning: the grant for `gh` gives more than jane approved on 2026-11-20: no end [wider-than-approved]
  fix: have it approved again, and write by whom and when; or take out what was added
"#);
        assert_eq!(
            edited("expires: 2027-11-20", "expires: 2027-11-19").check(),
            ""
        );
    }

    #[test]
    fn narrowing_and_writing_the_same_in_another_way_are_not_warned_of() {
        for (from, to) in [
            ("tools: [read_*, write]", "tools: [write, read_*]"),
            (
                "tools: [read_*, write]",
                "tools: [read_file, read_tree, write]",
            ),
            ("tools: [read_*, write]", "tools: [read_file]"),
            ("resources: ['repo://*']", "resources: ['repo://acme/*']"),
            ("title: engineers", "title: all engineers"),
        ] {
            assert_eq!(edited(from, to).check(), "", "{to}");
        }
    }

    #[test]
    fn resources_are_compared_by_their_text() {
        let org = Org::new();
        org.edit("roles/eng.yaml", "'repo://*'", "'repo://acme/*'");
        commit(&org);
        org.edit("roles/eng.yaml", "'repo://acme/*'", "'repo://*'");
        assert_snapshot!(org.check(), @r#"
roles/eng.yaml:10:18: warning: the grant for `gh` gives more than jane approved on 2026-11-20: resource `repo://*` [wider-than-approved]
  fix: have it approved again, and write by whom and when; or take out what was added
"#);
    }

    #[test]
    fn a_tool_that_the_server_added_is_no_widening() {
        let org = Org::new();
        commit(&org);
        org.pin(&["read_file", "read_tree", "read_more", "write"]);
        assert_eq!(org.check(), "");
    }

    #[test]
    fn without_a_history_nothing_is_said() {
        let org = Org::new();
        org.edit(
            "roles/eng.yaml",
            "tools: [read_*, write]",
            "tools: [read_*]",
        );
        org.edit(
            "roles/eng.yaml",
            "tools: [read_*]",
            "tools: [read_*, write]",
        );
        assert_eq!(org.check(), "");
    }
}
