//! Decodes filter chains, and refuses two that match the same connections.

use std::collections::HashMap;

use proto::envoy::config::listener::v3 as pb;

use super::{FilterChain, FilterChainMatch, SourceType, TransportProtocol, filter};
use crate::core::{cidr, duration_at, metadata};
use crate::invalid::Problems;
use crate::refuse_set;
use crate::tls;

pub(super) fn decode(proto: &pb::FilterChain, p: &mut Problems) -> Option<FilterChain> {
    let before = p.count();
    if proto.use_proxy_proto == Some(true) {
        p.refuse_at::<()>(
            "use_proxy_proto",
            "not implemented, add the listener filter envoy.filters.listener.proxy_protocol",
        );
    }
    let criteria = match &proto.filter_chain_match {
        Some(criteria) => p.at("filter_chain_match", |p| criteria_of(criteria, p)),
        None => FilterChainMatch::default(),
    };
    let tls = match &proto.transport_socket {
        Some(socket) => p.at("transport_socket", |p| tls::downstream_socket(socket, p))?,
        None => None,
    };
    let (network_filters, terminal) = p.at("filters", |p| filter::network_filters(&proto.filters, p))?;
    let chain = FilterChain {
        name: proto.name.clone(),
        criteria,
        tls: tls.map(Box::new),
        transport_socket_connect_timeout: duration_at(
            proto.transport_socket_connect_timeout.as_ref(),
            "transport_socket_connect_timeout",
            p,
        )
        .filter(|timeout| !timeout.is_zero()),
        network_filters,
        terminal,
        metadata: metadata(proto.metadata.as_ref()),
    };
    (p.count() == before).then_some(chain)
}

fn criteria_of(proto: &pb::FilterChainMatch, p: &mut Problems) -> FilterChainMatch {
    // `address_suffix` and `suffix_len` are not implemented by Envoy either.
    refuse_set!(p, proto; address_suffix, suffix_len);
    let port = |port: u32, p: &mut Problems| match u16::try_from(port) {
        Ok(port) if port > 0 => Some(port),
        _ => {
            p.refuse(format!("{port} is not a port (1 to 65535)"));
            None
        }
    };
    let transport_protocol = match proto.transport_protocol.as_str() {
        "" => None,
        "tls" => Some(TransportProtocol::Tls),
        "raw_buffer" => Some(TransportProtocol::RawBuffer),
        other => p.refuse_at("transport_protocol", format!("{other:?} is not implemented, use tls or raw_buffer")),
    };
    let source_type = match proto.source_type {
        1 => SourceType::SameIpOrLoopback,
        2 => SourceType::External,
        0 => SourceType::Any,
        other => p.refuse_at("source_type", format!("unknown value {other}")).unwrap_or_default(),
    };
    FilterChainMatch {
        destination_port: p.at("destination_port", |p| port(proto.destination_port?, p)),
        destinations: p.each("prefix_ranges", &proto.prefix_ranges, |p, range| cidr(range, p)),
        server_names: p.each("server_names", &proto.server_names, |p, name| server_name(name, p)),
        transport_protocol,
        application_protocols: proto.application_protocols.clone(),
        direct_sources: p
            .each("direct_source_prefix_ranges", &proto.direct_source_prefix_ranges, |p, range| cidr(range, p)),
        source_type,
        sources: p.each("source_prefix_ranges", &proto.source_prefix_ranges, |p, range| cidr(range, p)),
        source_ports: p.each("source_ports", &proto.source_ports, |p, number| port(*number, p)),
    }
}

fn server_name(name: &str, p: &mut Problems) -> Option<String> {
    let rest = name.strip_prefix("*.").unwrap_or(name);
    if rest.is_empty() || rest.contains('*') {
        p.refuse(format!("{name:?} is not a server name: a wildcard can only be the first label, as in *.example.com"));
        return None;
    }
    Some(name.to_ascii_lowercase())
}

/// More combinations of one listener's criteria than this are not compared.
const MAX_COMBINATIONS: usize = 200_000;

/// Refuses chains with a combination of criteria that an earlier chain has too: which of them wins would be chance.
pub(super) fn refuse_overlaps(chains: &[FilterChain], p: &mut Problems) {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (index, chain) in chains.iter().enumerate() {
        for combination in combinations(&chain.criteria) {
            if seen.len() > MAX_COMBINATIONS {
                return;
            }
            if let Some(earlier) = seen.insert(combination, index)
                && earlier != index
            {
                p.index(index, |p| {
                    p.refuse_at::<()>(
                        "filter_chain_match",
                        format!("matches the same connections as filter_chains[{earlier}]"),
                    );
                });
                break;
            }
        }
    }
}

/// Every combination of one choice from each list.
fn combinations(criteria: &FilterChainMatch) -> Vec<String> {
    fn texts<T: ToString>(list: &[T]) -> Vec<String> {
        if list.is_empty() { vec![String::new()] } else { list.iter().map(ToString::to_string).collect() }
    }
    let single =
        format!("{:?} {:?} {:?}", criteria.destination_port, criteria.transport_protocol, criteria.source_type);
    let mut all = vec![single];
    for choices in [
        texts(&criteria.destinations),
        texts(&criteria.server_names),
        texts(&criteria.application_protocols),
        texts(&criteria.direct_sources),
        texts(&criteria.sources),
        texts(&criteria.source_ports),
    ] {
        if all.len().saturating_mul(choices.len()) > MAX_COMBINATIONS {
            return Vec::new();
        }
        all = all.iter().flat_map(|prefix| choices.iter().map(move |choice| format!("{prefix}|{choice}"))).collect();
    }
    all
}
