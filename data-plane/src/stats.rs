//! The statistics of the process and of its sources, by Envoy's names: computed when somebody reads them.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dp_admin::AdminState as _;
use dp_ads::ResourceKind;
use shared_telemetry::stats::{Field, Kind, Reading, Source};
use shared_telemetry::{Registry, Scope};

use crate::admin::State;

/// Who holds this keeps them in the registry.
pub(crate) type Kept = Vec<Arc<dyn Source>>;

macro_rules! fields {
    ($($kind:ident $name:literal,)+) => {
        &[$(Field { name: $name, kind: Kind::$kind },)+]
    };
}

const SERVER: &[Field] = fields! {
    Gauge "live",
    Gauge "state",
    Gauge "uptime",
    Gauge "concurrency",
    Gauge "memory_allocated",
    Gauge "memory_physical_size",
    Gauge "total_connections",
    Gauge "days_until_first_cert_expiring",
};

const SUBSCRIPTION: &[Field] = fields! {
    Counter "update_attempt",
    Counter "update_success",
    Counter "update_failure",
    Counter "update_rejected",
    Counter "init_fetch_timeout",
    Gauge "update_time",
    Gauge "version",
};

const CONTROL_PLANE: &[Field] = fields! {
    Gauge "connected_state",
};

/// `server.`
struct Server {
    state: Arc<State>,
    began: Instant,
    workers: usize,
}

/// `cluster_manager.cds.` and `listener_manager.lds.`
struct Subscription {
    state: Arc<State>,
    kind: ResourceKind,
}

/// `control_plane.`
struct ControlPlane(Arc<State>);

/// Shows all of it.
pub(crate) fn register(registry: &Registry, state: &Arc<State>, workers: usize) -> Kept {
    let state = || Arc::clone(state);
    let server = Server { state: state(), began: Instant::now(), workers };
    let mut kept: Kept = vec![
        registry.register(Scope::new("server", "server"), |_| server),
        registry.register(Scope::new("control_plane", "control_plane"), |_| ControlPlane(state())),
    ];
    for (manager, name, kind) in
        [("cluster_manager", "cds", ResourceKind::Cluster), ("listener_manager", "lds", ResourceKind::Listener)]
    {
        let scope = Scope::new(manager, manager).child(name);
        kept.push(registry.register(scope, |_| Subscription { state: state(), kind }));
    }
    kept
}

// === impl Server ===

impl Source for Server {
    fn fields(&self) -> &'static [Field] {
        SERVER
    }

    fn read(&self, index: usize) -> Reading {
        let snapshot = || self.state.snapshot();
        Reading::Number(match SERVER[index].name {
            "live" => u64::from(!self.state.is_draining()),
            "state" => match self.state.ready() {
                dp_admin::Ready::Live => 0,
                dp_admin::Ready::Draining => 1,
                dp_admin::Ready::Initializing => 2,
            },
            "uptime" => self.began.elapsed().as_secs(),
            "concurrency" => self.workers as u64,
            "total_connections" => {
                snapshot().listeners().iter().map(|listener| listener.stats.downstream_cx_active().value()).sum()
            }
            "days_until_first_cert_expiring" => {
                let now = SystemTime::now();
                let snapshot = snapshot();
                let chains = snapshot.listeners().iter().flat_map(|listener| listener.chains());
                let certificates = chains.filter_map(|chain| chain.tls.as_ref()).flat_map(|tls| &tls.certificates);
                // Envoy says the largest number when there is no certificate.
                certificates.map(|info| info.days_left(now)).min().map_or(u64::from(u32::MAX), |days| days)
            }
            // There is no figure of the allocator, so that both are what the kernel says.
            _ => resident_bytes(),
        })
    }

    fn reset(&self) {}
}

fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

// === impl Subscription ===

impl Source for Subscription {
    fn fields(&self) -> &'static [Field] {
        SUBSCRIPTION
    }

    fn read(&self, index: usize) -> Reading {
        let stats = self.state.sources.get().map(dp_ads::Handle::stats);
        let number = stats.and_then(|stats| {
            stats.with(|view| {
                let stats = view.kinds.get(&self.kind)?;
                Some(match SUBSCRIPTION[index].name {
                    "update_attempt" => stats.update_attempt,
                    "update_success" => stats.update_success,
                    "update_failure" => stats.update_failure,
                    "update_rejected" => stats.update_rejected,
                    "init_fetch_timeout" => stats.init_fetch_timeout,
                    "update_time" => {
                        let since = stats.update_time.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
                        since.map_or(0, |since: Duration| since.as_millis()) as u64
                    }
                    _ if stats.version.is_empty() => 0,
                    _ => stdx::hash::xxh64(stats.version.as_bytes(), 0),
                })
            })
        });
        Reading::Number(number.unwrap_or(0))
    }

    /// The sources go on counting; what they did is not undone.
    fn reset(&self) {}
}

// === impl ControlPlane ===

impl Source for ControlPlane {
    fn fields(&self) -> &'static [Field] {
        CONTROL_PLANE
    }

    fn read(&self, _index: usize) -> Reading {
        let connected = self.0.sources.get().is_some_and(|sources| sources.stats().with(|view| view.connected > 0));
        Reading::Number(u64::from(connected))
    }

    fn reset(&self) {}
}
