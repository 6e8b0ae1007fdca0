//! `envoy.extensions.filters.http.cors.v3`: which origins may read responses in a browser.
//!
//! The filter itself has no fields; the policy stands on virtual hosts and routes.

use proto::envoy::extensions::filters::http::cors::v3 as cors;

use super::Decode;
use crate::core::{self, RuntimeFraction};
use crate::invalid::Problems;
use crate::matcher::StringMatcher;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {}

/// A policy; what it leaves out is taken from the next less specific one.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Override {
    pub allow_origins: Vec<StringMatcher>,
    pub allow_methods: String,
    pub allow_headers: String,
    pub expose_headers: String,
    pub max_age: String,
    pub allow_credentials: Option<bool>,
    /// The share of requests the policy applies to; all when not set.
    pub enabled: Option<RuntimeFraction>,
    /// The share of requests it is only counted for; none when not set.
    pub shadow_enabled: Option<RuntimeFraction>,
    pub allow_private_network_access: Option<bool>,
    pub forward_not_matching_preflights: Option<bool>,
}

// === decode ===

impl Decode for Config {
    type Proto = cors::Cors;

    fn decode(_proto: &cors::Cors, _p: &mut Problems) -> Option<Self> {
        Some(Self {})
    }
}

impl Decode for Override {
    type Proto = cors::CorsPolicy;

    fn decode(proto: &cors::CorsPolicy, p: &mut Problems) -> Option<Self> {
        let before = p.count();
        let allow_origins =
            p.each("allow_origin_string_match", &proto.allow_origin_string_match, |p, m| StringMatcher::decode(m, p));
        let text = |name: &str, value: &String, p: &mut Problems| {
            if value.bytes().any(|b| b < b' ' || b == 0x7f) {
                p.at(name, |p| p.refuse("is not a header value"));
            }
            value.clone()
        };
        let fraction = |name: &str, proto: &Option<_>, p: &mut Problems| {
            proto.as_ref().and_then(|proto| p.at(name, |p| core::runtime_fraction(proto, p)))
        };
        let policy = Self {
            allow_origins,
            allow_methods: text("allow_methods", &proto.allow_methods, p),
            allow_headers: text("allow_headers", &proto.allow_headers, p),
            expose_headers: text("expose_headers", &proto.expose_headers, p),
            max_age: text("max_age", &proto.max_age, p),
            allow_credentials: proto.allow_credentials,
            enabled: fraction("filter_enabled", &proto.filter_enabled, p),
            shadow_enabled: fraction("shadow_enabled", &proto.shadow_enabled, p),
            allow_private_network_access: proto.allow_private_network_access,
            forward_not_matching_preflights: proto.forward_not_matching_preflights,
        };
        (p.count() == before).then_some(policy)
    }
}
