//! The cors filter: answers preflight requests and marks responses for the origins of the policy.
//!
//! A route without a policy on any level is left alone, and so is one that redirects or answers directly.

use std::sync::Arc;

use dp_http::{HeaderName, LocalReply, Method, RequestHead, ResponseHead, name};
use shared_config::core::{Fraction, RuntimeFraction};
use shared_config::http_filter::cors::{Config, Override};
use shared_config::matcher::StringMatcher;

use shared_telemetry::stats;

use crate::filter::{Cx, Flow, HttpFilter};
use crate::matching::admits;
use crate::services::Scope;

stats! {
    /// `http.STAT_PREFIX.cors.`
    struct Stats {
        counter origin_valid,
        counter origin_invalid,
    }
}

pub struct Cors {
    origins: Vec<StringMatcher>,
    /// An origin matcher that matches `*` allows all origins.
    any_origin: bool,
    allow_methods: String,
    allow_headers: String,
    expose_headers: String,
    max_age: String,
    allow_credentials: bool,
    allow_private_network: bool,
    forward_not_matching_preflights: bool,
    enabled: Fraction,
    /// The share of requests that are counted only.
    shadow_enabled: Fraction,
    stats: Arc<Stats>,
    request_headers: HeaderName,
    request_private_network: HeaderName,
}

/// The origin to allow, for a request that the policy applies to.
type Origin = Option<Box<[u8]>>;

impl HttpFilter for Cors {
    type Config = Config;
    type Override = Override;
    type Stream = Origin;

    fn compile(_config: &Config, overrides: &[&Override], scope: &Scope<'_>) -> Option<Self> {
        let most_specific = *overrides.last()?;
        let text = |of: fn(&Override) -> &String| {
            overrides.iter().rev().map(|policy| of(policy)).find(|text| !text.is_empty()).cloned().unwrap_or_default()
        };
        let flag = |of: fn(&Override) -> Option<bool>| overrides.iter().rev().find_map(|policy| of(policy));
        let origins = overrides.iter().rev().map(|policy| &policy.allow_origins).find(|origins| !origins.is_empty());
        let origins = origins.cloned().unwrap_or_default();
        let share =
            |fraction: &Option<RuntimeFraction>, default| fraction.as_ref().map_or(default, RuntimeFraction::value);
        let enabled = share(&most_specific.enabled, Fraction::ALL);
        let shadow_enabled = share(&most_specific.shadow_enabled, Fraction::NONE);
        if enabled.numerator == 0 && shadow_enabled.numerator == 0 {
            return None;
        }
        Some(Self {
            any_origin: origins.iter().any(|origin| origin.matches(b"*")),
            origins,
            allow_methods: text(|policy| &policy.allow_methods),
            allow_headers: text(|policy| &policy.allow_headers),
            expose_headers: text(|policy| &policy.expose_headers),
            max_age: text(|policy| &policy.max_age),
            allow_credentials: flag(|policy| policy.allow_credentials).unwrap_or(false),
            allow_private_network: flag(|policy| policy.allow_private_network_access).unwrap_or(false),
            forward_not_matching_preflights: flag(|policy| policy.forward_not_matching_preflights).unwrap_or(true),
            enabled,
            shadow_enabled,
            stats: Stats::register(scope.registry(), scope.stats("cors")),
            request_headers: HeaderName::new("access-control-request-headers").ok()?,
            request_private_network: HeaderName::new("access-control-request-private-network").ok()?,
        })
    }

    fn on_request(&self, allowed: &mut Origin, cx: &mut Cx<'_>, head: &mut RequestHead) -> Flow {
        let Some(origin) = head.headers.get(&name::ORIGIN).filter(|origin| !origin.is_empty()) else {
            return Flow::Continue;
        };
        if !cx.is_forwarded {
            return Flow::Continue;
        }
        let is_enabled = admits(self.enabled, cx.random());
        if !is_enabled && !admits(self.shadow_enabled, cx.random()) {
            return Flow::Continue;
        }
        let is_allowed = self.any_origin || self.origins.iter().any(|matcher| matcher.matches(origin));
        let count = if is_allowed { self.stats.origin_valid() } else { self.stats.origin_invalid() };
        count.inc(cx.shard());
        if !is_enabled {
            return Flow::Continue;
        }
        if is_allowed {
            *allowed = Some(origin.into());
        }
        let requested_method = head.headers.get(&name::ACCESS_CONTROL_REQUEST_METHOD).unwrap_or_default();
        let is_preflight = head.method == Method::Options && !requested_method.is_empty();
        if !is_preflight || (!is_allowed && self.forward_not_matching_preflights) {
            return Flow::Continue;
        }
        Flow::Reply(Box::new(self.preflight(head, requested_method, is_allowed.then_some(origin))))
    }

    fn on_response(&self, allowed: &mut Origin, _cx: &mut Cx<'_>, head: &mut ResponseHead) -> Flow {
        let Some(origin) = allowed else { return Flow::Continue };
        head.headers.set("access-control-allow-origin", origin);
        if self.allow_credentials {
            head.headers.set("access-control-allow-credentials", b"true");
        }
        if !self.expose_headers.is_empty() {
            head.headers.set("access-control-expose-headers", self.expose_headers.as_bytes());
        }
        Flow::Continue
    }
}

impl Cors {
    fn preflight(&self, head: &RequestHead, requested_method: &[u8], origin: Option<&[u8]>) -> LocalReply {
        let mut reply = LocalReply::new(200, "cors_response");
        let headers = &mut reply.headers;
        if let Some(origin) = origin {
            headers.set("access-control-allow-origin", origin);
        }
        if self.allow_credentials {
            headers.set("access-control-allow-credentials", b"true");
        }
        let requested_headers = head.headers.get(&self.request_headers).unwrap_or_default();
        for (name, value, requested) in [
            ("access-control-allow-methods", &self.allow_methods, requested_method),
            ("access-control-allow-headers", &self.allow_headers, requested_headers),
        ] {
            match value.as_str() {
                "" => {}
                "*" => headers.set(name, requested),
                value => headers.set(name, value.as_bytes()),
            }
        }
        if !self.max_age.is_empty() {
            headers.set("access-control-max-age", self.max_age.as_bytes());
        }
        if self.allow_private_network && head.headers.get(&self.request_private_network) == Some(b"true") {
            headers.set("access-control-allow-private-network", b"true");
        }
        reply
    }
}

#[cfg(test)]
mod tests;
