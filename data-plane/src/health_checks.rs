//! Runs active health checks on the control thread, for the clusters that serve or warm, and writes their event logs.

use std::rc::Rc;
use std::time::SystemTime;

use dp_http::info::Address;
use dp_observe::access_log::writer::{self, LogWriter, Place};
use dp_upstream::health::status::{Event, FailureKind};
use dp_upstream::health::{Checks, Observer};
use dp_upstream::{Cluster, Endpoint};
use serde_json::{Value, json};
use shared_config::health_check::{Checker, HealthCheck};
use tokio::sync::Notify;

use crate::admin::timestamp;
use crate::control::SharedEngine;

/// Hears from the checks.
struct Ear {
    engine: SharedEngine,
    logs: LogWriter,
    /// The engine may have something to settle.
    news: Rc<Notify>,
}

/// Follows the clusters that have health checks.
pub(crate) async fn follow(engine: SharedEngine, logs: LogWriter) {
    let news = Rc::new(Notify::new());
    let mut checks = Checks::new(Rc::new(Ear { engine: engine.clone(), logs, news: Rc::clone(&news) }));
    let mut changes = engine.changes();
    loop {
        let clusters = engine.lock().checked_clusters();
        checks.update(clusters);
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = news.notified() => {
                engine.lock().has_warmed();
                engine.settle();
            }
        }
    }
}

impl Observer for Ear {
    fn event(&self, cluster: &Cluster, endpoint: &Endpoint, check: &HealthCheck, event: Event) {
        let line = line(cluster, endpoint, check, event, SystemTime::now()).to_string();
        for path in &check.event_logs {
            match self.logs.open(&Place::File(path.into())) {
                Ok(output) => output.line(|text| {
                    text.push_str(&line);
                    text.push('\n');
                }),
                Err(error) => tracing::warn!(path, %error, "cannot write a health check event"),
            }
        }
        // Events are rare; whoever waits for one should not have to wait for the next.
        writer::flush();
    }

    fn checked(&self, cluster: &Cluster) {
        if cluster.is_warm() {
            self.news.notify_one();
        }
    }

    fn left(&self, cluster: &Cluster) {
        self.engine.lock().endpoint_left(cluster.name());
        self.news.notify_one();
    }
}

/// An `envoy.data.core.v3.HealthCheckEvent`.
fn line(cluster: &Cluster, endpoint: &Endpoint, check: &HealthCheck, event: Event, now: SystemTime) -> Value {
    let host = match &endpoint.address {
        Address::Ip(ip) => json!({ "socket_address": {
            "protocol": "TCP", "address": ip.ip().to_string(), "port_value": ip.port(),
        } }),
        Address::Pipe(path) => json!({ "pipe": { "path": &**path } }),
    };
    let locality = &endpoint.locality;
    let mut line = json!({
        "health_checker_type": match check.checker {
            Checker::Http(_) => "HTTP",
            Checker::Tcp(_) => "TCP",
            Checker::Grpc(_) => "GRPC",
        },
        "host": host,
        "cluster_name": &**cluster.name(),
        "timestamp": timestamp(now),
        "metadata": { "filter_metadata": &*endpoint.metadata },
        "locality": { "region": locality.region, "zone": locality.zone, "sub_zone": locality.sub_zone },
    });
    let (name, what) = match event {
        Event::Ejected(kind) => ("eject_unhealthy_event", json!({ "failure_type": word(kind) })),
        Event::Added { first } => ("add_healthy_event", json!({ "first_check": first })),
        Event::Failed { kind, first } => {
            ("health_check_failure_event", json!({ "failure_type": word(kind), "first_check": first }))
        }
        Event::Passed => ("successful_health_check_event", json!({})),
        Event::Degraded => ("degraded_healthy_host", json!({})),
        Event::NoLongerDegraded => ("no_longer_degraded_host", json!({})),
    };
    line[name] = what;
    line
}

fn word(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Active => "ACTIVE",
        FailureKind::Passive => "PASSIVE",
        FailureKind::Network => "NETWORK",
        FailureKind::NetworkTimeout => "NETWORK_TIMEOUT",
    }
}
