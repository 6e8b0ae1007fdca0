//! What a request is hashed by for consistent balancing (`RouteAction.HashPolicy`).

use std::time::Duration;

use proto::envoy::config::route::v3::route_action as proto_action;

use crate::core::duration_at;
use crate::invalid::Problems;
use crate::matcher::Substitution;

#[derive(Debug, Clone, PartialEq)]
pub struct HashPolicy {
    pub source: HashSource,
    /// Stop here when there is a hash by now.
    pub terminal: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum HashSource {
    /// All values of a header, each rewritten first.
    Header {
        name: String,
        rewrite: Option<Substitution>,
    },
    Cookie(CookieSpec),
    SourceIp,
    /// The first value of a query parameter.
    QueryParameter(String),
    FilterState(String),
}

/// A cookie to hash, and to make when it is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CookieSpec {
    pub name: String,
    /// `None`: a missing cookie is not made. Zero: it lives as long as the browser.
    pub ttl: Option<Duration>,
    pub path: String,
    pub attributes: Vec<(String, String)>,
}

impl HashPolicy {
    /// `None` too for connection properties that ask for nothing.
    pub(super) fn decode(proto: &proto_action::HashPolicy, p: &mut Problems) -> Option<Self> {
        use proto_action::hash_policy::PolicySpecifier as Specifier;
        let source = match &proto.policy_specifier {
            Some(Specifier::Header(header)) => p.at("header", |p| {
                if !crate::header::is_header_name(&header.header_name) {
                    return p.refuse_at("header_name", format!("{:?} is not a header name", header.header_name));
                }
                let rewrite = match &header.regex_rewrite {
                    Some(rewrite) => Some(p.at("regex_rewrite", |p| Substitution::decode(rewrite, p))?),
                    None => None,
                };
                Some(HashSource::Header { name: header.header_name.to_ascii_lowercase(), rewrite })
            })?,
            Some(Specifier::Cookie(cookie)) => p.at("cookie", |p| decode_cookie(cookie, p))?,
            Some(Specifier::ConnectionProperties(properties)) if properties.source_ip => HashSource::SourceIp,
            Some(Specifier::ConnectionProperties(_)) => return None,
            Some(Specifier::QueryParameter(parameter)) if parameter.name.is_empty() => {
                return p.refuse_at("query_parameter.name", "must not be empty");
            }
            Some(Specifier::QueryParameter(parameter)) => HashSource::QueryParameter(parameter.name.clone()),
            Some(Specifier::FilterState(state)) if state.key.is_empty() => {
                return p.refuse_at("filter_state.key", "must not be empty");
            }
            Some(Specifier::FilterState(state)) => HashSource::FilterState(state.key.clone()),
            None => {
                p.refuse("needs header, cookie, connection_properties, query_parameter or filter_state");
                return None;
            }
        };
        Some(Self { source, terminal: proto.terminal })
    }
}

fn decode_cookie(cookie: &proto_action::hash_policy::Cookie, p: &mut Problems) -> Option<HashSource> {
    let attributes: Vec<_> = cookie.attributes.iter().map(|a| (a.name.clone(), a.value.clone())).collect();
    CookieSpec::decode(&cookie.name, cookie.ttl.as_ref(), &cookie.path, &attributes, p).map(HashSource::Cookie)
}

impl CookieSpec {
    /// The fields of a cookie, which several messages have.
    pub(crate) fn decode(
        name: &str,
        ttl: Option<&prost_types::Duration>,
        path: &str,
        attributes: &[(String, String)],
        p: &mut Problems,
    ) -> Option<Self> {
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic() && b != b'=' && b != b';') {
            return p.refuse_at("name", format!("{name:?} is not the name of a cookie"));
        }
        let plain = |text: &str| text.bytes().all(|b| (b' '..0x7f).contains(&b) && b != b';');
        if !plain(path) {
            return p.refuse_at("path", "must be visible ASCII without `;`");
        }
        let attributes = p.each("attributes", attributes, |p, (name, value)| {
            if name.is_empty() || !plain(name) || !plain(value) {
                p.refuse("must have a name, and be visible ASCII without `;`");
                return None;
            }
            Some((name.clone(), value.clone()))
        });
        Some(Self {
            name: name.to_owned(),
            ttl: duration_at(ttl, "ttl", p).map(|ttl| Duration::from_secs(ttl.as_secs())),
            path: path.to_owned(),
            attributes,
        })
    }
}
