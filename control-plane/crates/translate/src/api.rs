//! An api as routes: one for each place a version can be named in, and each version.

use std::time::{Duration, UNIX_EPOCH};

use cp_model::api::{Api, Version, VersionBy};
use cp_model::route::{Forward, Match, PathMatch, Pattern, Rewrite, TextMatch};
use cp_model::value::Date;
use serde_json::{Value, json};

use crate::build::escape;
use crate::matching::route_match;
use crate::route::{Entry, Maker};

pub(crate) fn routes(maker: &mut Maker<'_>, api: &Api, out: &mut Vec<Entry>) {
    for by in &api.version_by {
        for version in &api.versions {
            let (matching, extra) = matching(api, by, &version.name);
            push(maker, api, version, &matching, extra, out);
        }
        // The place says a version, and it is none of ours. A path segment may be anything, so it says nothing then.
        if let Some(unknown) = any_version(api, by) {
            let name = format!("{}/unknown-version", api.name);
            let body = json!({ "inline_string": "unknown version\n" });
            let value = json!({ "name": name, "match": unknown, "direct_response": { "status": 404, "body": body } });
            out.push(Entry { hosts: api.matching.hosts.clone(), value });
        }
    }
    if let Some(version) = api.versions.iter().find(|v| Some(&v.name) == api.default_version.as_ref()) {
        push(maker, api, version, &api.matching, None, out);
    }
}

/// The match of one version, and a header matcher the model has no word for.
fn matching(api: &Api, by: &VersionBy, version: &str) -> (Match, Option<Value>) {
    let mut matching = api.matching.clone();
    let exact = || TextMatch { pattern: Pattern::Exact(version.to_owned()), not: false };
    match by {
        VersionBy::Path => {
            matching.path = api.matching.path.as_ref().map(|path| match path {
                PathMatch::Prefix(prefix) => PathMatch::Prefix(format!("{}/{version}", prefix.trim_end_matches('/'))),
                other => other.clone(),
            });
        }
        VersionBy::Header(name) => matching.headers.push((name.clone(), exact())),
        VersionBy::Query(name) => matching.query.push((name.clone(), exact())),
        VersionBy::MediaType(media_type) => return (matching, Some(accept(media_type, &escape(version)))),
    }
    (matching, None)
}

/// `application/vnd.example.v2`, `application/vnd.example.v2+json`, anywhere in `accept`.
fn accept(media_type: &str, version: &str) -> Value {
    let regex = format!(".*{}\\.{version}(\\+[a-z0-9.-]+)?( *[;,].*)?", escape(media_type));
    json!({ "name": "accept", "string_match": { "safe_regex": { "regex": regex } } })
}

fn any_version(api: &Api, by: &VersionBy) -> Option<Value> {
    let mut matching = api.matching.clone();
    let present = || TextMatch { pattern: Pattern::Present, not: false };
    match by {
        VersionBy::Path => return None,
        VersionBy::Header(name) => matching.headers.push((name.clone(), present())),
        VersionBy::Query(name) => matching.query.push((name.clone(), present())),
        VersionBy::MediaType(media_type) => {
            let mut value = route_match(&matching);
            add_header(&mut value, accept(media_type, "[A-Za-z0-9_-]+"));
            return Some(value);
        }
    }
    Some(route_match(&matching))
}

fn add_header(route_match: &mut Value, header: Value) {
    match route_match.get_mut("headers").and_then(Value::as_array_mut) {
        Some(headers) => headers.push(header),
        None => route_match["headers"] = json!([header]),
    }
}

fn push(
    maker: &mut Maker<'_>,
    api: &Api,
    version: &Version,
    matching: &Match,
    extra: Option<Value>,
    out: &mut Vec<Entry>,
) {
    let mut forward = Forward::to(version.to.clone());
    forward.timeout = version.timeout;
    forward.retry.clone_from(&version.retry);
    forward.rewrite = Rewrite { path: version.path.clone(), host: None };
    let mut route_match = route_match(matching);
    if let Some(header) = extra {
        add_header(&mut route_match, header);
    }
    let action = maker.forward(&forward, matching.path.as_ref());
    let name = format!("{}/{}", api.name, version.name);
    let mut value = json!({ "name": name, "match": route_match, "route": action });
    let mut down = version.response_headers.clone();
    down.set.extend(lifecycle(version));
    let mut effective = maker.effective(api.policies.iter().chain(&version.policies));
    maker.affinity(&version.to, &mut effective);
    maker.dress(&mut value, &effective, &version.request_headers, &down);
    out.push(Entry { hosts: api.matching.hosts.clone(), value });
}

/// RFC 9745 and RFC 8594.
fn lifecycle(version: &Version) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    if let Some(Date { unix }) = version.deprecated {
        headers.push(("deprecation".to_owned(), format!("@{unix}")));
    }
    if let Some(date) = version.sunset {
        headers.push(("sunset".to_owned(), http_date(date)));
    }
    if let Some(docs) = &version.docs {
        headers.push(("link".to_owned(), format!("<{docs}>; rel=\"deprecation\"")));
    }
    headers
}

/// IMF-fixdate at midnight: `Mon, 01 Mar 2027 00:00:00 GMT`. The model takes dates from 1970 to 9999 only.
fn http_date(date: Date) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(date.unix.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_http_wants_them() {
        for (text, expected) in [
            ("1970-01-01", "Thu, 01 Jan 1970 00:00:00 GMT"),
            ("2027-03-01", "Mon, 01 Mar 2027 00:00:00 GMT"),
            ("2024-02-29", "Thu, 29 Feb 2024 00:00:00 GMT"),
            ("2026-12-31", "Thu, 31 Dec 2026 00:00:00 GMT"),
        ] {
            assert_eq!(http_date(cp_model::value::date(text).expect("a date")), expected);
        }
    }
}
