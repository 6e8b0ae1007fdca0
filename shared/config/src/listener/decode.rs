//! Decodes a listener.

use std::time::Duration;

use proto::envoy::config::core::v3 as pb_core;
use proto::envoy::config::listener::v3 as pb;

use super::{DrainType, Listener, ListenerAddress, TrafficDirection, chain, filter};
use crate::access_log;
use crate::core::{Address, address, is_udp, metadata, tcp_keepalive, timeout_at};
use crate::invalid::Problems;
use crate::{refuse_set, udp_proxy};

const DEFAULT_BUFFER_LIMIT: u32 = 1024 * 1024;

/// Decodes a listener.
pub fn decode(proto: &pb::Listener, p: &mut Problems) -> Option<Listener> {
    let before = p.count();
    refuse(proto, p);
    let addresses = addresses(proto, p);
    let mut filter_chains = p.each("filter_chains", &proto.filter_chains, |p, chain| chain::decode(chain, p));
    let default_filter_chain = proto
        .default_filter_chain
        .as_ref()
        .and_then(|default| p.at("default_filter_chain", |p| chain::decode(default, p)));
    if let Some(default) = &default_filter_chain
        && default.criteria != super::FilterChainMatch::default()
    {
        p.refuse_at::<()>("default_filter_chain.filter_chain_match", "the default chain must not have one");
    }
    let is_udp = is_udp(proto.address.as_ref());
    let udp = if is_udp { udp_proxy::listener(proto, is_wildcard(&addresses), p) } else { None };
    if !is_udp && proto.filter_chains.is_empty() && proto.default_filter_chain.is_none() {
        p.refuse_at::<()>("filter_chains", "at least one filter chain is required");
    }
    p.at("filter_chains", |p| chain::refuse_overlaps(&filter_chains, p));
    let listener_filters = if is_udp { Vec::new() } else { filter::listener_filters(proto, &filter_chains, p) };
    let access_logs = access_log::decode_all(&proto.access_log, "access_log", p);
    let fifteen = Some(Duration::from_secs(15));
    let listener = Listener {
        name: proto.name.clone(),
        stat_prefix: proto.stat_prefix.clone(),
        addresses,
        listener_filters,
        listener_filters_timeout: timeout_at(
            proto.listener_filters_timeout.as_ref(),
            "listener_filters_timeout",
            fifteen,
            p,
        ),
        continue_on_listener_filters_timeout: proto.continue_on_listener_filters_timeout,
        filter_chains: std::mem::take(&mut filter_chains),
        default_filter_chain,
        per_connection_buffer_limit: proto.per_connection_buffer_limit_bytes.unwrap_or(DEFAULT_BUFFER_LIMIT),
        tcp_backlog_size: proto.tcp_backlog_size,
        reuse_port: proto.enable_reuse_port.unwrap_or(true),
        bind_to_port: bind_to_port(proto),
        drain: if proto.drain_type == 1 { DrainType::ModifyOnly } else { DrainType::Default },
        traffic_direction: match pb_core::TrafficDirection::try_from(proto.traffic_direction) {
            Ok(pb_core::TrafficDirection::Inbound) => TrafficDirection::Inbound,
            Ok(pb_core::TrafficDirection::Outbound) => TrafficDirection::Outbound,
            _ => TrafficDirection::Unspecified,
        },
        tcp_keepalive: proto.tcp_keepalive.as_ref().map(tcp_keepalive),
        access_logs,
        udp: udp.map(Box::new),
        ignore_global_limit: proto.ignore_global_conn_limit,
        metadata: metadata(proto.metadata.as_ref()),
    };
    (p.count() == before).then_some(listener)
}

/// What a listener can say and we cannot do. Not refused because it changes nothing here:
/// `reuse_port` (its older form; sockets are per worker unless `enable_reuse_port` is false),
/// `max_connections_to_accept_per_socket_event` (a limit on how greedily Envoy accepts),
/// `bypass_overload_manager` (there are no overload actions).
fn refuse(proto: &pb::Listener, p: &mut Problems) {
    refuse_set!(
        p, proto;
        stats_matcher, fcds_config, filter_chain_matcher, per_connection_buffer_high_watermark_timeout,
        socket_options, api_listener, connection_balance_config, listener_specifier, enable_mptcp,
    );
    if proto.udp_listener_config.is_some() && !is_udp(proto.address.as_ref()) {
        p.refuse_at::<()>("udp_listener_config", "needs an address of protocol UDP");
    }
    p.unimplemented_if("use_original_dst", proto.use_original_dst == Some(true));
    p.unimplemented_if("transparent", proto.transparent == Some(true));
    p.unimplemented_if("freebind", proto.freebind == Some(true));
    p.unimplemented_if("tcp_fast_open_queue_length", proto.tcp_fast_open_queue_length.is_some_and(|n| n > 0));
    if !(0..=1).contains(&proto.drain_type) {
        p.refuse_at::<()>("drain_type", format!("unknown value {}", proto.drain_type));
    }
}

fn is_wildcard(addresses: &[ListenerAddress]) -> bool {
    addresses.iter().any(|address| matches!(address.address, Address::Ip(ip) if ip.ip().is_unspecified()))
}

fn bind_to_port(proto: &pb::Listener) -> bool {
    let deprecated = proto.deprecated_v1.as_ref().and_then(|v1| v1.bind_to_port);
    proto.bind_to_port.or(deprecated).unwrap_or(true)
}

fn addresses(proto: &pb::Listener, p: &mut Problems) -> Vec<ListenerAddress> {
    let mut addresses = Vec::new();
    if let Some(first) = p.at("address", |p| listener_address(proto.address.as_ref(), p)) {
        addresses.push(ListenerAddress { address: first, tcp_keepalive: None });
    }
    addresses.extend(p.each("additional_addresses", &proto.additional_addresses, |p, additional| {
        refuse_set!(p, additional; socket_options);
        if is_udp(additional.address.as_ref()) != is_udp(proto.address.as_ref()) {
            return p.refuse_at("address.socket_address.protocol", "must be that of the first address");
        }
        let address = p.at("address", |p| listener_address(additional.address.as_ref(), p))?;
        Some(ListenerAddress { address, tcp_keepalive: additional.tcp_keepalive.as_ref().map(tcp_keepalive) })
    }));
    addresses
}

fn listener_address(proto: Option<&pb_core::Address>, p: &mut Problems) -> Option<Address> {
    match address(proto, p)? {
        Address::Name { host, .. } => {
            p.refuse_at("socket_address.address", format!("a listener needs an IP address, not {host:?}"))
        }
        address => Some(address),
    }
}
