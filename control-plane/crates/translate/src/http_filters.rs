//! Policies as HTTP filters. Every listener has the filters its routes use, off; each route switches on its own.

use std::collections::BTreeSet;

use cp_model::cluster::{ForwardProxy, Sticky};
use cp_model::policy::{Compress, Cors, Fault, Policy, RateLimit, Require};
use cp_model::route::HeaderEdits;
use cp_model::value::Network;
use serde_json::{Map, Value, json};

use crate::build::{extension, typed};

mod body_limit;
mod compress;
mod cors;
mod fault;
mod rate_limit;
mod rbac;
mod sticky;

/// What several policies amount to. Addresses, conditions and headers add up; of the rest, the last word counts.
#[derive(Default)]
pub(crate) struct Effective<'p> {
    pub(crate) allow: Vec<&'p [Network]>,
    pub(crate) deny: Vec<&'p Network>,
    pub(crate) require: Vec<&'p Require>,
    pub(crate) cors: Option<&'p Cors>,
    pub(crate) rate_limit: Option<(&'p str, &'p RateLimit)>,
    pub(crate) compress: Option<(&'p str, &'p Compress)>,
    pub(crate) fault: Option<&'p Fault>,
    pub(crate) body_limit: Option<u32>,
    /// Asked for by the clusters the route leads to.
    pub(crate) sticky: Option<&'p Sticky>,
    pub(crate) request_headers: HeaderEdits,
    pub(crate) response_headers: HeaderEdits,
}

impl<'p> Effective<'p> {
    pub(crate) fn of(policies: &[&'p Policy]) -> Self {
        let mut out = Effective::default();
        for policy in policies {
            if !policy.allow_ip.is_empty() {
                out.allow.push(&policy.allow_ip);
            }
            out.deny.extend(&policy.deny_ip);
            out.require.extend(&policy.require);
            out.cors = policy.cors.as_ref().or(out.cors);
            out.rate_limit = policy.rate_limit.as_ref().map(|l| (policy.name.as_str(), l)).or(out.rate_limit);
            out.compress = policy.compress.as_ref().map(|c| (policy.name.as_str(), c)).or(out.compress);
            out.fault = policy.fault.as_ref().or(out.fault);
            out.body_limit = policy.body_limit.or(out.body_limit);
            out.request_headers = out.request_headers.and(&policy.request_headers);
            out.response_headers = out.response_headers.and(&policy.response_headers);
        }
        out
    }
}

const FORWARD_PROXY: &str = "envoy.filters.http.dynamic_forward_proxy";

/// The filters of a listener, in the order a request meets them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Filter {
    Cors,
    Rbac,
    RateLimit,
    Fault,
    Buffer,
    Compress(compress::Compressor),
    Sticky,
    /// With the cache of names of the forward proxies.
    ForwardProxy(String),
}

impl Filter {
    fn name(&self) -> String {
        let name = match self {
            Filter::Cors => cors::NAME,
            Filter::Rbac => rbac::NAME,
            Filter::RateLimit => rate_limit::NAME,
            Filter::Fault => fault::NAME,
            Filter::Buffer => body_limit::NAME,
            Filter::Sticky => sticky::NAME,
            Filter::ForwardProxy(_) => FORWARD_PROXY,
            Filter::Compress(compressor) => return compressor.name(),
        };
        name.to_owned()
    }

    /// As it stands in the chain: doing nothing.
    fn idle(&self) -> Value {
        match self {
            Filter::Cors => cors::idle(),
            Filter::Rbac => rbac::idle(),
            Filter::RateLimit => rate_limit::idle(),
            Filter::Fault => fault::idle(),
            Filter::Buffer => body_limit::idle(),
            Filter::Compress(compressor) => compressor.idle(),
            Filter::Sticky => sticky::idle(),
            Filter::ForwardProxy(cache) => {
                let cache: Value = serde_json::from_str(cache).unwrap_or_default();
                idle(
                    FORWARD_PROXY,
                    "envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig",
                    json!({ "dns_cache_config": cache }),
                )
            }
        }
    }
}

#[derive(Default)]
pub(crate) struct Filters(BTreeSet<Filter>);

impl Filters {
    /// The `typed_per_filter_config` of a route, noting which filters it needs.
    pub(crate) fn per_route(&mut self, effective: &Effective<'_>) -> Map<String, Value> {
        let mut out = Map::new();
        let mut add = |filter: Filter, config: Value| {
            out.insert(filter.name(), config);
            self.0.insert(filter);
        };
        if let Some(cors) = effective.cors {
            add(Filter::Cors, cors::per_route(cors));
        }
        if !(effective.allow.is_empty() && effective.deny.is_empty() && effective.require.is_empty()) {
            add(Filter::Rbac, rbac::per_route(effective));
        }
        if let Some((name, limit)) = effective.rate_limit {
            add(Filter::RateLimit, rate_limit::per_route(name, limit));
        }
        if let Some(fault) = effective.fault {
            add(Filter::Fault, fault::config(Some(fault)));
        }
        if let Some(limit) = effective.body_limit {
            add(Filter::Buffer, body_limit::per_route(limit));
        }
        if let Some((policy, compress)) = effective.compress {
            for compressor in compress::compressors(policy, compress) {
                add(Filter::Compress(compressor), compress::per_route());
            }
        }
        if let Some(sticky) = effective.sticky {
            add(Filter::Sticky, sticky::per_route(sticky));
        }
        out
    }

    /// Does something only for requests that go to such a cluster, so that it needs no switch.
    pub(crate) fn forward_proxy(&mut self, config: &ForwardProxy) {
        self.0.insert(Filter::ForwardProxy(crate::cluster::dns_cache(config).to_string()));
    }

    pub(crate) fn chain(&self) -> Vec<Value> {
        let mut chain: Vec<Value> = self.0.iter().map(Filter::idle).collect();
        chain.push(extension("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router", json!({})));
        chain
    }
}

/// A filter whose own configuration is nothing, so that only routes make it do something.
fn idle(name: &str, message: &str, fields: Value) -> Value {
    json!({ "name": name, "typed_config": typed(message, fields) })
}

/// A filter that is off until a route configures it.
fn disabled(name: &str, message: &str, fields: Value) -> Value {
    json!({ "name": name, "disabled": true, "typed_config": typed(message, fields) })
}
