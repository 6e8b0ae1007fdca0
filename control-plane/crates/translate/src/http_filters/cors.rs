//! `cors` as envoy.filters.http.cors.

use cp_model::policy::{Cors, Origin};
use serde_json::{Value, json};

use super::idle as idle_filter;
use crate::build::{always, escape, set, typed};

pub(super) const NAME: &str = "envoy.filters.http.cors";

pub(super) fn idle() -> Value {
    idle_filter(NAME, "envoy.extensions.filters.http.cors.v3.Cors", json!({}))
}

pub(super) fn per_route(cors: &Cors) -> Value {
    let origin = |o: &Origin| match o {
        Origin::Any => json!({ "safe_regex": { "regex": ".*" } }),
        Origin::Exact(text) => json!({ "exact": text }),
        Origin::Wildcard(before, after) => {
            json!({ "safe_regex": { "regex": format!("{}[A-Za-z0-9.-]+{}", escape(before), escape(after)) } })
        }
    };
    let origins: Vec<Value> = cors.origins.iter().map(origin).collect();
    let mut policy = json!({ "allow_origin_string_match": origins, "filter_enabled": always() });
    let listed = |words: &[String]| (!words.is_empty()).then(|| words.join(", "));
    set(&mut policy, "allow_methods", listed(&cors.methods));
    set(&mut policy, "allow_headers", listed(&cors.headers));
    set(&mut policy, "expose_headers", listed(&cors.expose));
    set(&mut policy, "max_age", cors.max_age.map(|d| d.as_secs().to_string()));
    set(&mut policy, "allow_credentials", cors.credentials.then_some(true));
    typed("envoy.extensions.filters.http.cors.v3.CorsPolicy", policy)
}
