//! The generic matcher: a tree of comparisons with actions at its leaves.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use dp_format::query::parameter as query_parameter;
use dp_http::info::{Address, PeerCertificate};
use dp_http::{RequestHead, StreamInfo};
use shared_config::http_filter::rbac::{self, Action, Branches, Input, Test};

use super::attributes::Expression;
use crate::matching::Source;

pub(crate) struct Matcher {
    branches: Tree,
    on_no_match: Option<Box<OnMatch>>,
}

enum Tree {
    List(Box<[(Predicate, OnMatch)]>),
    Exact(Value, BTreeMap<String, OnMatch>),
    Prefix(Value, BTreeMap<String, OnMatch>),
}

enum OnMatch {
    Matcher(Matcher),
    Action(String, Action),
}

enum Predicate {
    Value(Value, Test),
    Expression(Expression),
    Any(Box<[Predicate]>),
    All(Box<[Predicate]>),
    Not(Box<Predicate>),
}

enum Value {
    Header(Source),
    Other(Input),
}

impl Matcher {
    pub(super) fn compile(matcher: &rbac::Matcher) -> Self {
        let map = |map: &BTreeMap<String, rbac::OnMatch>| {
            map.iter().map(|(key, on)| (key.clone(), OnMatch::compile(on))).collect()
        };
        let branches = match &matcher.branches {
            Branches::List(list) => Tree::List(
                list.iter().map(|(predicate, on)| (Predicate::compile(predicate), OnMatch::compile(on))).collect(),
            ),
            Branches::Exact(input, exact) => Tree::Exact(Value::compile(input), map(exact)),
            Branches::Prefix(input, prefix) => Tree::Prefix(Value::compile(input), map(prefix)),
        };
        let on_no_match = matcher.on_no_match.as_deref().map(|on| Box::new(OnMatch::compile(on)));
        Self { branches, on_no_match }
    }

    /// The name and action of the leaf that a request comes to.
    pub(super) fn find(&self, info: &StreamInfo, head: &RequestHead) -> Option<(&str, Action)> {
        let branch = match &self.branches {
            Tree::List(list) => list.iter().find(|(predicate, _)| predicate.matches(info, head)).map(|(_, on)| on),
            Tree::Exact(value, map) => value.text(info, head).and_then(|text| map.get(&*text)),
            Tree::Prefix(value, map) => value.text(info, head).and_then(|text| {
                // Longer prefixes of one text sort after shorter ones.
                map.iter().rev().find(|(prefix, _)| text.starts_with(prefix.as_str())).map(|(_, on)| on)
            }),
        };
        match branch.or(self.on_no_match.as_deref())? {
            OnMatch::Action(name, action) => Some((name, *action)),
            OnMatch::Matcher(matcher) => matcher.find(info, head),
        }
    }
}

impl OnMatch {
    fn compile(on: &rbac::OnMatch) -> Self {
        match on {
            rbac::OnMatch::Matcher(matcher) => Self::Matcher(Matcher::compile(matcher)),
            rbac::OnMatch::Action { name, action } => Self::Action(name.clone(), *action),
        }
    }
}

impl Predicate {
    fn compile(predicate: &rbac::Predicate) -> Self {
        let each = |list: &[rbac::Predicate]| list.iter().map(Self::compile).collect();
        match predicate {
            rbac::Predicate::Single(_, Test::Cel(cel)) => Self::Expression(Expression::compile(cel)),
            rbac::Predicate::Single(input, test) => Self::Value(Value::compile(input), test.clone()),
            rbac::Predicate::Any(list) => Self::Any(each(list)),
            rbac::Predicate::All(list) => Self::All(each(list)),
            rbac::Predicate::Not(one) => Self::Not(Box::new(Self::compile(one))),
        }
    }

    fn matches(&self, info: &StreamInfo, head: &RequestHead) -> bool {
        match self {
            Self::Value(value, Test::Text(text)) => {
                value.text(info, head).is_some_and(|value| text.matches(value.as_bytes()))
            }
            Self::Value(value, Test::Ip(ranges)) => {
                let ip = value.text(info, head).and_then(|text| text.parse::<IpAddr>().ok());
                ip.is_some_and(|ip| ranges.iter().any(|range| range.contains(&ip)))
            }
            // Compiled to `Expression`.
            Self::Value(_, Test::Cel(_)) => false,
            Self::Expression(expression) => expression.is_true(info, head),
            Self::Any(list) => list.iter().any(|one| one.matches(info, head)),
            Self::All(list) => list.iter().all(|one| one.matches(info, head)),
            Self::Not(one) => !one.matches(info, head),
        }
    }
}

impl Value {
    fn compile(input: &Input) -> Self {
        match input {
            Input::RequestHeader(name) => Self::Header(Source::new(name)),
            other => Self::Other(other.clone()),
        }
    }

    fn text<'a>(&self, info: &'a StreamInfo, head: &'a RequestHead) -> Option<Cow<'a, str>> {
        let connection = &info.connection;
        let peer = || connection.tls.as_ref().and_then(|tls| tls.peer.as_deref());
        let joined = |names: fn(&PeerCertificate) -> &Vec<String>| {
            peer().map(|certificate| names(certificate).join(",").into()).filter(|text: &Cow<'_, str>| !text.is_empty())
        };
        let ip = |address: &Address| address.ip().map(|ip| ip.to_string().into());
        let port = |address: &Address| address.port().map(|port| port.to_string().into());
        match self {
            Self::Header(source) => match source.value(head)? {
                Cow::Borrowed(value) => std::str::from_utf8(value).ok().map(Cow::Borrowed),
                Cow::Owned(value) => String::from_utf8(value).ok().map(Cow::Owned),
            },
            Self::Other(Input::QueryParameter(name)) => query_parameter(head.query(), name),
            Self::Other(Input::DestinationIp) => ip(&connection.local),
            Self::Other(Input::DestinationPort) => port(&connection.local),
            Self::Other(Input::SourceIp) => ip(&info.client),
            Self::Other(Input::SourcePort) => port(&info.client),
            Self::Other(Input::DirectSourceIp) => ip(&connection.direct_remote),
            Self::Other(Input::ServerName) => connection.requested_server_name.as_deref().map(Cow::Borrowed),
            Self::Other(Input::UriSan) => joined(|certificate| &certificate.uri_sans),
            Self::Other(Input::DnsSan) => joined(|certificate| &certificate.dns_sans),
            Self::Other(Input::Subject) => peer().map(|certificate| certificate.subject.as_str().into()),
            // Headers are `Header`, and attributes only stand before an expression.
            Self::Other(Input::RequestHeader(_) | Input::Attributes) => None,
        }
    }
}
