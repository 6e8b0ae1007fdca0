//! Rewriting the path and the host of a request on its way upstream.

use std::borrow::Cow;

use dp_http::{Field, RequestHead};
use shared_config::matcher::Substitution;
use shared_config::route as config;
use shared_config::route::PathMatcher;
use shared_config::route::template::{PathTemplate, TemplateRewrite};

use crate::CompileError;

/// How a route rewrites paths. The query always stays.
#[derive(Debug, Clone, PartialEq)]
pub enum PathRewrite {
    /// Replaces what the route matched.
    Prefix {
        matched: Matched,
        with: String,
    },
    Regex(Substitution),
    Template {
        template: PathTemplate,
        rewrite: TemplateRewrite,
    },
}

/// How much of a path a route matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matched {
    Bytes(usize),
    /// Everything but the query.
    Path,
}

/// How a route rewrites the host.
#[derive(Debug, Clone, PartialEq)]
pub enum HostRewrite {
    Literal(String),
    /// By the host name of the endpoint, which is not known here.
    Auto,
    Header(Field),
    PathRegex(Substitution),
}

/// Splits a path at its query.
pub(crate) fn split_query(path: &str) -> (&str, &str) {
    path.split_at(path.find(['?', '#']).unwrap_or(path.len()))
}

impl Matched {
    pub(crate) fn by(path: &PathMatcher) -> Self {
        match path {
            PathMatcher::Prefix(text) | PathMatcher::Exact(text) | PathMatcher::SeparatedPrefix(text) => {
                Self::Bytes(text.len())
            }
            PathMatcher::Regex(_) | PathMatcher::Template(_) | PathMatcher::Connect => Self::Path,
        }
    }

    /// `path` with what was matched replaced by `with`.
    pub(crate) fn replace(self, path: &str, with: &str) -> String {
        let rest = match self {
            // A filter may have made the path shorter since it was matched.
            Self::Bytes(length) => path.get(length..).unwrap_or(split_query(path).1),
            Self::Path => split_query(path).1,
        };
        [with, rest].concat()
    }
}

impl PathRewrite {
    /// `None` when the route rewrites no paths.
    pub fn compile(config: &config::PathRewrite, path: &PathMatcher) -> Option<Self> {
        match (config, path) {
            (config::PathRewrite::Prefix(with), path) => {
                Some(Self::Prefix { matched: Matched::by(path), with: with.clone() })
            }
            (config::PathRewrite::Regex(substitution), _) => Some(Self::Regex(substitution.clone())),
            (config::PathRewrite::Template(rewrite), PathMatcher::Template(template)) => {
                Some(Self::Template { template: template.clone(), rewrite: rewrite.clone() })
            }
            // A template without a template to match by was refused.
            (config::PathRewrite::None | config::PathRewrite::Template(_), _) => None,
        }
    }

    /// The new path for `path`, both with their query.
    pub fn rewrite(&self, path: &str) -> String {
        let (only, query) = split_query(path);
        match self {
            Self::Prefix { matched, with } => matched.replace(path, with),
            Self::Regex(substitution) => [&substitution.replace_text(only), query].concat(),
            Self::Template { template, rewrite } => match template.rewrite(rewrite, only) {
                Some(new) => [&new, query].concat(),
                None => path.to_owned(),
            },
        }
    }
}

impl HostRewrite {
    /// `None` when the route keeps the host.
    ///
    /// # Errors
    /// The header that holds the host cannot be looked up.
    pub fn compile(config: &config::HostRewrite) -> Result<Option<Self>, CompileError> {
        Ok(Some(match config {
            config::HostRewrite::None => return Ok(None),
            config::HostRewrite::Literal(host) => Self::Literal(host.clone()),
            config::HostRewrite::Auto => Self::Auto,
            config::HostRewrite::Header(name) => Self::Header(Field::new(name)?),
            config::HostRewrite::PathRegex(substitution) => Self::PathRegex(substitution.clone()),
        }))
    }

    /// The new host; `None` when it stays as it is, or is known only with the endpoint.
    pub fn rewrite<'a>(&'a self, head: &'a RequestHead) -> Option<Cow<'a, str>> {
        let host = match self {
            Self::Auto => return None,
            Self::Literal(host) => Cow::Borrowed(host.as_str()),
            Self::Header(field) => Cow::Borrowed(std::str::from_utf8(field.in_request(head)?).ok()?),
            Self::PathRegex(substitution) => Cow::Owned(substitution.replace_text(head.path_only())),
        };
        Some(host).filter(|host| !host.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use dp_http::Method;
    use shared_config::matcher::Regex;

    use super::*;

    fn prefix(matched: &str, with: &str, path: &str, expected: &str) {
        let config = config::PathRewrite::Prefix(with.into());
        let rewrite = PathRewrite::compile(&config, &PathMatcher::Prefix(matched.into())).unwrap();
        assert_eq!(rewrite.rewrite(path), expected);
    }

    #[test]
    fn a_prefix_is_replaced_as_it_stands() {
        prefix("/prefix", "/", "/prefix/x", "//x");
        prefix("/prefix/", "/", "/prefix/x", "/x");
        prefix("/prefix", "/new", "/prefix?q", "/new?q");
        prefix("/prefix", "/new", "/PREFIXx", "/newx");
        prefix("/prefix", "/new", "/p?q", "/new?q");
    }

    #[test]
    fn a_regex_sees_the_path_without_its_query() {
        let substitution = Substitution::new(Regex::new("[?]?x").unwrap(), "y").unwrap();
        let rewrite = PathRewrite::compile(&config::PathRewrite::Regex(substitution), &PathMatcher::Connect).unwrap();
        assert_eq!(rewrite.rewrite("/x/x?x"), "/y/y?x");
    }

    #[test]
    fn a_template_makes_a_path_of_its_variables() {
        let template = PathTemplate::parse("/a/{x}/{y=**}").unwrap();
        let config = config::PathRewrite::Template(TemplateRewrite::parse("/{y}/{x}", &template).unwrap());
        let rewrite = PathRewrite::compile(&config, &PathMatcher::Template(template)).unwrap();
        assert_eq!(rewrite.rewrite("/a/1/2/3?q"), "/2/3/1?q");
        assert_eq!(rewrite.rewrite("/other?q"), "/other?q");
    }

    #[test]
    fn a_host_comes_from_the_route_a_header_or_the_path() {
        let check = |config: config::HostRewrite, expected: Option<&str>| {
            let mut head = RequestHead::new(Method::Get, "h", "/host.com/x?q");
            head.headers.append("x-host", b"other");
            let rewrite = HostRewrite::compile(&config).unwrap();
            assert_eq!(rewrite.as_ref().and_then(|rewrite| rewrite.rewrite(&head)).as_deref(), expected);
        };
        check(config::HostRewrite::None, None);
        check(config::HostRewrite::Auto, None);
        check(config::HostRewrite::Literal("l".into()), Some("l"));
        check(config::HostRewrite::Header("x-host".into()), Some("other"));
        check(config::HostRewrite::Header("x-none".into()), None);
        let substitution = Substitution::new(Regex::new("^/([^/]+)/.*$").unwrap(), r"\1").unwrap();
        check(config::HostRewrite::PathRegex(substitution), Some("host.com"));
    }
}
