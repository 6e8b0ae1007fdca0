//! Access control without requests: the same rules and matchers, less what only a request has.

use proto::envoy::extensions::filters::network::rbac::v3 as pb;

use super::{Cel, Engine, Input, Rule, Test, decode_engine};
use crate::invalid::Problems;

/// Decodes the engine and the shadow engine of the network filter.
pub(crate) fn decode(proto: &pb::Rbac, p: &mut Problems) -> (Option<Engine>, Option<Engine>) {
    let (rules, matcher) = (proto.rules.as_ref(), proto.matcher.as_ref());
    let engine = decode_engine(("rules", rules), ("matcher", matcher), p);
    refuse_requests(engine.as_ref(), ("rules", "matcher"), p);
    let (rules, matcher) = (proto.shadow_rules.as_ref(), proto.shadow_matcher.as_ref());
    let shadow = decode_engine(("shadow_rules", rules), ("shadow_matcher", matcher), p);
    refuse_requests(shadow.as_ref(), ("shadow_rules", "shadow_matcher"), p);
    (engine, shadow)
}

/// Envoy would compare with a request without headers; what is meant by it cannot be right.
fn refuse_requests(engine: Option<&Engine>, (rules, matcher): (&str, &str), p: &mut Problems) {
    let asks = |cel: &Cel| cel.refers_to("request");
    match engine {
        Some(Engine::Policies { policies, .. }) => {
            for (name, policy) in policies {
                let about_requests = policy.permissions.iter().chain(&policy.principals).any(is_about_requests)
                    || policy.condition.as_ref().is_some_and(asks);
                if about_requests {
                    p.at(rules, |p| p.at("policies", |p| p.index(name, refuse)));
                }
            }
        }
        Some(Engine::Matcher(tree)) => {
            let about_requests = tree.any_input(&|input, test| {
                matches!(input, Input::RequestHeader(_) | Input::QueryParameter(_))
                    || matches!(test, Some(Test::Cel(cel)) if asks(cel))
            });
            if about_requests {
                p.at(matcher, refuse);
            }
        }
        None => {}
    }
}

fn refuse(p: &mut Problems) {
    p.refuse("asks about a request (header, path or query), which a network filter does not see");
}

fn is_about_requests(rule: &Rule) -> bool {
    match rule {
        Rule::Header(_) | Rule::UrlPath(_) => true,
        Rule::All(rules) | Rule::Any(rules) => rules.iter().any(is_about_requests),
        Rule::Not(rule) => is_about_requests(rule),
        _ => false,
    }
}
