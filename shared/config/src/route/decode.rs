//! `RouteConfiguration`, `VirtualHost` and `Route` from the wire.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use proto::envoy::config::route::v3 as route;

use super::action::{Inherited, decode_hedge, decode_mirrors};
use super::{
    Action, DirectResponse, Redirect, RequireTls, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch,
    VirtualHost,
};
use crate::core::metadata;
use crate::header::is_header_name;
use crate::http_filter::{self, PerRouteConfigs};
use crate::invalid::Problems;
use crate::route::Mirror;
use crate::{decode_mutations, refuse_set};

const DEFAULT_MAX_BODY: u32 = 4096;

/// What virtual hosts take from the route configuration.
struct Outer<'a> {
    max_body: usize,
    mirrors: &'a [Mirror],
}

impl RouteConfiguration {
    pub fn decode(proto: &route::RouteConfiguration, p: &mut Problems) -> Option<Self> {
        refuse_set!(p, proto; vhds, cluster_specifier_plugins, vhost_header, route_specifiers);
        let mirrors = decode_mirrors(&proto.request_mirror_policies, p);
        let max_body = proto.max_direct_response_body_size_bytes.unwrap_or(DEFAULT_MAX_BODY) as usize;
        let outer = Outer { max_body, mirrors: &mirrors };
        let virtual_hosts =
            p.each("virtual_hosts", &proto.virtual_hosts, |p, host| VirtualHost::decode(host, &outer, p));
        check_unique(&virtual_hosts, p);
        Some(Self {
            name: proto.name.clone(),
            virtual_hosts,
            internal_only_headers: p.each("internal_only_headers", &proto.internal_only_headers, |p, name| {
                if !is_header_name(name) {
                    p.refuse(format!("{name:?} is not a header name"));
                    return None;
                }
                Some(name.to_ascii_lowercase())
            }),
            headers: decode_mutations!(proto, p),
            most_specific_wins: proto.most_specific_header_mutations_wins,
            validate_clusters: proto.validate_clusters,
            ignore_port: proto.ignore_port_in_host_matching,
            ignore_path_parameters: proto.ignore_path_parameters_in_path_matching,
            filters: http_filter_overrides(&proto.typed_per_filter_config, p),
            metadata: metadata(proto.metadata.as_ref()),
        })
    }
}

/// Refuses a name that two virtual hosts have, and a domain that is there twice.
fn check_unique(hosts: &[VirtualHost], p: &mut Problems) {
    let mut names = HashMap::new();
    let mut domains = HashMap::new();
    p.at("virtual_hosts", |p| {
        for host in hosts {
            if names.insert(&host.name, ()).is_some() {
                p.refuse(format!("two virtual hosts are called {:?}", host.name));
            }
            for domain in &host.domains {
                if let Some(other) = domains.insert(domain, &host.name) {
                    p.refuse(format!("domain {domain:?} is both in {other:?} and in {:?}", host.name));
                }
            }
        }
    });
}

impl VirtualHost {
    fn decode(proto: &route::VirtualHost, outer: &Outer<'_>, p: &mut Problems) -> Option<Self> {
        refuse_set!(p, proto;
            matcher, virtual_clusters, rate_limits, cors, retry_policy_typed_config, route_specifiers);
        if proto.name.is_empty() {
            p.refuse_at::<()>("name", "must not be empty");
        }
        if proto.domains.is_empty() {
            p.refuse_at::<()>("domains", "needs at least one domain");
        }
        let own_mirrors = decode_mirrors(&proto.request_mirror_policies, p);
        let retry = match &proto.retry_policy {
            Some(policy) => Some(p.at("retry_policy", |p| RetryPolicy::decode(policy, p))?),
            None => None,
        };
        let mirrors = if proto.request_mirror_policies.is_empty() { outer.mirrors } else { &own_mirrors };
        let hedge = proto.hedge_policy.as_ref();
        let inherited = Inherited {
            retry: retry.as_ref(),
            hedge_on_per_try_timeout: hedge.is_some_and(|hedge| p.at("hedge_policy", |p| decode_hedge(hedge, p))),
            mirrors,
        };
        let buffer_limit = buffer_limit(proto.per_request_buffer_limit_bytes, proto.request_body_buffer_limit, p);
        use route::virtual_host::TlsRequirementType as Type;
        let require_tls = match Type::try_from(proto.require_tls) {
            Ok(Type::None) => RequireTls::None,
            Ok(Type::ExternalOnly) => RequireTls::ExternalOnly,
            Ok(Type::All) => RequireTls::All,
            Err(_) => return p.refuse_at("require_tls", "is not NONE, EXTERNAL_ONLY or ALL"),
        };
        Some(Self {
            name: proto.name.clone(),
            domains: p.each("domains", &proto.domains, |p, domain| decode_domain(domain, p)),
            routes: p.each("routes", &proto.routes, |p, route| {
                let mut route = Route::decode(route, inherited, outer.max_body, p)?;
                route.buffer_limit = route.buffer_limit.or(buffer_limit);
                Some(route)
            }),
            require_tls,
            headers: decode_mutations!(proto, p),
            filters: http_filter_overrides(&proto.typed_per_filter_config, p),
            attempt_count_in_request: proto.include_request_attempt_count,
            attempt_count_in_response: proto.include_attempt_count_in_response,
            is_timeout_retry_header: proto.include_is_timeout_retry_header,
            metadata: metadata(proto.metadata.as_ref()),
        })
    }
}

/// `NAME`, `*SUFFIX`, `PREFIX*` or `*`, in lower case.
fn decode_domain(domain: &str, p: &mut Problems) -> Option<String> {
    let rest = domain.strip_prefix('*').or_else(|| domain.strip_suffix('*')).unwrap_or(domain);
    if rest.contains('*') {
        p.refuse(format!("{domain:?} has a `*` that is neither its first nor its last character"));
        return None;
    }
    if domain.is_empty() || domain.bytes().any(|b| b.is_ascii_control() || b == b' ') {
        p.refuse(format!("{domain:?} is not a domain: NAME, *.SUFFIX, PREFIX.* or *"));
        return None;
    }
    Some(domain.to_ascii_lowercase())
}

/// The map field `typed_per_filter_config`.
pub(super) fn http_filter_overrides(map: &BTreeMap<String, proto::Any>, p: &mut Problems) -> PerRouteConfigs {
    p.at("typed_per_filter_config", |p| {
        map.iter()
            .filter_map(|(name, any)| {
                let config = p.index(name, |p| http_filter::decode_per_route(name, any, p))?;
                Some((name.clone(), config))
            })
            .collect()
    })
}

/// The two fields of the same meaning; the wider one replaces the other, which is deprecated.
fn buffer_limit(per_request: Option<u32>, body: Option<u64>, p: &mut Problems) -> Option<u64> {
    if per_request.is_some() && body.is_some() {
        return p.refuse_at("request_body_buffer_limit", "may not be set beside per_request_buffer_limit_bytes");
    }
    body.or(per_request.map(u64::from))
}

impl Route {
    fn decode(proto: &route::Route, inherited: Inherited<'_>, max_body: usize, p: &mut Problems) -> Option<Self> {
        refuse_set!(p, proto; route_specifiers);
        if proto.decorator.is_some() {
            p.warn("decorator", "has no effect: weir-proxy does not trace yet");
        }
        if proto.tracing.is_some() {
            p.warn("tracing", "has no effect: weir-proxy does not trace yet");
        }
        let matches = match &proto.r#match {
            Some(matches) => p.at("match", |p| RouteMatch::decode(matches, p)),
            None => p.refuse_at("match", "is required"),
        };
        let action = match &proto.action {
            Some(route::route::Action::Route(action)) => {
                let path = matches.as_ref().map(|matches| &matches.path);
                p.at("route", |p| RouteAction::decode(action, path, inherited, p)).map(|a| Action::Route(Arc::new(a)))
            }
            Some(route::route::Action::Redirect(redirect)) => {
                let path = matches.as_ref().map(|matches| &matches.path);
                p.at("redirect", |p| Redirect::decode(redirect, path, p)).map(Action::Redirect)
            }
            Some(route::route::Action::DirectResponse(response)) => {
                p.at("direct_response", |p| DirectResponse::decode(response, max_body, p)).map(Action::DirectResponse)
            }
            Some(route::route::Action::FilterAction(_)) => {
                p.unimplemented("filter_action");
                None
            }
            Some(route::route::Action::NonForwardingAction(_)) => Some(Action::NonForwarding),
            None => {
                p.refuse("needs route, redirect or direct_response");
                None
            }
        };
        Some(Self {
            name: proto.name.clone(),
            stat_prefix: proto.stat_prefix.clone(),
            headers: decode_mutations!(proto, p),
            filters: http_filter_overrides(&proto.typed_per_filter_config, p),
            metadata: metadata(proto.metadata.as_ref()),
            buffer_limit: buffer_limit(proto.per_request_buffer_limit_bytes, proto.request_body_buffer_limit, p),
            matches: matches?,
            action: action?,
        })
    }
}

#[cfg(test)]
mod tests;
