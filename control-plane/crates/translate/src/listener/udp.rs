//! UDP listeners: datagrams to one cluster, those of one client together.

use std::time::Duration;

use cp_model::Model;
use cp_model::listener::Listener;
use serde_json::{Value, json};

use crate::access_log::access_logs;
use crate::build::{duration, extension, set, set_list};
use crate::cluster;

pub(super) fn proxy(
    model: &Model,
    listener: &Listener,
    to: &str,
    idle_timeout: Option<Duration>,
    per_packet: bool,
) -> Value {
    let route = extension("route", "envoy.extensions.filters.udp.udp_proxy.v3.Route", json!({ "cluster": to }));
    let mut proxy = json!({ "stat_prefix": listener.name, "matcher": { "on_no_match": { "action": route } } });
    set(&mut proxy, "idle_timeout", idle_timeout.map(duration));
    set(&mut proxy, "use_per_packet_load_balancing", per_packet.then_some(true));
    let hashed = cluster::hashes_client_ip(model, to);
    set(&mut proxy, "hash_policies", hashed.then(|| json!([{ "source_ip": true }])));
    set_list(&mut proxy, "access_log", access_logs(listener.access_log.as_ref()));
    extension("envoy.filters.udp_listener.udp_proxy", "envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig", proxy)
}
