//! `weir-proxy`: flags, log, exit codes.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use data_plane::flags::{Flags, Mode};
use data_plane::{Options, Proxy};
use shared_config::bootstrap::{self, Bootstrap};
use shared_telemetry::log::{Format, Levels, LogHandle};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The configuration is wrong (systemd's `RestartPreventExitStatus`).
const INVALID_CONFIGURATION: u8 = 78;

#[allow(clippy::print_stdout, clippy::print_stderr)] // a program speaks to its user
fn main() -> ExitCode {
    let flags = Flags::parse();
    if flags.version {
        println!("weir-proxy {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let log = match log(&flags) {
        Ok(log) => log,
        Err(message) => {
            eprintln!("weir-proxy: -l: {message}");
            return ExitCode::from(2);
        }
    };
    let bootstrap = match read(&flags) {
        Ok(bootstrap) => bootstrap,
        Err(message) => {
            eprintln!("weir-proxy: {message}");
            return ExitCode::from(if flags.mode == Mode::Validate { 1 } else { INVALID_CONFIGURATION });
        }
    };
    if flags.mode == Mode::Validate {
        return validate(&flags, bootstrap);
    }
    match Proxy::start(bootstrap, options(&flags, log)) {
        Ok(proxy) => {
            proxy.join();
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("weir-proxy: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Checks all that can be checked without listening.
#[allow(clippy::print_stdout, clippy::print_stderr)]
fn validate(flags: &Flags, bootstrap: Bootstrap) -> ExitCode {
    let place = flags.config_path.as_deref().map_or("configuration".into(), |path| path.display().to_string());
    match data_plane::validate(bootstrap) {
        Ok(()) => {
            println!("{place} OK");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("weir-proxy: {place}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn log(flags: &Flags) -> Result<LogHandle, String> {
    let level = flags.log_level.parse().map_err(|error| format!("{error}"))?;
    let format = if flags.log_json { Format::Json } else { Format::Text };
    shared_telemetry::log::init(format, Levels::new(level)).map_err(|error| error.to_string())
}

/// The bootstrap of file and text, with what the flags say of the node.
fn read(flags: &Flags) -> Result<Bootstrap, String> {
    let mut texts = Vec::new();
    let mut place = String::from("--config-yaml");
    if let Some(path) = &flags.config_path {
        texts.push(std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?);
        place = path.display().to_string();
    }
    texts.extend(flags.config_yaml.clone());
    if texts.is_empty() {
        return Err("no configuration: give -c FILE or --config-yaml TEXT (see --help)".into());
    }
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut bootstrap = bootstrap::read(&texts).map_err(|invalid| {
        invalid.0.iter().map(|problem| format!("{place}: {problem}")).collect::<Vec<_>>().join("\nweir-proxy: ")
    })?;
    let node = &mut bootstrap.node;
    for (field, flag) in [
        (&mut node.id, &flags.service_node),
        (&mut node.cluster, &flags.service_cluster),
        (&mut node.zone, &flags.service_zone),
    ] {
        if let Some(value) = flag {
            field.clone_from(value);
        }
    }
    let is_dynamic = bootstrap.ads.is_some() || bootstrap.lds.is_some() || bootstrap.cds.is_some();
    if is_dynamic && (bootstrap.node.id.is_empty() || bootstrap.node.cluster.is_empty()) {
        return Err(format!(
            "{place}: node: id and cluster are needed for dynamic_resources (or --service-node and --service-cluster)"
        ));
    }
    Ok(bootstrap)
}

fn options(flags: &Flags, log: LogHandle) -> Options {
    let mut command_line = BTreeMap::from([
        ("concurrency".to_owned(), flags.workers().to_string()),
        ("mode".to_owned(), "Serve".to_owned()),
        ("log_level".to_owned(), flags.log_level.clone()),
        ("drain_time".to_owned(), format!("{}s", flags.drain_time_s)),
    ]);
    let path = |path: &Path| path.display().to_string();
    command_line.extend(flags.config_path.as_deref().map(|p| ("config_path".to_owned(), path(p))));
    Options {
        workers: flags.workers(),
        drain_time: Duration::from_secs(flags.drain_time_s),
        share_ports: flags.share_ports,
        state_dir: flags.state_dir.clone(),
        state_secrets: flags.state_secrets,
        admin_address_path: flags.admin_address_path.clone(),
        signals: true,
        log: Some(log),
        command_line,
    }
}
