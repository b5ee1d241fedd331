//! Where programs are: on this platform a window's PATH is the one a terminal has, and the program
//! is looked up when it is started.

use super::{Environment, Launch, SpawnError};

/// Nothing is known beside the PATH.
#[derive(Debug, Clone, Default)]
pub struct Places {}

impl Places {
    /// Nobody has to be asked.
    pub fn ask(&self, _environment: &Environment) {}

    /// Not known here: a client does not work in a directory of the system.
    pub(super) fn is_of_the_system(_dir: &std::path::Path) -> bool {
        false
    }

    /// Leaves everything as it is.
    ///
    /// # Errors
    /// Never.
    pub fn find(&self, _launch: &mut Launch) -> Result<(), SpawnError> {
        Ok(())
    }
}
