//! Origins as processes of their own, which are killed and stopped by signals.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// The process is ended by SIGKILL; it starts anew when the fault is mended.
    Killed,
    /// The process is stopped: the kernel takes connections and requests, and nobody answers.
    Stalls,
    /// Resets the connection instead of an answer.
    Resets,
    /// Answers late.
    Slow,
    /// Says 503 to every other request, checks too.
    Flaps,
    /// Says 503 to health checks and serves all the same.
    FailsChecks,
}

/// A process that serves, with a fault that can be changed.
pub(super) struct Origin {
    pub(super) address: SocketAddr,
    fault: Fault,
    process: Process,
}

/// Ended when it is dropped. When the test cannot do that, its end is the end of the input; one that is stopped then is
/// ended by the kernel, as a group of processes that nobody is left to look after.
struct Process {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

// === impl Origin ===

impl Origin {
    pub(super) fn new() -> Self {
        let (process, address) = Process::start("127.0.0.1:0");
        Self { address, fault: Fault::None, process }
    }

    pub(super) fn set(&mut self, fault: Fault) {
        match std::mem::replace(&mut self.fault, fault) {
            Fault::Killed => (self.process, _) = Process::start(&self.address.to_string()),
            Fault::Stalls if fault != Fault::Killed => self.process.signal(Signal::CONT),
            _ => {}
        }
        match fault {
            Fault::Killed => self.process.end(),
            Fault::Stalls => self.process.signal(Signal::STOP),
            Fault::None => self.process.tell("none"),
            Fault::Resets => self.process.tell("resets"),
            Fault::Slow => self.process.tell("slow"),
            Fault::Flaps => self.process.tell("flaps"),
            Fault::FailsChecks => self.process.tell("fails checks"),
        }
    }
}

// === impl Process ===

impl Process {
    fn start(at: &str) -> (Self, SocketAddr) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_faulty-origin"));
        command.arg(at).process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (commands, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut process = Self { child, commands, answers };
        let address = process.answer().parse().unwrap();
        (process, address)
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Returns once it does as told.
    fn tell(&mut self, word: &str) {
        writeln!(self.commands, "{word}").unwrap();
        assert_eq!(self.answer(), word);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}
