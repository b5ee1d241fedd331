//! Says when the spool has changed, so that nobody has to look every second.

use std::path::PathBuf;
use std::time::Duration;

/// Where the kernel cannot be asked, the spool is looked at this often, in milliseconds.
const POLL_MS: u64 = 5_000;

/// Waits for changes below the spool's directory, and for people in a hurry.
#[derive(Debug)]
pub(super) struct Wake {
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "polled there"))]
    dir: PathBuf,
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "polled there"))]
    hurry: PathBuf,
    #[cfg(target_os = "linux")]
    watch: Option<Watch>,
}

/// An inotify descriptor, and word from the thread that reads it.
#[cfg(target_os = "linux")]
#[derive(Debug)]
struct Watch {
    inotify: std::sync::Arc<std::os::fd::OwnedFd>,
    changes: tokio::sync::mpsc::Receiver<()>,
}

#[cfg(target_os = "linux")]
impl Watch {
    fn new() -> std::io::Result<Self> {
        use rustix::fs::inotify;
        let inotify = std::sync::Arc::new(inotify::init(inotify::CreateFlags::CLOEXEC)?);
        let (tell, changes) = tokio::sync::mpsc::channel(1);
        let reader = std::sync::Arc::clone(&inotify);
        // sleeps in the kernel; ends at the first change after nobody listens any more
        std::thread::Builder::new()
            .name("spool-watch".to_owned())
            .spawn(move || {
                let mut buffer = [0; 4096];
                while !tell.is_closed()
                    && rustix::io::retry_on_intr(|| rustix::io::read(&*reader, &mut buffer)).is_ok()
                {
                    // full means that they know already; closed is asked above
                    tell.try_send(()).unwrap_or_default();
                }
            })?;
        Ok(Self { inotify, changes })
    }
}

/// Makes the directories that are watched. The shipper of a fresh machine is started with the
/// first record and may look before that record is written: what is not there cannot be watched,
/// and nobody would notice the record until the next look.
fn make(dirs: &[&PathBuf]) {
    for dir in dirs {
        if let Err(error) = crate::files::create_private_dir(dir) {
            tracing::warn!(%error, dir = %dir.display(), "Changes here are noticed late.");
        }
    }
}

#[cfg(target_os = "linux")]
impl Wake {
    pub(super) fn new(dir: PathBuf, hurry: PathBuf) -> Self {
        make(&[&dir, &hurry]);
        let watch = Watch::new()
            .inspect_err(|error| tracing::debug!(%error, "The spool is polled."))
            .ok();
        Self { dir, hurry, watch }
    }

    /// Forgets what changed so far, and watches streams that came since. Look at the spool
    /// after this and before [`Wake::changed`]: then nothing falls between.
    pub(super) fn drain(&mut self) {
        use rustix::fs::inotify::{self, WatchFlags};
        let Some(watch) = &mut self.watch else {
            return;
        };
        while watch.changes.try_recv().is_ok() {}
        let flags =
            WatchFlags::CREATE | WatchFlags::MODIFY | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        let streams = std::fs::read_dir(&self.dir)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()));
        for path in [self.dir.clone(), self.hurry.clone()]
            .into_iter()
            .chain(streams)
        {
            // not there yet, no directory, or watched already: the next look finds it
            if let Err(error) = inotify::add_watch(&*watch.inotify, &path, flags) {
                tracing::trace!(%error, "Not watched.");
            }
        }
    }

    /// Waits for a change, or that long. Says whether there was one.
    pub(super) async fn changed(&mut self, most: Duration) -> bool {
        match &mut self.watch {
            Some(watch) => tokio::time::timeout(most, watch.changes.recv())
                .await
                .is_ok_and(|change| change.is_some()),
            None => {
                tokio::time::sleep(most.min(Duration::from_millis(POLL_MS))).await;
                true
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl Wake {
    pub(super) fn new(dir: PathBuf, hurry: PathBuf) -> Self {
        make(&[&dir, &hurry]);
        Self { dir, hurry }
    }

    pub(super) fn drain(&mut self) {}

    pub(super) async fn changed(&mut self, most: Duration) -> bool {
        tokio::time::sleep(most.min(Duration::from_millis(POLL_MS))).await;
        true
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_record_of_a_fresh_machine_is_noticed_at_once() {
        let state = tempfile::tempdir().unwrap();
        let spool = state.path().join("spool");
        let mut wake = Wake::new(spool.clone(), state.path().join("ship").join("hurry"));
        wake.drain();
        // the shipper has looked and found nothing; only now the shim writes
        crate::files::create_private_dir(&spool.join("stream")).unwrap();
        assert!(
            wake.changed(Duration::from_secs(20)).await,
            "nobody noticed"
        );
    }

    #[tokio::test]
    async fn nothing_new_wakes_nobody() {
        let state = tempfile::tempdir().unwrap();
        let mut wake = Wake::new(state.path().join("spool"), state.path().join("hurry"));
        wake.drain();
        assert!(!wake.changed(Duration::from_millis(50)).await);
    }
}
