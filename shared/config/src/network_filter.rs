//! Network filters that stand before the one that ends a chain: who may connect, how many, how often.
//!
//! Only values; what they decide is in the data plane.

use std::time::Duration;

use proto::envoy::config::core::v3::RuntimeFeatureFlag;
use proto::envoy::extensions::filters::listener::local_ratelimit::v3 as pb_listener;
use proto::envoy::extensions::filters::network::{
    connection_limit::v3 as pb_limit, local_ratelimit::v3 as pb_rate, rbac::v3 as pb_rbac,
    set_filter_state::v3 as pb_state, sni_dynamic_forward_proxy::v3 as pb_sni,
};

use crate::cluster::DnsCache;
use crate::core::{duration_at, runtime_flag};
use crate::filter_state::{self, FilterStateValue};
use crate::http_filter::local_ratelimit::{TokenBucket, decode_bucket};
use crate::http_filter::rbac;
use crate::invalid::Problems;
use crate::refuse_set;

/// A network filter that is not the last.
#[derive(Debug, Clone, PartialEq)]
pub enum NetworkFilter {
    /// The TCP proxy behind it takes the cluster named like the server name.
    SniCluster,
    /// The server name is resolved before the TCP proxy behind it connects.
    SniForward(Box<SniForward>),
    ConnectionLimit(ConnectionLimit),
    LocalRateLimit(RateLimit),
    Rbac(Box<Rbac>),
    SetFilterState(SetFilterState),
}

/// Writes what is known of a connection where hash policies, access control and logs find it.
#[derive(Debug, Clone, PartialEq)]
pub struct SetFilterState {
    /// All is written when the connection is established.
    pub values: Vec<FilterStateValue>,
}

/// Forwards connections to the host that they name by TLS.
#[derive(Debug, Clone, PartialEq)]
pub struct SniForward {
    /// The cache that the cluster names too.
    pub cache: DnsCache,
    pub port: u16,
}

/// How many connections may be open at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionLimit {
    pub stat_prefix: String,
    /// At least 1.
    pub max_connections: u64,
    /// How long a connection too many is held before it is closed.
    pub delay: Option<Duration>,
    pub enabled: bool,
}

/// How many connections may come in a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    pub stat_prefix: String,
    pub bucket: TokenBucket,
    pub enabled: bool,
    /// Filters with the same key and bucket share it; empty shares with none.
    pub share_key: String,
}

/// Who may connect.
#[derive(Debug, Clone, PartialEq)]
pub struct Rbac {
    pub stat_prefix: String,
    pub config: rbac::Config,
    /// How long a refused connection is held before it is closed.
    pub delay_deny: Option<Duration>,
}

// === decode ===

pub(crate) fn sni_forward(proto: &pb_sni::FilterConfig, p: &mut Problems) -> Option<SniForward> {
    // Nothing tells the upstream address to other network filters.
    refuse_set!(p, proto; save_upstream_address);
    let Some(cache) = &proto.dns_cache_config else { return p.refuse_at("dns_cache_config", "is required") };
    let cache = p.at("dns_cache_config", |p| DnsCache::decode(cache, p));
    let port = match proto.port_specifier {
        Some(pb_sni::filter_config::PortSpecifier::PortValue(port)) => {
            u16::try_from(port).ok().filter(|port| *port > 0)
        }
        None => return p.refuse_at("port_value", "is required"),
    };
    let Some(port) = port else { return p.refuse_at("port_value", "must be from 1 to 65535") };
    Some(SniForward { cache: cache?, port })
}

pub(crate) fn connection_limit(proto: &pb_limit::ConnectionLimit, p: &mut Problems) -> Option<ConnectionLimit> {
    let before = p.count();
    stat_prefix(&proto.stat_prefix, p);
    let max_connections = match proto.max_connections {
        Some(0) => p.refuse_at("max_connections", "must be at least 1"),
        None => p.refuse_at("max_connections", "is required"),
        max => max,
    };
    let limit = ConnectionLimit {
        stat_prefix: proto.stat_prefix.clone(),
        max_connections: max_connections.unwrap_or(1),
        delay: duration_at(proto.delay.as_ref(), "delay", p).filter(|delay| !delay.is_zero()),
        enabled: enabled(proto.runtime_enabled.as_ref(), p),
    };
    (p.count() == before).then_some(limit)
}

pub(crate) fn rate_limit(proto: &pb_rate::LocalRateLimit, p: &mut Problems) -> Option<RateLimit> {
    let before = p.count();
    stat_prefix(&proto.stat_prefix, p);
    let limit = RateLimit {
        stat_prefix: proto.stat_prefix.clone(),
        bucket: bucket(proto.token_bucket.as_ref(), p)?,
        enabled: enabled(proto.runtime_enabled.as_ref(), p),
        share_key: proto.share_key.clone(),
    };
    (p.count() == before).then_some(limit)
}

/// The same for all connections of a listener, before a filter chain is chosen.
pub(crate) fn listener_rate_limit(proto: &pb_listener::LocalRateLimit, p: &mut Problems) -> Option<RateLimit> {
    let before = p.count();
    stat_prefix(&proto.stat_prefix, p);
    let limit = RateLimit {
        stat_prefix: proto.stat_prefix.clone(),
        bucket: bucket(proto.token_bucket.as_ref(), p)?,
        enabled: enabled(proto.runtime_enabled.as_ref(), p),
        share_key: String::new(),
    };
    (p.count() == before).then_some(limit)
}

pub(crate) fn rbac(proto: &pb_rbac::Rbac, p: &mut Problems) -> Option<Rbac> {
    let before = p.count();
    // CONTINUOUS looks again at what protocol decoders found in between; there are none of them here.
    refuse_set!(p, proto; enforcement_type);
    stat_prefix(&proto.stat_prefix, p);
    let engines = rbac::decode_layer4(proto, p);
    let config = rbac::Config {
        engine: engines.0,
        shadow_engine: engines.1,
        shadow_rules_stat_prefix: proto.shadow_rules_stat_prefix.clone(),
        rules_stat_prefix: String::new(),
    };
    let delay_deny = duration_at(proto.delay_deny.as_ref(), "delay_deny", p).filter(|delay| !delay.is_zero());
    (p.count() == before).then(|| Rbac { stat_prefix: proto.stat_prefix.clone(), config, delay_deny })
}

pub(crate) fn set_filter_state(proto: &pb_state::Config, p: &mut Problems) -> Option<SetFilterState> {
    let before = p.count();
    refuse_set!(p, proto; on_downstream_data);
    let mut values = filter_state::values("on_new_connection", &proto.on_new_connection, true, p);
    let handshake = &proto.on_downstream_tls_handshake;
    values.extend(filter_state::values("on_downstream_tls_handshake", handshake, true, p));
    (p.count() == before).then_some(SetFilterState { values })
}

fn stat_prefix(prefix: &str, p: &mut Problems) {
    if prefix.is_empty() {
        p.refuse_at::<()>("stat_prefix", "must not be empty");
    }
}

fn bucket(proto: Option<&proto::envoy::r#type::v3::TokenBucket>, p: &mut Problems) -> Option<TokenBucket> {
    match proto {
        Some(bucket) => p.at("token_bucket", |p| decode_bucket(bucket, p)),
        None => p.refuse_at("token_bucket", "is required"),
    }
}

fn enabled(proto: Option<&RuntimeFeatureFlag>, p: &mut Problems) -> bool {
    let Some(proto) = proto else { return true };
    p.at("runtime_enabled", |p| runtime_flag(proto, p)).is_some_and(|flag| flag.value())
}
