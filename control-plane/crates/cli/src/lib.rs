//! The operator's command line: offline checks, calls to the control plane, and `weir up`.
//!
//! Data goes to stdout, words for people to stderr, the verdict into the exit code (`failure`). Never holds state of its own:
//! what is true is what the control plane answers.

mod failure;
mod flags;
mod out;

mod files;
mod offline;

mod format;

mod client;
mod remote;
mod route_test;
mod up;

use std::process::ExitCode;

use clap::Parser;

use crate::failure::Failure;
use crate::flags::{Command, Flags};
use crate::out::Out;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let flags = Flags::parse();
    let out = Out::new(&flags.global);
    match run(&flags, &out) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.tell(&out);
            ExitCode::from(failure.code())
        }
    }
}

/// 0, or the exit code of an outcome that is no failure (`diff`: 1 = differs).
fn run(flags: &Flags, out: &Out) -> Result<u8, Failure> {
    match &flags.command {
        Command::Check(given) => offline::check(given, out),
        Command::Fmt(given) => format::run(given, out),
        Command::Adapt(given) => offline::adapt(given, out),
        Command::Explain { code } => offline::explain(code, out),
        Command::Version => offline::version(out),
        Command::Completion { shell } => offline::completion(*shell, out),
        Command::Child { parent, program, arguments } => Err(up::child::become_it(*parent, program, arguments)),
        Command::Up(given) => on_this_thread(up::run(given, flags, out)),
        Command::Route { command } => on_this_thread(route_test::run(command, flags, out)),
        remote => on_this_thread(remote::run(remote, flags, out)),
    }
}

/// One thread, this one: children of `up` are told when the thread that started them ends, so it must be the last.
fn on_this_thread(work: impl Future<Output = Result<u8, Failure>>) -> Result<u8, Failure> {
    shared_tls::install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::refused(format!("cannot start: {e}")))?;
    runtime.block_on(work)
}
