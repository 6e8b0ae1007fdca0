//! Routes that the proxy answers itself: redirects and direct responses.

use proto::envoy::config::route::v3 as route;

use super::PathMatcher;
use crate::core::{DataSource, data_source};
use crate::invalid::Problems;
use crate::matcher::Substitution;
use crate::substitution::SubstitutionFormat;

/// Send the client elsewhere (`RedirectAction`). What is not named stays as it was in the request.
#[derive(Debug, Clone, PartialEq)]
pub struct Redirect {
    pub scheme: Option<String>,
    pub host: Option<String>,
    pub port: Option<u16>,
    pub path: RedirectPath,
    pub strip_query: bool,
    pub status: u16,
}

#[derive(Debug, Clone, PartialEq)]
pub enum RedirectPath {
    Keep,
    /// The new path, which may bring its own query.
    Replace(String),
    /// Replaces what the route matched.
    Prefix(String),
    Regex(Substitution),
}

/// Answer this (`DirectResponseAction`).
#[derive(Debug, Clone, PartialEq)]
pub struct DirectResponse {
    pub status: u16,
    pub body: Option<DataSource>,
    /// How the body is written; the body itself is its `%LOCAL_REPLY_BODY%`.
    pub format: Option<SubstitutionFormat>,
    /// The most bytes that the body may have; inline bodies are checked already.
    pub max_body: usize,
}

// === impl Redirect ===

impl Redirect {
    pub(super) fn decode(proto: &route::RedirectAction, path: Option<&PathMatcher>, p: &mut Problems) -> Option<Self> {
        use route::redirect_action::{PathRewriteSpecifier, RedirectResponseCode as Code, SchemeRewriteSpecifier};
        let scheme = match &proto.scheme_rewrite_specifier {
            Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".to_owned()),
            Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => {
                let is_scheme = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
                if !scheme.bytes().all(is_scheme) {
                    return p.refuse_at("scheme_redirect", format!("{scheme:?} is not a scheme"));
                }
                Some(scheme.clone()).filter(|scheme| !scheme.is_empty())
            }
            _ => None,
        };
        let path = match &proto.path_rewrite_specifier {
            None => RedirectPath::Keep,
            Some(PathRewriteSpecifier::PathRedirect(path)) => {
                check_value("path_redirect", path, p);
                if path.is_empty() { RedirectPath::Keep } else { RedirectPath::Replace(path.clone()) }
            }
            Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => {
                if matches!(path, Some(PathMatcher::Template(_))) {
                    return p.refuse_at("prefix_rewrite", "may not be used with path_match_policy");
                }
                check_value("prefix_rewrite", prefix, p);
                if prefix.is_empty() { RedirectPath::Keep } else { RedirectPath::Prefix(prefix.clone()) }
            }
            Some(PathRewriteSpecifier::RegexRewrite(rewrite)) => {
                RedirectPath::Regex(p.at("regex_rewrite", |p| Substitution::decode(rewrite, p))?)
            }
            Some(PathRewriteSpecifier::PathRewrite(_)) => {
                p.unimplemented("path_rewrite");
                return None;
            }
        };
        check_value("host_redirect", &proto.host_redirect, p);
        let status = match Code::try_from(proto.response_code) {
            Ok(Code::MovedPermanently) => 301,
            Ok(Code::Found) => 302,
            Ok(Code::SeeOther) => 303,
            Ok(Code::TemporaryRedirect) => 307,
            Ok(Code::PermanentRedirect) => 308,
            Err(_) => return p.refuse_at("response_code", "is not a redirect response code"),
        };
        let Ok(port) = u16::try_from(proto.port_redirect) else {
            return p.refuse_at("port_redirect", "is not a port");
        };
        Some(Self {
            scheme,
            host: Some(proto.host_redirect.clone()).filter(|host| !host.is_empty()),
            port: Some(port).filter(|port| *port != 0),
            path,
            strip_query: proto.strip_query,
            status,
        })
    }
}

/// Refuses what could not stand in a header value.
pub(super) fn check_value(name: &str, text: &str, p: &mut Problems) {
    if text.bytes().any(|b| b < b' ' && b != b'\t' || b == 0x7f) {
        p.refuse_at::<()>(name, "must not hold control characters");
    }
}

// === impl DirectResponse ===

impl DirectResponse {
    pub(super) fn decode(proto: &route::DirectResponseAction, max_body: usize, p: &mut Problems) -> Option<Self> {
        let status = match u16::try_from(proto.status) {
            Ok(status @ 200..=599) => status,
            _ => return p.refuse_at("status", format!("{} is not in 200 to 599", proto.status)),
        };
        let body = match &proto.body {
            Some(body) => Some(p.at("body", |p| data_source(body, p))?),
            None => None,
        };
        if let Some(DataSource::Inline(bytes)) = &body
            && bytes.len() > max_body
        {
            let reason = format!(
                "has {} bytes; max_direct_response_body_size_bytes of the route configuration is {max_body}",
                bytes.len()
            );
            return p.refuse_at("body", reason);
        }
        let format = match &proto.body_format {
            Some(format) => Some(p.at("body_format", |p| SubstitutionFormat::decode(format, p))?),
            None => None,
        };
        Some(Self { status, body, format, max_body })
    }
}
