//! `envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit`: token buckets in this process.

use std::time::Duration;

use proto::envoy::config::core::v3::RuntimeFractionalPercent;
use proto::envoy::config::route::v3 as route;
use proto::envoy::extensions::common::ratelimit::v3 as common;
use proto::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use proto::envoy::r#type::v3 as types;

use super::Decode;
use crate::core::{self, Fraction, RuntimeFraction};
use crate::header::HeaderValueOption;
use crate::invalid::Problems;
use crate::matcher::{HeaderMatcher, QueryParameterMatcher};
use crate::refuse_set;

#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub stat_prefix: String,
    pub status: u16,
    /// The bucket for requests that no descriptor covers, and by default for those too.
    pub bucket: Option<TokenBucket>,
    /// The share of requests that take a token.
    pub enabled: RuntimeFraction,
    /// The share of those that are refused when there is none.
    pub enforced: RuntimeFraction,
    pub request_headers_when_not_enforced: Vec<HeaderValueOption>,
    pub response_headers: Vec<HeaderValueOption>,
    pub descriptors: Vec<Descriptor>,
    /// How a request gets its descriptors.
    pub rate_limits: Vec<RateLimit>,
    pub is_per_connection: bool,
    pub x_ratelimit_headers: bool,
    pub retry_after: bool,
    pub always_consume_default: bool,
    /// The most buckets that a descriptor with an open value may have at a time.
    pub max_dynamic_descriptors: u32,
    pub resource_exhausted: bool,
}

pub type Override = Config;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBucket {
    pub max_tokens: u32,
    pub tokens_per_fill: u32,
    pub fill_interval: Duration,
}

/// A bucket for requests with these entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// A value that is empty stands for any, each with its own bucket.
    pub entries: Vec<(String, String)>,
    pub bucket: TokenBucket,
}

/// Makes a descriptor of a request: one entry an action, or none at all when an action cannot.
#[derive(Debug, Clone, PartialEq)]
pub struct RateLimit {
    pub actions: Vec<Action>,
    /// Tokens that a request takes.
    pub hits: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    SourceCluster,
    DestinationCluster,
    RemoteAddress,
    MaskedRemoteAddress { v4: u8, v6: u8 },
    GenericKey { key: String, value: String },
    RequestHeader { key: String, header: String, skip_if_absent: bool },
    QueryParameter { key: String, parameter: String, skip_if_absent: bool },
    HeaderMatch { key: String, value: String, expect: bool, headers: Vec<HeaderMatcher> },
    QueryMatch { key: String, value: String, expect: bool, parameters: Vec<QueryParameterMatcher> },
}

// === decode ===

impl Decode for Config {
    type Proto = LocalRateLimit;

    fn decode(proto: &LocalRateLimit, p: &mut Problems) -> Option<Self> {
        let before = p.count();
        if proto.stat_prefix.is_empty() {
            p.at("stat_prefix", |p| p.refuse("empty"));
        }
        // Stage and vh_rate_limits choose among the rate limits of routes, which are refused there.
        refuse_set!(p, proto; stage, vh_rate_limits);
        p.unimplemented_if("local_cluster_rate_limit", proto.local_cluster_rate_limit.is_some());
        if !proto.descriptors.is_empty() && proto.rate_limits.is_empty() {
            p.at("rate_limits", |p| p.refuse("required by descriptors (those of routes are not implemented)"));
        }
        if proto.descriptors.is_empty() && !proto.rate_limits.is_empty() {
            p.at("rate_limits", |p| p.refuse("has no effect without descriptors"));
        }
        let fraction = |name: &str, proto: &Option<RuntimeFractionalPercent>, p: &mut Problems| match proto {
            Some(proto) => p.at(name, |p| core::runtime_fraction(proto, p)).unwrap_or(Fraction::NONE.into()),
            None => Fraction::NONE.into(),
        };
        let x_ratelimit_headers = match common::XRateLimitHeadersRfcVersion::try_from(proto.enable_x_ratelimit_headers)
        {
            Ok(common::XRateLimitHeadersRfcVersion::DraftVersion03) => true,
            Ok(common::XRateLimitHeadersRfcVersion::Off) => false,
            Err(_) => p.refuse_at("enable_x_ratelimit_headers", "unknown value").unwrap_or(false),
        };
        let max_dynamic_descriptors = proto.max_dynamic_descriptors.unwrap_or(20);
        if max_dynamic_descriptors == 0 {
            p.at("max_dynamic_descriptors", |p| p.refuse("must be greater than 0"));
        }
        let headers = |name: &str, protos: &[_], p: &mut Problems| {
            if protos.len() > 10 {
                p.at(name, |p| p.refuse("may have at most 10 entries"));
            }
            p.each(name, protos, |p, proto| HeaderValueOption::decode(proto, p))
        };
        let config = Self {
            stat_prefix: proto.stat_prefix.clone(),
            status: proto.status.map(|status| status.code).filter(|code| (400..600).contains(code)).unwrap_or(429)
                as u16,
            bucket: proto.token_bucket.as_ref().and_then(|bucket| p.at("token_bucket", |p| decode_bucket(bucket, p))),
            enabled: fraction("filter_enabled", &proto.filter_enabled, p),
            enforced: fraction("filter_enforced", &proto.filter_enforced, p),
            request_headers_when_not_enforced: headers(
                "request_headers_to_add_when_not_enforced",
                &proto.request_headers_to_add_when_not_enforced,
                p,
            ),
            response_headers: headers("response_headers_to_add", &proto.response_headers_to_add, p),
            descriptors: p.each("descriptors", &proto.descriptors, |p, proto| decode_descriptor(proto, p)),
            rate_limits: p.each("rate_limits", &proto.rate_limits, |p, proto| decode_rate_limit(proto, p)),
            is_per_connection: proto.local_rate_limit_per_downstream_connection,
            x_ratelimit_headers,
            retry_after: proto.enable_retry_after_header,
            always_consume_default: proto.always_consume_default_token_bucket.unwrap_or(true),
            max_dynamic_descriptors,
            resource_exhausted: proto.rate_limited_as_resource_exhausted,
        };
        (p.count() == before).then_some(config)
    }
}

pub(crate) fn decode_bucket(proto: &types::TokenBucket, p: &mut Problems) -> Option<TokenBucket> {
    let before = p.count();
    let positive = |name: &str, n: u32, p: &mut Problems| {
        if n == 0 {
            p.at(name, |p| p.refuse("must be greater than 0"));
        }
        n
    };
    let max_tokens = positive("max_tokens", proto.max_tokens, p);
    let tokens_per_fill = positive("tokens_per_fill", proto.tokens_per_fill.unwrap_or(1), p);
    let fill_interval = match core::duration_at(proto.fill_interval.as_ref(), "fill_interval", p) {
        Some(interval) if interval < Duration::from_millis(50) => p.refuse_at("fill_interval", "must be at least 50ms"),
        Some(interval) => Some(interval),
        None => p.refuse_at("fill_interval", "required"),
    };
    (p.count() == before).then_some(TokenBucket { max_tokens, tokens_per_fill, fill_interval: fill_interval? })
}

fn decode_descriptor(proto: &common::LocalRateLimitDescriptor, p: &mut Problems) -> Option<Descriptor> {
    refuse_set!(p, proto; shadow_mode);
    if proto.entries.is_empty() {
        p.at("entries", |p| p.refuse("empty"));
    }
    let entries = p.each("entries", &proto.entries, |p, entry| match entry.key.as_str() {
        "" => p.refuse_at("key", "empty"),
        key => Some((key.to_owned(), entry.value.clone())),
    });
    match &proto.token_bucket {
        Some(bucket) => Some(Descriptor { entries, bucket: p.at("token_bucket", |p| decode_bucket(bucket, p))? }),
        None => p.refuse_at("token_bucket", "required"),
    }
}

fn decode_rate_limit(proto: &route::RateLimit, p: &mut Problems) -> Option<RateLimit> {
    let before = p.count();
    p.unimplemented_if("stage", proto.stage.is_some());
    p.unimplemented_if("limit", proto.limit.is_some());
    refuse_set!(p, proto; disable_key, apply_on_stream_done, x_ratelimit_option);
    let hits = match &proto.hits_addend {
        Some(addend) => p.at("hits_addend", |p| {
            refuse_set!(p, addend; format);
            addend.number.unwrap_or(1)
        }),
        None => 1,
    };
    let hits = u32::try_from(hits).ok().filter(|hits| *hits <= 1_000_000_000);
    if hits.is_none() {
        p.at("hits_addend.number", |p| p.refuse("is more than 1000000000"));
    }
    if proto.actions.is_empty() {
        p.at("actions", |p| p.refuse("empty"));
    }
    let actions = p.each("actions", &proto.actions, |p, action| decode_action(action, p));
    (p.count() == before).then_some(RateLimit { actions, hits: hits? })
}

fn decode_action(proto: &route::rate_limit::Action, p: &mut Problems) -> Option<Action> {
    use route::rate_limit::action::ActionSpecifier as A;
    let or = |text: &String, default: &str| if text.is_empty() { default.to_owned() } else { text.clone() };
    let need = |name: &str, text: &String, p: &mut Problems| match text.as_str() {
        "" => p.refuse_at::<String>(name, "empty"),
        text => Some(text.to_owned()),
    };
    match proto.action_specifier.as_ref() {
        Some(A::SourceCluster(_)) => Some(Action::SourceCluster),
        Some(A::DestinationCluster(_)) => Some(Action::DestinationCluster),
        Some(A::RemoteAddress(_)) => Some(Action::RemoteAddress),
        Some(A::MaskedRemoteAddress(mask)) => p.at("masked_remote_address", |p| {
            let length = |name: &str, length: Option<u32>, most: u8, p: &mut Problems| {
                let length = length.unwrap_or(most.into());
                u8::try_from(length)
                    .ok()
                    .filter(|length| *length <= most)
                    .or_else(|| p.refuse_at(name, format!("{length} is not in 0 to {most}")))
            };
            let v4 = length("v4_prefix_mask_len", mask.v4_prefix_mask_len, 32, p);
            let v6 = length("v6_prefix_mask_len", mask.v6_prefix_mask_len, 128, p);
            Some(Action::MaskedRemoteAddress { v4: v4?, v6: v6? })
        }),
        Some(A::GenericKey(key)) => p.at("generic_key", |p| {
            refuse_set!(p, key; default_value);
            let value = need("descriptor_value", &key.descriptor_value, p)?;
            Some(Action::GenericKey { key: or(&key.descriptor_key, "generic_key"), value })
        }),
        Some(A::RequestHeaders(header)) => p.at("request_headers", |p| {
            if !crate::header::is_header_name(&header.header_name) {
                return p.refuse_at("header_name", format!("{:?} is not a header name", header.header_name));
            }
            let key = need("descriptor_key", &header.descriptor_key, p)?;
            let header_name = header.header_name.clone();
            Some(Action::RequestHeader { key, header: header_name, skip_if_absent: header.skip_if_absent })
        }),
        Some(A::QueryParameters(query)) => p.at("query_parameters", |p| {
            let parameter = need("query_parameter_name", &query.query_parameter_name, p)?;
            let key = need("descriptor_key", &query.descriptor_key, p)?;
            Some(Action::QueryParameter { key, parameter, skip_if_absent: query.skip_if_absent })
        }),
        Some(A::HeaderValueMatch(header)) => p.at("header_value_match", |p| {
            refuse_set!(p, header; default_value);
            Some(Action::HeaderMatch {
                key: or(&header.descriptor_key, "header_match"),
                value: need("descriptor_value", &header.descriptor_value, p)?,
                expect: header.expect_match.unwrap_or(true),
                headers: p.each("headers", &header.headers, |p, m| HeaderMatcher::decode(m, p)),
            })
        }),
        Some(A::QueryParameterValueMatch(query)) => p.at("query_parameter_value_match", |p| {
            refuse_set!(p, query; default_value);
            Some(Action::QueryMatch {
                key: or(&query.descriptor_key, "query_match"),
                value: need("descriptor_value", &query.descriptor_value, p)?,
                expect: query.expect_match.unwrap_or(true),
                parameters: p
                    .each("query_parameters", &query.query_parameters, |p, m| QueryParameterMatcher::decode(m, p)),
            })
        }),
        Some(A::DynamicMetadata(_)) => refuse("dynamic_metadata", p),
        Some(A::Metadata(_)) => refuse("metadata", p),
        Some(A::Extension(_)) => refuse("extension", p),
        Some(A::RemoteAddressMatch(_)) => refuse("remote_address_match", p),
        None => {
            p.refuse("an action is required");
            None
        }
    }
}

fn refuse(name: &str, p: &mut Problems) -> Option<Action> {
    p.unimplemented(name);
    None
}
