//! The generic matcher (`xds.type.matcher.v3.Matcher`), whatever its leaves are: access control actions, or clusters.

use std::collections::BTreeMap;

use ipnet::IpNet;
use prost::Name;
use proto::Any;
use proto::envoy::config::rbac::v3 as rbac;
use proto::envoy::extensions::matching::common_inputs::{network::v3 as network, ssl::v3 as ssl};
use proto::envoy::extensions::matching::input_matchers::ip::v3::Ip;
use proto::envoy::r#type::matcher::v3 as envoy;
use proto::xds::core::v3::TypedExtensionConfig;
use proto::xds::r#type::matcher::v3 as pb;

use super::{Action, Cel, decode_action, is_too_deep};
use crate::core;
use crate::invalid::Problems;
use crate::matcher::StringMatcher;

#[derive(Debug, Clone, PartialEq)]
pub struct Matcher<A = Action> {
    pub branches: Branches<A>,
    pub on_no_match: Option<Box<OnMatch<A>>>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Branches<A = Action> {
    /// The first that matches.
    List(Vec<(Predicate, OnMatch<A>)>),
    Exact(Input, BTreeMap<String, OnMatch<A>>),
    /// The longest prefix that matches.
    Prefix(Input, BTreeMap<String, OnMatch<A>>),
}

#[derive(Debug, Clone, PartialEq)]
pub enum OnMatch<A = Action> {
    Matcher(Box<Matcher<A>>),
    Action { name: String, action: A },
}

/// Reads what stands at a leaf: its name, and what it says.
pub(crate) type Leaf<A> = fn(&Any, &mut Problems) -> Option<(String, A)>;

#[derive(Debug, Clone, PartialEq)]
pub enum Predicate {
    Single(Input, Test),
    Any(Vec<Predicate>),
    All(Vec<Predicate>),
    Not(Box<Predicate>),
}

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    RequestHeader(String),
    QueryParameter(String),
    DestinationIp,
    DestinationPort,
    SourceIp,
    SourcePort,
    DirectSourceIp,
    ServerName,
    UriSan,
    DnsSan,
    Subject,
    /// Everything; only with an expression.
    Attributes,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    Text(StringMatcher),
    Ip(Vec<IpNet>),
    Cel(Cel),
}

// === impl Matcher ===

impl<A> Matcher<A> {
    /// Whether an input or a test that `found` says yes to stands anywhere in it.
    pub(crate) fn any_input(&self, found: &impl Fn(&Input, Option<&Test>) -> bool) -> bool {
        let on = |on: &OnMatch<A>| match on {
            OnMatch::Matcher(matcher) => matcher.any_input(found),
            OnMatch::Action { .. } => false,
        };
        let here = match &self.branches {
            Branches::List(list) => list.iter().any(|(predicate, then)| predicate.any_input(found) || on(then)),
            Branches::Exact(input, map) | Branches::Prefix(input, map) => found(input, None) || map.values().any(on),
        };
        here || self.on_no_match.as_deref().is_some_and(on)
    }
}

impl Predicate {
    fn any_input(&self, found: &impl Fn(&Input, Option<&Test>) -> bool) -> bool {
        match self {
            Self::Single(input, test) => found(input, Some(test)),
            Self::Any(list) | Self::All(list) => list.iter().any(|one| one.any_input(found)),
            Self::Not(one) => one.any_input(found),
        }
    }
}

// === decode ===

pub(crate) fn decode<A>(proto: &pb::Matcher, leaf: Leaf<A>, depth: usize, p: &mut Problems) -> Option<Matcher<A>> {
    use pb::matcher::MatcherType;
    if is_too_deep(depth, p) {
        return None;
    }
    let before = p.count();
    let branches = match &proto.matcher_type {
        Some(MatcherType::MatcherList(list)) => {
            let branches = p.at("matcher_list", |p| {
                p.each("matchers", &list.matchers, |p, field| {
                    let predicate = match &field.predicate {
                        Some(predicate) => p.at("predicate", |p| decode_predicate(predicate, depth + 1, p)),
                        None => p.refuse_at("predicate", "required"),
                    };
                    let on_match = p.at("on_match", |p| decode_on_match(field.on_match.as_ref(), leaf, depth, p));
                    Some((predicate?, on_match?))
                })
            });
            Some(Branches::List(branches))
        }
        Some(MatcherType::MatcherTree(tree)) => p.at("matcher_tree", |p| decode_tree(tree, leaf, depth, p)),
        // Only what to do when nothing matches, which is always.
        None => Some(Branches::List(Vec::new())),
    };
    let on_no_match = match &proto.on_no_match {
        Some(on_match) => Some(Box::new(p.at("on_no_match", |p| decode_on_match(Some(&**on_match), leaf, depth, p))?)),
        None => None,
    };
    if p.count() > before {
        return None;
    }
    Some(Matcher { branches: branches?, on_no_match })
}

fn decode_tree<A>(
    proto: &pb::matcher::MatcherTree,
    leaf: Leaf<A>,
    depth: usize,
    p: &mut Problems,
) -> Option<Branches<A>> {
    use pb::matcher::matcher_tree::{MatchMap, TreeType};
    let input = p.at("input", |p| decode_input(proto.input.as_ref(), p))?;
    if input == Input::Attributes {
        return p.refuse_at("input", "expressions need a matcher_list");
    }
    let mut map = |name: &str, map: &MatchMap| {
        let each = |p: &mut Problems| {
            map.map
                .iter()
                .filter_map(|(key, on)| {
                    Some((key.clone(), p.index(key, |p| decode_on_match(Some(on), leaf, depth, p))?))
                })
                .collect::<BTreeMap<_, _>>()
        };
        p.at(name, |p| p.at("map", each))
    };
    match &proto.tree_type {
        Some(TreeType::ExactMatchMap(exact)) => Some(Branches::Exact(input, map("exact_match_map", exact))),
        Some(TreeType::PrefixMatchMap(prefix)) => Some(Branches::Prefix(input, map("prefix_match_map", prefix))),
        Some(TreeType::CustomMatch(_)) => {
            p.unimplemented("custom_match");
            None
        }
        None => p.refuse_at("tree_type", "required"),
    }
}

fn decode_on_match<A>(
    proto: Option<&pb::matcher::OnMatch>,
    leaf: Leaf<A>,
    depth: usize,
    p: &mut Problems,
) -> Option<OnMatch<A>> {
    use pb::matcher::on_match::OnMatch as On;
    p.unimplemented_if("keep_matching", proto.is_some_and(|on| on.keep_matching));
    match proto.and_then(|on| on.on_match.as_ref()) {
        Some(On::Matcher(matcher)) => {
            Some(OnMatch::Matcher(Box::new(p.at("matcher", |p| decode(matcher, leaf, depth + 1, p))?)))
        }
        Some(On::Action(extension)) => p.at("action", |p| {
            let any = typed_config(Some(extension), p)?;
            let (name, action) = p.at("typed_config", |p| leaf(&any, p))?;
            Some(OnMatch::Action { name, action })
        }),
        None => {
            p.refuse("matcher or action is required");
            None
        }
    }
}

/// A leaf with an action of access control.
pub(super) fn action_leaf(any: &Any, p: &mut Problems) -> Option<(String, Action)> {
    if !any.is::<rbac::Action>() {
        p.refuse(format!("an action must be an envoy.config.rbac.v3.Action, not {:?}", any.type_name()));
        return None;
    }
    let action: rbac::Action = core::unpack(any, p)?;
    if action.name.is_empty() {
        p.at("name", |p| p.refuse("empty"));
    }
    Some((action.name, decode_action(action.action, p)?))
}

fn decode_predicate(proto: &pb::matcher::matcher_list::Predicate, depth: usize, p: &mut Problems) -> Option<Predicate> {
    use pb::matcher::matcher_list::predicate::MatchType;
    if is_too_deep(depth, p) {
        return None;
    }
    let each = |p: &mut Problems, list: &[_]| p.each("predicate", list, |p, one| decode_predicate(one, depth + 1, p));
    match &proto.match_type {
        Some(MatchType::SinglePredicate(single)) => p.at("single_predicate", |p| decode_single(single, p)),
        Some(MatchType::OrMatcher(list)) => Some(Predicate::Any(p.at("or_matcher", |p| each(p, &list.predicate)))),
        Some(MatchType::AndMatcher(list)) => Some(Predicate::All(p.at("and_matcher", |p| each(p, &list.predicate)))),
        Some(MatchType::NotMatcher(one)) => {
            Some(Predicate::Not(Box::new(p.at("not_matcher", |p| decode_predicate(one, depth + 1, p))?)))
        }
        None => {
            p.refuse("single_predicate, or_matcher, and_matcher or not_matcher is required");
            None
        }
    }
}

fn decode_single(proto: &pb::matcher::matcher_list::predicate::SinglePredicate, p: &mut Problems) -> Option<Predicate> {
    use pb::matcher::matcher_list::predicate::single_predicate::Matcher as M;
    let input = p.at("input", |p| decode_input(proto.input.as_ref(), p));
    let test = match &proto.matcher {
        Some(M::ValueMatch(text)) => p.at("value_match", |p| decode_text(text, p)).map(Test::Text),
        Some(M::CustomMatch(extension)) => p.at("custom_match", |p| {
            let any = typed_config(Some(extension), p)?;
            p.at("typed_config", |p| decode_custom(&any, p))
        }),
        None => p.refuse_at("value_match", "value_match or custom_match is required"),
    };
    let (input, test) = (input?, test?);
    if (input == Input::Attributes) != matches!(test, Test::Cel(_)) {
        return p.refuse_at("custom_match", "HttpAttributesCelMatchInput and CelMatcher go together");
    }
    Some(Predicate::Single(input, test))
}

fn decode_custom(any: &Any, p: &mut Problems) -> Option<Test> {
    if any.is::<pb::CelMatcher>() {
        let matcher: pb::CelMatcher = core::unpack(any, p)?;
        return p
            .at("expr_match", |p| super::cel::decode_expression(&matcher.expr_match.unwrap_or_default(), p))
            .map(Test::Cel);
    }
    if any.is::<Ip>() {
        // The prefix names statistics, which do not exist in weir-proxy.
        let matcher: Ip = core::unpack(any, p)?;
        return Some(Test::Ip(p.each("cidr_ranges", &matcher.cidr_ranges, |p, range| core::cidr(range, p))));
    }
    p.refuse(format!("no input matcher of type {:?} in weir-proxy", any.type_name()));
    None
}

fn decode_input(proto: Option<&TypedExtensionConfig>, p: &mut Problems) -> Option<Input> {
    let any = typed_config(proto, p)?;
    p.at("typed_config", |p| {
        let name = any.type_name();
        let inputs = [
            (network::DestinationIpInput::full_name(), Input::DestinationIp),
            (network::DestinationPortInput::full_name(), Input::DestinationPort),
            (network::SourceIpInput::full_name(), Input::SourceIp),
            (network::SourcePortInput::full_name(), Input::SourcePort),
            (network::DirectSourceIpInput::full_name(), Input::DirectSourceIp),
            (network::ServerNameInput::full_name(), Input::ServerName),
            (ssl::UriSanInput::full_name(), Input::UriSan),
            (ssl::DnsSanInput::full_name(), Input::DnsSan),
            (ssl::SubjectInput::full_name(), Input::Subject),
            (pb::HttpAttributesCelMatchInput::full_name(), Input::Attributes),
        ];
        if any.is::<envoy::HttpRequestHeaderMatchInput>() {
            let input: envoy::HttpRequestHeaderMatchInput = core::unpack(&any, p)?;
            if !crate::header::is_header_name(&input.header_name) {
                return p.refuse_at("header_name", format!("{:?} is not a header name", input.header_name));
            }
            return Some(Input::RequestHeader(input.header_name));
        }
        if any.is::<envoy::HttpRequestQueryParamMatchInput>() {
            let input: envoy::HttpRequestQueryParamMatchInput = core::unpack(&any, p)?;
            return Some(Input::QueryParameter(input.query_param));
        }
        let found = inputs.into_iter().find(|(known, _)| known == name).map(|(_, input)| input);
        if found.is_none() {
            p.refuse(format!("no matching input of type {name:?} in weir-proxy"));
        }
        found
    })
}

fn decode_text(proto: &pb::StringMatcher, p: &mut Problems) -> Option<StringMatcher> {
    use envoy::string_matcher::MatchPattern as To;
    use pb::string_matcher::MatchPattern as From;
    let pattern = proto.match_pattern.as_ref().map(|pattern| match pattern {
        From::Exact(text) => To::Exact(text.clone()),
        From::Prefix(text) => To::Prefix(text.clone()),
        From::Suffix(text) => To::Suffix(text.clone()),
        From::Contains(text) => To::Contains(text.clone()),
        From::SafeRegex(regex) => {
            To::SafeRegex(envoy::RegexMatcher { regex: regex.regex.clone(), ..Default::default() })
        }
        From::Custom(custom) => To::Custom(custom.clone()),
    });
    StringMatcher::decode(&envoy::StringMatcher { ignore_case: proto.ignore_case, match_pattern: pattern }, p)
}

fn typed_config(proto: Option<&TypedExtensionConfig>, p: &mut Problems) -> Option<Any> {
    match proto.and_then(|extension| extension.typed_config.as_ref()) {
        Some(any) => p.at("typed_config", |p| core::extension(any, p)),
        None => p.refuse_at("typed_config", "required"),
    }
}
