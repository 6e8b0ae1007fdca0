//! Compiles a listener: its sockets, its filter chains.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dp_filters::network::NetworkChain;
use dp_filters::network::local_ratelimit::LocalRateLimit;
use dp_http::info::Address;
use dp_net::listen::ListenOptions;
use dp_net::proxy_protocol::ProxyProtocolOptions;
use dp_net::stream::Keepalive;
use dp_net::tls::TlsStats;
use dp_observe::stats::{
    HttpInspectorStats, ListenerStats, ProxyProtocolStats, ProxyProtocolVersionStats, TlsInspectorStats,
};
use shared_config::core::{Address as ConfigAddress, TcpKeepalive};
use shared_config::listener::{
    FilterChain as ChainConfig, Listener as Config, ListenerFilter as FilterConfig, Terminal,
};
use shared_telemetry::Scope;
use stdx::drain::Drain;

use super::{Environment, ListenerInputs, Refusal, hcm, tcp, tls};
use crate::runtime::{FilterChain, Listener, ListenerFilter, Network, ProxyFilter, Tls};
use crate::sockets::Sockets;

/// A TLS handshake that takes longer is given up, where the configuration says nothing.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);

static NEXT_CHAIN: AtomicU64 = AtomicU64::new(1);

/// Compiles one listener. What `previous` has and did not change is kept: sockets, chains, statistics.
pub(crate) fn listener(
    inputs: &ListenerInputs,
    previous: Option<&Arc<Listener>>,
    environment: &mut Environment,
) -> Result<Listener, Refusal> {
    let config = &inputs.config;
    let sockets = sockets(config, previous, environment)?;
    let mut chains = Vec::new();
    for (index, chain) in config.filter_chains.iter().enumerate() {
        let place = format!("filter_chains[{index}]");
        chains.push(Arc::new(filter_chain(chain, inputs, previous, environment).map_err(|r| r.at(place))?));
    }
    let default_chain = match &config.default_filter_chain {
        None => None,
        Some(chain) => {
            let compiled = filter_chain(chain, inputs, previous, environment);
            Some(Arc::new(compiled.map_err(|r| r.at("default_filter_chain"))?))
        }
    };
    let stats = match previous.filter(|previous| previous.config.stat_prefix == config.stat_prefix) {
        Some(previous) => Arc::clone(&previous.stats),
        None => ListenerStats::register(&environment.registry, Scope::listener(&stat_name(config))),
    };
    Ok(Listener {
        name: config.name.as_str().into(),
        config: Arc::clone(config),
        sockets,
        chains,
        default_chain,
        filters: config.listener_filters.iter().map(|filter| listener_filter(filter, config, environment)).collect(),
        udp: match &config.udp {
            Some(udp) => Some(Arc::new(super::udp::compile(udp, environment)?)),
            None => None,
        },
        filters_timeout: config.listener_filters_timeout,
        continue_on_timeout: config.continue_on_listener_filters_timeout,
        stats,
        access_logs: super::access_logs(&config.access_logs, environment)?,
    })
}

fn listener_filter(filter: &FilterConfig, listener: &Config, environment: &Environment) -> ListenerFilter {
    let registry = &environment.registry;
    match filter {
        FilterConfig::TlsInspector { max_client_hello_size, only_tls } => ListenerFilter::TlsInspector {
            limit: *max_client_hello_size as usize,
            only_tls: *only_tls,
            stats: TlsInspectorStats::register(registry, Scope::new("tls_inspector", "tls_inspector")),
        },
        FilterConfig::HttpInspector => {
            let scope = Scope::new("http_inspector", "http_inspector");
            ListenerFilter::HttpInspector(HttpInspectorStats::register(registry, scope))
        }
        FilterConfig::ProxyProtocol(inbound) => {
            let mut scope = Scope::new("proxy_proto", "proxy_proto");
            if !inbound.stat_prefix.is_empty() {
                let prefix = format!("proxy_proto.{}", inbound.stat_prefix);
                scope = Scope::new(&prefix, "proxy_proto").label("envoy_proxy_protocol_prefix", &inbound.stat_prefix);
            }
            let version = |name: &str| {
                let prefix = format!("{}versions.{name}", scope.prefix());
                let labelled = Scope::new(&prefix, "proxy_proto").label("envoy_proxy_protocol_version", name);
                ProxyProtocolVersionStats::register(registry, labelled)
            };
            ListenerFilter::ProxyProtocol(Box::new(ProxyFilter {
                options: ProxyProtocolOptions {
                    allow_v1: inbound.v1,
                    allow_v2: inbound.v2,
                    optional: inbound.optional,
                },
                config: (**inbound).clone(),
                versions: [version("v1"), version("v2")],
                stats: ProxyProtocolStats::register(registry, scope),
            }))
        }
        FilterConfig::OriginalDst => ListenerFilter::OriginalDst,
        FilterConfig::LocalRateLimit(limit) => ListenerFilter::LocalRateLimit(LocalRateLimit::of_listener(
            limit,
            &listener.name,
            &environment.keep,
            registry,
        )),
    }
}

/// What statistics call a listener: its prefix, else its first address.
fn stat_name(config: &Config) -> String {
    if !config.stat_prefix.is_empty() {
        return config.stat_prefix.clone();
    }
    config.addresses.first().map(|address| address.address.to_string()).unwrap_or_default()
}

// === sockets ===

fn sockets(
    config: &Config,
    previous: Option<&Arc<Listener>>,
    environment: &Environment,
) -> Result<Vec<Arc<Sockets>>, Refusal> {
    if !config.bind_to_port {
        return Ok(Vec::new());
    }
    let mut sockets = Vec::new();
    for address in &config.addresses {
        let (asked, mode) = match &address.address {
            ConfigAddress::Ip(ip) => (Address::Ip(*ip), None),
            ConfigAddress::Pipe { path, mode } => {
                (Address::Pipe(path.as_str().into()), Some(*mode).filter(|m| *m != 0))
            }
            ConfigAddress::Name { host, .. } => return Err(Refusal(format!("cannot listen on the name {host}"))),
        };
        let options = ListenOptions {
            workers: environment.workers,
            reuse_port: config.reuse_port,
            exclusive: !environment.share_ports,
            backlog: config.tcp_backlog_size.unwrap_or(4096),
            keepalive: address.tcp_keepalive.or(config.tcp_keepalive).map(keepalive),
            mode,
            datagrams: config.udp.is_some(),
            ..ListenOptions::default()
        };
        let kept = previous
            .into_iter()
            .flat_map(|previous| &previous.sockets)
            .find(|kept| kept.asked == asked && kept.options == options);
        sockets.push(match kept {
            Some(kept) => Arc::clone(kept),
            None => Arc::new(Sockets::bind(&asked, options)?),
        });
    }
    Ok(sockets)
}

pub(super) fn keepalive(config: TcpKeepalive) -> Keepalive {
    Keepalive { time: config.time, interval: config.interval, probes: config.probes }
}

// === filter chains ===

fn filter_chain(
    config: &ChainConfig,
    inputs: &ListenerInputs,
    previous: Option<&Arc<Listener>>,
    environment: &mut Environment,
) -> Result<FilterChain, Refusal> {
    let kept = previous.and_then(|previous| previous.chains().find(|chain| *chain.config == *config));
    let network = match &config.terminal {
        Terminal::Http(manager) => {
            // Names may be empty; criteria differ from chain to chain.
            let place = format!("{}/{}/{:?}", inputs.config.name, config.name, config.criteria);
            Network::Http(Arc::new(hcm::compile(manager, &place, inputs, environment)?))
        }
        Terminal::Tcp(proxy) => Network::Tcp(Arc::new(tcp::compile(proxy, &config.network_filters, environment)?)),
        Terminal::Close => Network::Close,
    };
    let tls = match &config.tls {
        None => None,
        Some(context) => {
            let server = tls::server(context, &inputs.secrets, &mut environment.files);
            let (server, certificates) = server.map_err(|refusal| refusal.at("transport_socket"))?;
            Some(Tls {
                config: server,
                certificates,
                describe: tls::describe,
                handshake_timeout: config.transport_socket_connect_timeout.unwrap_or(HANDSHAKE_TIMEOUT),
                stats: TlsStats::register(
                    &environment.registry,
                    Scope::listener(&stat_name(&inputs.config)).child("ssl"),
                ),
            })
        }
    };
    let place = format!("{}/{}", inputs.config.name, config.name);
    let filters = NetworkChain::compile(&config.network_filters, &place, &environment.keep, &environment.registry);
    Ok(FilterChain {
        filters: filters.map_err(|error| Refusal(format!("set_filter_state: {error}")))?,
        name: config.name.as_str().into(),
        id: kept.map_or_else(|| NEXT_CHAIN.fetch_add(1, Ordering::Relaxed), |kept| kept.id),
        config: kept.map_or_else(|| Arc::new(config.clone()), |kept| Arc::clone(&kept.config)),
        tls,
        network,
        drain: kept.map_or_else(Drain::default, |kept| kept.drain.clone()),
    })
}
