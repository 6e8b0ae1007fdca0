//! `envoy.extensions.filters.http.rbac.v3`: who may do what.
//!
//! Rules and matchers only say what to compare; the comparing is in the data plane.

use std::collections::BTreeMap;

use ipnet::IpNet;
use proto::envoy::config::rbac::v3 as pb;
use proto::envoy::extensions::filters::http::rbac::v3 as filter;

use super::Decode;
use crate::core;
use crate::invalid::Problems;
use crate::matcher::{HeaderMatcher, StringMatcher};
use crate::refuse_set;

mod cel;
mod layer4;
pub(crate) mod matcher;

pub use cel::Cel;
pub(crate) use layer4::decode as decode_layer4;
pub use matcher::{Branches, Input, Matcher, OnMatch, Predicate, Test};

/// How deeply rules and expressions may be nested.
const MAX_DEPTH: usize = 32;

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Config {
    /// `None` lets everything pass.
    pub engine: Option<Engine>,
    /// Its verdict is only noted, in the metadata of the stream.
    pub shadow_engine: Option<Engine>,
    /// Stands before the names of that metadata, and of its statistics.
    pub shadow_rules_stat_prefix: String,
    /// Stands before the names of the statistics of `engine`.
    pub rules_stat_prefix: String,
}

/// `None` switches the filter off.
pub type Override = PerRoute;

#[derive(Debug, Clone, PartialEq)]
pub struct PerRoute(pub Option<Config>);

#[derive(Debug, Clone, PartialEq)]
pub enum Engine {
    Policies { action: Action, policies: BTreeMap<String, Policy> },
    Matcher(Matcher),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Allow,
    Deny,
    /// Allow, and ask for a log entry when it matches.
    Log,
}

/// Matches when one of the permissions, one of the principals and the condition match.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    pub permissions: Vec<Rule>,
    pub principals: Vec<Rule>,
    pub condition: Option<Cel>,
}

/// A permission or a principal.
#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    All(Vec<Rule>),
    Any(Vec<Rule>),
    Not(Box<Rule>),
    Always,
    Header(HeaderMatcher),
    /// The path without its query.
    UrlPath(StringMatcher),
    DestinationIp(IpNet),
    /// `start..end`.
    DestinationPort(std::ops::Range<u32>),
    RequestedServerName(StringMatcher),
    /// A client certificate, with this in a URI or DNS name or the subject.
    Authenticated(Option<StringMatcher>),
    /// The address of the connection, after the PROXY protocol.
    SourceIp(IpNet),
    /// The address of the socket.
    DirectRemoteIp(IpNet),
    /// The address of the client, after trusted proxies.
    RemoteIp(IpNet),
    FilterState {
        key: String,
        text: StringMatcher,
    },
}

// === decode ===

impl Decode for Config {
    type Proto = filter::Rbac;

    fn decode(proto: &filter::Rbac, p: &mut Problems) -> Option<Self> {
        let before = p.count();
        refuse_set!(p, proto; track_per_rule_stats);
        let (rules, matcher) = (proto.rules.as_ref(), proto.matcher.as_ref());
        let engine = decode_engine(("rules", rules), ("matcher", matcher), p);
        let (rules, matcher) = (proto.shadow_rules.as_ref(), proto.shadow_matcher.as_ref());
        let shadow_engine = decode_engine(("shadow_rules", rules), ("shadow_matcher", matcher), p);
        let config = Self {
            engine,
            shadow_engine,
            shadow_rules_stat_prefix: proto.shadow_rules_stat_prefix.clone(),
            rules_stat_prefix: proto.rules_stat_prefix.clone(),
        };
        (p.count() == before).then_some(config)
    }
}

impl Decode for PerRoute {
    type Proto = filter::RbacPerRoute;

    fn decode(proto: &filter::RbacPerRoute, p: &mut Problems) -> Option<Self> {
        match &proto.rbac {
            Some(rbac) => Some(Self(Some(p.at("rbac", |p| Config::decode(rbac, p))?))),
            None => Some(Self(None)),
        }
    }
}

/// Decodes rules or a matcher, whichever is there.
fn decode_engine(
    (rules_name, rules): (&str, Option<&pb::Rbac>),
    (name, matcher): (&str, Option<&proto::xds::r#type::matcher::v3::Matcher>),
    p: &mut Problems,
) -> Option<Engine> {
    match (rules, matcher) {
        (_, Some(matcher)) => {
            if rules.is_some() {
                p.at(rules_name, |p| p.refuse(format!("has no effect beside {name}")));
            }
            p.at(name, |p| matcher::decode(matcher, matcher::action_leaf, 0, p)).map(Engine::Matcher)
        }
        (Some(rules), None) => p.at(rules_name, |p| decode_rules(rules, p)),
        (None, None) => None,
    }
}

pub(crate) fn decode_action(number: i32, p: &mut Problems) -> Option<Action> {
    match pb::rbac::Action::try_from(number) {
        Ok(pb::rbac::Action::Allow) => Some(Action::Allow),
        Ok(pb::rbac::Action::Deny) => Some(Action::Deny),
        Ok(pb::rbac::Action::Log) => Some(Action::Log),
        Err(_) => p.refuse_at("action", format!("unknown value {number}")),
    }
}

fn decode_rules(proto: &pb::Rbac, p: &mut Problems) -> Option<Engine> {
    p.unimplemented_if("audit_logging_options", proto.audit_logging_options.is_some());
    let action = decode_action(proto.action, p);
    let policies = p.at("policies", |p| {
        let each = proto.policies.iter();
        each.filter_map(|(name, policy)| Some((name.clone(), p.index(name, |p| decode_policy(policy, p))?))).collect()
    });
    Some(Engine::Policies { action: action?, policies })
}

fn decode_policy(proto: &pb::Policy, p: &mut Problems) -> Option<Policy> {
    let before = p.count();
    p.unimplemented_if("cel_config", proto.cel_config.is_some());
    for (name, is_empty) in [("permissions", proto.permissions.is_empty()), ("principals", proto.principals.is_empty())]
    {
        if is_empty {
            p.at(name, |p| p.refuse("empty"));
        }
    }
    let condition = match (&proto.condition, &proto.checked_condition) {
        (Some(_), Some(_)) => p.refuse_at("checked_condition", "may not be set beside condition")?,
        (Some(expr), None) => Some(p.at("condition", |p| cel::decode(expr, p))?),
        (None, Some(checked)) => {
            let expr = checked.expr.clone().unwrap_or_default();
            Some(p.at("checked_condition.expr", |p| cel::decode(&expr, p))?)
        }
        (None, None) => None,
    };
    let policy = Policy {
        permissions: p.each("permissions", &proto.permissions, |p, rule| decode_permission(rule, 0, p)),
        principals: p.each("principals", &proto.principals, |p, rule| decode_principal(rule, 0, p)),
        condition,
    };
    (p.count() == before).then_some(policy)
}

fn is_too_deep(depth: usize, p: &mut Problems) -> bool {
    if depth > MAX_DEPTH {
        p.refuse(format!("nested more than {MAX_DEPTH} deep"));
    }
    depth > MAX_DEPTH
}

fn decode_any(any: bool, p: &mut Problems) -> Option<Rule> {
    if any { Some(Rule::Always) } else { p.refuse_at("any", "must be true") }
}

fn path(proto: &proto::envoy::r#type::matcher::v3::PathMatcher, p: &mut Problems) -> Option<Rule> {
    use proto::envoy::r#type::matcher::v3::path_matcher::Rule as Path;
    match &proto.rule {
        Some(Path::Path(text)) => p.at("path", |p| StringMatcher::decode(text, p)).map(Rule::UrlPath),
        None => p.refuse_at("path", "required"),
    }
}

fn decode_permission(proto: &pb::Permission, depth: usize, p: &mut Problems) -> Option<Rule> {
    use pb::permission::Rule as P;
    if is_too_deep(depth, p) {
        return None;
    }
    let set = |name: &str, set: &pb::permission::Set, p: &mut Problems| {
        p.at(name, |p| {
            if set.rules.is_empty() {
                p.at("rules", |p| p.refuse("empty"));
            }
            p.each("rules", &set.rules, |p, rule| decode_permission(rule, depth + 1, p))
        })
    };
    match proto.rule.as_ref() {
        Some(P::AndRules(rules)) => Some(Rule::All(set("and_rules", rules, p))),
        Some(P::OrRules(rules)) => Some(Rule::Any(set("or_rules", rules, p))),
        Some(P::NotRule(rule)) => {
            p.at("not_rule", |p| decode_permission(rule, depth + 1, p)).map(|rule| Rule::Not(Box::new(rule)))
        }
        Some(P::Any(any)) => decode_any(*any, p),
        Some(P::Header(header)) => p.at("header", |p| HeaderMatcher::decode(header, p)).map(Rule::Header),
        Some(P::UrlPath(proto)) => p.at("url_path", |p| path(proto, p)),
        Some(P::DestinationIp(range)) => p.at("destination_ip", |p| core::cidr(range, p)).map(Rule::DestinationIp),
        Some(P::DestinationPort(port @ 0..=65535)) => Some(Rule::DestinationPort(*port..port + 1)),
        Some(P::DestinationPort(port)) => p.refuse_at("destination_port", format!("{port} is not a port")),
        Some(P::DestinationPortRange(range)) => match (u32::try_from(range.start), u32::try_from(range.end)) {
            (Ok(start), Ok(end)) if start < end && end <= 65536 => Some(Rule::DestinationPort(start..end)),
            _ => p.refuse_at("destination_port_range", "is not a range of ports"),
        },
        Some(P::RequestedServerName(text)) => {
            p.at("requested_server_name", |p| StringMatcher::decode(text, p)).map(Rule::RequestedServerName)
        }
        Some(P::Metadata(_)) => refuse("metadata", p),
        Some(P::SourcedMetadata(_)) => refuse("sourced_metadata", p),
        Some(P::Matcher(_)) => refuse("matcher", p),
        Some(P::UriTemplate(_)) => refuse("uri_template", p),
        None => p.refuse_at("rule", "required"),
    }
}

fn decode_principal(proto: &pb::Principal, depth: usize, p: &mut Problems) -> Option<Rule> {
    use pb::principal::Identifier as P;
    if is_too_deep(depth, p) {
        return None;
    }
    let set = |name: &str, set: &pb::principal::Set, p: &mut Problems| {
        p.at(name, |p| {
            if set.ids.is_empty() {
                p.at("ids", |p| p.refuse("empty"));
            }
            p.each("ids", &set.ids, |p, rule| decode_principal(rule, depth + 1, p))
        })
    };
    match proto.identifier.as_ref() {
        Some(P::AndIds(ids)) => Some(Rule::All(set("and_ids", ids, p))),
        Some(P::OrIds(ids)) => Some(Rule::Any(set("or_ids", ids, p))),
        Some(P::NotId(id)) => {
            p.at("not_id", |p| decode_principal(id, depth + 1, p)).map(|rule| Rule::Not(Box::new(rule)))
        }
        Some(P::Any(any)) => decode_any(*any, p),
        Some(P::Authenticated(authenticated)) => match &authenticated.principal_name {
            Some(text) => {
                let text = p.at("authenticated.principal_name", |p| StringMatcher::decode(text, p))?;
                Some(Rule::Authenticated(Some(text)))
            }
            None => Some(Rule::Authenticated(None)),
        },
        Some(P::SourceIp(range)) => p.at("source_ip", |p| core::cidr(range, p)).map(Rule::SourceIp),
        Some(P::DirectRemoteIp(range)) => p.at("direct_remote_ip", |p| core::cidr(range, p)).map(Rule::DirectRemoteIp),
        Some(P::RemoteIp(range)) => p.at("remote_ip", |p| core::cidr(range, p)).map(Rule::RemoteIp),
        Some(P::Header(header)) => p.at("header", |p| HeaderMatcher::decode(header, p)).map(Rule::Header),
        Some(P::UrlPath(proto)) => p.at("url_path", |p| path(proto, p)),
        Some(P::FilterState(state)) => p.at("filter_state", |p| decode_filter_state(state, p)),
        Some(P::Metadata(_)) => refuse("metadata", p),
        Some(P::SourcedMetadata(_)) => refuse("sourced_metadata", p),
        Some(P::Custom(_)) => refuse("custom", p),
        None => p.refuse_at("identifier", "required"),
    }
}

fn decode_filter_state(
    proto: &proto::envoy::r#type::matcher::v3::FilterStateMatcher,
    p: &mut Problems,
) -> Option<Rule> {
    use proto::envoy::r#type::matcher::v3::filter_state_matcher::Matcher;
    match &proto.matcher {
        Some(Matcher::StringMatch(text)) => {
            let text = p.at("string_match", |p| StringMatcher::decode(text, p))?;
            Some(Rule::FilterState { key: proto.key.clone(), text })
        }
        Some(Matcher::AddressMatch(_)) => refuse("address_match", p),
        None => p.refuse_at("string_match", "required"),
    }
}

fn refuse(name: &str, p: &mut Problems) -> Option<Rule> {
    p.unimplemented(name);
    None
}

#[cfg(test)]
mod tests;
