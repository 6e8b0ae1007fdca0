//! The rbac filter: lets a request pass or answers 403, by who asks and what for.
//!
//! Everything is compiled when the snapshot is; an expression that fails on a request counts as one that does not match.

use std::collections::BTreeMap;
use std::sync::Arc;

use dp_http::{LocalReply, RequestHead, StreamInfo};
use shared_config::http_filter::rbac::{self, Action, Config, PerRoute};
use shared_telemetry::stats;

use crate::filter::{Cx, Flow, HttpFilter};
use crate::services::Scope;

mod attributes;
mod matcher;
mod rule;

use attributes::Expression;
use matcher::Matcher;
use rule::Rule;

stats! {
    /// `http.STAT_PREFIX.rbac.`, then the prefix of the rules; `STAT_PREFIX.rbac.` of connections.
    pub(crate) struct Stats {
        counter allowed,
        counter denied,
    }
}

stats! {
    /// `http.STAT_PREFIX.rbac.`, then the prefix of the shadow rules.
    pub(crate) struct ShadowStats {
        counter shadow_allowed,
        counter shadow_denied,
    }
}

pub struct Rbac {
    engine: Option<(Engine, Arc<Stats>)>,
    shadow: Option<Shadow>,
}

struct Shadow {
    engine: Engine,
    stats: Arc<ShadowStats>,
    policy_key: String,
    result_key: String,
}

pub(crate) enum Engine {
    Policies { action: Action, policies: Box<[(String, Policy)]> },
    Matcher(Matcher),
}

pub(crate) struct Policy {
    permissions: Box<[Rule]>,
    principals: Box<[Rule]>,
    condition: Option<Expression>,
}

/// What an engine says about a request, or about a connection.
pub(crate) struct Decision<'e> {
    pub(crate) is_allowed: bool,
    /// The policy that matched.
    pub(crate) policy: Option<&'e str>,
    /// Whether a LOG action was asked, and its answer.
    log: Option<bool>,
}

impl HttpFilter for Rbac {
    type Config = Config;
    type Override = PerRoute;
    type Stream = ();

    fn compile(config: &Config, overrides: &[&PerRoute], scope: &Scope<'_>) -> Option<Self> {
        let config = match overrides.last() {
            Some(PerRoute(config)) => config.as_ref()?,
            None => config,
        };
        if config.engine.is_none() && config.shadow_engine.is_none() {
            return None;
        }
        let prefix = &config.shadow_rules_stat_prefix;
        Some(Self {
            engine: config.engine.as_ref().map(|engine| {
                let stats = Stats::register(scope.registry(), stats_scope(scope, &config.rules_stat_prefix));
                (Engine::compile(engine), stats)
            }),
            shadow: config.shadow_engine.as_ref().map(|engine| Shadow {
                engine: Engine::compile(engine),
                stats: ShadowStats::register(scope.registry(), stats_scope(scope, prefix)),
                policy_key: format!("{prefix}shadow_effective_policy_id"),
                result_key: format!("{prefix}shadow_engine_result"),
            }),
        })
    }

    fn on_request(&self, _s: &mut (), cx: &mut Cx<'_>, head: &mut RequestHead) -> Flow {
        if let Some(shadow) = &self.shadow {
            let decision = shadow.engine.decide(cx.info, head);
            let (result, count) = match decision.is_allowed {
                true => ("allowed", shadow.stats.shadow_allowed()),
                false => ("denied", shadow.stats.shadow_denied()),
            };
            count.inc(cx.shard());
            let metadata = metadata(cx, "envoy.filters.http.rbac");
            metadata.insert(shadow.result_key.clone(), result.into());
            if let Some(policy) = decision.policy {
                metadata.insert(shadow.policy_key.clone(), policy.into());
            }
        }
        let Some((engine, stats)) = &self.engine else { return Flow::Continue };
        let decision = engine.decide(cx.info, head);
        if let Some(log) = decision.log {
            metadata(cx, "envoy.common").insert("access_log_hint".into(), log.to_string());
        }
        if decision.is_allowed {
            stats.allowed().inc(cx.shard());
            return Flow::Continue;
        }
        stats.denied().inc(cx.shard());
        Flow::Reply(Box::new(LocalReply::new(403, decision.details()).body("RBAC: access denied")))
    }
}

fn stats_scope(scope: &Scope<'_>, prefix: &str) -> shared_telemetry::Scope {
    let all = scope.stats("rbac");
    if prefix.is_empty() { all } else { all.child(prefix) }
}

fn metadata<'c>(cx: &'c mut Cx<'_>, namespace: &str) -> &'c mut BTreeMap<String, String> {
    cx.info.metadata.get_or_insert_default().entry(namespace.to_owned()).or_default()
}

// === impl Decision ===

impl Decision<'_> {
    /// Envoy's words for a denial.
    pub(crate) fn details(&self) -> String {
        // White space would shift the columns of an access log.
        let policy = self.policy.unwrap_or("none").replace(|c: char| c.is_ascii_whitespace(), "_");
        format!("rbac_access_denied_matched_policy[{policy}]")
    }
}

// === impl Engine ===

impl Engine {
    pub(crate) fn compile(engine: &rbac::Engine) -> Self {
        match engine {
            rbac::Engine::Policies { action, policies } => {
                let policies = policies.iter().map(|(name, policy)| (name.clone(), Policy::compile(policy)));
                Self::Policies { action: *action, policies: policies.collect() }
            }
            rbac::Engine::Matcher(matcher) => Self::Matcher(Matcher::compile(matcher)),
        }
    }

    pub(crate) fn decide(&self, info: &StreamInfo, head: &RequestHead) -> Decision<'_> {
        match self {
            Self::Policies { action, policies } => {
                let matched = policies.iter().find(|(_, policy)| policy.matches(info, head));
                Decision {
                    is_allowed: match action {
                        Action::Allow => matched.is_some(),
                        Action::Deny => matched.is_none(),
                        Action::Log => true,
                    },
                    policy: matched.map(|(name, _)| name.as_str()),
                    log: (*action == Action::Log).then_some(matched.is_some()),
                }
            }
            Self::Matcher(matcher) => match matcher.find(info, head) {
                Some((name, action)) => Decision {
                    is_allowed: action != Action::Deny,
                    policy: Some(name),
                    log: (action == Action::Log).then_some(true),
                },
                None => Decision { is_allowed: false, policy: None, log: None },
            },
        }
    }
}

// === impl Policy ===

impl Policy {
    fn compile(policy: &rbac::Policy) -> Self {
        Self {
            permissions: policy.permissions.iter().map(Rule::compile).collect(),
            principals: policy.principals.iter().map(Rule::compile).collect(),
            condition: policy.condition.as_ref().map(Expression::compile),
        }
    }

    fn matches(&self, info: &StreamInfo, head: &RequestHead) -> bool {
        self.permissions.iter().any(|rule| rule.matches(info, head))
            && self.principals.iter().any(|rule| rule.matches(info, head))
            && self.condition.as_ref().is_none_or(|condition| condition.is_true(info, head))
    }
}

#[cfg(test)]
mod tests;
