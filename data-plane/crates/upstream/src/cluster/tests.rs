//! Picks from a cluster, and what survives a new version of it.

use std::net::SocketAddr;

use shared_config::cluster::Discovery;
use shared_config::core::{Address as ConfigAddress, Fraction};
use shared_config::endpoint::{Endpoint as EndpointConfig, HealthStatus};

use super::*;
use crate::endpoint::Flag;
use crate::{Health, PickContext, PickError};

pub(crate) fn site() -> Site {
    Site { registry: Registry::new(2), workers: 1, bell: Bell::default(), local: None, events: None }
}

/// Endpoints 10.0.0.1:80, 10.0.0.2:80 and so on.
pub(crate) fn endpoints(count: u32) -> Vec<EndpointConfig> {
    (1..=count)
        .map(|n| {
            let [_, a, b, c] = n.to_be_bytes();
            EndpointConfig::new(ConfigAddress::Ip(SocketAddr::from(([10, a, b, c], 80))))
        })
        .collect()
}

pub(crate) fn config(change: impl FnOnce(&mut Config)) -> Arc<Config> {
    let mut config = Config::new("test", Discovery::Static(Assignment::default()));
    change(&mut config);
    Arc::new(config)
}

pub(crate) fn cluster(config: Arc<Config>, assignment: &Assignment) -> Arc<Cluster> {
    Arc::new(Cluster::compile(config, assignment, None, None, &site()))
}

pub(crate) fn pick(
    cluster: &Cluster,
    hash: Option<u64>,
    tried: &[u64],
    reselect: u32,
) -> Result<Arc<Endpoint>, PickError> {
    let mut rng = fastrand::Rng::with_seed(hash.unwrap_or(1));
    cluster.pick(&mut PickContext { hash, tried, reselect, ..PickContext::new(&mut rng, 0) })
}

#[test]
fn an_endpoint_keeps_its_state_when_others_come_and_go() {
    let config = config(|_| {});
    let first = cluster(Arc::clone(&config), &Assignment::of(endpoints(3)));
    let ids: Vec<u64> = first.endpoints().map(|e| e.state.id).collect();
    let next = Cluster::compile(config, &Assignment::of(endpoints(2)), None, Some(&first), &site());
    assert_eq!(next.endpoints().map(|e| e.state.id).collect::<Vec<_>>(), ids[..2]);
    assert!(!first.endpoints().any(|e| e.state.is_retired()), "compiling must change nothing");
    next.take_over(Some(&first));
    let retired: Vec<bool> = first.endpoints().map(|e| e.state.is_retired()).collect();
    assert_eq!(retired, [false, false, true]);
    assert_eq!(next.state.stats.membership_total().value(), 2);
}

#[test]
fn another_configuration_makes_new_connections_but_keeps_what_is_known_of_health() {
    let first = cluster(config(|_| {}), &Assignment::of(endpoints(1)));
    let state = Arc::clone(&first.endpoints().next().unwrap().state);
    state.set(Flag::FailedActiveCheck, true);
    let changed = config(|c| c.connect_timeout = Duration::from_secs(1));
    let next = Cluster::compile(changed, &Assignment::of(endpoints(1)), None, Some(&first), &site());
    let endpoint = next.endpoints().next().unwrap();
    assert_ne!(endpoint.state.id, state.id);
    assert_eq!(endpoint.health(), Health::Unhealthy);
    assert!(Arc::ptr_eq(&next.state, &first.state));
}

#[test]
fn an_unhealthy_endpoint_is_passed_over_before_and_after_the_tables_are_made_anew() {
    let cluster = cluster(config(|_| {}), &Assignment::of(endpoints(4)));
    let state = Arc::clone(&cluster.endpoints().next().unwrap().state);
    assert!(state.set(Flag::FailedOutlierCheck, true));
    for refreshed in [false, true] {
        if refreshed {
            cluster.refresh();
            assert_eq!(cluster.state.stats.membership_healthy().value(), 3);
        }
        assert!((0..100).all(|_| pick(&cluster, None, &[], 0).unwrap().state.id != state.id), "refreshed: {refreshed}");
    }
}

#[test]
fn tables_are_stale_until_they_are_made_after_the_last_change_also_those_of_a_version_that_waited() {
    let config = config(|_| {});
    let first = cluster(Arc::clone(&config), &Assignment::of(endpoints(2)));
    let next = Cluster::compile(config, &Assignment::of(endpoints(2)), None, Some(&first), &site());
    assert!(!first.is_stale() && !next.is_stale());
    first.state.health_changed.notify_one();
    for version in [&*first, &next] {
        assert!(version.is_stale());
        version.refresh();
        assert!(!version.is_stale());
    }
}

/// A cluster with health checks of four endpoints that pass and six that were never checked.
fn half_checked(ignore_new: bool) -> Arc<Cluster> {
    let config = config(|c| {
        c.health_check = Some(Arc::new(crate::health::status::tests::config()));
        c.ignore_new_until_checked = ignore_new;
    });
    let cluster = cluster(config, &Assignment::of(endpoints(10)));
    assert!(cluster.endpoints().all(|e| e.health() == Health::Unhealthy && e.checked));
    for endpoint in cluster.endpoints().take(4) {
        endpoint.state.set(Flag::FailedActiveCheck, false);
        endpoint.state.set(Flag::PendingActiveCheck, false);
    }
    cluster.refresh();
    cluster
}

#[test]
fn endpoints_that_were_never_checked_cause_a_panic_unless_they_do_not_count() {
    for (ignore_new, panics) in [(false, 100), (true, 0)] {
        let cluster = half_checked(ignore_new);
        let picked: hashbrown::HashSet<u64> =
            (0..100).map(|_| pick(&cluster, None, &[], 0).unwrap().state.id).collect();
        assert_eq!(cluster.state.stats.lb_healthy_panic().value(), panics, "ignored: {ignore_new}");
        assert_eq!(picked.len(), if ignore_new { 4 } else { 10 });
        assert_eq!(cluster.health_stats().unwrap().healthy().value(), 4);
    }
}

#[test]
fn an_endpoint_that_asked_to_be_left_out_does_not_count() {
    let cluster = half_checked(true);
    let first = Arc::clone(cluster.endpoints().next().unwrap());
    cluster.fail_passively(&first);
    assert!(cluster.is_stale());
    cluster.refresh();
    assert_eq!(first.health(), Health::Unhealthy);
    assert!((0..100).all(|_| pick(&cluster, None, &[], 0).unwrap().state.id != first.state.id));
    assert_eq!(cluster.state.stats.lb_healthy_panic().value(), 0);
}

#[test]
fn what_checks_found_is_forgotten_where_nobody_checks_any_more() {
    let first = half_checked(false);
    let next = Cluster::compile(config(|_| {}), &Assignment::of(endpoints(10)), None, Some(&first), &site());
    assert!(!first.is_warm() && next.is_warm());
    next.take_over(Some(&first));
    assert_eq!(next.state.stats.membership_healthy().value(), 10);
    assert!(next.endpoints().all(|e| e.health_flags(true).is_empty()));
}

#[test]
fn a_retry_avoids_endpoints_that_were_tried() {
    let cluster = cluster(config(|_| {}), &Assignment::of(endpoints(2)));
    let tried = pick(&cluster, None, &[], 0).unwrap().state.id;
    for _ in 0..20 {
        assert_ne!(pick(&cluster, None, &[tried], 5).unwrap().state.id, tried);
    }
    let all: Vec<u64> = cluster.endpoints().map(|e| e.state.id).collect();
    assert!(pick(&cluster, None, &all, 3).is_ok(), "an endpoint that was tried is better than none");
}

#[test]
fn a_cluster_without_endpoints_and_one_without_healthy_ones_say_so() {
    let empty = cluster(config(|_| {}), &Assignment::of(vec![]));
    assert_eq!(pick(&empty, None, &[], 0).unwrap_err(), PickError::Empty);
    let mut sick = endpoints(2);
    sick.iter_mut().for_each(|e| e.health = HealthStatus::Unhealthy);
    let panicking = cluster(config(|_| {}), &Assignment::of(sick.clone()));
    assert!(pick(&panicking, None, &[], 0).is_ok(), "in panic health is disregarded");
    assert_eq!(panicking.state.stats.lb_healthy_panic().value(), 1);
    let strict = cluster(config(|c| c.panic_threshold = 0.0), &Assignment::of(sick));
    assert_eq!(pick(&strict, None, &[], 0).unwrap_err(), PickError::Unhealthy);
}

#[test]
fn an_overloaded_cluster_drops_its_share() {
    let mut assignment = Assignment::of(endpoints(1));
    assignment.drop = Some(DropOverload { category: "c".into(), share: Fraction { numerator: 25, denominator: 100 } });
    let cluster = cluster(config(|_| {}), &assignment);
    let mut rng = fastrand::Rng::with_seed(7);
    let mut context = PickContext::new(&mut rng, 0);
    let dropped = (0..10_000).filter(|_| cluster.pick(&mut context).is_err()).count();
    assert!((2300..2700).contains(&dropped), "{dropped}");
}

#[test]
fn an_open_breaker_counts_the_overflow() {
    let cluster = cluster(config(|c| c.breakers.default.requests = 1), &Assignment::of(vec![]));
    let held = cluster.admit(Resource::Requests, Priority::Default, 0);
    assert!(held.is_some());
    assert!(cluster.admit(Resource::Requests, Priority::Default, 0).is_none());
    assert!(cluster.admit(Resource::Requests, Priority::High, 0).is_some());
    assert_eq!(cluster.state.stats.upstream_rq_pending_overflow().value(), 1);
}

#[test]
fn an_endpoint_that_comes_back_while_it_has_connections_is_the_one_it_was() {
    let config = config(|_| {});
    let both = cluster(Arc::clone(&config), &Assignment::of(endpoints(2)));
    let less = Cluster::compile(Arc::clone(&config), &Assignment::of(endpoints(1)), None, Some(&both), &site());
    less.take_over(Some(&both));
    let state = Arc::clone(&both.endpoints().nth(1).unwrap().state);
    drop(both);
    assert!(state.is_retired());
    let again = Cluster::compile(Arc::clone(&config), &Assignment::of(endpoints(2)), None, Some(&less), &site());
    assert!(state.is_retired(), "compiling must change nothing");
    again.take_over(Some(&less));
    assert_eq!(again.endpoints().nth(1).unwrap().state.id, state.id);
    assert!(!state.is_retired());
    // Without a connection nothing is left of it.
    let id = state.id;
    drop(state);
    let less = Cluster::compile(Arc::clone(&config), &Assignment::of(endpoints(1)), None, Some(&again), &site());
    less.take_over(Some(&again));
    drop(again);
    let again = Cluster::compile(config, &Assignment::of(endpoints(2)), None, Some(&less), &site());
    assert_ne!(again.endpoints().nth(1).unwrap().state.id, id);
}

/// The shares of picks that each member of an aggregate gets, in percent.
fn shares(aggregate: &Arc<Cluster>, members: &[&Arc<Cluster>]) -> Vec<usize> {
    let mut rng = fastrand::Rng::with_seed(3);
    let mut counts = vec![0; members.len()];
    for _ in 0..10_000 {
        let (member, place) = aggregate.member(&mut rng);
        let picked = member.pick(&mut PickContext { place, ..PickContext::new(&mut rng, 0) }).unwrap();
        assert!(member.endpoints().any(|e| e.state.id == picked.state.id));
        counts[members.iter().position(|m| Arc::ptr_eq(m, member)).unwrap()] += 1;
    }
    counts.iter().map(|count| (count + 50) / 100).collect()
}

#[test]
fn an_aggregate_fills_its_members_in_order() {
    let member = |count| cluster(config(|_| {}), &Assignment::of(endpoints(count)));
    let (first, second) = (member(5), member(5));
    let of = |members: &[Arc<Cluster>]| {
        let config = config(|c| c.discovery = Discovery::Aggregate(Vec::new()));
        Arc::new(Cluster::compile(config, &Assignment::default(), None, None, &site()).of_members(members))
    };
    let inner = of(&[member(0), Arc::clone(&first)]);
    let aggregate = of(&[inner, Arc::clone(&second), Arc::clone(&first)]);
    let check = |sick: usize, wanted: [usize; 2]| {
        for (n, endpoint) in first.endpoints().enumerate() {
            endpoint.state.set(Flag::FailedActiveCheck, n < sick);
        }
        first.refresh();
        let found = shares(&aggregate, &[&first, &second]);
        assert!(found.iter().zip(wanted).all(|(found, wanted)| found.abs_diff(wanted) <= 2), "{sick}: {found:?}");
    };
    check(0, [100, 0]);
    // 3 of 5 are well, 140 % of 60 % is 84 %.
    check(2, [84, 16]);
    check(5, [0, 100]);
    check(0, [100, 0]);
}

#[test]
fn an_aggregate_of_nothing_has_no_endpoints() {
    let config = config(|c| c.discovery = Discovery::Aggregate(Vec::new()));
    let aggregate = Cluster::compile(config, &Assignment::default(), None, None, &site()).of_members(&[]);
    let aggregate = Arc::new(aggregate);
    let (member, place) = aggregate.member(&mut fastrand::Rng::with_seed(1));
    assert_eq!((Arc::ptr_eq(member, &aggregate), place), (true, None));
    assert_eq!(pick(member, None, &[], 0).unwrap_err(), PickError::Empty);
}
