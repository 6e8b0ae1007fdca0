//! Which endpoints take requests of a cluster with subsets.

use std::collections::BTreeSet;

use serde_json::json;
use shared_config::endpoint::{Assignment, Endpoint as EndpointConfig, HealthStatus};
use shared_config::lb_policy::{Algorithm, LbPolicy};

use super::*;
use crate::cluster::tests::{cluster, config, endpoints};
use crate::{Cluster, PickContext};

fn metadata(fields: &Value) -> BTreeMap<String, Value> {
    BTreeMap::from([(NAMESPACE.to_owned(), fields.clone())])
}

/// Endpoints 10.0.0.1:80 and so on with this metadata.
fn with_metadata(fields: &[Value]) -> Vec<EndpointConfig> {
    let mut list = endpoints(u32::try_from(fields.len()).unwrap());
    list.iter_mut().zip(fields).for_each(|(endpoint, fields)| endpoint.metadata = Arc::new(metadata(fields)));
    list
}

fn versions() -> Vec<EndpointConfig> {
    with_metadata(&[
        json!({ "version": "1", "stage": "prod" }),
        json!({ "version": "1", "stage": "dev" }),
        json!({ "version": "2", "stage": "prod" }),
        json!({ "stage": "prod" }),
    ])
}

fn selector(keys: &[&str], fallback: SelectorFallback) -> Selector {
    Selector { keys: keys.iter().map(|key| (*key).to_owned()).collect(), fallback, single_host: false }
}

fn by_version() -> Config {
    Config {
        fallback: Fallback::None,
        default_subset: BTreeMap::new(),
        selectors: vec![
            selector(&["version"], SelectorFallback::Inherited),
            selector(&["stage", "version"], SelectorFallback::Inherited),
        ],
        redundant_keys: false,
        locality_weights: false,
        scale_locality: false,
        panic_any: false,
        list_as_any: false,
        fallback_list: false,
    }
}

fn compiled(subset: Config, list: Vec<EndpointConfig>) -> Arc<Cluster> {
    let policy = LbPolicy { subset: Some(subset), ..LbPolicy::of(Algorithm::RoundRobin) };
    cluster(config(|c| c.lb = policy), &Assignment::of(list))
}

/// The numbers of the endpoints (from 1) that are picked for a route that asks for `wanted`.
fn picked(cluster: &Cluster, wanted: &Value) -> BTreeSet<usize> {
    let criteria = Criteria::compile(&metadata(wanted));
    let mut rng = fastrand::Rng::with_seed(1);
    let all: Vec<u64> = cluster.endpoints().map(|e| e.state.id).collect();
    (0..50)
        .filter_map(|_| {
            let mut context = PickContext { criteria: criteria.as_ref(), ..PickContext::new(&mut rng, 0) };
            let id = cluster.pick(&mut context).ok()?.state.id;
            all.iter().position(|other| *other == id).map(|at| at + 1)
        })
        .collect()
}

#[track_caller]
fn check(change: impl FnOnce(&mut Config), wanted: Value, expected: &[usize]) {
    let mut subset = by_version();
    change(&mut subset);
    let picked: Vec<usize> = picked(&compiled(subset, versions()), &wanted).into_iter().collect();
    assert_eq!(picked, expected, "{wanted}");
}

#[test]
fn a_route_gets_the_endpoints_with_its_metadata() {
    check(|_| {}, json!({ "version": "1" }), &[1, 2]);
    check(|_| {}, json!({ "version": "2" }), &[3]);
    check(|_| {}, json!({ "version": "1", "stage": "dev" }), &[2]);
    // A number is not its text, and keys without a selector match nothing.
    check(|_| {}, json!({ "version": 1 }), &[]);
    check(|_| {}, json!({ "stage": "prod" }), &[]);
    check(|_| {}, json!({ "version": "1", "stage": "dev", "more": "x" }), &[]);
}

#[test]
fn what_no_subset_takes_falls_back() {
    check(|_| {}, json!({ "version": "3" }), &[]);
    check(|_| {}, json!({}), &[]);
    check(|c| c.fallback = Fallback::Any, json!({ "version": "3" }), &[1, 2, 3, 4]);
    check(|c| c.fallback = Fallback::Any, json!({}), &[1, 2, 3, 4]);
    let default = |c: &mut Config| {
        c.fallback = Fallback::Default;
        c.default_subset = BTreeMap::from([("stage".to_owned(), json!("prod"))]);
    };
    check(default, json!({ "version": "3" }), &[1, 3, 4]);
    let nobody = |c: &mut Config| {
        c.fallback = Fallback::Default;
        c.default_subset = BTreeMap::from([("stage".to_owned(), json!("none"))]);
    };
    check(nobody, json!({ "version": "3" }), &[]);
    let panic = |c: &mut Config| {
        nobody(c);
        c.panic_any = true;
    };
    check(panic, json!({ "version": "3" }), &[1, 2, 3, 4]);
}

#[test]
fn a_selector_has_a_fallback_of_its_own() {
    let with = |fallback: SelectorFallback| {
        move |c: &mut Config| {
            c.selectors[1].fallback = fallback;
            c.fallback = Fallback::Any;
        }
    };
    let missing = || json!({ "version": "1", "stage": "test" });
    check(with(SelectorFallback::Inherited), missing(), &[1, 2, 3, 4]);
    check(with(SelectorFallback::To(Fallback::None)), missing(), &[]);
    check(with(SelectorFallback::To(Fallback::Any)), missing(), &[1, 2, 3, 4]);
    check(with(SelectorFallback::Keys(BTreeSet::from(["version".to_owned()]))), missing(), &[1, 2]);
}

#[test]
fn redundant_keys_are_passed_over_where_that_is_allowed() {
    let redundant = |c: &mut Config| {
        c.redundant_keys = true;
        c.selectors.reverse();
    };
    check(redundant, json!({ "version": "1", "more": "x" }), &[1, 2]);
    check(redundant, json!({ "version": "1", "stage": "prod", "more": "x" }), &[1]);
}

#[test]
fn a_list_of_fallbacks_is_tried_in_order() {
    let listed = |c: &mut Config| c.fallback_list = true;
    check(listed, json!({ "fallback_list": [{ "version": "3" }, { "version": "2" }] }), &[3]);
    check(listed, json!({ "version": "1", "fallback_list": [{ "stage": "test" }, { "stage": "dev" }] }), &[2]);
    check(listed, json!({ "version": "1", "fallback_list": [] }), &[1, 2]);
    check(|_| {}, json!({ "version": "1", "fallback_list": [] }), &[]);
}

#[test]
fn an_endpoint_is_in_the_subset_of_each_element_of_a_list() {
    let list = || with_metadata(&[json!({ "version": ["1", "2"] }), json!({ "version": "2" })]);
    let check = |list_as_any, wanted: Value, expected: &[usize]| {
        let cluster = compiled(Config { list_as_any, ..by_version() }, list());
        assert_eq!(picked(&cluster, &wanted).into_iter().collect::<Vec<_>>(), expected, "{list_as_any} {wanted}");
    };
    check(true, json!({ "version": "1" }), &[1]);
    check(true, json!({ "version": "2" }), &[1, 2]);
    check(false, json!({ "version": "2" }), &[2]);
    check(false, json!({ "version": ["1", "2"] }), &[1]);
}

#[test]
fn a_subset_of_one_takes_the_first_and_counts_the_others() {
    let mut subset = by_version();
    subset.selectors.truncate(1);
    subset.selectors[0].single_host = true;
    let cluster = compiled(subset, versions());
    cluster.take_over(None);
    assert_eq!(picked(&cluster, &json!({ "version": "1" })), BTreeSet::from([1]));
    let stats = cluster.state.lb_stats.get().unwrap();
    assert_eq!(stats.lb_subsets_single_host_per_subset_duplicate().value(), 1);
    assert_eq!(stats.lb_subsets_active().value(), 2);
    assert_eq!((stats.lb_subsets_created().value(), stats.lb_subsets_selected().value()), (2, 50));
}

#[test]
fn a_subset_has_a_panic_of_its_own() {
    let mut list = versions();
    list[0].health = HealthStatus::Unhealthy;
    list[1].health = HealthStatus::Unhealthy;
    let cluster = compiled(by_version(), list);
    assert_eq!(picked(&cluster, &json!({ "version": "1" })), BTreeSet::from([1, 2]), "in panic");
    assert_eq!(picked(&cluster, &json!({ "version": "2" })), BTreeSet::from([3]));
}

#[test]
fn a_weighted_cluster_adds_to_the_metadata_of_its_route() {
    let of = |fields: Value| Criteria::compile(&metadata(&fields)).unwrap();
    let merged = of(json!({ "version": "1", "stage": "prod" })).merged(&of(json!({ "version": "2" })));
    assert_eq!(merged, of(json!({ "version": "2", "stage": "prod" })));
    let dynamic = BTreeMap::from([("stage".to_owned(), "dev".to_owned())]);
    assert_eq!(Criteria::with_text(Some(&merged), &dynamic), of(json!({ "version": "2", "stage": "dev" })));
}
