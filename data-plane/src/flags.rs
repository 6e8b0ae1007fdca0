//! The command line, which is Envoy's.
//!
//! A flag of Envoy that means nothing here is refused by name, never ignored.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// A proxy that takes its configuration from Envoy's bootstrap and from any xDS v3 server.
#[derive(Debug, Parser)]
#[command(name = "weir-proxy", disable_version_flag = true)]
pub struct Flags {
    /// Bootstrap file: YAML or JSON by its ending (.yaml, .yml, .json), else by its content.
    #[arg(short = 'c', long, env = "WEIR_PROXY_CONFIG", value_name = "FILE")]
    pub config_path: Option<PathBuf>,

    /// Bootstrap as YAML text; its fields win over those of the file.
    #[arg(long, value_name = "YAML")]
    pub config_yaml: Option<String>,

    /// serve, or validate: check the bootstrap, say OK or what is wrong, and exit.
    #[arg(long, value_enum, default_value_t = Mode::Serve)]
    pub mode: Mode,

    /// Worker threads; one a core when not given.
    #[arg(long, env = "WEIR_PROXY_CONCURRENCY", value_name = "N")]
    pub concurrency: Option<usize>,

    /// Id of this node; wins over the bootstrap.
    #[arg(long, env = "WEIR_PROXY_NODE_ID", value_name = "ID")]
    pub service_node: Option<String>,

    /// Cluster of this node; wins over the bootstrap.
    #[arg(long, env = "WEIR_PROXY_CLUSTER", value_name = "NAME")]
    pub service_cluster: Option<String>,

    /// Zone of this node; wins over the bootstrap.
    #[arg(long, env = "WEIR_PROXY_ZONE", value_name = "ZONE")]
    pub service_zone: Option<String>,

    /// Log level: trace, debug, info, warning, error, critical or off.
    #[arg(short = 'l', long, env = "WEIR_PROXY_LOG", default_value = "info", value_name = "LEVEL")]
    pub log_level: String,

    /// Write log lines as JSON.
    #[arg(long)]
    pub log_json: bool,

    /// Seconds that connections have to end after a drain begins.
    #[arg(long, env = "WEIR_PROXY_DRAIN_TIME", default_value_t = 600, value_name = "SECONDS")]
    pub drain_time_s: u64,

    /// Listen also where other proxies of this machine listen: the kernel shares connections out (SO_REUSEPORT). Without
    /// it such an address counts as in use.
    #[arg(long, env = "WEIR_PROXY_SHARE_PORTS")]
    pub share_ports: bool,

    /// Where the last good configuration of xDS is kept, so that a restart serves without a control plane.
    #[arg(long, env = "WEIR_PROXY_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// Keep secrets in the state directory too (files readable by this user only).
    #[arg(long, requires = "state_dir")]
    pub state_secrets: bool,

    /// Write the address of the admin server here once it listens.
    #[arg(long, value_name = "FILE")]
    pub admin_address_path: Option<PathBuf>,

    /// Accepted for Envoy's sake: there is no hot restart to disable, changes need no new process.
    #[arg(long)]
    pub disable_hot_restart: bool,

    /// Accepted for Envoy's sake: processes share no memory, so that there is no base id.
    #[arg(long)]
    pub use_dynamic_base_id: bool,

    /// Print the version and exit.
    #[arg(long)]
    pub version: bool,
}

/// What to do with the bootstrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    Serve,
    Validate,
}

impl Flags {
    /// How many workers to run: 1 to 256.
    pub fn workers(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.concurrency.filter(|n| *n > 0).unwrap_or_else(cores).min(stdx::shard::MAX_SHARDS - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_of_envoy_are_understood() {
        let flags = Flags::parse_from([
            "weir-proxy",
            "-c",
            "a.yaml",
            "--mode",
            "validate",
            "--concurrency",
            "2",
            "--service-node",
            "n",
            "--service-cluster",
            "c",
            "--service-zone",
            "z",
            "-l",
            "warn",
            "--drain-time-s",
            "5",
        ]);
        assert_eq!((flags.mode, flags.workers(), flags.drain_time_s), (Mode::Validate, 2, 5));
        assert_eq!(flags.service_node.as_deref(), Some("n"));
    }

    #[test]
    fn an_unknown_flag_is_refused_by_name() {
        let error = Flags::try_parse_from(["weir-proxy", "--hot-restart-version"]).unwrap_err().to_string();
        assert!(error.contains("--hot-restart-version"), "{error}");
    }
}
