//! Start-up in order: bootstrap → engine → sockets → workers → sources → admin. And the end, in the other order.
//!
//! Nothing is half-started: what is wrong with the bootstrap, or an address in use, is said before anything serves.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use dp_filters::KeepStore;
use dp_http::info::Address;
use dp_observe::access_log::writer::LogWriter;
use dp_observe::stats::FileStats;
use dp_proxy::Budget;
use dp_snapshot::{Engine, Environment, Files, Kind, Origin, Snapshot};
use dp_upstream::LocalCluster;
use dp_upstream::dns::cache::DnsCaches;
use dp_upstream::outlier::EventSink;
use dp_upstream::refresh::Bell;
use shared_config::bootstrap::{Bootstrap, Node};
use shared_config::core::Address as ConfigAddress;
use shared_config::endpoint::Locality;
use shared_config::runtime::{self, Runtime};
use shared_telemetry::log::LogHandle;
use shared_telemetry::{Registry, Scope};
use stdx::drain::Drain;
use stdx::live::Live;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::admin;
use crate::control::{Command, Control, Progress, SharedEngine};
use crate::health::ProcessHealth;
use crate::loads;
use crate::outlier_log::OutlierLog;
use crate::sources::{self, Intake, Reach, Received};
use crate::stats;

/// What the command line says beside the bootstrap.
#[derive(Debug, Clone)]
pub struct Options {
    /// 1 to 256.
    pub workers: usize,
    pub drain_time: Duration,
    /// Listen also where other processes do, with SO_REUSEPORT.
    pub share_ports: bool,
    /// Where the last good configuration is kept.
    pub state_dir: Option<PathBuf>,
    /// Private keys are kept there too.
    pub state_secrets: bool,
    /// Where to write the address of the admin server.
    pub admin_address_path: Option<PathBuf>,
    /// React to SIGTERM, SIGINT, SIGHUP and SIGUSR1. Off where the proxy is a part of another program.
    pub signals: bool,
    /// Changes the log level while running, if logging was set up; the admin server needs it.
    pub log: Option<LogHandle>,
    /// As given, for `/server_info`.
    pub command_line: BTreeMap<String, String>,
}

/// Why a proxy cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A part of the configuration cannot work: a certificate that is none, an address in use.
    #[error("{kind} {name}: {reason}")]
    Refused { kind: &'static str, name: String, reason: String },
    #[error("dynamic_resources: {0}")]
    Sources(String),
    #[error("cannot listen for admin requests on {address}: {source}")]
    Admin { address: String, source: std::io::Error },
    #[error("cannot write the outlier event log {path}: {source}")]
    OutlierLog { path: String, source: std::io::Error },
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// A running proxy.
pub struct Proxy {
    commands: mpsc::UnboundedSender<Command>,
    control: Option<JoinHandle<()>>,
    live: Live<Snapshot>,
    admin: Option<SocketAddr>,
    progress: Arc<Progress>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workers: 1,
            drain_time: Duration::from_secs(600),
            share_ports: false,
            state_dir: None,
            state_secrets: false,
            admin_address_path: None,
            signals: false,
            log: None,
            command_line: BTreeMap::new(),
        }
    }
}

impl Proxy {
    /// Starts everything that the bootstrap says; returns when the static part of it serves.
    ///
    /// # Errors
    /// What is wrong, by name; nothing runs then.
    pub fn start(bootstrap: Bootstrap, options: Options) -> Result<Self, StartError> {
        shared_tls::install_default();
        runtime::install(Runtime::new(&bootstrap.runtime_layers, &BTreeMap::new()));
        let registry = Registry::new(options.workers + 1);
        let drain = Drain::default();
        let health = Arc::new(ProcessHealth::new(drain.clone()));
        let logs = LogWriter::start(FileStats::register(&registry, Scope::new("filesystem", "filesystem")))?;
        let bell = Bell::default();
        let (names, work) = DnsCaches::new(registry.clone());
        let engine = engine(&bootstrap, &options, &registry, &health, &logs, &bell, names)?;
        let setup = sources::setup(&bootstrap, &options, engine.wanted()).map_err(StartError::Sources)?;
        let load_source = sources::load_source(&bootstrap).map_err(StartError::Sources)?;
        let admin = admin::bind(&bootstrap)?;
        let admin_address = admin.as_ref().and_then(|listener| listener.local_addr().ok());
        write_admin_address(&options, admin_address)?;

        let live = engine.live().clone();
        health.follow(live.clone());
        let engine = SharedEngine::new(engine);
        let progress = Arc::new(Progress::new(&bootstrap));
        let (commands, inbox) = mpsc::unbounded_channel();
        let control = Control {
            engine: engine.clone(),
            live: live.clone(),
            bell,
            drain,
            workers: options.workers,
            budget: bootstrap.max_connections.map(Budget::new),
            drain_time: options.drain_time,
            signals: options.signals,
            commands: commands.clone(),
            inbox,
            registry: registry.clone(),
            names: work,
            logs: logs.clone(),
        };
        let received = Arc::new(Received::default());
        let reach = Reach::of(&bootstrap);
        let intake = Intake::new(engine.clone(), Arc::clone(&progress), Arc::clone(&received), reach);
        let access_logs = admin::access_logs(&bootstrap, &logs)?;
        let state = admin::State {
            access_logs,
            bootstrap: Arc::new(bootstrap),
            command_line: options.command_line.clone(),
            started: SystemTime::now(),
            engine,
            health,
            progress: Arc::clone(&progress),
            commands: commands.clone(),
            logs,
            sources: std::sync::OnceLock::new(),
            received,
        };
        let (log, workers) = (options.log.clone(), options.workers);
        let loads_live = live.clone();
        let control = std::thread::Builder::new().name("control".into()).spawn(move || {
            let reporting = loads::report(load_source, setup.node.clone(), loads_live);
            let (handle, fetching) = dp_ads::client(setup, intake);
            // Set once, here.
            let _ = state.sources.set(handle);
            let state = Arc::new(state);
            let _kept = stats::register(&registry, &state, workers);
            let serving = admin::serve(admin, state, registry, log);
            let sources = async {
                tokio::join!(fetching, serving, reporting);
            };
            if let Err(error) = control.run(sources) {
                tracing::error!(%error, "the control thread could not start");
            }
        })?;
        Ok(Self { commands, control: Some(control), live, admin: admin_address, progress })
    }

    /// The address that a listener really has, the first one if it has several.
    pub fn listener(&self, name: &str) -> Option<Address> {
        self.live.load().listener(name)?.sockets.first().map(|sockets| sockets.address.clone())
    }

    /// Where the admin server listens.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// The snapshot that serves now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.live.load()
    }

    /// Whether the first configuration is there.
    pub fn is_initialized(&self) -> bool {
        self.progress.is_complete()
    }

    /// Drains and ends: the first call lets requests finish, the second one cuts them.
    pub fn shut_down(&self) {
        // Fails only when the proxy has ended already.
        let _ = self.commands.send(Command::ShutDown);
    }

    /// Waits for the end.
    pub fn join(mut self) {
        self.wait();
    }

    fn wait(&mut self) {
        if let Some(control) = self.control.take() {
            // A panic of the control thread has been printed; there is nothing left to do about it.
            let _ = control.join();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if self.control.is_some() {
            self.shut_down();
            self.shut_down();
            self.wait();
        }
    }
}

/// Compiles the static part, and binds its sockets.
fn engine(
    bootstrap: &Bootstrap,
    options: &Options,
    registry: &Registry,
    health: &Arc<ProcessHealth>,
    logs: &LogWriter,
    bell: &Bell,
    names: DnsCaches,
) -> Result<Engine, StartError> {
    let outlier_events = match &bootstrap.outlier_event_log {
        Some(path) => Some(OutlierLog::open(path, logs)? as Arc<dyn EventSink>),
        None => None,
    };
    let mut engine = Engine::new(Environment {
        workers: options.workers,
        registry: registry.clone(),
        logs: logs.clone(),
        health: Arc::clone(health) as Arc<dyn dp_filters::Health>,
        keep: KeepStore::default(),
        files: Files::default(),
        names,
        drain_time: options.drain_time,
        share_ports: options.share_ports,
        bell: bell.clone(),
        resolved: BTreeMap::new(),
        outlier_events,
        left: BTreeMap::new(),
        node_cluster: bootstrap.node.cluster.as_str().into(),
        local: bootstrap
            .local_cluster
            .as_ref()
            .map(|name| Arc::new(LocalCluster::new(name, locality(&bootstrap.node), bell.clone()))),
    });
    let reach = Reach::of(bootstrap);
    for entry in &bootstrap.static_resources {
        reach.check(&entry.resource, || engine.wanted()).map_err(|reason| StartError::Refused {
            kind: Kind::of(&entry.resource).name(),
            name: entry.resource.name().to_owned(),
            reason,
        })?;
        engine.put(Origin::Static, entry.resource.clone());
    }
    let settled = engine.settle(Instant::now());
    match settled.refused.into_iter().next() {
        None => Ok(engine),
        Some((kind, name, reason)) => Err(StartError::Refused { kind: kind.name(), name, reason }),
    }
}

fn locality(node: &Node) -> Locality {
    Locality { region: node.region.clone(), zone: node.zone.clone(), sub_zone: node.sub_zone.clone() }
}

fn write_admin_address(options: &Options, address: Option<SocketAddr>) -> Result<(), StartError> {
    let (Some(path), Some(address)) = (&options.admin_address_path, address) else { return Ok(()) };
    std::fs::write(path, address.to_string())
        .map_err(|source| StartError::Admin { address: path.display().to_string(), source })
}

/// The part of a bootstrap address that can be listened on.
pub(crate) fn socket_address(address: &ConfigAddress) -> Option<SocketAddr> {
    match address {
        ConfigAddress::Ip(address) => Some(*address),
        ConfigAddress::Name { .. } | ConfigAddress::Pipe { .. } => None,
    }
}

/// Checks a bootstrap as far as that goes without listening (`--mode validate`): certificates, formats, references.
///
/// # Errors
/// What is wrong, by name.
pub fn validate(mut bootstrap: Bootstrap) -> Result<(), StartError> {
    shared_tls::install_default();
    for entry in &mut bootstrap.static_resources {
        if let shared_config::resource::Resource::Listener(listener) = &mut entry.resource {
            listener.bind_to_port = false;
        }
    }
    let options = Options::default();
    let registry = Registry::new(options.workers + 1);
    let health = Arc::new(ProcessHealth::new(Drain::default()));
    let logs = LogWriter::start(FileStats::register(&registry, Scope::new("filesystem", "filesystem")))?;
    let (names, _) = DnsCaches::new(registry.clone());
    let engine = engine(&bootstrap, &options, &registry, &health, &logs, &Bell::default(), names)?;
    sources::setup(&bootstrap, &options, engine.wanted()).map_err(StartError::Sources)?;
    sources::load_source(&bootstrap).map_err(StartError::Sources)?;
    Ok(())
}
