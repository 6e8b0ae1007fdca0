//! Network filters that stand before the one that ends a chain: who may connect, how many, how often.
//!
//! Only values; what they decide is in the data plane.

use std::time::Duration;

use proto::envoy::config::core::v3::RuntimeFeatureFlag;
use proto::envoy::extensions::filters::listener::local_ratelimit::v3 as pb_listener;
use proto::envoy::extensions::filters::network::{
    connection_limit::v3 as pb_limit, local_ratelimit::v3 as pb_rate, rbac::v3 as pb_rbac,
};

use crate::core::{duration_at, runtime_flag};
use crate::http_filter::local_ratelimit::{TokenBucket, decode_bucket};
use crate::http_filter::rbac;
use crate::invalid::Problems;
use crate::refuse_set;

/// A network filter that is not the last.
#[derive(Debug, Clone, PartialEq)]
pub enum NetworkFilter {
    /// The TCP proxy behind it takes the cluster named like the server name.
    SniCluster,
    ConnectionLimit(ConnectionLimit),
    LocalRateLimit(RateLimit),
    Rbac(Box<Rbac>),
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
