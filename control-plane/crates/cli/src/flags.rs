//! The command line. Says what is possible; never does anything.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use cp_model::value::duration;

/// Operate a fleet of Weir proxies.
///
/// Exit codes: 0 done, 1 refused or invalid, 2 usage, 3 control plane not reachable, 4 conflict, 5 applied but not everywhere in
/// time. `diff`: 0 same, 1 differs, 2 and more an error.
#[derive(Debug, Parser)]
#[command(name = "weir", version, max_term_width = 110, disable_help_subcommand = true)]
pub(crate) struct Flags {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Where the control plane's management API is: http://HOST:PORT, https://HOST:PORT or HOST:PORT
    #[arg(long, global = true, env = "WEIR_SERVER", default_value = "http://127.0.0.1:18001", value_name = "URL")]
    pub(crate) server: String,
    /// A file with the token to show
    #[arg(long, global = true, env = "WEIR_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The authority that signed the server's certificate, PEM; else those of the system
    #[arg(long, global = true, env = "WEIR_TLS_CA", value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Our own certificate, PEM
    #[arg(long, global = true, env = "WEIR_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, global = true, env = "WEIR_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// How data is written
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table, value_name = "FORMAT")]
    pub(crate) output: Output,
    /// No colours (also: NO_COLOR in the environment, or output that is no terminal)
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
    /// How long one call may take
    #[arg(long, global = true, default_value = "30s", value_parser = duration, value_name = "TIME")]
    pub(crate) timeout: Duration,
    /// Say more
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
    /// Say only what is wrong
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Table,
    Wide,
    Json,
    Yaml,
    Name,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a control plane and proxies here, apply a file, and follow its changes until ctrl-C
    Up(Up),
    /// Check configuration files without a control plane
    Check(Check),
    /// Lay out configuration files evenly
    Fmt(Fmt),
    /// Print the Envoy v3 resources that configuration files become
    Adapt(Adapt),
    /// Show what an apply would change: exit code 0 nothing, 1 something, 2 and more an error
    Diff(DiffArgs),
    /// Make the control plane's configuration what files say
    Apply(Apply),
    /// Show listeners, routes, apis, policies, clusters, envoy (raw resources), nodes, revisions, or endpoints [of CLUSTER]
    Get(Get),
    /// Show everything about one object, node or revision
    Describe { kind: String, name: String },
    /// Remove objects
    Delete(Delete),
    /// Show the revisions of the configuration, newest first
    History {
        /// At most this many
        #[arg(short = 'n', long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Bring back the content of an earlier revision, as a new one
    Rollback {
        revision: u64,
        /// Why, for the history
        #[arg(short, long, default_value = "")]
        message: String,
        /// Check only
        #[arg(long)]
        dry_run: bool,
    },
    /// Show what every node has of every resource type: SYNCED, NOT SENT, STALE or REJECTED, and the age of its answer
    Status {
        /// Only nodes of this group
        #[arg(long, default_value = "")]
        group: String,
    },
    /// Show what was sent to a node
    ProxyConfig(ProxyConfig),
    /// Take an endpoint out of service, or bring it back
    Endpoint {
        #[command(subcommand)]
        command: EndpointCommand,
    },
    /// Questions about routes
    Route {
        #[command(subcommand)]
        command: RouteCommand,
    },
    /// Explain the code of a problem: `weir explain W0101`
    Explain { code: String },
    /// Print the version
    Version,
    /// Print a completion script for a shell
    Completion { shell: Shell },
    /// Become a child process of `up` that ends with it
    #[command(hide = true)]
    Child {
        #[arg(long)]
        parent: i32,
        program: PathBuf,
        #[arg(last = true)]
        arguments: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// The configuration: a file, or a directory of them
    pub(crate) file: PathBuf,
    /// How many proxies to start; they share the listeners' ports
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(crate) proxies: u8,
    /// Worker threads of each proxy
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) concurrency: u8,
    /// Answer on the addresses of the clusters, send requests, push FILE's neighbour `next.yaml`, and show what happens
    #[arg(long)]
    pub(crate) demo: bool,
    /// With --demo: stop after it; exit code 1 if a request failed
    #[arg(long, requires = "demo")]
    pub(crate) once: bool,
    /// Keep revisions and logs here; else in a directory that is removed at the end
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Where operators connect [default: a free port of 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) management_address: Option<std::net::SocketAddr>,
    /// Where proxies connect [default: a free port of 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) xds_address: Option<std::net::SocketAddr>,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Files, directories, or `-`
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Warnings are errors
    #[arg(long)]
    pub(crate) strict: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Fmt {
    /// Files, directories, or `-`
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Write the files back; else the result is printed
    #[arg(short, long, conflicts_with = "check")]
    pub(crate) write: bool,
    /// Change nothing; exit code 1 and the differences if a file is not laid out so
    #[arg(long)]
    pub(crate) check: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Adapt {
    /// Files, directories, or `-`
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,
    #[arg(long, value_enum, default_value_t = AdaptTo::EnvoyYaml)]
    pub(crate) to: AdaptTo,
    /// Print private keys too
    #[arg(long)]
    pub(crate) show_secrets: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AdaptTo {
    EnvoyYaml,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Changed {
    /// Files, directories, or `-`
    #[arg(short = 'f', long = "file", required = true, value_name = "PATH")]
    pub(crate) files: Vec<PathBuf>,
    /// The files are the whole configuration: remove every object that is not in them
    #[arg(long)]
    pub(crate) prune: bool,
    /// What is applied belongs to TAG; with --prune, only objects of TAG are removed
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TAG")]
    pub(crate) select_tag: String,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    #[command(flatten)]
    pub(crate) changed: Changed,
    /// Compare the Envoy v3 resources instead of the objects
    #[arg(long)]
    pub(crate) envoy: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Apply {
    #[command(flatten)]
    pub(crate) changed: Changed,
    /// Let the control plane check everything, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Wait until every connected node has it; exit code 5 if not in time
    #[arg(long, num_args = 0..=1, default_missing_value = "60s", value_parser = duration, value_name = "TIME")]
    pub(crate) wait: Option<Duration>,
    /// Why, for the history
    #[arg(short, long, default_value = "")]
    pub(crate) message: String,
    /// Refuse (exit code 4) unless this is the etag of the newest revision
    #[arg(long, default_value = "")]
    pub(crate) etag: String,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// listeners, routes, apis, policies, clusters, envoy, nodes, revisions, endpoints, or all
    pub(crate) kind: String,
    /// Only this one; of endpoints, those of this cluster
    pub(crate) name: Option<String>,
    /// As it was in this revision
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub(crate) revision: u64,
    /// Again at every change, until ctrl-C
    #[arg(short, long)]
    pub(crate) watch: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    pub(crate) kind: String,
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
    /// It is no error if an object does not exist
    #[arg(long)]
    pub(crate) allow_missing: bool,
    /// Check only
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Why, for the history
    #[arg(short, long, default_value = "")]
    pub(crate) message: String,
    /// Refuse (exit code 4) unless this is the etag of the newest revision
    #[arg(long, default_value = "")]
    pub(crate) etag: String,
}

#[derive(Debug, Args)]
pub(crate) struct ProxyConfig {
    pub(crate) node: String,
    #[arg(value_enum)]
    pub(crate) what: ProxyConfigKind,
    /// The proxy's admin server; only it knows the bootstrap
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) admin: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProxyConfigKind {
    Listeners,
    Routes,
    Clusters,
    Endpoints,
    Secrets,
    Bootstrap,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EndpointCommand {
    /// No new requests go to it; what runs goes on. Holds over later applies, until undrained or the time is over
    Drain {
        cluster: String,
        /// HOST:PORT, as `weir get endpoints` shows it
        address: String,
        /// How long; else until it is undrained
        #[arg(long = "for", value_parser = duration, value_name = "TIME")]
        time: Option<Duration>,
        /// Why
        #[arg(short, long, default_value = "")]
        message: String,
    },
    /// Bring it back
    Undrain { cluster: String, address: String },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RouteCommand {
    /// Which route a request takes, why, and which policies apply
    Test(RouteTest),
}

#[derive(Debug, Args)]
pub(crate) struct RouteTest {
    /// 'GET https://host/path?query'; the method may be left out
    pub(crate) request: String,
    /// A header of the request: `name: value`; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME:VALUE")]
    pub(crate) headers: Vec<String>,
    /// Take the configuration from here instead of the control plane
    #[arg(short = 'f', long = "file", value_name = "PATH")]
    pub(crate) files: Vec<PathBuf>,
    /// The listener the request comes to; else the one with the URL's port
    #[arg(long, value_name = "NAME")]
    pub(crate) listener: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Flags::command().debug_assert();
    }

    #[test]
    fn wait_has_a_default_time_and_takes_another() {
        let wait = |arguments: &[&str]| {
            let flags = Flags::try_parse_from([&["weir", "apply", "-f", "x"], arguments].concat());
            match flags.expect("right").command {
                Command::Apply(apply) => apply.wait,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(wait(&[]), None);
        assert_eq!(wait(&["--wait"]), Some(Duration::from_secs(60)));
        assert_eq!(wait(&["--wait", "5s"]), Some(Duration::from_secs(5)));
    }

    #[test]
    fn a_duration_without_unit_is_refused() {
        assert!(Flags::try_parse_from(["weir", "--timeout", "5", "status"]).is_err());
    }
}
