//! Where access-log lines go: each thread collects lines, one background thread writes them out.
//!
//! The request path makes no system call and takes no lock: a line is appended to a buffer of its thread, and a full
//! buffer is handed over through a bounded queue. When the disk does not keep up, lines are dropped and counted.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use crate::stats::FileStats;

/// A buffer is handed over when it holds this much.
const BATCH: usize = 16 << 10;

/// How many handed-over buffers may wait: about 16 MiB for a disk that does not keep up.
const QUEUE: usize = 1024;

/// The one writer of a process. Clones share it; it ends with the last clone and the last log.
#[derive(Debug, Clone)]
pub struct LogWriter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: SyncSender<Job>,
    outputs: Mutex<Vec<Weak<Output>>>,
    stats: Arc<FileStats>,
}

/// A place that lines go to.
#[derive(Debug, Clone)]
pub struct LogOutput {
    output: Arc<Output>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Output {
    place: Place,
    /// Only the writer thread and a reopening take it.
    file: Mutex<Option<File>>,
}

/// What lines are written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    File(PathBuf),
    Stdout,
    Stderr,
}

enum Job {
    Write(Arc<Output>, String),
    /// Answers when everything before it was written.
    Sync(SyncSender<()>),
}

/// The lines that this thread collected for one place.
struct Pending {
    to: LogOutput,
    text: String,
    lines: u64,
}

thread_local! {
    static PENDING: RefCell<Collected> = const { RefCell::new(Collected(Vec::new())) };
}

/// Hands over what is left when its thread ends.
struct Collected(Vec<Pending>);

impl Drop for Collected {
    fn drop(&mut self) {
        self.0.drain(..).for_each(Pending::hand_over);
    }
}

/// Hands over what this thread collected. Every worker calls it once a second, and when it ends.
pub fn flush() {
    let pending = PENDING.with_borrow_mut(|collected| std::mem::take(&mut collected.0));
    pending.into_iter().for_each(Pending::hand_over);
}

// === impl LogWriter ===

impl LogWriter {
    /// Starts the writer's thread.
    pub fn start(stats: Arc<FileStats>) -> io::Result<Self> {
        let (queue, jobs) = sync_channel(QUEUE);
        let counted = Arc::clone(&stats);
        std::thread::Builder::new().name("access-log".into()).spawn(move || write_all(&jobs, &counted))?;
        Ok(Self { shared: Arc::new(Shared { queue, outputs: Mutex::default(), stats }) })
    }

    /// Opens a place, or finds it open. A file is appended to, and made when it is not there.
    pub fn open(&self, place: &Place) -> io::Result<LogOutput> {
        let mut outputs = self.outputs();
        outputs.retain(|output| output.strong_count() > 0);
        let open = outputs.iter().filter_map(Weak::upgrade).find(|output| output.place == *place);
        let output = match open {
            Some(output) => output,
            None => {
                let output = Arc::new(Output { file: Mutex::new(place.open()?), place: place.clone() });
                outputs.push(Arc::downgrade(&output));
                output
            }
        };
        Ok(LogOutput { output, shared: Arc::clone(&self.shared) })
    }

    /// Opens all files anew, after they were rotated away. A file that cannot be opened stays the old one.
    /// Returns how many could not.
    pub fn reopen(&self) -> usize {
        let outputs: Vec<Arc<Output>> = self.outputs().iter().filter_map(Weak::upgrade).collect();
        let mut failed = 0;
        for output in outputs {
            match output.place.open() {
                Ok(file) => *output.file.lock().unwrap_or_else(PoisonError::into_inner) = file,
                Err(error) => {
                    failed += 1;
                    self.shared.stats.reopen_failed().inc(0);
                    tracing::warn!(place = ?output.place, %error, "cannot reopen an access log; the old file stays");
                }
            }
        }
        failed
    }

    /// Waits until everything handed over so far is written; `false` when that took longer than `limit`.
    /// The caller has called [`flush`] on its threads.
    pub fn sync(&self, limit: Duration) -> bool {
        let (done, answer) = sync_channel(1);
        self.shared.queue.send(Job::Sync(done)).is_ok() && answer.recv_timeout(limit).is_ok()
    }

    fn outputs(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Output>>> {
        self.shared.outputs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writer's thread: ends when the last sender is gone.
fn write_all(jobs: &Receiver<Job>, stats: &FileStats) {
    for job in jobs {
        match job {
            Job::Write(output, text) => match output.write(text.as_bytes()) {
                Ok(()) => stats.write_completed().inc(0),
                Err(error) => {
                    stats.write_failed().inc(0);
                    tracing::debug!(place = ?output.place, %error, "cannot write an access log");
                }
            },
            Job::Sync(done) => {
                let _ = done.send(());
            }
        }
    }
}

// === impl LogOutput ===

impl LogOutput {
    /// Appends one line; `write` adds its text with the line end.
    pub fn line(&self, write: impl FnOnce(&mut String)) {
        let full = PENDING.with_borrow_mut(|collected| {
            let at = collected.0.iter().position(|pending| Arc::ptr_eq(&pending.to.output, &self.output));
            let at = at.unwrap_or_else(|| {
                collected.0.push(Pending { to: self.clone(), text: String::with_capacity(BATCH + 1024), lines: 0 });
                collected.0.len() - 1
            });
            let pending = &mut collected.0[at];
            write(&mut pending.text);
            pending.lines += 1;
            (pending.text.len() >= BATCH).then(|| collected.0.swap_remove(at))
        });
        if let Some(full) = full {
            full.hand_over();
        }
    }
}

impl Pending {
    fn hand_over(self) {
        let Self { to, text, lines } = self;
        let job = Job::Write(to.output, text);
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = to.shared.queue.try_send(job) {
            to.shared.stats.write_dropped().add(0, lines);
        }
    }
}

// === impl Output, Place ===

impl Output {
    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        match &self.place {
            Place::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(bytes)?;
                out.flush()
            }
            Place::Stderr => io::stderr().lock().write_all(bytes),
            Place::File(_) => match &mut *self.file.lock().unwrap_or_else(PoisonError::into_inner) {
                Some(file) => file.write_all(bytes),
                None => Err(io::ErrorKind::NotConnected.into()),
            },
        }
    }
}

impl Place {
    fn open(&self) -> io::Result<Option<File>> {
        match self {
            Self::File(path) => OpenOptions::new().create(true).append(true).open(path).map(Some),
            Self::Stdout | Self::Stderr => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn writer() -> (LogWriter, Arc<FileStats>) {
        let stats = Arc::new(FileStats::new(2));
        (LogWriter::start(Arc::clone(&stats)).unwrap(), stats)
    }

    #[test]
    fn lines_reach_the_file_in_order_when_flushed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let (writer, stats) = writer();
        let output = writer.open(&Place::File(path.clone())).unwrap();
        output.line(|text| text.push_str("one\n"));
        output.line(|text| text.push_str("two\n"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
        flush();
        assert!(writer.sync(LIMIT));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        assert_eq!((stats.write_completed().value(), stats.write_dropped().value()), (1, 0));
    }

    #[test]
    fn a_full_buffer_and_a_thread_that_ends_hand_over_by_themselves() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let (writer, _) = writer();
        let place = Place::File(path.clone());
        let output = writer.open(&place).unwrap();
        std::thread::spawn(move || {
            output.line(|text| text.push_str(&"x".repeat(BATCH)));
            output.line(|text| text.push_str("last\n"));
        })
        .join()
        .unwrap();
        assert!(writer.sync(LIMIT));
        assert_eq!(std::fs::read_to_string(&path).unwrap().len(), BATCH + 5);
    }

    #[test]
    fn a_rotated_file_is_left_after_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
        let (writer, stats) = writer();
        let output = writer.open(&Place::File(path.clone())).unwrap();
        let log = |line: &str| {
            output.line(|text| text.push_str(line));
            flush();
            assert!(writer.sync(LIMIT));
        };
        log("before\n");
        std::fs::rename(&path, &old).unwrap();
        log("between\n");
        assert_eq!(writer.reopen(), 0);
        log("after\n");
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "before\nbetween\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "after\n");
        drop(folder);
        assert_eq!((writer.reopen(), stats.reopen_failed().value()), (1, 1));
    }

    #[test]
    fn a_place_that_cannot_be_opened_is_an_error() {
        let (writer, _) = writer();
        assert!(writer.open(&Place::File("/nonexistent/access.log".into())).is_err());
    }

    #[test]
    fn a_stuck_disk_drops_lines_and_counts_them() {
        let (queue, _never_read) = sync_channel(1);
        let stats = Arc::new(FileStats::new(1));
        let writer =
            LogWriter { shared: Arc::new(Shared { queue, outputs: Mutex::default(), stats: Arc::clone(&stats) }) };
        let output = writer.open(&Place::Stdout).unwrap();
        for _ in 0..3 {
            output.line(|text| text.push_str("a line\n"));
            output.line(|text| text.push_str("a line\n"));
            flush();
        }
        assert_eq!(stats.write_dropped().value(), 4);
    }
}
