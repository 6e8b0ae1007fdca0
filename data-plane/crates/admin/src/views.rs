//! Clusters and listeners as Envoy's text and JSON.

use std::fmt::Write;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::state::{ClusterView, HostView, ListenerView};

// === Text ===

pub(crate) fn clusters_text(clusters: &[ClusterView]) -> String {
    let mut out = String::new();
    for cluster in clusters {
        let name = &cluster.name;
        let mut line = |key: &str, value: &dyn std::fmt::Display| {
            let _ = writeln!(out, "{name}::{key}::{value}");
        };
        line("observability_name", &cluster.observability_name);
        for thresholds in &cluster.thresholds {
            let priority = if thresholds.high { "high_priority" } else { "default_priority" };
            line(&format!("{priority}::max_connections"), &thresholds.max_connections);
            line(&format!("{priority}::max_pending_requests"), &thresholds.max_pending_requests);
            line(&format!("{priority}::max_requests"), &thresholds.max_requests);
            line(&format!("{priority}::max_retries"), &thresholds.max_retries);
        }
        line("added_via_api", &cluster.added_via_api);
        if let Some(service) = &cluster.eds_service_name {
            line("eds_service_name", service);
        }
        cluster.hosts.iter().for_each(|host| host_text(&mut out, name, host));
    }
    out
}

fn host_text(out: &mut String, cluster: &str, host: &HostView) {
    let address = &host.address;
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(out, "{cluster}::{address}::{key}::{value}");
    };
    for (name, value, _) in host_numbers(host) {
        line(name, &value);
    }
    line("hostname", &host.hostname);
    let flags = host.health_flags.iter().map(|flag| format!("/{flag}")).collect::<String>();
    line("health_flags", if flags.is_empty() { &"healthy" } else { &flags });
    line("weight", &host.weight);
    line("region", &host.region);
    line("zone", &host.zone);
    line("sub_zone", &host.sub_zone);
    line("canary", &host.canary);
    line("priority", &host.priority);
    line("success_rate", &percent_text(host.success_rate));
    line("local_origin_success_rate", &percent_text(host.local_origin_success_rate));
}

/// Envoy's `-1` where there is none.
fn percent_text(thousandths: Option<u32>) -> String {
    thousandths.map_or_else(|| "-1".into(), |n| (f64::from(n) / 1000.0).to_string())
}

fn host_numbers(host: &HostView) -> [(&'static str, u64, &'static str); 8] {
    [
        ("cx_active", host.cx_active, "GAUGE"),
        ("cx_connect_fail", host.cx_connect_fail, "COUNTER"),
        ("cx_total", host.cx_total, "COUNTER"),
        ("rq_active", host.rq_active, "GAUGE"),
        ("rq_error", host.rq_error, "COUNTER"),
        ("rq_success", host.rq_success, "COUNTER"),
        ("rq_timeout", host.rq_timeout, "COUNTER"),
        ("rq_total", host.rq_total, "COUNTER"),
    ]
}

pub(crate) fn listeners_text(listeners: &[ListenerView]) -> String {
    listeners.iter().map(|listener| format!("{}::{}\n", listener.name, listener.address)).collect()
}

// === JSON ===

pub(crate) fn clusters_json(clusters: &[ClusterView]) -> Value {
    json!({ "cluster_statuses": clusters.iter().map(cluster_json).collect::<Vec<_>>() })
}

fn cluster_json(cluster: &ClusterView) -> Value {
    let thresholds = cluster.thresholds.iter().map(|t| {
        json!({
            "priority": if t.high { "HIGH" } else { "DEFAULT" },
            "max_connections": t.max_connections,
            "max_pending_requests": t.max_pending_requests,
            "max_requests": t.max_requests,
            "max_retries": t.max_retries,
        })
    });
    let mut shown = json!({
        "name": cluster.name,
        "observability_name": cluster.observability_name,
        "added_via_api": cluster.added_via_api,
        "circuit_breakers": { "thresholds": thresholds.collect::<Vec<_>>() },
        "host_statuses": cluster.hosts.iter().map(host_json).collect::<Vec<_>>(),
    });
    if let Some(service) = &cluster.eds_service_name {
        shown["eds_service_name"] = service.clone().into();
    }
    shown
}

fn host_json(host: &HostView) -> Value {
    let stats =
        host_numbers(host).map(|(name, value, kind)| json!({ "name": name, "value": value.to_string(), "type": kind }));
    let mut health =
        json!({ "eds_health_status": if host.eds_health.is_empty() { "HEALTHY" } else { host.eds_health } });
    for flag in &host.health_flags {
        // The names of `envoy.admin.v3.HostHealthStatus`.
        let name = match *flag {
            "failed_active_hc" => "failed_active_health_check",
            "degraded_outlier_detection" => "failed_degraded_outlier_detection",
            "degraded_active_hc" => "failed_active_degraded_check",
            // `eds_health_status` says it.
            "failed_eds_health" | "degraded_eds_health" => continue,
            other => other,
        };
        health[name] = true.into();
    }
    let mut shown = json!({
        "address": address_json(&host.address),
        "hostname": host.hostname,
        "stats": stats,
        "health_status": health,
        "weight": host.weight,
        "priority": host.priority,
        "locality": { "region": host.region, "zone": host.zone, "sub_zone": host.sub_zone },
    });
    let rates = [("success_rate", host.success_rate), ("local_origin_success_rate", host.local_origin_success_rate)];
    for (name, thousandths) in rates {
        if let Some(thousandths) = thousandths {
            shown[name] = json!({ "value": f64::from(thousandths) / 1000.0 });
        }
    }
    shown
}

pub(crate) fn listeners_json(listeners: &[ListenerView]) -> Value {
    let one =
        |listener: &ListenerView| json!({ "name": listener.name, "local_address": address_json(&listener.address) });
    json!({ "listener_statuses": listeners.iter().map(one).collect::<Vec<_>>() })
}

fn address_json(address: &str) -> Value {
    match address.parse::<SocketAddr>() {
        Ok(ip) => json!({ "socket_address": { "address": ip.ip().to_string(), "port_value": ip.port() } }),
        Err(_) => json!({ "pipe": { "path": address } }),
    }
}
