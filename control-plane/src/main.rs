//! weir-control: flags, exit codes, signals.
//!
//! Exit codes: 0 clean stop, 1 failed start or a server that failed, 2 usage, 78 invalid configuration.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use control_plane::settings::{Given, LogFormat};
use control_plane::{Settings, SettingsError, StartError, start};
use shared_telemetry::log;
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The control plane of Weir: keeps the configuration, and brings it to the proxies over xDS.
#[derive(Debug, Parser)]
#[command(name = "weir-control", version, max_term_width = 110)]
struct Flags {
    /// Settings, in YAML; the keys are the long flags with `_`
    #[arg(short, long, env = "WEIR_CONTROL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    given: Given,
}

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const INVALID: u8 = 78;

/// Why we do not run, and the exit code that says so.
struct Exit(u8, String);

fn main() -> ExitCode {
    let flags = Flags::parse();
    match run(flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Exit(code, reason)) => {
            complain(&reason);
            ExitCode::from(code)
        }
    }
}

#[allow(clippy::print_stderr, reason = "the one message of a program that does not run")]
fn complain(reason: &str) {
    eprintln!("weir-control: {reason}");
}

fn run(flags: Flags) -> Result<(), Exit> {
    let file = match &flags.config {
        Some(path) => Given::from_file(path).map_err(|e| Exit(INVALID, e.to_string()))?,
        None => Given::default(),
    };
    let given = flags.given.or(file);
    set_up_log(&given)?;
    let settings = given.complete().map_err(|e| match e {
        SettingsError::Usage(_) => Exit(USAGE, e.to_string()),
        SettingsError::File { .. } => Exit(INVALID, e.to_string()),
    })?;
    // Fails only if another provider was installed, and then that one serves as well.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Exit(FAILED, format!("cannot start threads: {e}")))?;
    runtime.block_on(serve(settings))
}

async fn serve(settings: Settings) -> Result<(), Exit> {
    // Signals first: one that comes while we start must not be lost.
    let handler = |kind| signal(kind).map_err(|e| Exit(FAILED, format!("cannot handle signals: {e}")));
    let (mut terminate, mut interrupt) = (handler(SignalKind::terminate())?, handler(SignalKind::interrupt())?);
    let running = start(settings).await.map_err(|e| match e {
        StartError::Invalid { .. } => Exit(INVALID, e.to_string()),
        _ => Exit(FAILED, e.to_string()),
    })?;
    let asked = async {
        tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () }
        tracing::info!("stopping");
    };
    running.until(asked).await.map_err(|reason| Exit(FAILED, reason))
}

fn set_up_log(given: &Given) -> Result<(), Exit> {
    let level = given.log.as_deref().unwrap_or("info");
    let level = level.parse::<log::Level>().map_err(|e| Exit(USAGE, e.to_string()))?;
    let format = match given.log_format {
        Some(LogFormat::Json) => log::Format::Json,
        _ => log::Format::Text,
    };
    let levels = log::Levels { default: level, targets: Default::default() };
    log::init(format, levels).map(drop).map_err(|e| Exit(FAILED, e.to_string()))
}
