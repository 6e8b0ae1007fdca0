//! `rate_limit`: how many requests each proxy lets through.

use crate::node::{Node, Value};
use crate::problem::Code;
use crate::read::{Keys, Reader};
use crate::value::Rate;

#[derive(Debug, Clone, PartialEq)]
pub struct RateLimit {
    pub limit: Rate,
    /// Requests that may come at once; at least the count of `limit` when not given.
    pub burst: u32,
}

pub(crate) fn rate_limit(r: &mut Reader<'_>, node: &Node) -> Option<RateLimit> {
    const KEYS: Keys = Keys { known: &["limit", "burst", "scope"], not_yet: &["per", "tiers", "headers", "key"] };
    if let Value::Scalar { .. } = node.value {
        let limit = r.rate(node)?;
        return Some(RateLimit { limit, burst: limit.count });
    }
    let fields = r.fields(node, KEYS)?;
    if let Some(scope) = fields.get("scope") {
        r.at("scope", |r| {
            if r.choice(scope, &[("local", true), ("fleet", false)]) == Some(false) {
                r.wrong(scope, Code::NotYet, "scope `fleet` is not implemented yet");
            }
        });
    }
    let burst = r.field(&fields, "burst", |r, n| r.number(n, 1..=u32::MAX));
    if fields.get("limit").is_none() && fields.get("tiers").is_some() {
        return None;
    }
    let limit = r.required(&fields, "limit", Reader::rate)?;
    Some(RateLimit { limit, burst: burst.unwrap_or(limit.count) })
}
