//! Permissions and principals: one comparison each, and their combinations.

use dp_http::info::{Address, PeerCertificate};
use dp_http::{RequestHead, StreamInfo};
use ipnet::IpNet;
use shared_config::http_filter::rbac;
use shared_config::matcher::StringMatcher;

use crate::matching::HeaderMatch;

pub(super) enum Rule {
    All(Box<[Rule]>),
    Any(Box<[Rule]>),
    Not(Box<Rule>),
    Header(Box<HeaderMatch>),
    /// What needs no compiling.
    Plain(Box<rbac::Rule>),
}

impl Rule {
    pub(super) fn compile(rule: &rbac::Rule) -> Self {
        match rule {
            rbac::Rule::All(rules) => Self::All(rules.iter().map(Self::compile).collect()),
            rbac::Rule::Any(rules) => Self::Any(rules.iter().map(Self::compile).collect()),
            rbac::Rule::Not(rule) => Self::Not(Box::new(Self::compile(rule))),
            rbac::Rule::Header(header) => Self::Header(Box::new(HeaderMatch::new(header))),
            plain => Self::Plain(Box::new(plain.clone())),
        }
    }

    pub(super) fn matches(&self, info: &StreamInfo, head: &RequestHead) -> bool {
        match self {
            Self::All(rules) => rules.iter().all(|rule| rule.matches(info, head)),
            Self::Any(rules) => rules.iter().any(|rule| rule.matches(info, head)),
            Self::Not(rule) => !rule.matches(info, head),
            Self::Header(header) => header.matches(head),
            Self::Plain(rule) => is_met(rule, info, head),
        }
    }
}

fn is_met(rule: &rbac::Rule, info: &StreamInfo, head: &RequestHead) -> bool {
    let connection = &info.connection;
    match rule {
        rbac::Rule::Always => true,
        rbac::Rule::UrlPath(text) => text.matches(head.path_only().as_bytes()),
        rbac::Rule::DestinationIp(range) => is_in(*range, &connection.local),
        rbac::Rule::DestinationPort(ports) => connection.local.port().is_some_and(|port| ports.contains(&port.into())),
        rbac::Rule::RequestedServerName(text) => {
            text.matches(connection.requested_server_name.as_deref().unwrap_or_default().as_bytes())
        }
        rbac::Rule::Authenticated(name) => {
            let certificate = connection.tls.as_ref().and_then(|tls| tls.peer.as_deref());
            certificate.is_some_and(|c| name.as_ref().is_none_or(|name| has_name(c, name)))
        }
        rbac::Rule::SourceIp(range) => is_in(*range, &connection.remote),
        rbac::Rule::DirectRemoteIp(range) => is_in(*range, &connection.direct_remote),
        rbac::Rule::RemoteIp(range) => is_in(*range, &info.client),
        rbac::Rule::FilterState { key, text } => {
            info.filter_object(key).is_some_and(|object| text.matches(object.text.as_bytes()))
        }
        // These were compiled to variants of their own.
        rbac::Rule::All(_) | rbac::Rule::Any(_) | rbac::Rule::Not(_) | rbac::Rule::Header(_) => false,
    }
}

pub(super) fn is_in(range: IpNet, address: &Address) -> bool {
    address.ip().is_some_and(|ip| range.contains(&ip))
}

/// A URI name, a DNS name, or the subject.
fn has_name(certificate: &PeerCertificate, name: &StringMatcher) -> bool {
    certificate.uri_sans.iter().chain(&certificate.dns_sans).any(|san| name.matches(san.as_bytes()))
        || name.matches(certificate.subject.as_bytes())
}
