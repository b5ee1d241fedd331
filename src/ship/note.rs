//! What delivery remembers between runs: who is enrolled, and how it went. Hints only.
//!
//! Losing it costs one more enrolment and what `mcpshim audit status` could say. Whoever can
//! write it can make that status lie, and keep a new installation from enrolling until the
//! collector calls its key unknown.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::batch::protocol::Standing;
use crate::clock::{Now, Utc};
use crate::ids::KeyId;

const FORMAT: u32 = 1;

/// How delivery went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Note {
    format: u32,
    min_reader: u32,
    /// The collector's address.
    pub collector: String,
    /// The enrolments that were accepted there.
    enrolled: Vec<Enrolled>,
    /// When something was last acknowledged, RFC 3339.
    pub last_acknowledged: Option<String>,
    /// Records that waited when this was written.
    pub waiting: u64,
    /// What keeps them here, for a person.
    pub trouble: Option<String>,
    /// How the installation stood at the collector when it last took something.
    pub standing: Option<Standing>,
    /// When this was written, RFC 3339.
    pub written: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Enrolled {
    installation: KeyId,
    who: String,
}

fn path(dir: &Path) -> PathBuf {
    dir.join("status.json")
}

/// Reads how delivery went; nothing when it never ran.
#[must_use]
pub fn read_note(state_dir: &Path) -> Option<Note> {
    read(&super::dir(state_dir))
}

fn read(dir: &Path) -> Option<Note> {
    let text = std::fs::read(path(dir)).ok()?;
    let note: Note = serde_json::from_slice(&text).ok()?;
    (note.min_reader <= FORMAT).then_some(note)
}

/// Keeps the note.
#[derive(Debug)]
pub(super) struct Keeper {
    dir: PathBuf,
    note: Note,
}

impl Keeper {
    pub(super) fn open(dir: &Path, collector: &str) -> Self {
        let mut note = read(dir)
            .filter(|note| note.collector == collector)
            .unwrap_or_default();
        note.format = FORMAT;
        note.min_reader = FORMAT;
        collector.clone_into(&mut note.collector);
        Self {
            dir: dir.to_owned(),
            note,
        }
    }

    pub(super) fn is_enrolled(&self, installation: &KeyId, who: &str) -> bool {
        self.note
            .enrolled
            .iter()
            .any(|known| known.installation == *installation && known.who == who)
    }

    pub(super) fn enrolled(&mut self, installation: &KeyId, who: &str) {
        self.note
            .enrolled
            .retain(|known| known.installation == *installation);
        self.note.enrolled.push(Enrolled {
            installation: installation.clone(),
            who: who.to_owned(),
        });
    }

    /// The collector does not know the key after all.
    pub(super) fn forget(&mut self) {
        self.note.enrolled.clear();
    }

    pub(super) fn sent(&mut self, standing: Standing, now: &Now) {
        self.note.standing = Some(standing);
        self.note.last_acknowledged = Some(Utc(now.unix_s()).to_string());
    }

    /// Writes it, if anything but the time has changed.
    pub(super) fn write(&mut self, waiting: u64, trouble: Option<String>, now: &Now) {
        let next = Note {
            waiting,
            trouble,
            written: Utc(now.unix_s()).to_string(),
            ..self.note.clone()
        };
        let same = Note {
            written: self.note.written.clone(),
            ..next.clone()
        };
        if same == self.note && read(&self.dir).as_ref() == Some(&self.note) {
            return;
        }
        self.note = next;
        if let Err(error) = self.save() {
            tracing::warn!(%error, "The delivery note cannot be written.");
        }
    }

    fn save(&self) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(&self.note)?;
        let draft = self.dir.join("status.json.new");
        crate::files::write_private(&draft, &text)?;
        std::fs::rename(draft, path(&self.dir))
    }
}
