//! Policies: rules that listeners, routes and apis take on by name. One file per kind of rule.

use crate::node::Node;
use crate::problem::{Code, Place};
use crate::read::{Keys, Reader};
use crate::route::HeaderEdits;
use crate::route::action::both_headers;
use crate::value::Network;

pub mod compress;
pub mod cors;
pub mod fault;
pub mod rate_limit;
pub mod require;

pub use compress::{Algorithm, Compress};
pub use cors::{Cors, Origin};
pub use fault::Fault;
pub use rate_limit::RateLimit;
pub use require::Require;

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Policy {
    pub name: String,
    pub place: Place,
    /// Only these clients; empty = not limited.
    pub allow_ip: Vec<Network>,
    pub deny_ip: Vec<Network>,
    pub cors: Option<Cors>,
    pub require: Option<Require>,
    pub rate_limit: Option<RateLimit>,
    pub compress: Option<Compress>,
    pub fault: Option<Fault>,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    /// In bytes; a longer request body is answered with 413.
    pub body_limit: Option<u32>,
}

const KEYS: Keys = Keys {
    known: &["allow", "deny", "cors", "require", "rate_limit", "compress", "fault", "headers", "body_limit"],
    not_yet: &[
        "jwt",
        "oidc",
        "api_key",
        "basic_auth",
        "ext_authz",
        "ext_proc",
        "cache",
        "waf",
        "transform",
        "csrf",
        "quota",
        "geo",
    ],
};

pub(crate) fn policy(r: &mut Reader<'_>, name: &str, node: &Node) -> Option<Policy> {
    let fields = r.fields(node, KEYS)?;
    let (request_headers, response_headers) = r.field(&fields, "headers", both_headers).unwrap_or_default();
    let policy = Policy {
        name: name.to_owned(),
        place: r.place(node),
        allow_ip: r.field(&fields, "allow", addresses).unwrap_or_default(),
        deny_ip: r.field(&fields, "deny", addresses).unwrap_or_default(),
        cors: r.field(&fields, "cors", cors::cors),
        require: r.field(&fields, "require", require::require),
        rate_limit: r.field(&fields, "rate_limit", rate_limit::rate_limit),
        compress: r.field(&fields, "compress", compress::compress),
        fault: r.field(&fields, "fault", fault::fault),
        request_headers,
        response_headers,
        body_limit: r.field(&fields, "body_limit", body_limit),
    };
    Some(policy)
}

fn addresses(r: &mut Reader<'_>, node: &Node) -> Option<Vec<Network>> {
    const IP: Keys = Keys { known: &["ip"], not_yet: &["country", "asn", "client_certificate", "header"] };
    let fields = r.fields(node, IP)?;
    let networks = r.required(&fields, "ip", |r, n| Some(r.each(n, Reader::network)))?;
    if let Some(list) = fields.get("ip")
        && networks.is_empty()
    {
        r.at("ip", |r| r.wrong(list, Code::Shape, "names no address"));
    }
    Some(networks)
}

fn body_limit(r: &mut Reader<'_>, node: &Node) -> Option<u32> {
    let size = r.size(node)?;
    match u32::try_from(size) {
        Ok(size) if size > 0 => Some(size),
        _ => {
            r.wrong(node, Code::Value, "must be from 1B to 4GiB");
            None
        }
    }
}
