//! What a request must be like for a route to apply (`RouteMatch`).

use proto::envoy::config::route::v3 as route;
use proto::envoy::extensions::path::r#match::uri_template::v3 as uri_template;

use super::template::PathTemplate;
use crate::core::{RuntimeFraction, runtime_fraction};
use crate::invalid::Problems;
use crate::matcher::{CookieMatcher, HeaderMatcher, QueryParameterMatcher, Regex};
use crate::refuse_set;

#[derive(Debug, Clone, PartialEq)]
pub struct RouteMatch {
    pub path: PathMatcher,
    pub case_sensitive: bool,
    pub fraction: Option<RuntimeFraction>,
    pub headers: Vec<HeaderMatcher>,
    pub query_parameters: Vec<QueryParameterMatcher>,
    pub cookies: Vec<CookieMatcher>,
    /// Only gRPC requests.
    pub grpc: bool,
    pub tls: TlsMatch,
}

#[derive(Debug, Clone, PartialEq)]
pub enum PathMatcher {
    /// The path starts with this.
    Prefix(String),
    /// The path is this.
    Exact(String),
    /// The path is this, or this and a `/` start it.
    SeparatedPrefix(String),
    /// All of the path matches.
    Regex(Regex),
    Template(PathTemplate),
    /// Any CONNECT request.
    Connect,
}

/// What the client's certificate must be like; `None` is indifferent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TlsMatch {
    pub presented: Option<bool>,
    pub validated: Option<bool>,
}

// === impl RouteMatch ===

impl RouteMatch {
    pub(super) fn decode(proto: &route::RouteMatch, p: &mut Problems) -> Option<Self> {
        refuse_set!(p, proto; dynamic_metadata, filter_state);
        let path = PathMatcher::decode(&proto.path_specifier, p);
        let case_sensitive = proto.case_sensitive.unwrap_or(true);
        if !case_sensitive && matches!(path, Some(PathMatcher::Regex(_) | PathMatcher::Template(_))) {
            p.warn("case_sensitive", "has no effect on safe_regex and path_match_policy");
        }
        let fraction = match &proto.runtime_fraction {
            Some(fraction) => Some(p.at("runtime_fraction", |p| runtime_fraction(fraction, p))?),
            None => None,
        };
        Some(Self {
            case_sensitive,
            fraction,
            headers: p.each("headers", &proto.headers, |p, m| HeaderMatcher::decode(m, p)),
            query_parameters: p
                .each("query_parameters", &proto.query_parameters, |p, m| QueryParameterMatcher::decode(m, p)),
            cookies: p.each("cookies", &proto.cookies, |p, m| CookieMatcher::decode(m, p)),
            grpc: proto.grpc.is_some(),
            tls: proto
                .tls_context
                .as_ref()
                .map(|tls| TlsMatch { presented: tls.presented, validated: tls.validated })
                .unwrap_or_default(),
            path: path?,
        })
    }
}

impl PathMatcher {
    fn decode(proto: &Option<route::route_match::PathSpecifier>, p: &mut Problems) -> Option<Self> {
        use route::route_match::PathSpecifier as Specifier;
        match proto {
            Some(Specifier::Prefix(prefix)) => Some(Self::Prefix(prefix.clone())),
            Some(Specifier::Path(path)) => Some(Self::Exact(path.clone())),
            Some(Specifier::SafeRegex(regex)) => Some(Self::Regex(p.at("safe_regex", |p| Regex::decode(regex, p))?)),
            Some(Specifier::ConnectMatcher(_)) => Some(Self::Connect),
            Some(Specifier::PathSeparatedPrefix(prefix)) => {
                if prefix.len() < 2 || prefix.ends_with('/') || prefix.contains(['?', '#']) {
                    return p.refuse_at(
                        "path_separated_prefix",
                        "must have two or more characters, no `?` or `#`, and no `/` at its end",
                    );
                }
                Some(Self::SeparatedPrefix(prefix.clone()))
            }
            Some(Specifier::PathMatchPolicy(extension)) => p.at("path_match_policy", |p| {
                let any = extension.typed_config.clone().unwrap_or_default();
                p.at("typed_config", |p| match any.unpack::<uri_template::UriTemplateMatchConfig>() {
                    Some(Ok(config)) => match PathTemplate::parse(&config.path_template) {
                        Ok(template) => Some(Self::Template(template)),
                        Err(reason) => p.refuse_at("path_template", reason),
                    },
                    Some(Err(error)) => {
                        p.refuse(format!("is not a UriTemplateMatchConfig: {error}"));
                        None
                    }
                    None => {
                        p.refuse(format!("{:?} is not implemented by weir-proxy", any.type_name()));
                        None
                    }
                })
            }),
            None => {
                p.refuse("needs prefix, path, path_separated_prefix, safe_regex, path_match_policy or connect_matcher");
                None
            }
        }
    }
}
