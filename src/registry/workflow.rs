//! The client workflow of TUF 1.0.34 §5, one function per clause, and the machine that runs it.
//!
//! The machine asks for one file at a time ([`Update::want`]) and is told what the source said
//! ([`Update::give`]); it never waits, reads a clock or opens anything. [`load`] runs the same
//! clauses, without the freeze checks, over the state this machine already has.
//!
//! Where the specification leaves a choice:
//! - §5.3.3 "not available" is 404, 410 or 403, as for python-tuf: a store whose readers may not
//!   list it says 403 of a file that is missing. Whoever refuses everything refuses the timestamp
//!   too, and no update ends in success without it; so 403 hides a root no longer than the
//!   timestamp lives, as 404 does. A timeout or a cut connection says nothing about the root; the
//!   update ends and the old registry stays.
//! - §5.3.8, §5.4.5, §5.5.7, §5.6.6 persist step by step. Here one file is replaced when the whole
//!   update has been verified, so that what is stored is always usable; roots found by an update
//!   that failed later are kept by [`Update::abandon`] under the rule written there.
//! - §5.6.7 delegations are not followed.

mod clauses;
mod stored;
mod update;

pub(super) use self::stored::load;
#[cfg(feature = "admin")]
pub(crate) use self::stored::newest_root;
pub use self::update::{Answer, Ended, Update, Want};

const TIMESTAMP: &str = "timestamp.json";
const TARGETS: &str = "targets.json";
