//! Whether one route matches a request, all conditions together.

use dp_http::cookie::cookie;
use dp_http::info::TlsInfo;
use dp_http::{Field, Method, RequestHead, name};
use shared_config::core::Fraction;
use shared_config::matcher::{CookieMatcher, HeaderMatcher, QueryParameterMatcher};
use shared_config::route::{PathMatcher, RouteMatch, TlsMatch};

use crate::CompileError;
use crate::query::query_parameter;

/// What is known about a request beside its head.
#[derive(Clone, Copy)]
pub struct MatchContext<'a> {
    /// The stream's random value.
    pub random: u64,
    /// Whether the client used TLS, by `x-forwarded-proto`.
    pub https: bool,
    /// Whether the client counts as internal.
    pub internal: bool,
    pub tls: Option<&'a TlsInfo>,
}

/// The conditions of a route, ready to be asked.
#[derive(Debug)]
pub struct RouteMatcher {
    path: PathMatcher,
    case_sensitive: bool,
    fraction: Option<Fraction>,
    headers: Vec<(Field, HeaderMatcher)>,
    query_parameters: Vec<QueryParameterMatcher>,
    cookies: Vec<CookieMatcher>,
    grpc: bool,
    tls: TlsMatch,
    /// There is nothing to check but the path.
    is_plain: bool,
}

/// The path of a request as routes see it.
#[derive(Clone, Copy)]
pub(crate) struct RequestPath<'a> {
    /// Without query; and without parameters where they are ignored.
    pub(crate) path: &'a str,
    /// Without query.
    whole: &'a str,
    is_connect: bool,
}

impl<'a> RequestPath<'a> {
    pub(crate) fn new(head: &'a RequestHead, ignore_parameters: bool) -> Self {
        let whole = head.path_only();
        let path = match ignore_parameters.then(|| whole.find(';')).flatten() {
            Some(end) => &whole[..end],
            None => whole,
        };
        Self { path, whole, is_connect: is_connect(head) }
    }
}

/// A CONNECT that asks for a tunnel. An extended CONNECT for a protocol such as `websocket` is routed like the upgrade
/// of a GET that it stands for.
fn is_connect(head: &RequestHead) -> bool {
    head.method == Method::Connect && head.connect_protocol().is_none_or(|protocol| protocol.starts_with("connect"))
}

/// Whether a request is gRPC, by its content type.
pub fn is_grpc(head: &RequestHead) -> bool {
    let Some(rest) = head.headers.get(&name::CONTENT_TYPE).and_then(|value| value.strip_prefix(b"application/grpc"))
    else {
        return false;
    };
    !head.path().is_empty() && matches!(rest.first(), None | Some(b'+'))
}

impl RouteMatcher {
    pub(crate) fn compile(config: &RouteMatch) -> Result<Self, CompileError> {
        let headers = config
            .headers
            .iter()
            .map(|matcher| Ok((Field::new(&matcher.name)?, matcher.clone())))
            .collect::<Result<Vec<_>, CompileError>>()?;
        let fraction = config.fraction.as_ref().map(|fraction| fraction.value());
        let is_plain = headers.is_empty()
            && fraction.is_none()
            && config.query_parameters.is_empty()
            && config.cookies.is_empty()
            && !config.grpc
            && config.tls == TlsMatch::default();
        Ok(Self {
            path: config.path.clone(),
            case_sensitive: config.case_sensitive,
            fraction,
            headers,
            query_parameters: config.query_parameters.clone(),
            cookies: config.cookies.clone(),
            grpc: config.grpc,
            tls: config.tls,
            is_plain,
        })
    }

    pub(crate) fn matches(&self, head: &RequestHead, path: RequestPath<'_>, context: &MatchContext<'_>) -> bool {
        self.matches_path(path) && (self.is_plain || self.matches_rest(head, context))
    }

    fn matches_path(&self, request: RequestPath<'_>) -> bool {
        let RequestPath { path, whole, is_connect } = request;
        // A CONNECT has no path, and only a route that asks for CONNECT is for it.
        if whole.is_empty() {
            return is_connect && self.path == PathMatcher::Connect;
        }
        let starts_with = |prefix: &str| match path.as_bytes().get(..prefix.len()) {
            Some(start) if self.case_sensitive => start == prefix.as_bytes(),
            Some(start) => start.eq_ignore_ascii_case(prefix.as_bytes()),
            None => false,
        };
        match &self.path {
            PathMatcher::Prefix(prefix) => starts_with(prefix),
            PathMatcher::Exact(exact) => exact.len() == path.len() && starts_with(exact),
            PathMatcher::SeparatedPrefix(prefix) => {
                starts_with(prefix) && matches!(path.as_bytes().get(prefix.len()), None | Some(b'/'))
            }
            PathMatcher::Regex(regex) => regex.is_full_match(whole.as_bytes()),
            PathMatcher::Template(template) => template.matches(whole),
            PathMatcher::Connect => is_connect,
        }
    }

    fn matches_rest(&self, head: &RequestHead, context: &MatchContext<'_>) -> bool {
        self.fraction.is_none_or(|fraction| fraction.admits(context.random))
            && (!self.grpc || is_grpc(head))
            && self.headers.iter().all(|(field, matcher)| matches_header(field, matcher, head))
            && self
                .query_parameters
                .iter()
                .all(|matcher| matcher.matches(query_parameter(head.query(), &matcher.name).map(str::as_bytes)))
            && self.cookies.iter().all(|matcher| matcher.matches(cookie(&head.headers, &matcher.name)))
            && self.matches_tls(context.tls)
    }

    fn matches_tls(&self, tls: Option<&TlsInfo>) -> bool {
        let peer = tls.and_then(|tls| tls.peer.as_ref());
        self.tls.presented.is_none_or(|presented| presented == peer.is_some())
            && self.tls.validated.is_none_or(|validated| validated == peer.is_some_and(|peer| peer.verified))
    }
}

fn matches_header(field: &Field, matcher: &HeaderMatcher, head: &RequestHead) -> bool {
    match field {
        // The upgrade that an extended CONNECT stands for is a GET.
        Field::Method if head.method == Method::Connect && !is_connect(head) => matcher.matches(Some(&b"GET"[..])),
        Field::Header(name) => matcher.matches(head.headers.all(name)),
        field => matcher.matches(field.in_request(head)),
    }
}
