//! The hash of a request for consistent balancing, as Envoy computes it.

use dp_http::cookie::{cookie, set_cookie};
use dp_http::info::Address;
use dp_http::{HeaderName, RequestHead, StreamInfo};
use shared_config::matcher::Substitution;
use shared_config::route as config;
use shared_config::route::{CookieSpec, HashSource};
use smallvec::SmallVec;
use stdx::hash::xxh64;

use crate::CompileError;
use crate::query::query_parameter;

/// The hash policies of a route, in order.
#[derive(Debug, Clone, Default)]
pub struct HashPolicies(Vec<Policy>);

#[derive(Debug, Clone)]
struct Policy {
    source: Source,
    terminal: bool,
}

#[derive(Debug, Clone)]
enum Source {
    Header { name: HeaderName, rewrite: Option<Substitution> },
    Cookie(CookieSpec),
    Address,
    QueryParameter(String),
    FilterState(String),
}

/// What the policies came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hashed {
    /// `None` when no policy found anything.
    pub hash: Option<u64>,
    /// `set-cookie` values for cookies that were made; they belong on the response.
    pub set_cookies: Vec<String>,
}

impl HashPolicies {
    /// # Errors
    /// A header cannot be looked up.
    pub fn compile(policies: &[config::HashPolicy]) -> Result<Self, CompileError> {
        let compile = |policy: &config::HashPolicy| {
            let source = match &policy.source {
                HashSource::Header { name, rewrite } => {
                    Source::Header { name: HeaderName::new(name)?, rewrite: rewrite.clone() }
                }
                HashSource::Cookie(cookie) => Source::Cookie(cookie.clone()),
                HashSource::SourceIp => Source::Address,
                HashSource::QueryParameter(name) => Source::QueryParameter(name.clone()),
                HashSource::FilterState(key) => Source::FilterState(key.clone()),
            };
            Ok(Policy { source, terminal: policy.terminal })
        };
        policies.iter().map(compile).collect::<Result<_, _>>().map(Self)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn evaluate(&self, head: &RequestHead, info: &StreamInfo) -> Hashed {
        let mut hashed = Hashed::default();
        for policy in &self.0 {
            if let Some(new) = policy.source.hash(head, info, &mut hashed.set_cookies) {
                // Rotating keeps two equal policies from cancelling each other out.
                hashed.hash = Some(hashed.hash.map_or(0, |old| old.rotate_left(1)) ^ new);
            }
            if policy.terminal && hashed.hash.is_some() {
                break;
            }
        }
        hashed
    }
}

impl Source {
    fn hash(&self, head: &RequestHead, info: &StreamInfo, set_cookies: &mut Vec<String>) -> Option<u64> {
        match self {
            Self::Header { name, rewrite: None } => hash_all(head.headers.all(name).collect()),
            Self::Header { name, rewrite: Some(rewrite) } => {
                let values: Vec<_> = head.headers.all(name).map(|value| rewrite.replace(value)).collect();
                hash_all(values.iter().map(Vec::as_slice).collect())
            }
            Self::Cookie(spec) => match cookie(&head.headers, &spec.name) {
                Some(value) if !value.is_empty() => Some(xxh64(value, 0)),
                _ => spec.ttl.map(|ttl| {
                    let value = new_cookie(info);
                    set_cookies.push(set_cookie(&spec.name, &value, ttl.as_secs(), &spec.path, &spec.attributes));
                    xxh64(value.as_bytes(), 0)
                }),
            },
            Self::Address => match &info.client {
                Address::Ip(address) => Some(xxh64(address.ip().to_string().as_bytes(), 0)),
                Address::Pipe(_) => None,
            },
            Self::QueryParameter(name) => query_parameter(head.query(), name).map(|value| xxh64(value.as_bytes(), 0)),
            Self::FilterState(key) => info.hashable(key).map(|text| xxh64(text.as_bytes(), 0)),
        }
    }
}

/// The hash of all values of a header, whatever their order; `None` when there are none.
fn hash_all(mut values: SmallVec<[&[u8]; 4]>) -> Option<u64> {
    if values.is_empty() {
        return None;
    }
    values.sort_unstable();
    Some(values.iter().fold(0, |seed, value| xxh64(value, seed)))
}

/// The same for all requests of a connection, so that streams that race get the same endpoint.
fn new_cookie(info: &StreamInfo) -> String {
    let addresses = format!("{}{}", info.connection.remote, info.connection.local);
    format!("{:016x}", xxh64(addresses.as_bytes(), 0))
}

#[cfg(test)]
mod tests;
