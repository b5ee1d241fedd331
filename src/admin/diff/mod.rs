//! `mcpshim-admin diff`: what a change of the sources does to access, for those who approve it.
//!
//! Both sides are compiled as `publish` would, and the documents are compared: who gains or
//! loses which tool, whose definition moved, which secret goes elsewhere, what is recorded less.
//! What counts as wider is in [`Effect`]; whoever is in doubt reads the sources.

mod access;
mod markup;
mod settings;
#[cfg(test)]
mod tests;
mod view;

use std::path::{Path, PathBuf};

use serde::Serialize;

use self::view::View;
pub(super) use self::view::writes;
use super::git::{self, GitError};
use super::publish::PublishError;
use super::source::Sources;
use super::{Problems, compile, lint};
use crate::clock::{Entropy, Now};
use crate::ids::RoleName;
use crate::registry::RegistryError;
use crate::text;

/// One side of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Side {
    /// The sources in a directory, as they are.
    Directory(PathBuf),
    /// What was published into this directory, under the root of the other side's sources.
    Published(PathBuf),
    /// The sources in a directory, as they were at a revision of git.
    Revision(String),
}

/// What a change means for those who approve it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// More access, a secret in more hands, or less of a record.
    Widens,
    /// Nothing of that, but calls go elsewhere, or models read something else.
    Review,
    /// The reverse of widening.
    Narrows,
    /// For information.
    Neutral,
}

/// What a tool does to the world, by its own pinned word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Writes {
    /// `destructiveHint: true`.
    Destroys,
    /// It does not say `readOnlyHint: true`.
    Writes,
    /// `readOnlyHint: true`; or it is no tool.
    Reads,
}

/// Something a role may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    /// The key of the server.
    pub server: String,
    /// `tool`, `prompt`, `resources`, or `tools`/`prompts` for a pattern that nothing pins.
    pub kind: &'static str,
    /// The upstream's own name, or the pattern.
    pub name: String,
    /// What a tool does.
    pub writes: Writes,
    /// File and line of the grant.
    pub source: String,
    /// Who approved it.
    pub approved_by: String,
    /// First day on which it no longer holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// One role whose access or holders changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RoleDiff {
    /// The role.
    pub role: RoleName,
    /// It is new, gone, or was there before.
    pub state: State,
    /// Groups that have it, after the change; before it, for a role that is gone.
    pub groups: Vec<String>,
    /// Agents that have it, likewise.
    pub agents: Vec<String>,
    /// What its holders may use and could not before.
    pub gains: Vec<Item>,
    /// What they may no longer use.
    pub losses: Vec<Item>,
    /// Sentences about holders and about grants that last longer or shorter.
    pub changes: Vec<Change>,
}

/// What became of a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is new.
    Added,
    /// It was there and is.
    Kept,
    /// It is gone.
    Removed,
}

/// One change that is not an item of a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What it means.
    pub effect: Effect,
    /// A sentence; names in it stand between backticks in text and JSON.
    #[serde(serialize_with = "markup::plain")]
    pub sentence: String,
    /// Texts before and after, where they help.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub edits: Vec<super::PinEdit>,
}

/// A heading and what stands under it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Section {
    /// The heading.
    pub title: &'static str,
    /// The changes, gravest first.
    pub changes: Vec<Change>,
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Items gained, by roles.
    pub gained: usize,
    /// Of those, tools that do not say they only read.
    pub gained_writes: usize,
    /// Items lost.
    pub lost: usize,
    /// Other changes that widen.
    pub widen: usize,
    /// Other changes to look at.
    pub review: usize,
    /// Other changes that narrow.
    pub narrow: usize,
}

/// The difference between two registries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// What was compared, e.g. `main → HEAD`.
    pub compared: String,
    /// How much there is.
    pub counts: Counts,
    /// What limits the answer: sentences.
    #[serde(serialize_with = "markup::plains")]
    pub notes: Vec<String>,
    /// Roles whose access or holders changed.
    pub roles: Vec<RoleDiff>,
    /// Everything else.
    pub sections: Vec<Section>,
}

impl Diff {
    /// Whether somebody has more than before.
    #[must_use]
    pub fn widens(&self) -> bool {
        self.counts.gained > 0 || self.counts.widen > 0
    }

    /// Whether nothing changed for anybody's access.
    #[must_use]
    pub fn no_change_of_access(&self) -> bool {
        let Counts {
            gained,
            lost,
            widen,
            narrow,
            ..
        } = self.counts;
        gained + lost + widen + narrow == 0
    }

    /// As text for a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        markup::text(self)
    }

    /// As Markdown for a pull request: no name in it becomes markup, a mention or a link.
    #[must_use]
    pub fn markdown(&self) -> String {
        markup::markdown(self)
    }
}

/// Why two registries cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// A revision cannot be read.
    #[error(transparent)]
    Git(#[from] GitError),
    /// The newer side would not be published.
    #[error("the sources of {side} have mistakes")]
    Mistakes {
        /// Which side.
        side: String,
        /// All of them.
        problems: Problems,
    },
    /// What was published cannot be read.
    #[error(transparent)]
    Published(#[from] PublishError),
    /// Documents that machines would refuse.
    #[error("the documents of {side} would be refused by every machine")]
    Refused {
        /// Which side.
        side: String,
        /// Why.
        source: RegistryError,
    },
}

/// Compares two sides. `dir` is where the sources are, for revisions and for the root of a
/// published registry.
///
/// Mistakes on the older side are told and gone over, since it is only what is left behind: what
/// they hide shows as gained.
///
/// # Errors
/// [`DiffError`] when a side cannot be read, or the newer one would not be published.
pub fn diff(
    dir: &Path,
    base: &Side,
    head: &Side,
    now: &Now,
    entropy: &mut dyn Entropy,
) -> Result<Diff, DiffError> {
    let mut notes = Vec::new();
    let was = read(dir, base, true, &mut notes, now, entropy)?;
    let is = read(dir, head, false, &mut notes, now, entropy)?;
    let mut diff = Diff {
        compared: format!("{} → {}", name(base), name(head)),
        counts: Counts::default(),
        notes,
        roles: access::roles(&was, &is, now),
        sections: settings::sections(&was, &is),
    };
    diff.counts = counts(&diff);
    Ok(diff)
}

fn counts(diff: &Diff) -> Counts {
    let mut counts = Counts::default();
    for role in &diff.roles {
        counts.gained += role.gains.len();
        counts.lost += role.losses.len();
        let writes = role.gains.iter().filter(|i| i.writes != Writes::Reads);
        counts.gained_writes += writes.count();
    }
    let in_roles = diff.roles.iter().flat_map(|role| &role.changes);
    let others = diff.sections.iter().flat_map(|section| &section.changes);
    for change in in_roles.chain(others) {
        match change.effect {
            Effect::Narrows => counts.narrow += 1,
            Effect::Neutral => {}
            Effect::Review => counts.review += 1,
            Effect::Widens => counts.widen += 1,
        }
    }
    counts
}

fn name(side: &Side) -> String {
    let shown = |path: &Path| text::short(&path.display().to_string(), 300);
    match side {
        Side::Directory(path) => shown(path),
        Side::Published(path) => format!("published {}", shown(path)),
        Side::Revision(rev) => text::short(rev, 200),
    }
}

/// Resolves `A...B`: the common ancestor takes the place of A.
///
/// # Errors
/// When git does not know them.
pub fn since_branching(dir: &Path, one: &str, two: &str) -> Result<Side, DiffError> {
    Ok(Side::Revision(git::merge_base(dir, one, two)?))
}

fn read(
    dir: &Path,
    side: &Side,
    older: bool,
    notes: &mut Vec<String>,
    now: &Now,
    entropy: &mut dyn Entropy,
) -> Result<View, DiffError> {
    match side {
        Side::Directory(path) => sources(path, &name(side), older, notes),
        Side::Published(path) => {
            let roots = super::publish::read_roots(dir)?;
            let sources = Sources::read(dir);
            let Some(org) = sources.org else {
                return Err(DiffError::Mistakes {
                    side: name(&Side::Directory(dir.to_owned())),
                    problems: sources.problems,
                });
            };
            let loaded = super::publish::published(path, &roots, &org.doc.org, now)?;
            Ok(View::of(&loaded.registry))
        }
        Side::Revision(rev) => {
            let tree = git::read(dir, rev, entropy)?;
            if tree.empty && older {
                notes.push(format!(
                    "{} has no registry: all of it is new",
                    markup::code(&name(side))
                ));
                return Ok(View::default());
            }
            sources(tree.scratch.path(), &name(side), older, notes)
        }
    }
}

fn sources(
    path: &Path,
    side: &str,
    older: bool,
    notes: &mut Vec<String>,
) -> Result<View, DiffError> {
    let mut sources = Sources::read(path);
    lint::all(&mut sources);
    let set = compile::documents(&mut sources);
    sources.problems.sort();
    let errors = sources.problems.errors();
    let mistakes = |problems| DiffError::Mistakes {
        side: side.to_owned(),
        problems,
    };
    let Some(set) = set else {
        return Err(mistakes(sources.problems));
    };
    let refused = |source| DiffError::Refused {
        side: side.to_owned(),
        source,
    };
    if errors == 0 {
        let registry = crate::registry::unsigned(&set.files, &set.org).map_err(refused)?;
        return Ok(View::of(&registry));
    }
    if !older {
        return Err(mistakes(sources.problems));
    }
    notes.push(format!(
        "{} has {errors} mistakes and would not be published: what they hide shows as gained",
        markup::code(side)
    ));
    View::guess(&set).map_err(refused)
}
