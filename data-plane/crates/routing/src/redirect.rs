//! Where a redirect leads.

use dp_http::RequestHead;
use shared_config::matcher::Substitution;
use shared_config::route as config;
use shared_config::route::{PathMatcher, RedirectPath};

use crate::rewrite::{Matched, split_query};

/// A compiled redirect.
#[derive(Debug, Clone, PartialEq)]
pub struct Redirect {
    pub status: u16,
    scheme: Option<String>,
    host: Option<String>,
    /// With its colon.
    port: Option<String>,
    path: NewPath,
    strip_query: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum NewPath {
    Keep,
    Replace { path: String, has_query: bool },
    Prefix { matched: Matched, with: String },
    Regex(Substitution),
}

impl Redirect {
    pub fn compile(config: &config::Redirect, path: &PathMatcher) -> Self {
        Self {
            status: config.status,
            scheme: config.scheme.clone(),
            host: config.host.clone(),
            port: config.port.map(|port| format!(":{port}")),
            path: match &config.path {
                RedirectPath::Keep => NewPath::Keep,
                RedirectPath::Replace(path) => NewPath::Replace { path: path.clone(), has_query: path.contains('?') },
                RedirectPath::Prefix(with) => NewPath::Prefix { matched: Matched::by(path), with: with.clone() },
                RedirectPath::Regex(substitution) => NewPath::Regex(substitution.clone()),
            },
            strip_query: config.strip_query,
        }
    }

    /// The value of `location`. `https` says how the client came, by `x-forwarded-proto`.
    pub fn location(&self, head: &RequestHead, https: bool) -> String {
        let scheme = self.scheme.as_deref().unwrap_or(head.scheme.as_str());
        let port = self.port.as_deref().unwrap_or_default();
        let host = match &self.host {
            Some(host) => host,
            None => request_host(head.authority(), scheme, !port.is_empty(), https),
        };
        let path = self.path(head.path());
        [scheme, "://", host, port, &path].concat()
    }

    /// The path that the redirect makes of the request's, when it rewrites it.
    pub fn rewritten(&self, path: &str) -> Option<String> {
        match &self.path {
            NewPath::Prefix { matched, with } => Some(matched.replace(path, with)),
            NewPath::Regex(substitution) => {
                let (only, query) = split_query(path);
                Some(substitution.replace_text(only) + query).filter(|new| !new.is_empty())
            }
            NewPath::Keep | NewPath::Replace { .. } => None,
        }
    }

    fn path(&self, path: &str) -> String {
        let (only, query) = split_query(path);
        let mut new = match &self.path {
            // The query of the new path stays, whatever strip_query says.
            NewPath::Replace { path, has_query: true } => return path.clone(),
            NewPath::Replace { path, .. } => [path, query].concat(),
            NewPath::Keep => path.to_owned(),
            NewPath::Prefix { matched, with } => matched.replace(path, with),
            NewPath::Regex(substitution) => match substitution.replace_text(only) {
                empty if empty.is_empty() => path.to_owned(),
                new => new + query,
            },
        };
        if self.strip_query
            && let Some(end) = new.find('?')
        {
            new.truncate(end);
        }
        new
    }
}

/// The host of the request without a port that would be wrong: one that is replaced, or the default port of the scheme
/// that the redirect leaves.
fn request_host<'a>(authority: &'a str, scheme: &str, new_port: bool, https: bool) -> &'a str {
    let end = if authority.starts_with('[') { authority.rfind("]:").map(|at| at + 1) } else { authority.rfind(':') };
    let Some(end) = end else { return authority };
    let port = &authority[end..];
    let came_by = if https { "https" } else { "http" };
    let is_default = scheme != came_by && port == if https { ":443" } else { ":80" };
    if new_port || is_default { &authority[..end] } else { authority }
}

/// Where a virtual host sends a request that must use TLS.
pub fn tls_location(head: &RequestHead) -> String {
    ["https://", head.authority(), head.path()].concat()
}

/// The URI of the request itself: `location` of direct responses with status 201 or 3xx, as Envoy sends them.
pub fn original_location(head: &RequestHead) -> String {
    [head.scheme.as_str(), "://", head.authority(), head.path()].concat()
}

#[cfg(test)]
mod tests {
    use dp_http::Method;
    use shared_config::matcher::Regex;

    use super::*;

    fn keep() -> config::Redirect {
        config::Redirect {
            scheme: None,
            host: None,
            port: None,
            path: RedirectPath::Keep,
            strip_query: false,
            status: 301,
        }
    }

    fn check(config: config::Redirect, authority: &str, path: &str, expected: &str) {
        let head = RequestHead::new(Method::Get, authority, path);
        let redirect = Redirect::compile(&config, &PathMatcher::Prefix("/old".into()));
        assert_eq!(redirect.location(&head, false), expected);
    }

    #[test]
    fn each_part_can_be_replaced_alone() {
        check(config::Redirect { host: Some("n.com".into()), ..keep() }, "o.com:81", "/p?q", "http://n.com/p?q");
        check(config::Redirect { port: Some(82), ..keep() }, "o.com:81", "/p", "http://o.com:82/p");
        check(config::Redirect { port: Some(82), ..keep() }, "[::1]:81", "/p", "http://[::1]:82/p");
        check(config::Redirect { scheme: Some("https".into()), ..keep() }, "o.com:81", "/p", "https://o.com:81/p");
        check(config::Redirect { scheme: Some("https".into()), ..keep() }, "o.com:80", "/p", "https://o.com/p");
        check(keep(), "o.com:80", "/p", "http://o.com:80/p");
        check(config::Redirect { strip_query: true, ..keep() }, "o.com", "/p?q", "http://o.com/p");
    }

    #[test]
    fn a_new_path_keeps_the_query_unless_it_brings_its_own() {
        let path = |path: &str, strip_query| config::Redirect {
            path: RedirectPath::Replace(path.into()),
            strip_query,
            ..keep()
        };
        check(path("/n", false), "o", "/p?q", "http://o/n?q");
        check(path("/n", true), "o", "/p?q", "http://o/n");
        check(path("/n?x", true), "o", "/p?q", "http://o/n?x");
    }

    #[test]
    fn a_prefix_or_regex_rewrites_the_path() {
        let prefix = config::Redirect { path: RedirectPath::Prefix("/new".into()), ..keep() };
        check(prefix, "o", "/old/x?q", "http://o/new/x?q");
        let substitution = Substitution::new(Regex::new("^/old/(.*)$").unwrap(), r"/\1/new").unwrap();
        check(
            config::Redirect { path: RedirectPath::Regex(substitution), ..keep() },
            "o",
            "/old/x?q",
            "http://o/x/new?q",
        );
    }
}
