//! The UDP proxy: where the datagrams of a listener go, and how long a session lives.

use std::net::SocketAddr;
use std::time::Duration;

use proto::Any;
use proto::envoy::config::core::v3::UdpSocketConfig;
use proto::envoy::config::listener::v3 as pb_listener;
use proto::envoy::extensions::filters::udp::udp_proxy::v3 as pb;

use crate::access_log::{self, AccessLog};
use crate::core::{duration_at, extension, unpack};
use crate::http_filter::rbac::matcher;
use crate::http_filter::rbac::{Branches, Input, Matcher, OnMatch, Predicate, Test};
use crate::invalid::Problems;
use crate::refuse_set;

/// A listener's datagrams.
#[derive(Debug, Clone, PartialEq)]
pub struct UdpListener {
    /// Longer datagrams of clients are dropped.
    pub max_datagram: usize,
    pub proxy: UdpProxy,
}

/// Relays datagrams to endpoints, and theirs back.
#[derive(Debug, Clone, PartialEq)]
pub struct UdpProxy {
    /// Names its statistics.
    pub stat_prefix: String,
    pub route: UdpRoute,
    /// A session without a datagram in either direction for this long ends.
    pub idle_timeout: Duration,
    pub hash: Option<UdpHash>,
    /// Every datagram gets an endpoint of its own.
    pub per_packet: bool,
    /// Longer datagrams of endpoints are dropped.
    pub max_upstream_datagram: usize,
    /// One line a session.
    pub access_logs: Vec<AccessLog>,
    /// One line when the listener ends, for each worker.
    pub proxy_access_logs: Vec<AccessLog>,
}

/// Which cluster a session goes to.
#[derive(Debug, Clone, PartialEq)]
pub enum UdpRoute {
    Cluster(String),
    Matcher(Matcher<String>),
}

/// What a session's endpoint is chosen by, by policies that hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UdpHash {
    SourceIp,
    /// All sessions hash alike.
    Key(String),
}

const DEFAULT_DATAGRAM: u64 = 1500;

// === impl UdpRoute ===

impl UdpRoute {
    /// The cluster for the datagrams of a client at `remote` that were sent to `local`.
    pub fn cluster(&self, remote: SocketAddr, local: SocketAddr) -> Option<&str> {
        match self {
            Self::Cluster(name) => Some(name),
            Self::Matcher(matcher) => find(matcher, &Ends { remote, local }),
        }
    }
}

/// What a matcher can ask about.
struct Ends {
    remote: SocketAddr,
    local: SocketAddr,
}

fn find<'m>(matcher: &'m Matcher<String>, ends: &Ends) -> Option<&'m str> {
    let found = match &matcher.branches {
        Branches::List(list) => list.iter().find(|(predicate, _)| holds(predicate, ends)).map(|(_, on)| on),
        Branches::Exact(input, map) => map.get(&ends.text(input)),
        Branches::Prefix(input, map) => {
            let text = ends.text(input);
            // Longer prefixes of one text sort after shorter ones.
            map.iter().rev().find(|(prefix, _)| text.starts_with(prefix.as_str())).map(|(_, on)| on)
        }
    };
    match found.or(matcher.on_no_match.as_deref())? {
        OnMatch::Action { action, .. } => Some(action),
        OnMatch::Matcher(matcher) => find(matcher, ends),
    }
}

fn holds(predicate: &Predicate, ends: &Ends) -> bool {
    match predicate {
        Predicate::Single(input, Test::Text(text)) => text.matches(ends.text(input).as_bytes()),
        Predicate::Single(input, Test::Ip(ranges)) => {
            let ip = ends.text(input).parse().ok();
            ip.is_some_and(|ip: std::net::IpAddr| ranges.iter().any(|range| range.contains(&ip)))
        }
        // Refused when it was decoded.
        Predicate::Single(_, Test::Cel(_)) => false,
        Predicate::Any(list) => list.iter().any(|one| holds(one, ends)),
        Predicate::All(list) => list.iter().all(|one| holds(one, ends)),
        Predicate::Not(one) => !holds(one, ends),
    }
}

impl Ends {
    /// What the input stands for. Once a session, so that the text costs nothing that matters.
    fn text(&self, input: &Input) -> String {
        match input {
            Input::SourceIp | Input::DirectSourceIp => self.remote.ip().to_canonical().to_string(),
            Input::SourcePort => self.remote.port().to_string(),
            Input::DestinationIp => self.local.ip().to_canonical().to_string(),
            Input::DestinationPort => self.local.port().to_string(),
            // Refused when it was decoded.
            _ => String::new(),
        }
    }
}

// === decode ===

/// Decodes what a UDP listener has in place of filter chains.
pub(crate) fn listener(proto: &pb_listener::Listener, is_wildcard: bool, p: &mut Problems) -> Option<UdpListener> {
    let before = p.count();
    // Fields of connections.
    refuse_set!(
        p, proto;
        filter_chains, default_filter_chain, listener_filters_timeout, continue_on_listener_filters_timeout,
        tcp_backlog_size, tcp_keepalive, access_log, per_connection_buffer_limit_bytes,
    );
    let config = proto.udp_listener_config.clone().unwrap_or_default();
    let max_datagram = p.at("udp_listener_config", |p| {
        refuse_set!(p, config; quic_options, udp_packet_packet_writer_config);
        socket_config("downstream_socket_config", config.downstream_socket_config.as_ref(), p)
    });
    let proxy = p.at("listener_filters", |p| match proto.listener_filters.as_slice() {
        [filter] => p.index(0, |p| udp_filter(filter, p)),
        _ => {
            p.refuse("a UDP listener has one filter, envoy.filters.udp_listener.udp_proxy");
            None
        }
    });
    let listener = UdpListener { max_datagram, proxy: proxy? };
    if is_wildcard && matches!(&listener.proxy.route, UdpRoute::Matcher(matcher) if asks_where_to(matcher)) {
        p.at("listener_filters", |p| {
            let reason = "asks for the destination address, which a listener on a wildcard address does not learn";
            p.index(0, |p| p.refuse_at::<()>("typed_config.matcher", reason));
        });
    }
    (p.count() == before).then_some(listener)
}

fn asks_where_to(matcher: &Matcher<String>) -> bool {
    matcher.any_input(&|input, _| *input == Input::DestinationIp)
}

fn udp_filter(proto: &pb_listener::ListenerFilter, p: &mut Problems) -> Option<UdpProxy> {
    use pb_listener::listener_filter::ConfigType;
    p.unimplemented_if("filter_disabled", proto.filter_disabled.is_some());
    match &proto.config_type {
        Some(ConfigType::TypedConfig(any)) => p.at("typed_config", |p| {
            let any = extension(any, p)?;
            if !any.is::<pb::UdpProxyConfig>() {
                p.refuse(format!("UDP listener filter {} is not implemented by weir-proxy", any.type_name()));
                return None;
            }
            decode(&unpack(&any, p)?, p)
        }),
        Some(ConfigType::ConfigDiscovery(_)) => {
            p.unimplemented("config_discovery");
            None
        }
        None => p.refuse_at("typed_config", "is required"),
    }
}

fn decode(proto: &pb::UdpProxyConfig, p: &mut Problems) -> Option<UdpProxy> {
    let before = p.count();
    refuse_set!(p, proto; use_original_src_ip, session_filters, tunneling_config, access_log_options);
    if proto.stat_prefix.is_empty() {
        p.refuse_at::<()>("stat_prefix", "must not be empty");
    }
    let idle_timeout = match duration_at(proto.idle_timeout.as_ref(), "idle_timeout", p) {
        Some(Duration::ZERO) => p.refuse_at("idle_timeout", "must be greater than 0"),
        other => other,
    };
    let proxy = UdpProxy {
        stat_prefix: proto.stat_prefix.clone(),
        route: route(proto, p)?,
        idle_timeout: idle_timeout.unwrap_or(Duration::from_secs(60)),
        hash: hash(&proto.hash_policies, p),
        per_packet: proto.use_per_packet_load_balancing,
        max_upstream_datagram: socket_config("upstream_socket_config", proto.upstream_socket_config.as_ref(), p),
        access_logs: access_log::decode_all(&proto.access_log, "access_log", p),
        proxy_access_logs: access_log::decode_all(&proto.proxy_access_log, "proxy_access_log", p),
    };
    (p.count() == before).then_some(proxy)
}

fn route(proto: &pb::UdpProxyConfig, p: &mut Problems) -> Option<UdpRoute> {
    use pb::udp_proxy_config::RouteSpecifier;
    match &proto.route_specifier {
        Some(RouteSpecifier::Cluster(name)) if name.is_empty() => p.refuse_at("cluster", "must not be empty"),
        Some(RouteSpecifier::Cluster(name)) => Some(UdpRoute::Cluster(name.clone())),
        Some(RouteSpecifier::Matcher(matcher)) => p.at("matcher", |p| {
            let matcher = matcher::decode(matcher, route_leaf, 0, p)?;
            let other = matcher.any_input(&|input, test| {
                matches!(test, Some(Test::Cel(_)))
                    || !matches!(
                        input,
                        Input::SourceIp
                            | Input::SourcePort
                            | Input::DirectSourceIp
                            | Input::DestinationIp
                            | Input::DestinationPort
                    )
            });
            if other {
                p.refuse("a datagram has source and destination addresses and ports, and nothing else to match");
                return None;
            }
            Some(UdpRoute::Matcher(matcher))
        }),
        None => p.refuse_at("matcher", "one of cluster and matcher is required"),
    }
}

fn route_leaf(any: &Any, p: &mut Problems) -> Option<(String, String)> {
    if !any.is::<pb::Route>() {
        let wanted = "envoy.extensions.filters.udp.udp_proxy.v3.Route";
        p.refuse(format!("an action must be an {wanted}, not {:?}", any.type_name()));
        return None;
    }
    let route: pb::Route = unpack(any, p)?;
    if route.cluster.is_empty() {
        return p.refuse_at("cluster", "must not be empty");
    }
    Some((route.cluster.clone(), route.cluster))
}

fn hash(protos: &[pb::udp_proxy_config::HashPolicy], p: &mut Problems) -> Option<UdpHash> {
    use pb::udp_proxy_config::hash_policy::PolicySpecifier;
    if protos.len() > 1 {
        p.refuse_at::<()>("hash_policies", "at most 1 is allowed");
    }
    let policy = protos.first()?;
    p.at("hash_policies", |p| {
        p.index(0, |p| match &policy.policy_specifier {
            Some(PolicySpecifier::SourceIp(true)) => Some(UdpHash::SourceIp),
            Some(PolicySpecifier::SourceIp(false)) => p.refuse_at("source_ip", "must be true"),
            Some(PolicySpecifier::Key(key)) if key.is_empty() => p.refuse_at("key", "must not be empty"),
            Some(PolicySpecifier::Key(key)) => Some(UdpHash::Key(key.clone())),
            None => {
                p.refuse("a policy is required");
                None
            }
        })
    })
}

/// The largest datagram. `prefer_gro` says how to read, which changes nothing of what is read.
fn socket_config(name: &str, proto: Option<&UdpSocketConfig>, p: &mut Problems) -> usize {
    let size = proto.and_then(|config| config.max_rx_datagram_size).unwrap_or(DEFAULT_DATAGRAM);
    if !(1..65536).contains(&size) {
        p.at(name, |p| p.refuse_at::<()>("max_rx_datagram_size", "must be from 1 to 65535"));
    }
    usize::try_from(size).unwrap_or(65535)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: &str = "typed_config: {'@type': \
                         type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3.Route, cluster: ";

    fn read(yaml: &str) -> Result<UdpProxy, String> {
        let mut p = Problems::default();
        let decoded = decode(&proto::json::from_yaml(yaml).unwrap(), &mut p);
        p.finish(decoded).map_err(|invalid| invalid.to_string())
    }

    #[track_caller]
    fn check(matcher: &str, remote: &str, cluster: Option<&str>) {
        let input = |name| {
            format!(
                "input: {{name: i, typed_config: {{'@type': \
                 type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.{name}}}}}"
            )
        };
        let matcher = matcher.replace("SOURCE_IP", &input("SourceIPInput")).replace("ROUTE", ROUTE);
        let proxy = read(&format!("{{stat_prefix: u, matcher: {matcher}}}")).unwrap();
        assert_eq!(proxy.route.cluster(remote.parse().unwrap(), "10.0.0.1:53".parse().unwrap()), cluster);
    }

    #[test]
    fn a_matcher_chooses_the_cluster_by_the_source() {
        let all = "{on_no_match: {action: {name: a, ROUTE all}}}}";
        check(all, "1.2.3.4:5", Some("all"));
        let exact = "{matcher_tree: {SOURCE_IP, exact_match_map: {map: {1.2.3.4: {action: {name: a, ROUTE one}}}}}}}";
        check(exact, "1.2.3.4:5", Some("one"));
        check(exact, "[::ffff:1.2.3.4]:5", Some("one"));
        check(exact, "1.2.3.5:5", None);
        let range = "{matcher_list: {matchers: [{predicate: {single_predicate: {SOURCE_IP, custom_match: {name: ip, \
                     typed_config: {'@type': type.googleapis.com/envoy.extensions.matching.input_matchers.ip.v3.Ip, \
                     stat_prefix: s, cidr_ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}]}}}}, \
                     on_match: {action: {name: a, ROUTE ten}}}}]}, on_no_match: {action: {name: b, ROUTE rest}}}}";
        check(range, "10.9.9.9:1", Some("ten"));
        check(range, "11.9.9.9:1", Some("rest"));
    }

    #[test]
    fn what_is_not_implemented_is_refused_by_name() {
        assert_eq!(
            read("{stat_prefix: u, cluster: c, use_original_src_ip: true, session_filters: [{name: f}]}").unwrap_err(),
            "use_original_src_ip: not implemented by weir-proxy; session_filters: not implemented by weir-proxy"
        );
        assert_eq!(
            read("{stat_prefix: u, cluster: c, upstream_socket_config: {max_rx_datagram_size: 70000}}").unwrap_err(),
            "upstream_socket_config.max_rx_datagram_size: must be from 1 to 65535"
        );
    }

    #[test]
    fn a_proxy_has_envoys_defaults() {
        let proxy = read("{stat_prefix: u, cluster: c}").unwrap();
        assert_eq!((proxy.idle_timeout, proxy.max_upstream_datagram), (Duration::from_secs(60), 1500));
        assert!(proxy.hash.is_none() && !proxy.per_packet);
    }
}
