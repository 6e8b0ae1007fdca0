//! Decodes listener filters and network filters.

use proto::envoy::config::listener::v3 as pb;
use proto::envoy::extensions::filters::listener::tls_inspector::v3 as pb_inspector;

use super::{FilterChain, ListenerFilter, Terminal};
use crate::core::{extension, unpack};
use crate::invalid::Problems;
use crate::network_filter::{self, NetworkFilter};
use crate::{hcm, proxy_protocol, tcp_proxy};

const DEFAULT_CLIENT_HELLO: u32 = 16 * 1024;

/// Decodes the listener filters, and adds a TLS inspector where a chain needs one and none is configured, as Envoy does.
pub(super) fn listener_filters(proto: &pb::Listener, chains: &[FilterChain], p: &mut Problems) -> Vec<ListenerFilter> {
    let decoded = p.each("listener_filters", &proto.listener_filters, |p, filter| listener_filter(filter, p));
    let mut filters: Vec<ListenerFilter> = decoded.into_iter().flatten().collect();
    let inspected = filters.iter().any(|filter| matches!(filter, ListenerFilter::TlsInspector { .. }));
    let needed = chains.iter().any(|chain| {
        let criteria = &chain.criteria;
        criteria.transport_protocol.is_some()
            || !criteria.server_names.is_empty()
            || !criteria.application_protocols.is_empty()
    });
    if needed && !inspected {
        p.warn("listener_filters", "filter_chain_match needs envoy.filters.listener.tls_inspector, which was added");
        filters.push(ListenerFilter::TlsInspector { max_client_hello_size: DEFAULT_CLIENT_HELLO, only_tls: false });
    }
    filters
}

/// Decodes one filter; `None` inside is a filter that is switched off.
fn listener_filter(proto: &pb::ListenerFilter, p: &mut Problems) -> Option<Option<ListenerFilter>> {
    use pb::listener_filter_chain_match_predicate::Rule;
    let any = match &proto.config_type {
        Some(pb::listener_filter::ConfigType::TypedConfig(any)) => any,
        Some(pb::listener_filter::ConfigType::ConfigDiscovery(_)) => {
            p.unimplemented("config_discovery");
            return None;
        }
        None => return p.refuse_at("typed_config", "is required"),
    };
    let disabled = match proto.filter_disabled.as_ref().map(|predicate| &predicate.rule) {
        None => false,
        Some(Some(Rule::AnyMatch(true))) => true,
        Some(_) => return p.refuse_at("filter_disabled", "only any_match: true is implemented by weir-proxy"),
    };
    let filter = p.at("typed_config", |p| {
        let any = extension(any, p)?;
        match any.type_name() {
            "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector" => tls_inspector(&unpack(&any, p)?, p),
            // It has no fields.
            "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector" => Some(ListenerFilter::HttpInspector),
            "envoy.extensions.filters.listener.original_dst.v3.OriginalDst" => Some(ListenerFilter::OriginalDst),
            "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol" => {
                proxy_protocol::inbound(&unpack(&any, p)?, p)
                    .map(|inbound| ListenerFilter::ProxyProtocol(inbound.into()))
            }
            "envoy.extensions.filters.listener.local_ratelimit.v3.LocalRateLimit" => {
                let limit = network_filter::listener_rate_limit(&unpack(&any, p)?, p)?;
                Some(ListenerFilter::LocalRateLimit(limit.into()))
            }
            other => {
                p.refuse(format!("listener filter {other} is not implemented by weir-proxy"));
                None
            }
        }
    })?;
    Some((!disabled).then_some(filter))
}

fn tls_inspector(proto: &pb_inspector::TlsInspector, p: &mut Problems) -> Option<ListenerFilter> {
    let before = p.count();
    p.unimplemented_if("enable_ja3_fingerprinting", proto.enable_ja3_fingerprinting == Some(true));
    p.unimplemented_if("enable_ja4_fingerprinting", proto.enable_ja4_fingerprinting == Some(true));
    // `initial_read_buffer_size`: the buffer grows as needed, up to the limit.
    let max_client_hello_size = proto.max_client_hello_size.unwrap_or(DEFAULT_CLIENT_HELLO);
    if !(256..=DEFAULT_CLIENT_HELLO).contains(&max_client_hello_size) {
        p.refuse_at::<()>("max_client_hello_size", "must be between 256 and 16384");
    }
    let only_tls = proto.close_connection_on_client_hello_parsing_errors;
    (p.count() == before).then_some(ListenerFilter::TlsInspector { max_client_hello_size, only_tls })
}

enum Decoded {
    Terminal(Terminal),
    Other(NetworkFilter),
}

/// Decodes the network filters of a chain: any number, and one that ends it.
pub(super) fn network_filters(protos: &[pb::Filter], p: &mut Problems) -> Option<(Vec<NetworkFilter>, Terminal)> {
    let before = p.count();
    let mut others = Vec::new();
    let mut terminal = None;
    for (index, filter) in protos.iter().enumerate() {
        let last = index + 1 == protos.len();
        match p.index(index, |p| network_filter(filter, p)) {
            Some(Decoded::Terminal(filter)) if last => terminal = Some(filter),
            Some(Decoded::Terminal(_)) => p.index(index, |p| p.refuse("must be the last filter of the chain")),
            Some(Decoded::Other(_)) if last => {
                p.index(index, |p| p.refuse("the last filter must be http_connection_manager or tcp_proxy"));
            }
            Some(Decoded::Other(filter)) => others.push(filter),
            None => {}
        }
    }
    for filter in others.iter().filter(|_| matches!(terminal, Some(Terminal::Http(_)))) {
        // Where requests go is said by their routes.
        match filter {
            NetworkFilter::SniCluster => p.refuse("sni_cluster is only for tcp_proxy"),
            NetworkFilter::SniForward(_) => p.refuse("sni_dynamic_forward_proxy is only for tcp_proxy"),
            _ => {}
        }
    }
    let terminal = if protos.is_empty() { Some(Terminal::Close) } else { terminal };
    (p.count() == before).then_some((others, terminal?))
}

fn network_filter(proto: &pb::Filter, p: &mut Problems) -> Option<Decoded> {
    if proto.name.is_empty() {
        return p.refuse_at("name", "must not be empty");
    }
    let any = match &proto.config_type {
        Some(pb::filter::ConfigType::TypedConfig(any)) => any,
        Some(pb::filter::ConfigType::ConfigDiscovery(_)) => {
            p.unimplemented("config_discovery");
            return None;
        }
        None => return p.refuse_at("typed_config", "is required"),
    };
    p.at("typed_config", |p| {
        let any = extension(any, p)?;
        match any.type_name() {
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager" => {
                let manager = hcm::decode(&unpack(&any, p)?, p)?;
                Some(Decoded::Terminal(Terminal::Http(Box::new(manager))))
            }
            "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy" => {
                let tcp_proxy = tcp_proxy::decode(&unpack(&any, p)?, p)?;
                Some(Decoded::Terminal(Terminal::Tcp(Box::new(tcp_proxy))))
            }
            "envoy.extensions.filters.network.sni_cluster.v3.SniCluster" => {
                Some(Decoded::Other(NetworkFilter::SniCluster))
            }
            "envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.FilterConfig" => {
                let forward = network_filter::sni_forward(&unpack(&any, p)?, p)?;
                Some(Decoded::Other(NetworkFilter::SniForward(Box::new(forward))))
            }
            "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit" => {
                let limit = network_filter::connection_limit(&unpack(&any, p)?, p)?;
                Some(Decoded::Other(NetworkFilter::ConnectionLimit(limit)))
            }
            "envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit" => {
                let limit = network_filter::rate_limit(&unpack(&any, p)?, p)?;
                Some(Decoded::Other(NetworkFilter::LocalRateLimit(limit)))
            }
            "envoy.extensions.filters.network.rbac.v3.RBAC" => {
                let rbac = network_filter::rbac(&unpack(&any, p)?, p)?;
                Some(Decoded::Other(NetworkFilter::Rbac(Box::new(rbac))))
            }
            "envoy.extensions.filters.network.set_filter_state.v3.Config" => {
                let values = network_filter::set_filter_state(&unpack(&any, p)?, p)?;
                Some(Decoded::Other(NetworkFilter::SetFilterState(values)))
            }
            other => {
                p.refuse(format!("network filter {other} is not implemented by weir-proxy"));
                None
            }
        }
    })
}
