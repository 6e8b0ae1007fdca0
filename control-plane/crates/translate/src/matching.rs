//! What a route matches, as Envoy's RouteMatch.

use cp_model::route::{Match, PathMatch, Pattern, TextMatch};
use serde_json::{Value, json};

use crate::build::{escape, extension, set_list};

pub(crate) fn route_match(m: &Match) -> Value {
    let mut out = path(m.path.as_ref());
    let mut headers: Vec<Value> = m.headers.iter().map(|(name, text)| header(name, text)).collect();
    headers.extend(methods(&m.methods));
    set_list(&mut out, "headers", headers);
    set_list(&mut out, "query_parameters", m.query.iter().map(|(name, text)| query(name, text)).collect());
    out
}

pub(crate) fn path(path: Option<&PathMatch>) -> Value {
    match path {
        None => json!({ "prefix": "/" }),
        // `/api` must not match `/apix`; with a slash at the end there is no such doubt.
        Some(PathMatch::Prefix(p)) if !p.ends_with('/') => json!({ "path_separated_prefix": p }),
        Some(PathMatch::Prefix(p)) => json!({ "prefix": p }),
        Some(PathMatch::Exact(p)) => json!({ "path": p }),
        Some(PathMatch::Regex(r)) => json!({ "safe_regex": { "regex": r } }),
        Some(PathMatch::Template(t)) => json!({ "path_match_policy": extension(
            "envoy.path.match.uri_template.uri_template_matcher",
            "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
            json!({ "path_template": t }),
        ) }),
    }
}

pub(crate) fn header(name: &str, text: &TextMatch) -> Value {
    let mut out = json!({ "name": name });
    match pattern(&text.pattern) {
        Some(string) => out["string_match"] = string,
        None => out["present_match"] = true.into(),
    }
    if text.not {
        out["invert_match"] = true.into();
    }
    out
}

/// Envoy has no inverted query match, so "not" becomes a regular expression only where that is possible: presence.
pub(crate) fn query(name: &str, text: &TextMatch) -> Value {
    match pattern(&text.pattern) {
        Some(string) => json!({ "name": name, "string_match": string }),
        None => json!({ "name": name, "present_match": !text.not }),
    }
}

fn pattern(pattern: &Pattern) -> Option<Value> {
    Some(match pattern {
        Pattern::Exact(s) => json!({ "exact": s }),
        Pattern::Prefix(s) => json!({ "prefix": s }),
        Pattern::Suffix(s) => json!({ "suffix": s }),
        Pattern::Contains(s) => json!({ "contains": s }),
        Pattern::Regex(s) => json!({ "safe_regex": { "regex": s } }),
        Pattern::Present => return None,
    })
}

fn methods(methods: &[String]) -> Option<Value> {
    let string = match methods {
        [] => return None,
        [one] => json!({ "exact": one }),
        several => {
            let words: Vec<String> = several.iter().map(|m| escape(m)).collect();
            json!({ "safe_regex": { "regex": words.join("|") } })
        }
    };
    Some(json!({ "name": ":method", "string_match": string }))
}
