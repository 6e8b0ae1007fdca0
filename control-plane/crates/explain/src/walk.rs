//! The way of a request through a route configuration, with every reason written down.
//!
//! The same rules as the proxy's table, one route after the other: this one explains, that one is fast.

use shared_config::route::{PathMatcher, Route, RouteConfiguration, RouteMatch, VirtualHost};

use crate::request::Request;

#[derive(Debug, Default)]
pub(crate) struct Found<'r> {
    pub(crate) host: Option<&'r VirtualHost>,
    pub(crate) domain: Option<String>,
    /// Routes before the one that matched, and why each did not.
    pub(crate) tried: Vec<(String, String)>,
    pub(crate) route: Option<&'r Route>,
    pub(crate) because: Vec<String>,
    /// What the answer does not take into account.
    pub(crate) notes: Vec<String>,
}

pub(crate) fn walk<'r>(routes: &'r RouteConfiguration, request: &Request) -> Found<'r> {
    let mut found = Found::default();
    let name = if routes.ignore_port { request.host.clone() } else { request.authority.to_ascii_lowercase() };
    let Some((host, domain)) = virtual_host(routes, &name) else { return found };
    found.host = Some(host);
    found.domain = Some(domain.to_owned());
    let path = match routes.ignore_path_parameters {
        true => request.path.split(';').next().unwrap_or_default(),
        false => &request.path,
    };
    for route in &host.routes {
        match route_matches(&route.matches, request, path) {
            Ok(because) => {
                found.because = because;
                found.route = Some(route);
                if let Some(fraction) = &route.matches.fraction {
                    found.notes.push(format!("only a share of such requests takes this route ({fraction:?})"));
                }
                return found;
            }
            Err(why) => found.tried.push((route.name.clone(), why)),
        }
    }
    found
}

/// Exact, then the longest `*.suffix`, then the longest `prefix.*`, then `*`.
fn virtual_host<'r>(routes: &'r RouteConfiguration, name: &str) -> Option<(&'r VirtualHost, &'r str)> {
    let rank = |domain: &str| -> Option<(u8, usize)> {
        if domain == "*" {
            return Some((0, 0));
        }
        if domain == name {
            return Some((3, domain.len()));
        }
        // A wildcard stands for at least one character.
        let fits = |part: &str| name.len() > part.len();
        match (domain.strip_prefix('*'), domain.strip_suffix('*')) {
            (Some(suffix), _) if name.ends_with(suffix) && fits(suffix) => Some((2, suffix.len())),
            (_, Some(prefix)) if name.starts_with(prefix) && fits(prefix) => Some((1, prefix.len())),
            _ => None,
        }
    };
    let domains = routes.virtual_hosts.iter().flat_map(|h| h.domains.iter().map(move |d| (h, d.as_str())));
    domains.filter_map(|(h, d)| rank(d).map(|r| (r, h, d))).max_by_key(|(rank, ..)| *rank).map(|(_, h, d)| (h, d))
}

/// Why it matches, or the first reason why not.
fn route_matches(matches: &RouteMatch, request: &Request, path: &str) -> Result<Vec<String>, String> {
    let mut because = vec![path_matches(&matches.path, matches.case_sensitive, request, path)?];
    for header in &matches.headers {
        let value = request.header(&header.name);
        let shown = value.as_deref().map_or_else(|| "is not there".to_owned(), |v| format!("is `{v}`"));
        let name = if header.name.starts_with(':') { &header.name[1..] } else { &header.name };
        if !header.matches(value.as_deref().map(str::as_bytes)) {
            return Err(format!("{name} {shown}"));
        }
        because.push(format!("{name} {shown}"));
    }
    for parameter in &matches.query_parameters {
        let value = request.query_value(&parameter.name);
        let shown = value.map_or_else(|| "is not there".to_owned(), |v| format!("is `{v}`"));
        if !parameter.matches(value.map(str::as_bytes)) {
            return Err(format!("query parameter {} {shown}", parameter.name));
        }
        because.push(format!("query parameter {} {shown}", parameter.name));
    }
    for cookie in &matches.cookies {
        let value = request.cookie(&cookie.name);
        let shown = value.map_or_else(|| "is not there".to_owned(), |v| format!("is `{v}`"));
        if !cookie.matches(value.map(str::as_bytes)) {
            return Err(format!("cookie {} {shown}", cookie.name));
        }
        because.push(format!("cookie {} {shown}", cookie.name));
    }
    if matches.grpc && !request.header("content-type").is_some_and(|t| is_grpc(&t)) {
        return Err("content-type is not gRPC".to_owned());
    }
    match (matches.tls.presented, matches.tls.validated) {
        (Some(true), _) | (_, Some(true)) => Err("it wants a client certificate; this request has none".to_owned()),
        _ => Ok(because),
    }
}

fn is_grpc(content_type: &str) -> bool {
    let rest = content_type.strip_prefix("application/grpc");
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('+'))
}

fn path_matches(matcher: &PathMatcher, case: bool, request: &Request, path: &str) -> Result<String, String> {
    let same = |a: &str, b: &str| if case { a == b } else { a.eq_ignore_ascii_case(b) };
    let begins = |prefix: &str| path.get(..prefix.len()).is_some_and(|start| same(start, prefix));
    let (fits, yes, no) = match matcher {
        PathMatcher::Prefix(p) => (begins(p), format!("path begins with {p}"), format!("path does not begin with {p}")),
        PathMatcher::Exact(p) => (same(path, p), format!("path is {p}"), format!("path is not {p}")),
        PathMatcher::SeparatedPrefix(p) => {
            let ends = path.get(p.len()..).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            (begins(p) && ends, format!("path is {p} or below"), format!("path is not {p} or below"))
        }
        PathMatcher::Regex(regex) => {
            let regex_text = regex.as_str();
            let yes = format!("path matches {regex_text}");
            (regex.is_full_match(path.as_bytes()), yes, format!("path does not match {regex_text}"))
        }
        PathMatcher::Template(template) => {
            let text = template.as_str();
            (template.matches(path), format!("path matches {text}"), format!("path does not match {text}"))
        }
        PathMatcher::Connect => {
            (request.method == "CONNECT", "it is CONNECT".to_owned(), "it is not CONNECT".to_owned())
        }
    };
    if fits { Ok(yes) } else { Err(no) }
}
