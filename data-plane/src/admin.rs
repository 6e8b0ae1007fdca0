//! What the admin server is told about the running proxy.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use base64::Engine as _;
use dp_admin::{
    Admin, AdminState, Check, ClusterView, Drain, Exchange, HostView, ListenerView, Ready, ThresholdsView, Unready,
};
use dp_filters::Health as _;
use dp_http::info::{Address, ConnectionInfo};
use dp_http::{Method, Protocol, RequestHead, ResponseHead, StreamInfo};
use dp_observe::AccessLog;
use dp_observe::access_log::writer::{self, LogWriter};
use dp_snapshot::{Kind, Snapshot};
use dp_upstream::{Cluster, Endpoint};
use serde_json::{Value, json};
use shared_config::bootstrap::Bootstrap;
use shared_config::cluster::Discovery;
use shared_telemetry::Registry;
use shared_telemetry::log::LogHandle;
use tokio::sync::mpsc;

use crate::control::{Command, Progress, SharedEngine};
use crate::health::ProcessHealth;
use crate::process::{StartError, socket_address};
use crate::sources::{Received, resource_kind};

/// The running proxy, for the admin server.
pub(crate) struct State {
    pub(crate) bootstrap: Arc<Bootstrap>,
    pub(crate) command_line: BTreeMap<String, String>,
    pub(crate) started: SystemTime,
    pub(crate) engine: SharedEngine,
    pub(crate) health: Arc<ProcessHealth>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) logs: LogWriter,
    pub(crate) access_logs: Vec<AccessLog>,
    pub(crate) sources: OnceLock<dp_ads::Handle>,
    pub(crate) received: Arc<Received>,
}

/// Listens for admin requests, if the bootstrap asks for it.
pub(crate) fn bind(bootstrap: &Bootstrap) -> Result<Option<TcpListener>, StartError> {
    let Some(admin) = &bootstrap.admin else { return Ok(None) };
    let failed = |source| StartError::Admin { address: admin.address.to_string(), source };
    let Some(address) = socket_address(&admin.address) else {
        return Err(failed(std::io::Error::new(std::io::ErrorKind::InvalidInput, "an IP address is needed")));
    };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(Some(listener))
}

/// Opens the access logs of the admin server.
pub(crate) fn access_logs(bootstrap: &Bootstrap, logs: &LogWriter) -> Result<Vec<AccessLog>, StartError> {
    let configured = bootstrap.admin.iter().flat_map(|admin| &admin.access_logs);
    let refused = |error: dp_observe::access_log::AccessLogError| StartError::Refused {
        kind: "admin",
        name: "access_log".to_owned(),
        reason: error.to_string(),
    };
    configured.map(|config| AccessLog::compile(config, logs).map_err(refused)).collect()
}

/// Serves admin requests for as long as the control thread lives.
pub(crate) async fn serve(
    listener: Option<TcpListener>,
    state: Arc<State>,
    registry: Registry,
    logs: Option<LogHandle>,
) {
    let Some(listener) = listener else { return };
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "cannot serve admin requests"),
    };
    let admin = Admin { state, registry, logs };
    dp_admin::serve(listener, Arc::new(admin), std::future::pending()).await;
}

impl State {
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.engine.lock().live().load()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.health.is_failing()
    }

    /// The resources of one kind as they came: static ones, and those of xDS with what became of them.
    fn resources(&self, kind: Kind) -> (Vec<Value>, Vec<Value>) {
        let fixed = self.bootstrap.static_resources.iter().filter(|entry| Kind::of(&entry.resource) == kind);
        let fixed = fixed.map(|entry| to_json(&entry.type_url, &entry.value)).collect();
        let views = self.sources.get().map(|sources| {
            sources
                .stats()
                .with(|view| view.kinds.get(&resource_kind(kind)).map(|k| k.resources.clone()).unwrap_or_default())
        });
        let received = self.received.of(kind);
        let dynamic = received.into_iter().map(|(name, any)| {
            let view = views.as_ref().and_then(|views| views.get(&name));
            json!({
                "name": name,
                "version_info": view.map(|view| view.version.clone()).unwrap_or_default(),
                "last_updated": view.map(|view| timestamp(view.updated)),
                "error_state": view.and_then(|view| view.error.clone()).map(|details| json!({ "details": details })),
                "resource": to_json(&any.type_url, &any.value),
            })
        });
        (fixed, dynamic.collect())
    }
}

impl AdminState for State {
    fn ready(&self) -> Ready {
        if self.health.is_failing() {
            Ready::Draining
        } else if self.progress.is_complete() {
            Ready::Live
        } else {
            Ready::Initializing
        }
    }

    fn checks(&self) -> Vec<Check> {
        vec![
            Check { name: "configuration", ok: self.progress.is_complete() },
            Check { name: "not_draining", ok: !self.health.is_failing() },
        ]
    }

    fn server_info(&self) -> Value {
        let state = match self.ready() {
            Ready::Live => "LIVE",
            Ready::Draining => "DRAINING",
            Ready::Initializing => "PRE_INITIALIZING",
        };
        let node = &self.bootstrap.node;
        json!({
            "version": concat!("weir-proxy/", env!("CARGO_PKG_VERSION")),
            "state": state,
            "uptime_current_epoch": format!("{}s", self.started.elapsed().unwrap_or_default().as_secs()),
            "uptime_all_epochs": format!("{}s", self.started.elapsed().unwrap_or_default().as_secs()),
            "command_line_options": self.command_line,
            "node": {
                "id": node.id,
                "cluster": node.cluster,
                "locality": { "region": node.region, "zone": node.zone, "sub_zone": node.sub_zone },
            },
        })
    }

    fn config_dump(&self, include_eds: bool) -> Vec<Value> {
        let revision = self.snapshot().revision;
        let mut parts = Vec::new();
        let rows = [
            (Kind::Cluster, "ClustersConfigDump", "static_clusters", "dynamic_active_clusters", "cluster"),
            (Kind::Listener, "ListenersConfigDump", "static_listeners", "dynamic_listeners", "listener"),
            (Kind::Routes, "RoutesConfigDump", "static_route_configs", "dynamic_route_configs", "route_config"),
            (Kind::Secret, "SecretsConfigDump", "static_secrets", "dynamic_active_secrets", "secret"),
            (
                Kind::Endpoints,
                "EndpointsConfigDump",
                "static_endpoint_configs",
                "dynamic_endpoint_configs",
                "endpoint_config",
            ),
            (Kind::Filter, "EcdsConfigDump", "static_filters", "ecds_filters", "ecds_filter"),
        ];
        for (kind, message, fixed_name, dynamic_name, field) in rows {
            if kind == Kind::Endpoints && !include_eds {
                continue;
            }
            let (fixed, dynamic) = self.resources(kind);
            let fixed: Vec<Value> = fixed.into_iter().map(|resource| json!({ field: resource })).collect();
            let dynamic: Vec<Value> = dynamic.into_iter().map(|view| dumped(kind, view, field)).collect();
            parts.push(json!({
                "@type": format!("type.googleapis.com/envoy.admin.v3.{message}"),
                "version_info": revision.map(|revision| revision.to_string()).unwrap_or_default(),
                fixed_name: fixed,
                dynamic_name: dynamic,
            }));
        }
        parts
    }

    fn unready(&self) -> Vec<Unready> {
        let mut unready = Vec::new();
        let waiting = |kinds: Vec<Kind>| kinds.into_iter().map(|kind| kind.name().to_owned()).collect();
        unready.push(Unready { name: "dynamic_resources", targets: waiting(self.progress.waiting()) });
        let engine = self.engine.lock();
        for (name, kind) in [("cluster_manager", Kind::Cluster), ("listener_manager", Kind::Listener)] {
            unready.push(Unready { name, targets: engine.warming(kind) });
        }
        unready.retain(|unready| !unready.targets.is_empty());
        unready
    }

    fn allows(&self, path: &str) -> bool {
        let paths = self.bootstrap.admin.as_ref().map_or(&[][..], |admin| &admin.allow_paths);
        paths.is_empty() || paths.iter().any(|allowed| allowed.matches(path.as_bytes()))
    }

    fn log(&self, exchange: &Exchange<'_>) {
        if self.access_logs.is_empty() {
            return;
        }
        let (request, response, info) = logged(exchange);
        for log in &self.access_logs {
            log.log_exchange(&info, &request, &response);
        }
        writer::flush();
    }

    fn clusters(&self) -> Vec<ClusterView> {
        self.snapshot().clusters().map(|cluster| cluster_view(cluster, &self.bootstrap)).collect()
    }

    fn listeners(&self) -> Vec<ListenerView> {
        let snapshot = self.snapshot();
        let view = |listener: &Arc<dp_snapshot::Listener>| {
            let name = listener.name.to_string();
            let sockets = listener.sockets.iter();
            sockets.map(|s| ListenerView { name: name.clone(), address: s.address.to_string() }).collect::<Vec<_>>()
        };
        snapshot.listeners().iter().flat_map(view).collect()
    }

    fn certs(&self) -> Value {
        let snapshot = self.snapshot();
        let now = SystemTime::now();
        let chains = snapshot.listeners().iter().flat_map(|listener| listener.chains());
        let certificates = chains.filter_map(|chain| chain.tls.as_ref()).flat_map(|tls| &tls.certificates);
        let certificates: Vec<Value> = certificates
            .map(|info| {
                let kinds = [("dns", &info.dns_sans), ("uri", &info.uri_sans), ("ip_address", &info.ip_sans)];
                let sans: Vec<Value> = kinds
                    .iter()
                    .flat_map(|(kind, names)| names.iter().map(move |name| json!({ *kind: name })))
                    .collect();
                json!({ "ca_cert": [], "cert_chain": [{
                    "serial_number": info.serial,
                    "subject_alt_names": sans,
                    "days_until_expiration": info.days_left(now).to_string(),
                    "valid_from": info.not_before.map(timestamp),
                    "expiration_time": info.not_after.map(timestamp),
                }] })
            })
            .collect();
        json!({ "certificates": certificates })
    }

    fn drain_listeners(&self, drain: Drain) {
        self.engine.lock().drain_listeners(drain.inbound_only);
        if !drain.graceful && !drain.skip_exit {
            self.quit();
        }
    }

    fn fail_health_check(&self, fail: bool) {
        self.health.fail(fail);
    }

    fn quit(&self) {
        // Fails only when the proxy has ended already.
        let _ = self.commands.send(Command::ShutDown);
    }

    fn reopen_logs(&self) -> usize {
        self.logs.reopen()
    }
}

/// An admin request as the access log has it.
fn logged(exchange: &Exchange<'_>) -> (RequestHead, ResponseHead, StreamInfo) {
    let host = exchange.headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
    let mut request = RequestHead::new(Method::parse(exchange.method), host, exchange.path);
    for (name, value) in exchange.headers.iter().filter(|(name, _)| *name != "host") {
        request.headers.append(name.as_str(), value.as_bytes());
    }
    let between = ConnectionInfo::between(Address::Ip(exchange.remote), Address::Ip(exchange.local));
    let connection = ConnectionInfo { listener: "admin".into(), ..between };
    let duration = exchange.began.elapsed();
    let start = SystemTime::now() - duration;
    let mut info = StreamInfo::new(Arc::new(connection), Protocol::Http11, start, exchange.began);
    info.status = exchange.status;
    info.duration = Some(duration);
    info.sizes.sent = exchange.sent as u64;
    (request, ResponseHead::new(exchange.status), info)
}

/// A dynamic resource in the form that its dump has in Envoy.
fn dumped(kind: Kind, view: Value, field: &str) -> Value {
    let (resource, version, updated) = (&view["resource"], &view["version_info"], &view["last_updated"]);
    let inner = json!({ "version_info": version, field: resource, "last_updated": updated });
    match kind {
        Kind::Listener => {
            json!({ "name": view["name"], "active_state": inner, "error_state": view["error_state"] })
        }
        Kind::Secret => {
            json!({ "name": view["name"], "version_info": version, "last_updated": updated, "secret": resource })
        }
        _ => {
            let mut inner = inner;
            inner["error_state"] = view["error_state"].clone();
            inner
        }
    }
}

fn cluster_view(cluster: &Cluster, bootstrap: &Bootstrap) -> ClusterView {
    let is_static = bootstrap
        .static_resources
        .iter()
        .any(|entry| Kind::of(&entry.resource) == Kind::Cluster && entry.resource.name() == &**cluster.name());
    let thresholds = |high: bool, limits: &shared_config::cluster::Thresholds| ThresholdsView {
        high,
        max_connections: limits.connections,
        max_pending_requests: limits.pending_requests,
        max_requests: limits.requests,
        max_retries: limits.retries,
    };
    let breakers = &cluster.config.breakers;
    ClusterView {
        name: cluster.name().to_string(),
        observability_name: cluster.config.stat_name.clone(),
        added_via_api: !is_static,
        eds_service_name: match &cluster.config.discovery {
            Discovery::Eds(eds) if *eds.service != *cluster.config.name => Some(eds.service.clone()),
            _ => None,
        },
        thresholds: vec![thresholds(false, &breakers.default), thresholds(true, &breakers.high)],
        hosts: cluster.endpoints().chain(&cluster.made_endpoints()).map(|e| host_view(cluster, e)).collect(),
    }
}

fn host_view(cluster: &Cluster, endpoint: &Endpoint) -> HostView {
    use std::sync::atomic::Ordering::Relaxed;
    let counters = &endpoint.state.counters;
    HostView {
        address: endpoint.address.to_string(),
        hostname: endpoint.state.hostname.to_string(),
        weight: cluster.weight_of(endpoint),
        region: endpoint.locality.region.clone(),
        zone: endpoint.locality.zone.clone(),
        sub_zone: endpoint.locality.sub_zone.clone(),
        priority: endpoint.priority,
        canary: shared_config::route::is_canary(&endpoint.metadata),
        health_flags: endpoint.health_flags(cluster.config.ignore_new_until_checked),
        eds_health: endpoint.discovery.as_str(),
        cx_active: endpoint.state.connections().into(),
        cx_connect_fail: counters.cx_connect_fail.load(Relaxed),
        cx_total: counters.cx_total.load(Relaxed),
        rq_active: endpoint.state.active().into(),
        rq_error: counters.rq_error.load(Relaxed),
        rq_success: counters.rq_success.load(Relaxed),
        rq_timeout: counters.rq_timeout.load(Relaxed),
        rq_total: counters.rq_total.load(Relaxed),
        success_rate: endpoint.state.monitor().success_rate(),
        local_origin_success_rate: endpoint.state.monitor().local_success_rate(),
    }
}

pub(crate) fn timestamp(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

fn to_json(type_url: &str, value: &bytes::Bytes) -> Value {
    let any = proto::Any { type_url: type_url.to_owned(), value: value.clone() };
    proto::json::to_value(&any, proto::json::Secrets::Redacted).unwrap_or_else(
        |_| json!({ "@type": type_url, "value": base64::engine::general_purpose::STANDARD.encode(value) }),
    )
}
