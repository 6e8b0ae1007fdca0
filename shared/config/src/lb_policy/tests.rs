//! Policies from both forms of the wire, and what is refused of them.

use std::time::Duration;

use prost::Message;
use serde_json::json;

use super::*;

fn decoded(more: &str) -> Result<LbPolicy, String> {
    let proto: wire::Cluster = proto::json::from_yaml(&format!("{{name: a, load_assignment: {{}}, {more}}}")).unwrap();
    let cluster = crate::cluster::decode(&proto.encode_to_vec());
    cluster.map(|cluster| cluster.lb).map_err(|invalid| invalid.to_string())
}

/// A `load_balancing_policy` of one policy.
fn list(package: &str, policy: &str) -> String {
    format!(
        "load_balancing_policy: {{policies: [{{typed_extension_config: {{name: x, typed_config: {{'@type': \
         type.googleapis.com/{package}.{policy}}}}}}}]}}"
    )
}

fn stock(policy: &str) -> String {
    list("envoy.extensions.load_balancing_policies", policy)
}

fn own(policy: &str) -> String {
    list("weir.load_balancing_policies.v1", policy)
}

const AT: &str = "load_balancing_policy.policies[0].typed_extension_config.typed_config";

#[track_caller]
fn check(more: &str, wanted: LbPolicy) {
    assert_eq!(decoded(more).as_ref(), Ok(&wanted), "{more}");
}

#[track_caller]
fn check_refused(more: &str, reason: &str) {
    assert_eq!(decoded(more).unwrap_err(), reason);
}

#[test]
fn slow_start_has_the_same_meaning_in_both_forms() {
    let wanted = |aggression, least| LbPolicy {
        slow_start: Some(SlowStart { window: Duration::from_secs(60), aggression, least }),
        ..LbPolicy::default()
    };
    let fields = "slow_start_config: {slow_start_window: 60s, aggression: {default_value: 2, runtime_key: k}}";
    check(&format!("round_robin_lb_config: {{{fields}}}"), wanted(2.0, 0.1));
    check(&stock(&format!("round_robin.v3.RoundRobin, {fields}")), wanted(2.0, 0.1));
    check("round_robin_lb_config: {slow_start_config: {slow_start_window: 0s}}", LbPolicy::default());
    check_refused(
        "round_robin_lb_config: {slow_start_config: {slow_start_window: 1s, min_weight_percent: {value: 101}}}",
        "round_robin_lb_config.slow_start_config.min_weight_percent.value: 101 is not a percentage (0 to 100)",
    );
    check_refused(
        "round_robin_lb_config: {slow_start_config: {slow_start_window: 1s, aggression: {default_value: 0, runtime_key: k}}}",
        "round_robin_lb_config.slow_start_config.aggression: must be more than 0",
    );
}

#[test]
fn zone_aware_routing_has_envoys_defaults() {
    let zone_aware = |force_direct| ZoneAware {
        enabled: 100.0,
        min_cluster_size: 6,
        fail_traffic_on_panic: false,
        force_direct,
        basis: LocalityBasis::HealthyEndpoints,
    };
    let wanted =
        |force_direct| LbPolicy { locality: LocalityLb::ZoneAware(zone_aware(force_direct)), ..LbPolicy::default() };
    check("common_lb_config: {zone_aware_lb_config: {}}", wanted(false));
    let new =
        "round_robin.v3.RoundRobin, locality_lb_config: {zone_aware_lb_config: {force_locality_direct_routing: true}}";
    check(&stock(new), wanted(true));
    let forced = "round_robin.v3.RoundRobin, locality_lb_config: {zone_aware_lb_config: {force_local_zone: {}}}";
    let at = format!("{AT}.locality_lb_config.zone_aware_lb_config.force_local_zone");
    check_refused(&stock(forced), &format!("{at}: not implemented by weir-proxy"));
}

#[test]
fn subsets_have_the_same_meaning_in_both_forms() {
    let keys = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<std::collections::BTreeSet<_>>();
    let subset = |redundant_keys| Subset {
        fallback: Fallback::Default,
        default_subset: std::collections::BTreeMap::from([("v".to_owned(), json!("1"))]),
        selectors: vec![Selector {
            keys: keys(&["v", "w"]),
            fallback: SelectorFallback::Keys(keys(&["v"])),
            single_host: false,
        }],
        redundant_keys,
        locality_weights: true,
        scale_locality: false,
        panic_any: false,
        list_as_any: false,
        fallback_list: true,
    };
    let fields = "fallback_policy: DEFAULT_SUBSET, default_subset: {v: '1'}, locality_weight_aware: true, \
        metadata_fallback_policy: FALLBACK_LIST, subset_selectors: [{keys: [w, v], fallback_policy: KEYS_SUBSET, \
        fallback_keys_subset: [v]}]";
    let old = LbPolicy { subset: Some(subset(false)), ..LbPolicy::default() };
    check(&format!("lb_subset_config: {{{fields}}}"), old);
    let random = stock("random.v3.Random").replace("load_balancing_policy", "subset_lb_policy");
    let new = LbPolicy { subset: Some(subset(true)), ..LbPolicy::of(Algorithm::Random) };
    check(&stock(&format!("subset.v3.Subset, allow_redundant_keys: true, {fields}, {random}")), new);
    check("lb_subset_config: {list_as_any: true}", LbPolicy::default());
    let selector = |fields: &str| format!("lb_subset_config: {{subset_selectors: [{{{fields}}}]}}");
    let at = "lb_subset_config.subset_selectors[0]";
    check_refused(&selector("keys: []"), &format!("{at}.keys: must not be empty"));
    check_refused(
        &selector("keys: [a, b], single_host_per_subset: true"),
        &format!("{at}.single_host_per_subset: needs exactly one key"),
    );
    check_refused(
        &selector("keys: [a], fallback_policy: KEYS_SUBSET, fallback_keys_subset: [b]"),
        &format!("{at}.fallback_keys_subset: must be among the keys of the selector"),
    );
    check_refused(
        "lb_subset_config: {subset_selectors: [{keys: [a]}, {keys: [a]}]}",
        "lb_subset_config.subset_selectors[1].keys: another selector has the same",
    );
}

#[test]
fn policies_by_response_time_have_defaults() {
    let (decay, default_rtt) = (Duration::from_secs(10), Duration::from_secs(1));
    check(&own("PeakEwma"), LbPolicy::of(Algorithm::PeakEwma(PeakEwma { decay, default_rtt })));
    let least_time = LeastTime { measure: Measure::LastByte, choices: Some(3) };
    check(&own("LeastTime, measure: LAST_BYTE, choice_count: 3"), LbPolicy::of(Algorithm::LeastTime(least_time)));
    check_refused(&own("LeastTime, choice_count: 1"), &format!("{AT}.choice_count: must be at least 2"));
    check_refused(&own("PeakEwma, decay_time: 0s"), &format!("{AT}.decay_time: must be at least 0.001s"));
}

#[test]
fn a_request_may_name_its_endpoint() {
    let fallback = stock("random.v3.Random").replace("load_balancing_policy", "fallback_policy");
    let policy = |sources: &str| stock(&format!("override_host.v3.OverrideHost, {fallback}, {sources}"));
    let metadata = "{metadata: {key: envoy.lb, path: [{key: host}]}}";
    let wanted = LbPolicy {
        override_sources: vec![
            OverrideSource::Header("x-host".into()),
            OverrideSource::Metadata { namespace: "envoy.lb".into(), key: "host".into() },
        ],
        ..LbPolicy::of(Algorithm::Random)
    };
    check(&policy(&format!("override_host_sources: [{{header: X-Host}}, {metadata}]")), wanted);
    check_refused(&policy(""), &format!("{AT}.override_host_sources: is empty"));
    check_refused(
        &policy("override_host_sources: [{}]"),
        &format!("{AT}.override_host_sources[0]: needs either the name of a header or metadata"),
    );
    let statuses = decoded("common_lb_config: {override_host_status: {statuses: [HEALTHY, DRAINING]}}").unwrap();
    assert!(statuses.override_host.contains(HealthStatus::Draining));
    assert!(!statuses.override_host.contains(HealthStatus::Unknown));
}

#[test]
fn weights_may_come_from_what_endpoints_report() {
    let policy =
        |fields: &str| stock(&format!("client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin{fields}"));
    let seconds = Duration::from_secs;
    let plain = ClientSide {
        blackout: seconds(10),
        expiration: seconds(180),
        update: seconds(1),
        error_penalty: 0.0,
        out_of_band: None,
        metrics: Vec::new(),
    };
    check(&policy(""), LbPolicy::of(Algorithm::ClientSide(plain.clone())));
    let all = ClientSide {
        blackout: Duration::ZERO,
        expiration: seconds(60),
        update: Duration::from_millis(100),
        error_penalty: 1.5,
        out_of_band: None,
        metrics: vec![Metric::Named("a.b".into()), Metric::Utilization("*".into()), Metric::Memory],
    };
    check(
        &policy(
            ", blackout_period: 0s, weight_expiration_period: 60s, weight_update_period: 0.001s, \
             error_utilization_penalty: 1.5, oob_reporting_period: 5s, enable_oob_load_report: false, \
             metric_names_for_computing_utilization: [named_metrics.a.b, 'utilization.*', mem_utilization]",
        ),
        LbPolicy::of(Algorithm::ClientSide(all)),
    );
    let asked = |period: u64, port: Option<u16>, authority: &str| {
        let out_of_band = Some(OutOfBand { period: seconds(period), port, authority: authority.into() });
        LbPolicy::of(Algorithm::ClientSide(ClientSide { out_of_band, ..plain.clone() }))
    };
    check(&policy(", enable_oob_load_report: true"), asked(10, None, ""));
    check(
        &policy(
            ", enable_oob_load_report: true, oob_reporting_period: 5s, \
             oob_reporting_config: {port_value: 9001, authority: load.test}",
        ),
        asked(5, Some(9001), "load.test"),
    );
    let other_socket = "{transport_socket_match_criteria: {a: b}}";
    check_refused(
        &policy(&format!(", enable_oob_load_report: true, oob_reporting_config: {other_socket}")),
        &format!("{AT}.oob_reporting_config.transport_socket_match_criteria: not implemented by weir-proxy"),
    );
}
