//! Tells that something changed in directories, by inotify. Where there is none it never tells, and looking now and
//! then has to do.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use tokio::io::unix::AsyncFd;

pub(crate) struct Directories {
    inotify: Option<AsyncFd<OwnedFd>>,
    followed: BTreeMap<PathBuf, i32>,
}

// === impl Directories ===

impl Directories {
    /// Follows nothing yet. To be called in a runtime.
    pub(crate) fn new() -> Self {
        let made = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(io::Error::from);
        #[allow(deprecated, reason = "an `OwnedFd` is what it says; the new name is for types that may lie")]
        let inotify = made.and_then(AsyncFd::new).inspect_err(|error| {
            tracing::warn!(%error, "no inotify; files are looked at now and then only");
        });
        Self { inotify: inotify.ok(), followed: BTreeMap::new() }
    }

    /// Follows exactly these from now on. One that is not there is tried again the next time.
    pub(crate) fn follow(&mut self, directories: &BTreeSet<&Path>) {
        let Some(inotify) = &self.inotify else { return };
        self.followed.retain(|path, watch| {
            let stays = directories.contains(path.as_path());
            if !stays {
                // It may be gone already, with its directory.
                let _ = inotify::remove_watch(inotify, *watch);
            }
            stays
        });
        let events = WatchFlags::MOVED_TO | WatchFlags::CLOSE_WRITE | WatchFlags::CREATE | WatchFlags::DELETE;
        for path in directories {
            if !self.followed.contains_key(*path)
                && let Ok(watch) = inotify::add_watch(inotify, *path, events | WatchFlags::ONLYDIR)
            {
                self.followed.insert(path.to_path_buf(), watch);
            }
        }
    }

    /// Returns when something changed. May be cancelled at any time.
    pub(crate) async fn changed(&mut self) {
        let Some(inotify) = &self.inotify else { return std::future::pending().await };
        let Ok(mut ready) = inotify.readable().await else { return std::future::pending().await };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(inotify, &mut buffer);
        while let Ok(event) = events.next() {
            if event.events().contains(ReadFlags::IGNORED) {
                // The directory is gone; one that takes its place is followed anew.
                self.followed.retain(|_, watch| *watch != event.wd());
            }
        }
        ready.clear_ready();
    }
}
