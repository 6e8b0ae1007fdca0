//! `/config_dump`: picking parts, resources by name and fields, and blotting secrets out.
//!
//! Pure: JSON in, JSON out.

use regex::Regex;
use serde_json::{Map, Value, json};

/// What of the dump is wanted.
#[derive(Debug, Default)]
pub(crate) struct Wanted<'a> {
    /// A field of a part, such as `dynamic_listeners`.
    pub(crate) resource: Option<&'a str>,
    /// Paths of fields, separated by commas.
    pub(crate) mask: Option<&'a str>,
    pub(crate) name_regex: Option<Regex>,
}

/// The dump; `None` when no part has the resource.
pub(crate) fn dump(parts: Vec<Value>, wanted: &Wanted<'_>) -> Option<Value> {
    let mut configs = match wanted.resource {
        None => parts,
        Some(resource) => {
            let lists: Vec<Value> =
                parts.into_iter().filter_map(|mut part| part.get_mut(resource).map(Value::take)).collect();
            if lists.is_empty() {
                return None;
            }
            lists.into_iter().flat_map(into_items).collect()
        }
    };
    if let Some(regex) = &wanted.name_regex {
        if wanted.resource.is_some() {
            configs.retain(|item| is_named(item, regex));
        } else {
            configs.iter_mut().for_each(|part| retain_named(part, regex));
        }
    }
    if let Some(mask) = wanted.mask {
        let paths: Vec<Vec<&str>> = mask.split(',').map(|path| path.trim().split('.').collect()).collect();
        configs = configs.iter().map(|config| masked(config, &paths)).collect();
    }
    configs.iter_mut().for_each(|config| redact(config, false));
    Some(json!({ "configs": configs }))
}

fn into_items(list: Value) -> Vec<Value> {
    match list {
        Value::Array(items) => items,
        one => vec![one],
    }
}

/// Keeps the resources with a matching name in every list of a part.
fn retain_named(part: &mut Value, regex: &Regex) {
    for list in part.as_object_mut().into_iter().flat_map(Map::values_mut) {
        if let Value::Array(items) = list {
            items.retain(|item| is_named(item, regex));
        }
    }
}

/// A resource's name is its own, or that of what it wraps (`listener`, `cluster`, `active_state.listener`).
fn is_named(item: &Value, regex: &Regex) -> bool {
    let name =
        |value: &Value| ["name", "cluster_name"].iter().find_map(|key| Some(value.get(key)?.as_str()?.to_owned()));
    let children =
        |value: &Value| -> Vec<Value> { value.as_object().map(|o| o.values().cloned().collect()).unwrap_or_default() };
    let wrapped = children(item);
    let inner = item.get("active_state").map(children).unwrap_or_default();
    let mut names = std::iter::once(item).chain(&wrapped).chain(&inner).filter_map(name);
    names.any(|name| regex.is_match(&name))
}

/// Only the fields on these paths; lists are gone through element by element. `@type` stays.
fn masked(value: &Value, paths: &[Vec<&str>]) -> Value {
    match value {
        Value::Array(items) => items.iter().map(|item| masked(item, paths)).collect(),
        Value::Object(fields) => {
            let mut kept = Map::new();
            for (name, field) in fields {
                let below: Vec<Vec<&str>> = paths
                    .iter()
                    .filter(|path| path.first() == Some(&name.as_str()))
                    .map(|path| path[1..].to_vec())
                    .collect();
                if name == "@type" || below.iter().any(Vec::is_empty) {
                    kept.insert(name.clone(), field.clone());
                } else if !below.is_empty() {
                    kept.insert(name.clone(), masked(field, &below));
                }
            }
            Value::Object(kept)
        }
        other => other.clone(),
    }
}

/// The fields of Envoy's messages that carry secrets.
const SECRET: [&str; 10] = [
    "private_key",
    "password",
    "session_ticket_keys",
    "keys",
    "generic_secret",
    "secret",
    "secrets",
    "token_secret",
    "hmac_secret",
    "inline_password",
];

/// Blots out the bytes and texts within secrets, as Envoy does.
fn redact(value: &mut Value, within: bool) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| redact(item, within)),
        Value::Object(fields) => {
            for (name, field) in fields {
                match name.as_str() {
                    "inline_string" if within => *field = "[redacted]".into(),
                    // The same in base64.
                    "inline_bytes" if within => *field = "W3JlZGFjdGVkXQ==".into(),
                    "password" | "inline_password" if field.is_string() => *field = "[redacted]".into(),
                    name => redact(field, within || SECRET.contains(&name)),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Vec<Value> {
        vec![
            json!({ "@type": "L", "version_info": "1", "dynamic_listeners": [
                { "name": "a", "active_state": { "listener": { "name": "a", "address": 1 } } },
                { "name": "b", "active_state": { "listener": { "name": "b", "address": 2 } } } ] }),
            json!({ "@type": "R", "static_route_configs": [{ "route_config": { "name": "routes" } }] }),
        ]
    }

    #[track_caller]
    fn check(wanted: Wanted<'_>, expected: Value) {
        assert_eq!(dump(parts(), &wanted), Some(json!({ "configs": expected })));
    }

    #[test]
    fn a_resource_a_name_and_a_mask_narrow_the_dump() {
        let regex = |text| Some(Regex::new(text).unwrap());
        check(Wanted::default(), json!(parts()));
        let routes = Wanted { resource: Some("static_route_configs"), name_regex: regex("^rou"), ..Wanted::default() };
        check(routes, json!([{ "route_config": { "name": "routes" } }]));
        let b = Wanted {
            resource: Some("dynamic_listeners"),
            name_regex: regex("b"),
            mask: Some("name,active_state.listener.address"),
        };
        check(b, json!([{ "name": "b", "active_state": { "listener": { "address": 2 } } }]));
        let none = Wanted { name_regex: regex("nothing"), ..Wanted::default() };
        check(
            none,
            json!([{ "@type": "L", "version_info": "1", "dynamic_listeners": [] }, { "@type": "R", "static_route_configs": [] }]),
        );
        assert_eq!(dump(parts(), &Wanted { resource: Some("x"), ..Wanted::default() }), None);
    }

    #[test]
    fn secrets_are_blotted_out_and_certificates_are_not() {
        let certificate = json!({ "tls_certificate": {
            "certificate_chain": { "inline_string": "public" },
            "private_key": { "inline_bytes": "c2VjcmV0" },
            "password": { "inline_string": "secret" } },
            "generic_secret": { "secret": { "inline_string": "secret" } },
            "session_ticket_keys": { "keys": [{ "inline_bytes": "c2VjcmV0" }] } });
        let shown = dump(vec![certificate], &Wanted::default()).unwrap().to_string();
        assert!(shown.contains("public") && !shown.contains("\"secret\"}") && !shown.contains("c2VjcmV0"), "{shown}");
        assert_eq!(shown.matches("redacted").count() + shown.matches("W3JlZGFjdGVkXQ==").count(), 4);
    }
}
