//! `allow`, `deny` and `require` as envoy.filters.http.rbac: one rule that must match, all parts and-ed.

use cp_model::value::Network;
use serde_json::{Value, json};

use super::{Effective, idle as idle_filter};
use crate::build::{network, set, typed};
use crate::cel;

pub(super) const NAME: &str = "envoy.filters.http.rbac";

pub(super) fn idle() -> Value {
    idle_filter(NAME, "envoy.extensions.filters.http.rbac.v3.RBAC", json!({}))
}

pub(super) fn per_route(effective: &Effective<'_>) -> Value {
    let any_of = |list: &mut dyn Iterator<Item = &Network>| {
        let ids: Vec<Value> = list.map(|n| json!({ "remote_ip": network(n) })).collect();
        json!({ "or_ids": { "ids": ids } })
    };
    let mut ids: Vec<Value> = effective.allow.iter().map(|list| any_of(&mut list.iter())).collect();
    if !effective.deny.is_empty() {
        ids.push(json!({ "not_id": any_of(&mut effective.deny.iter().copied()) }));
    }
    let principal = match ids.len() {
        0 => json!({ "any": true }),
        1 => ids.remove(0),
        _ => json!({ "and_ids": { "ids": ids } }),
    };
    let mut policy = json!({ "permissions": [{ "any": true }], "principals": [principal] });
    set(&mut policy, "condition", cel::all(&effective.require));
    let rules = json!({ "action": "ALLOW", "policies": { "weir": policy } });
    typed("envoy.extensions.filters.http.rbac.v3.RBACPerRoute", json!({ "rbac": { "rules": rules } }))
}
