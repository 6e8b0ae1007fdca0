//! `cors`: which origins a browser may call us from.

use std::time::Duration;

use crate::node::Node;
use crate::problem::Code;
use crate::read::{Keys, Reader};
use crate::route::matching::method;

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cors {
    pub origins: Vec<Origin>,
    pub methods: Vec<String>,
    pub headers: Vec<String>,
    pub expose: Vec<String>,
    pub max_age: Option<Duration>,
    pub credentials: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Origin {
    Any,
    Exact(String),
    /// `https://*.example.com`, as what stands before and after the star.
    Wildcard(String, String),
}

pub(crate) fn cors(r: &mut Reader<'_>, node: &Node) -> Option<Cors> {
    const KEYS: Keys =
        Keys { known: &["origins", "methods", "headers", "expose", "max_age", "credentials"], not_yet: &[] };
    let fields = r.fields(node, KEYS)?;
    let words = |r: &mut Reader<'_>, n: &Node| Some(r.each(n, Reader::word));
    let cors = Cors {
        origins: r.required(&fields, "origins", |r, n| Some(r.each(n, origin)))?,
        methods: r.field(&fields, "methods", |r, n| Some(r.each(n, method))).unwrap_or_default(),
        headers: r.field(&fields, "headers", words).unwrap_or_default(),
        expose: r.field(&fields, "expose", words).unwrap_or_default(),
        max_age: r.field(&fields, "max_age", Reader::duration),
        credentials: r.field(&fields, "credentials", Reader::truth).unwrap_or(false),
    };
    if cors.credentials && cors.origins.contains(&Origin::Any) {
        r.wrong(node, Code::Conflict, "`credentials` with origin `*` would let every site act as the user");
    }
    Some(cors)
}

fn origin(r: &mut Reader<'_>, node: &Node) -> Option<Origin> {
    let text = r.word(node)?;
    if text == "*" {
        return Some(Origin::Any);
    }
    let scheme = text.starts_with("https://") || text.starts_with("http://");
    let host = text.split_once("://").map_or("", |(_, host)| host);
    if !scheme || host.is_empty() || host.contains('/') || host.matches('*').count() > 1 {
        r.wrong(node, Code::Value, format!("`{text}` is not an origin: write https://shop.example.com, no path"));
        return None;
    }
    Some(match text.split_once('*') {
        Some((before, after)) => Origin::Wildcard(before.to_owned(), after.to_owned()),
        None => Origin::Exact(text),
    })
}
