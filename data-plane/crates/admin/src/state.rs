//! What the admin server shows and may change; the binary implements it over the running proxy.
//!
//! Plain values: the server knows no type of the proxy.

use std::net::SocketAddr;
use std::time::Instant;

use http::HeaderMap;
use serde_json::{Value, json};

/// Whether the proxy takes traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    Live,
    Draining,
    /// The first configuration is not there yet.
    Initializing,
}

/// One of the things that readiness needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub name: &'static str,
    pub ok: bool,
}

/// How listeners are to be drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// Connections end by themselves before listeners close.
    pub graceful: bool,
    /// The process stays after the drain.
    pub skip_exit: bool,
    /// Only listeners whose traffic direction is inbound.
    pub inbound_only: bool,
}

/// One cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterView {
    pub name: String,
    /// The alternative name in statistics; the name when there is none.
    pub observability_name: String,
    pub added_via_api: bool,
    pub eds_service_name: Option<String>,
    pub thresholds: Vec<ThresholdsView>,
    pub hosts: Vec<HostView>,
}

/// The circuit breakers of one priority.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ThresholdsView {
    /// The high priority, not the default one.
    pub high: bool,
    pub max_connections: u32,
    pub max_pending_requests: u32,
    pub max_requests: u32,
    pub max_retries: u32,
}

/// One endpoint of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostView {
    /// `ip:port`, or the path of a unix socket.
    pub address: String,
    pub hostname: String,
    pub weight: u32,
    pub region: String,
    pub zone: String,
    pub sub_zone: String,
    pub priority: u32,
    pub canary: bool,
    /// Such as `failed_active_hc`; healthy when empty.
    pub health_flags: Vec<&'static str>,
    /// Such as `HEALTHY`, as EDS said.
    pub eds_health: &'static str,
    pub cx_active: u64,
    pub cx_connect_fail: u64,
    pub cx_total: u64,
    pub rq_active: u64,
    pub rq_error: u64,
    pub rq_success: u64,
    pub rq_timeout: u64,
    pub rq_total: u64,
    /// Of outlier detection, in thousandths of a percent.
    pub success_rate: Option<u32>,
    pub local_origin_success_rate: Option<u32>,
}

/// One listener and one address it listens on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerView {
    pub name: String,
    pub address: String,
}

/// What waits for something before it can serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unready {
    /// Who waits for these.
    pub name: &'static str,
    pub targets: Vec<String>,
}

/// A request that was answered, for the access log.
#[derive(Debug)]
pub struct Exchange<'a> {
    pub remote: SocketAddr,
    pub local: SocketAddr,
    pub method: &'a str,
    /// With the query.
    pub path: &'a str,
    pub headers: &'a HeaderMap,
    pub began: Instant,
    pub status: u16,
    pub sent: usize,
}

/// The running proxy as the admin server sees it. Called on any thread; nothing here may wait for
/// the network.
pub trait AdminState: Send + Sync + 'static {
    fn ready(&self) -> Ready;

    /// What `/readyz?verbose` lists.
    fn checks(&self) -> Vec<Check>;

    /// The body of `/server_info`: Envoy's `ServerInfo` as JSON.
    fn server_info(&self) -> Value;

    /// The parts of `/config_dump`, each with its `@type`. Endpoints only when asked for. Secrets are blotted out by
    /// the server, whoever forgot to.
    fn config_dump(&self, include_eds: bool) -> Vec<Value>;

    /// What `/init_dump` lists.
    fn unready(&self) -> Vec<Unready>;

    /// Whether this path, with its query, is answered at all.
    fn allows(&self, _path: &str) -> bool {
        true
    }

    /// Writes the access log.
    fn log(&self, _exchange: &Exchange<'_>) {}

    fn clusters(&self) -> Vec<ClusterView>;

    fn listeners(&self) -> Vec<ListenerView>;

    /// The body of `/certs`: Envoy's `Certificates` as JSON.
    fn certs(&self) -> Value;

    /// The body of `/runtime`.
    fn runtime(&self) -> Value {
        json!({ "layers": [], "entries": {} })
    }

    fn drain_listeners(&self, drain: Drain);

    /// Makes `/ready` and the health check filter fail, or answer truly again.
    fn fail_health_check(&self, fail: bool);

    /// Starts the end of the process.
    fn quit(&self);

    /// Opens the access logs anew; how many could not be opened.
    fn reopen_logs(&self) -> usize;
}
