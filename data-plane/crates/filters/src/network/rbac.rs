//! The rbac filter of connections: the rules of the HTTP filter, without a request.
//!
//! Decides once, when the connection is established; Envoy does at the first byte, which for a server that speaks first
//! comes too late.

use std::sync::Arc;
use std::time::Duration;

use dp_http::{Method, RequestHead, StreamInfo};
use shared_config::network_filter::Rbac as Config;
use shared_telemetry::{Registry, Scope};

use super::Refusal;
use crate::http::rbac::{Engine, ShadowStats, Stats};

/// The namespace of what shadow rules say.
const NAMESPACE: &str = "envoy.filters.network.rbac";

pub struct Rbac {
    engine: Option<Engine>,
    shadow: Option<Shadow>,
    delay: Option<Duration>,
    stats: Arc<Stats>,
    /// Rules about requests were refused; the engine is given one with nothing in it.
    nothing: RequestHead,
}

struct Shadow {
    engine: Engine,
    prefix: String,
    stats: Arc<ShadowStats>,
}

impl Rbac {
    pub(super) fn compile(config: &Config, registry: &Registry) -> Self {
        let prefix = config.stat_prefix.trim_end_matches('.');
        let scope = Scope::new(&format!("{prefix}.rbac"), "rbac").label("envoy_rbac_prefix", prefix);
        let shadow_prefix = &config.config.shadow_rules_stat_prefix;
        let shadow_scope = if shadow_prefix.is_empty() { scope.clone() } else { scope.child(shadow_prefix) };
        Self {
            engine: config.config.engine.as_ref().map(Engine::compile),
            shadow: config.config.shadow_engine.as_ref().map(|engine| Shadow {
                engine: Engine::compile(engine),
                prefix: shadow_prefix.clone(),
                stats: ShadowStats::register(registry, shadow_scope),
            }),
            delay: config.delay_deny,
            stats: Stats::register(registry, scope),
            nothing: RequestHead::new(Method::Get, "", ""),
        }
    }

    pub(super) fn admit(&self, info: &mut StreamInfo, shard: usize) -> Result<(), Refusal> {
        if let Some(shadow) = &self.shadow {
            let decision = shadow.engine.decide(info, &self.nothing);
            let (result, counter) = if decision.is_allowed {
                ("allowed", shadow.stats.shadow_allowed())
            } else {
                ("denied", shadow.stats.shadow_denied())
            };
            counter.inc(shard);
            let metadata = info.metadata.get_or_insert_default().entry(NAMESPACE.to_owned()).or_default();
            metadata.insert(format!("{}shadow_engine_result", shadow.prefix), result.into());
            if let Some(policy) = decision.policy {
                metadata.insert(format!("{}shadow_effective_policy_id", shadow.prefix), policy.into());
            }
        }
        let Some(engine) = &self.engine else { return Ok(()) };
        let decision = engine.decide(info, &self.nothing);
        if decision.is_allowed {
            self.stats.allowed().inc(shard);
            return Ok(());
        }
        self.stats.denied().inc(shard);
        Err(Refusal { delay: self.delay, details: decision.details().into() })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use shared_config::http_filter::rbac::{self, Action, Policy, Rule};

    use super::*;
    use crate::testing::{connection, info};

    fn engine(action: Action, range: &str) -> rbac::Engine {
        let policy = Policy {
            permissions: vec![Rule::Always],
            principals: vec![Rule::SourceIp(range.parse().unwrap())],
            condition: None,
        };
        rbac::Engine::Policies { action, policies: BTreeMap::from([("a policy".to_owned(), policy)]) }
    }

    /// Whether the client at 10.1.2.3 may connect, and what the log says of it if not.
    fn check(config: rbac::Config, expected: Result<(), &str>) -> StreamInfo {
        let config = Config { stat_prefix: "tcp.".into(), config, delay_deny: None };
        let filter = Rbac::compile(&config, &Registry::new(2));
        let mut info = info(connection());
        let outcome = filter.admit(&mut info, 1).map_err(|refusal| refusal.details.into_owned());
        assert_eq!(outcome, expected.map_err(str::to_owned));
        info
    }

    #[test]
    fn a_client_is_refused_by_its_address() {
        let config = |action, range| rbac::Config { engine: Some(engine(action, range)), ..rbac::Config::default() };
        check(config(Action::Allow, "10.0.0.0/8"), Ok(()));
        check(config(Action::Allow, "11.0.0.0/8"), Err("rbac_access_denied_matched_policy[none]"));
        check(config(Action::Deny, "10.0.0.0/8"), Err("rbac_access_denied_matched_policy[a_policy]"));
        check(rbac::Config::default(), Ok(()));
    }

    #[test]
    fn shadow_rules_only_leave_a_note() {
        let shadow_engine = Some(engine(Action::Deny, "10.0.0.0/8"));
        let config = rbac::Config { shadow_engine, shadow_rules_stat_prefix: "s_".into(), ..rbac::Config::default() };
        let metadata = check(config, Ok(())).metadata.unwrap();
        assert_eq!(metadata[NAMESPACE]["s_shadow_engine_result"], "denied");
    }
}
