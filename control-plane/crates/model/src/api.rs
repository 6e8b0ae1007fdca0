//! Apis: one address, several versions, each with its own back end.

use crate::draft::Kind;
use crate::listener::policies;
use crate::node::{Node, Value};
use crate::problem::{Code, Place};
use crate::read::{Fields, Keys, Reader};
use crate::route::action::{PathRewrite, header_edits, path_rewrite};
use crate::route::matching::is_header_name;
use crate::route::{Destination, HeaderEdits, Match, PathMatch, Retry, destination};
use crate::value::Date;

#[derive(Debug, Clone, PartialEq)]
pub struct Api {
    pub name: String,
    pub place: Place,
    pub on: Vec<String>,
    pub matching: Match,
    /// Where the version of a request is looked for, in order; the first that says anything decides.
    pub version_by: Vec<VersionBy>,
    pub default_version: Option<String>,
    pub policies: Vec<String>,
    pub versions: Vec<Version>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum VersionBy {
    /// The segment after the api's path: `/orders/v2/...`.
    Path,
    Header(String),
    Query(String),
    /// `Accept: application/vnd.example.v2+json`.
    MediaType(String),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Version {
    pub name: String,
    pub to: Destination,
    pub policies: Vec<String>,
    pub path: Option<PathRewrite>,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    pub deprecated: Option<Date>,
    pub sunset: Option<Date>,
    pub docs: Option<String>,
    pub timeout: Option<std::time::Duration>,
    pub retry: Option<Retry>,
}

const KEYS: Keys = Keys {
    known: &["on", "match", "version_by", "default_version", "policies", "versions"],
    not_yet: &["openapi", "plans", "fallback_to_default"],
};

pub(crate) fn api(r: &mut Reader<'_>, name: &str, node: &Node) -> Option<Api> {
    let fields = r.fields(node, KEYS)?;
    let on = r.field(&fields, "on", |r, n| Some(r.each(n, |r, n| r.reference(n, Kind::Listener)))).unwrap_or_default();
    let matching = r.required(&fields, "match", crate::route::matching::matching);
    let version_by = r.field(&fields, "version_by", |r, n| Some(r.each(n, version_by))).unwrap_or_default();
    let policies = policies(r, &fields);
    let versions = r.required(&fields, "versions", |r, n| r.entries(n, version)).unwrap_or_default();
    let defined: Vec<&str> = match fields.get("versions").map(|n| &n.value) {
        Some(Value::Map(entries)) => entries.iter().map(|(k, _)| k.text.as_str()).collect(),
        _ => Vec::new(),
    };
    let default_version = r.field(&fields, "default_version", |r, n| {
        let version = r.word(n)?;
        if !defined.contains(&version.as_str()) {
            r.wrong(n, Code::Undefined, format!("version `{version}` is not defined"));
            r.hint(format!("versions: {}", defined.join(", ")));
        }
        Some(version)
    });
    checks(r, node, &fields, version_by.len(), defined.len());
    let matching = matching?;
    if version_by.contains(&VersionBy::Path) && !matches!(matching.path, Some(PathMatch::Prefix(_))) {
        r.wrong(node, Code::Conflict, "`version_by: path` needs `match: { path: /prefix/ }`");
    }
    let place = r.place(node);
    Some(Api { name: name.to_owned(), place, on, matching, version_by, default_version, policies, versions })
}

fn checks(r: &mut Reader<'_>, node: &Node, fields: &Fields<'_>, version_by: usize, versions: usize) {
    if fields.get("versions").is_some() && versions == 0 {
        r.wrong(node, Code::Shape, "an api needs at least one version");
    }
    if fields.get("version_by").is_none() && fields.get("default_version").is_none() {
        r.wrong(node, Code::Shape, "`version_by` or `default_version` is missing");
    }
    if version_by == 0 && versions > 1 && fields.get("version_by").is_none() {
        r.warn(node, "without `version_by` only the default version can be reached");
    }
}

fn version_by(r: &mut Reader<'_>, node: &Node) -> Option<VersionBy> {
    const KEYS: Keys = Keys { known: &["header", "query", "media_type"], not_yet: &["host", "cookie"] };
    if let Value::Scalar { .. } = node.value {
        r.choice(node, &[("path", ())])?;
        return Some(VersionBy::Path);
    }
    let fields = r.fields(node, KEYS)?;
    let header = r.field(&fields, "header", |r, n| {
        let name = r.word(n)?.to_ascii_lowercase();
        if !is_header_name(&name) {
            r.wrong(n, Code::Value, format!("`{name}` is not a header name"));
            return None;
        }
        Some(VersionBy::Header(name))
    });
    let query = r.field(&fields, "query", Reader::word).map(VersionBy::Query);
    let media_type = r.field(&fields, "media_type", Reader::word).map(VersionBy::MediaType);
    if KEYS.known.iter().filter(|k| fields.get(k).is_some()).count() != 1 {
        r.wrong(node, Code::Shape, "exactly one of header, query, media_type is needed");
    }
    header.or(query).or(media_type)
}

fn version(r: &mut Reader<'_>, name: &str, node: &Node) -> Option<Version> {
    const VERSION: Keys = Keys {
        known: &["to", "policies", "deprecated", "sunset", "docs", "request", "response", "timeout", "retry"],
        not_yet: &["mirror", "plans", "openapi"],
    };
    const REQUEST: Keys = Keys { known: &["path", "headers"], not_yet: &["body", "query"] };
    const RESPONSE: Keys = Keys { known: &["headers"], not_yet: &["body"] };
    const PATH: Keys = Keys { known: &["strip", "prefix", "regex", "template"], not_yet: &[] };
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) || name.is_empty() {
        r.wrong(node, Code::Value, format!("`{name}` is not a version name: letters, digits, `.`, `_` and `-`"));
    }
    if let Value::Scalar { .. } | Value::List(_) = node.value {
        return Some(Version::to(name, destination(r, node)?));
    }
    let fields = r.fields(node, VERSION)?;
    let to = r.required(&fields, "to", destination);
    let request = r.field(&fields, "request", |r, n| {
        let fields = r.fields(n, REQUEST)?;
        let path = r.field(&fields, "path", |r, n| {
            let fields = r.fields(n, PATH)?;
            path_rewrite(r, n, &fields)
        });
        Some((path, r.field(&fields, "headers", header_edits).unwrap_or_default()))
    });
    let response_headers = r.field(&fields, "response", |r, n| {
        let fields = r.fields(n, RESPONSE)?;
        r.field(&fields, "headers", header_edits)
    });
    let (path, request_headers) = request.unwrap_or_default();
    let policies = policies(r, &fields);
    let version = Version {
        name: name.to_owned(),
        policies,
        path,
        request_headers,
        response_headers: response_headers.unwrap_or_default(),
        deprecated: r.field(&fields, "deprecated", Reader::date),
        sunset: r.field(&fields, "sunset", Reader::date),
        docs: r.field(&fields, "docs", Reader::word),
        timeout: r.field(&fields, "timeout", Reader::duration),
        retry: r.field(&fields, "retry", crate::route::retry::retry),
        to: to?,
    };
    if let (Some(deprecated), Some(sunset)) = (version.deprecated, version.sunset)
        && sunset < deprecated
    {
        r.wrong(node, Code::Conflict, "`sunset` is before `deprecated`");
    }
    Some(version)
}

impl Version {
    fn to(name: &str, to: Destination) -> Self {
        Version {
            name: name.to_owned(),
            to,
            policies: Vec::new(),
            path: None,
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
            deprecated: None,
            sunset: None,
            docs: None,
            timeout: None,
            retry: None,
        }
    }
}
