//! How requests are spread over endpoints, in Envoy's words.

use std::collections::BTreeMap;

use cp_model::cluster::balance::{SubsetFallback, ZoneAware};
use cp_model::cluster::{Balance, Cluster, Discovery, Hashing, SlowStart, Subsets};
use serde_json::{Value, json};

use crate::build::{duration, percent, set, typed};

pub(super) fn balance(cluster: &Cluster, body: &mut Value) {
    let provided =
        matches!(cluster.discovery, Discovery::Failover(_) | Discovery::OriginalDst(_) | Discovery::ForwardProxy(_));
    if provided {
        body["lb_policy"] = "CLUSTER_PROVIDED".into();
        return;
    }
    let slow_start = cluster.slow_start.as_ref().map(|s| slow_start(&cluster.name, s));
    let mut common = json!({});
    match &cluster.balance {
        Balance::RoundRobin => {
            body["lb_policy"] = "ROUND_ROBIN".into();
            set(body, "round_robin_lb_config", slow_start.map(|s| json!({ "slow_start_config": s })));
        }
        Balance::LeastRequest { choices, full_scan, active_bias } => {
            let mut config = json!({});
            set(&mut config, "choice_count", *choices);
            set(&mut config, "slow_start_config", slow_start);
            if let Some(bias) = active_bias {
                let key = format!("weir.{}.active_bias", cluster.name);
                config["active_request_bias"] = json!({ "default_value": bias.value(), "runtime_key": key });
            }
            if *full_scan {
                full_scan_policy(cluster, config, body);
            } else {
                body["lb_policy"] = "LEAST_REQUEST".into();
                set(body, "least_request_lb_config", (config != json!({})).then_some(config));
            }
        }
        Balance::Random => body["lb_policy"] = "RANDOM".into(),
        Balance::RingHash(hashing) => {
            body["lb_policy"] = "RING_HASH".into();
            let size = hashing.table_size.map(|size| json!({ "minimum_ring_size": size }));
            set(body, "ring_hash_lb_config", size);
            bounded(hashing, &mut common);
        }
        Balance::Maglev(hashing) => {
            body["lb_policy"] = "MAGLEV".into();
            set(body, "maglev_lb_config", hashing.table_size.map(|size| json!({ "table_size": size })));
            bounded(hashing, &mut common);
        }
        Balance::PeakEwma { decay, default_rtt } => {
            let mut config = json!({});
            set(&mut config, "decay_time", decay.map(duration));
            set(&mut config, "default_rtt", default_rtt.map(duration));
            own("peak_ewma", "PeakEwma", config, body);
        }
        Balance::LeastTime { last_byte, choices } => {
            let mut config = json!({});
            set(&mut config, "measure", last_byte.then_some("LAST_BYTE"));
            set(&mut config, "choice_count", *choices);
            own("least_time", "LeastTime", config, body);
        }
    }
    set(&mut common, "healthy_panic_threshold", cluster.panic.map(percent));
    if body.get("load_balancing_policy").is_none() {
        localities(cluster, &mut common);
    }
    set(body, "common_lb_config", (common != json!({})).then_some(common));
    set(body, "lb_subset_config", cluster.subsets.as_ref().map(subsets));
}

fn bounded(hashing: &Hashing, common: &mut Value) {
    let factor = hashing.max_load.map(|share| json!({ "hash_balance_factor": share.0 / 100 }));
    set(common, "consistent_hashing_lb_config", factor);
}

/// Only the newer message can say it, and that one has its own place for localities.
fn full_scan_policy(cluster: &Cluster, mut config: Value, body: &mut Value) {
    config["selection_method"] = "FULL_SCAN".into();
    let mut common = json!({});
    localities(cluster, &mut common);
    set(&mut config, "locality_lb_config", (common != json!({})).then_some(common));
    body["load_balancing_policy"] = policies(&[(
        "envoy.load_balancing_policies.least_request",
        "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
        config,
    )]);
}

/// One of our own policies, and what a stock Envoy takes instead.
fn own(name: &str, message: &str, config: Value, body: &mut Value) {
    let (name, message) =
        (format!("weir.load_balancing_policies.{name}"), format!("weir.load_balancing_policies.v1.{message}"));
    body["load_balancing_policy"] = policies(&[
        (&name, &message, config),
        (
            "envoy.load_balancing_policies.least_request",
            "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
            json!({}),
        ),
    ]);
}

/// The first that a proxy knows is used.
fn policies(list: &[(&str, &str, Value)]) -> Value {
    let policy = |(name, message, config): &(&str, &str, Value)| json!({ "typed_extension_config": { "name": name, "typed_config": typed(message, config.clone()) } });
    json!({ "policies": list.iter().map(policy).collect::<Vec<_>>() })
}

fn localities(cluster: &Cluster, common: &mut Value) {
    if !cluster.localities.weights.is_empty() {
        common["locality_weighted_lb_config"] = json!({});
    }
    set(common, "zone_aware_lb_config", cluster.localities.zone_aware.as_ref().map(zone_aware));
}

fn zone_aware(config: &ZoneAware) -> Value {
    let mut value = json!({});
    set(&mut value, "routing_enabled", config.share.map(percent));
    set(&mut value, "min_cluster_size", config.min_endpoints);
    set(&mut value, "fail_traffic_on_panic", config.fail_in_panic.then_some(true));
    value
}

fn slow_start(cluster: &str, config: &SlowStart) -> Value {
    let mut value = json!({ "slow_start_window": duration(config.window) });
    if let Some(aggression) = config.aggression {
        // Envoy takes no such value without a name by which its runtime may override it.
        let key = format!("weir.{cluster}.slow_start_aggression");
        value["aggression"] = json!({ "default_value": aggression.value(), "runtime_key": key });
    }
    set(&mut value, "min_weight_percent", config.min_weight.map(percent));
    value
}

fn subsets(config: &Subsets) -> Value {
    let selectors: Vec<Value> = config.selectors.iter().map(|keys| json!({ "keys": keys })).collect();
    let (policy, default): (&str, Option<&BTreeMap<String, String>>) = match &config.fallback {
        SubsetFallback::None => ("NO_FALLBACK", None),
        SubsetFallback::Any => ("ANY_ENDPOINT", None),
        SubsetFallback::Default(labels) => ("DEFAULT_SUBSET", Some(labels)),
    };
    let mut value = json!({ "fallback_policy": policy, "subset_selectors": selectors });
    set(&mut value, "default_subset", default.map(|labels| json!(labels)));
    value
}
