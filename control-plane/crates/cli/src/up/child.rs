//! Child processes that never outlive us: found, started, watched, stopped.
//!
//! A child is started as `weir child`, which asks the kernel for a signal when its parent ends and then becomes the program.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};

use crate::failure::Failure;

/// How long a child has to end after it was asked to.
const STOP_BOUND: Duration = Duration::from_secs(5);
/// How much of the log is shown when a child failed.
const TAIL: usize = 20;

/// The program of this name beside ours, else in PATH.
pub(crate) fn find(name: &str) -> Result<PathBuf, Failure> {
    let ours = std::env::current_exe().ok().and_then(|p| std::fs::canonicalize(p).ok());
    let beside = ours.as_deref().and_then(Path::parent).map(|folder| folder.join(name));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).filter(|p| p.is_absolute()).map(|folder| folder.join(name));
    beside.clone().into_iter().chain(in_path).find(|p| p.is_file()).ok_or_else(|| Failure::Refused {
        message: format!(
            "cannot find `{name}`: not in {}, and not in PATH",
            beside.as_deref().and_then(Path::parent).unwrap_or(Path::new(".")).display()
        ),
        hint: Some("build all three programs: `cargo build --release`".to_owned()),
    })
}

/// Turns this process into `program`, tied to the life of the process that started it.
pub(crate) fn become_it(parent: i32, program: &Path, arguments: &[String]) -> Failure {
    #[cfg(target_os = "linux")]
    if let Err(e) = rustix::process::set_parent_process_death_signal(Some(Signal::TERM)) {
        return Failure::refused(format!("cannot tie {} to its parent: {e}", program.display()));
    }
    // The parent may have ended before we asked.
    if rustix::process::getppid().map(Pid::as_raw_pid) != Some(parent) {
        return Failure::refused("`weir child` is started by `weir up` only");
    }
    let error = std::process::Command::new(program).args(arguments).exec();
    Failure::refused(format!("cannot start {}: {error}", program.display()))
}

/// A program that runs.
pub(crate) struct Running {
    pub(crate) name: String,
    log: PathBuf,
    child: Child,
}

/// Where a child's words go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Words {
    ToFile,
    ToUs,
}

pub(crate) fn start(
    name: &str,
    program: &Path,
    arguments: &[String],
    log: PathBuf,
    words: Words,
) -> Result<Running, Failure> {
    let cannot = |e: std::io::Error| Failure::refused(format!("cannot start {name}: {e}"));
    let us = std::env::current_exe().map_err(cannot)?;
    let mut command = Command::new(us);
    command.arg("child").arg("--parent").arg(std::process::id().to_string()).arg(program).arg("--").args(arguments);
    // Settings of ours in the environment are not meant for them.
    for (key, _) in std::env::vars_os() {
        if key.to_str().is_some_and(|k| k.starts_with("WEIR_")) {
            command.env_remove(key);
        }
    }
    // A group of its own: ctrl-C reaches us, and we stop the children in order.
    command.stdin(Stdio::null()).process_group(0).kill_on_drop(true);
    if words == Words::ToFile {
        let file = File::create(&log).map_err(cannot)?;
        command.stdout(file.try_clone().map_err(cannot)?).stderr(file);
    }
    let child = command.spawn().map_err(cannot)?;
    Ok(Running { name: name.to_owned(), log, child })
}

impl Running {
    /// How it failed, if it has ended.
    pub(crate) fn has_ended(&mut self) -> Option<Failure> {
        let status = self.child.try_wait().ok().flatten()?;
        Some(self.failure(Some(status)))
    }

    fn failure(&self, status: Option<ExitStatus>) -> Failure {
        let how = status.map_or_else(|| "for an unknown reason".to_owned(), |s| s.to_string());
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n  ");
        let tail = if tail.is_empty() { String::new() } else { format!(":\n  {tail}") };
        Failure::refused(format!("{} ended ({how}){tail}", self.name))
    }

    /// Asks it to end, and ends it if it does not.
    pub(crate) async fn stop(mut self) {
        if let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
            // It may have ended on its own just now; it is not reaped before `wait`, so the pid is still its own.
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
        if tokio::time::timeout(STOP_BOUND, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}
