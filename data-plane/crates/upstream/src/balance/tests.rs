//! Shares that the balancers give, counted over many picks.

use std::collections::BTreeMap;
use std::time::Duration;

use dp_http::info::{Address, StickyHost};
use shared_config::endpoint::{Assignment, Endpoint as EndpointConfig, HealthStatus, LocalityEndpoints};
use shared_config::lb_policy::{
    Algorithm, Consistent, HashFunction, LeastRequest, LeastTime, LocalityBasis, LocalityLb, Maglev, Measure, PeakEwma,
    RingHash, SlowStart, ZoneAware,
};

use super::schedule::Schedule;
use super::*;
use crate::cluster::tests::{cluster, config, endpoints};
use crate::endpoint::Flag;
use crate::{Cluster, PickContext};

mod envoy;

fn balanced(algorithm: Algorithm, assignment: &Assignment) -> Arc<Cluster> {
    cluster(config(|c| c.lb = LbPolicy { locality: LocalityLb::Weighted, ..LbPolicy::of(algorithm) }), assignment)
}

fn weighted(weights: &[u32]) -> Vec<EndpointConfig> {
    let mut list = endpoints(u32::try_from(weights.len()).unwrap());
    list.iter_mut().zip(weights).for_each(|(endpoint, weight)| endpoint.weight = *weight);
    list
}

/// How often each endpoint is picked, in the order of the configuration; hashes are random if `hashed`.
fn shares(cluster: &Cluster, picks: u32, hashed: bool) -> Vec<f64> {
    let mut rng = fastrand::Rng::with_seed(42);
    let mut hashes = fastrand::Rng::with_seed(43);
    let mut counts = BTreeMap::<u64, u32>::new();
    for _ in 0..picks {
        let hash = hashed.then(|| hashes.u64(..));
        let mut context = PickContext { hash, ..PickContext::new(&mut rng, 0) };
        *counts.entry(cluster.pick(&mut context).unwrap().state.id).or_default() += 1;
    }
    cluster.endpoints().map(|e| f64::from(*counts.get(&e.state.id).unwrap_or(&0)) / f64::from(picks)).collect()
}

#[track_caller]
fn check_shares(cluster: &Cluster, hashed: bool, wanted: &[f64], tolerance: f64) {
    let shares = shares(cluster, 100_000, hashed);
    for (share, wanted) in shares.iter().zip(wanted) {
        assert!((share - wanted).abs() <= tolerance, "{shares:?} is not {wanted:?}");
    }
}

fn ring(minimum_size: u64) -> Algorithm {
    let consistent = Consistent::default();
    Algorithm::RingHash(RingHash { minimum_size, maximum_size: 8_388_608, function: HashFunction::Xx, consistent })
}

fn maglev() -> Algorithm {
    Algorithm::Maglev(Maglev { table_size: 65_537, consistent: Consistent::default() })
}

fn least_request() -> Algorithm {
    Algorithm::LeastRequest(LeastRequest { choices: 2, bias: 1.0, full_scan: false })
}

#[test]
fn weights_are_kept_within_one_percent() {
    let wanted = [0.1, 0.2, 0.3, 0.4];
    let assignment = Assignment::of(weighted(&[1, 2, 3, 4]));
    check_shares(&balanced(Algorithm::RoundRobin, &assignment), false, &wanted, 0.001);
    check_shares(&balanced(least_request(), &assignment), false, &wanted, 0.01);
    check_shares(&balanced(maglev(), &assignment), true, &wanted, 0.01);
    check_shares(&balanced(ring(8_000), &assignment), true, &wanted, 0.02);
    check_shares(&balanced(Algorithm::Random, &assignment), false, &[0.25; 4], 0.01);
}

#[test]
fn a_cycle_too_long_to_list_keeps_the_weights_too() {
    let weights = [1_000_003, 2_000_029, 3_000_017];
    let total = f64::from(weights.iter().sum::<u32>());
    let wanted: Vec<f64> = weights.iter().map(|w| f64::from(*w) / total).collect();
    check_shares(&balanced(Algorithm::RoundRobin, &Assignment::of(weighted(&weights))), false, &wanted, 0.0005);
}

#[test]
fn round_robin_spreads_turns_evenly() {
    let schedule = Schedule::build(&[5, 1, 1], 1);
    let turns: Vec<usize> = (0..14).map(|_| schedule.next(0)).collect();
    assert!(turns.windows(7).all(|cycle| cycle.iter().filter(|turn| **turn == 0).count() == 5), "{turns:?}");
    let even = Schedule::build(&[3, 3, 3], 2);
    let turns: Vec<usize> = (0..6).map(|_| even.next(1)).collect();
    assert_eq!(turns[..3], turns[3..]);
}

#[test]
fn least_request_avoids_a_busy_endpoint() {
    let cluster = balanced(least_request(), &Assignment::of(endpoints(2)));
    let busy = Arc::clone(&cluster.endpoints().next().unwrap().state);
    let _running: Vec<_> = (0..10).map(|_| busy.begin_request()).collect();
    // It is picked only when both choices fall on it.
    check_shares(&cluster, false, &[0.25, 0.75], 0.01);
    let scan = Algorithm::LeastRequest(LeastRequest { choices: 2, bias: 1.0, full_scan: true });
    let cluster = balanced(scan, &Assignment::of(endpoints(2)));
    let busy = Arc::clone(&cluster.endpoints().next().unwrap().state);
    let _running = busy.begin_request();
    check_shares(&cluster, false, &[0.0, 1.0], 0.0);
}

#[test]
fn with_unequal_weights_least_request_nears_envoys_formula() {
    let cluster = balanced(
        Algorithm::LeastRequest(LeastRequest { choices: 8, bias: 1.0, full_scan: false }),
        &Assignment::of(weighted(&[3, 1])),
    );
    let busy = Arc::clone(&cluster.endpoints().next().unwrap().state);
    let _running: Vec<_> = (0..2).map(|_| busy.begin_request()).collect();
    // 3 / (2 + 1) against 1 / (0 + 1).
    check_shares(&cluster, false, &[0.5, 0.5], 0.05);
}

/// How many of 10,000 hashes go elsewhere when one of `count` endpoints leaves.
fn moved(algorithm: &Algorithm, count: u32) -> f64 {
    let all = balanced(algorithm.clone(), &Assignment::of(endpoints(count)));
    let fewer = balanced(algorithm.clone(), &Assignment::of(endpoints(count - 1)));
    let mut hashes = fastrand::Rng::with_seed(5);
    let mut rng = fastrand::Rng::with_seed(6);
    let moved = (0..10_000).filter(|_| {
        let hash = Some(hashes.u64(..));
        let mut pick = |cluster: &Cluster| {
            let mut context = PickContext { hash, ..PickContext::new(&mut rng, 0) };
            cluster.pick(&mut context).unwrap().address.clone()
        };
        pick(&all) != pick(&fewer)
    });
    f64::from(u32::try_from(moved.count()).unwrap()) / 10_000.0
}

#[test]
fn few_hashes_move_when_one_endpoint_leaves() {
    for algorithm in [ring(20_000), maglev()] {
        let moved = moved(&algorithm, 20);
        // A twentieth must move; the others' points grow in number too, because a ring keeps its size.
        assert!((0.03..0.10).contains(&moved), "{algorithm:?}: {moved}");
    }
}

#[test]
fn a_hash_finds_the_same_endpoint_whatever_the_order_of_the_configuration() {
    let mut reversed = endpoints(10);
    reversed.reverse();
    for algorithm in [ring(1024), maglev()] {
        let forward = balanced(algorithm.clone(), &Assignment::of(endpoints(10)));
        let backward = balanced(algorithm, &Assignment::of(reversed.clone()));
        for hash in 0..1000_u64 {
            let hash = stdx::hash::xxh64(&hash.to_le_bytes(), 0);
            let address =
                |cluster: &Cluster| crate::cluster::tests::pick(cluster, Some(hash), &[], 0).unwrap().address.clone();
            assert_eq!(address(&forward), address(&backward));
        }
    }
}

#[test]
fn a_ring_has_envoys_points() {
    // XXH64 of "10.0.0.1:80_0" and so on: 1024 points for each of two equal endpoints at the default size.
    let list = endpoints(2);
    let cluster = balanced(ring(1024), &Assignment::of(list));
    for (n, endpoint) in cluster.endpoints().enumerate() {
        for copy in [0, 1, 511] {
            let hash = stdx::hash::xxh64(format!("10.0.0.{}:80_{copy}", n + 1).as_bytes(), 0);
            let found = crate::cluster::tests::pick(&cluster, Some(hash), &[], 0).unwrap();
            assert_eq!(found.address, endpoint.address, "point {copy} of endpoint {n}");
        }
    }
}

#[test]
fn a_bounded_endpoint_passes_on_what_is_too_much() {
    let bounded = Consistent { use_hostname: false, balance_factor: Some(120) };
    let algorithm = Algorithm::Maglev(Maglev { table_size: 65_537, consistent: bounded });
    let cluster = balanced(algorithm, &Assignment::of(endpoints(4)));
    let pick = || crate::cluster::tests::pick(&cluster, Some(99), &[], 0).unwrap();
    let first = pick();
    let _running: Vec<_> = (0..10).map(|_| first.state.begin_request()).collect();
    let other = pick();
    assert_ne!(other.state.id, first.state.id);
    assert_eq!(pick().state.id, other.state.id, "the same hash is passed on to the same endpoint");
}

fn level(priority: u32, healthy: u32, unhealthy: u32) -> LocalityEndpoints {
    let mut list = endpoints((priority + 1) * 1000);
    let mut list = list.split_off((priority * 1000) as usize);
    list.truncate((healthy + unhealthy) as usize);
    list.iter_mut().take(unhealthy as usize).for_each(|e| e.health = HealthStatus::Unhealthy);
    LocalityEndpoints { priority, endpoints: list, ..LocalityEndpoints::default() }
}

/// The shares of the priorities whose (healthy, unhealthy) endpoints are `levels`, in percent.
#[track_caller]
fn check_priorities(levels: &[(u32, u32)], wanted: &[u32]) {
    let localities = (0..).zip(levels).map(|(n, (healthy, unhealthy))| level(n, *healthy, *unhealthy)).collect();
    let cluster = balanced(Algorithm::Random, &Assignment { localities, ..Assignment::of(vec![]) });
    let mut counts = vec![0.0; levels.len()];
    for (share, endpoint) in shares(&cluster, 100_000, false).iter().zip(cluster.endpoints()) {
        counts[endpoint.priority as usize] += share * 100.0;
    }
    for (count, wanted) in counts.iter().zip(wanted) {
        assert!((count - f64::from(*wanted)).abs() < 1.0, "{levels:?}: {counts:?} is not {wanted:?}");
    }
}

#[test]
fn traffic_spills_over_as_envoys_table_says() {
    check_priorities(&[(100, 0), (100, 0)], &[100, 0]);
    check_priorities(&[(72, 28), (100, 0)], &[100, 0]);
    check_priorities(&[(71, 29), (100, 0)], &[99, 1]);
    check_priorities(&[(50, 50), (50, 50)], &[70, 30]);
    check_priorities(&[(25, 75), (100, 0)], &[35, 65]);
    check_priorities(&[(0, 100), (100, 0)], &[0, 100]);
    check_priorities(&[(25, 75), (25, 75)], &[50, 50]);
    check_priorities(&[(0, 100), (0, 300)], &[25, 75]);
    check_priorities(&[(72, 28), (72, 28), (100, 0)], &[100, 0, 0]);
    check_priorities(&[(71, 29), (71, 29), (100, 0)], &[99, 1, 0]);
    check_priorities(&[(50, 50), (50, 50), (100, 0)], &[70, 30, 0]);
    check_priorities(&[(25, 75), (100, 0), (100, 0)], &[35, 65, 0]);
    check_priorities(&[(25, 75), (25, 75), (100, 0)], &[35, 35, 30]);
    // Envoy's page says 7 and 93; its program gives what rounding leaves over to the first.
    check_priorities(&[(5, 95), (65, 35)], &[8, 92]);
}

#[test]
fn a_level_panics_when_all_levels_together_are_not_enough() {
    let check = |levels: &[(u32, u32)], wanted: &[bool]| {
        let localities = (0..).zip(levels).map(|(n, (healthy, unhealthy))| level(n, *healthy, *unhealthy)).collect();
        let cluster = balanced(Algorithm::Random, &Assignment { localities, ..Assignment::of(vec![]) });
        let unhealthy: Vec<bool> = levels.iter().map(|_| false).collect();
        let mut hit = unhealthy;
        let mut rng = fastrand::Rng::with_seed(4);
        for _ in 0..5000 {
            let endpoint = cluster.pick(&mut PickContext::new(&mut rng, 0)).unwrap();
            hit[endpoint.priority as usize] |= endpoint.health() == Health::Unhealthy;
        }
        assert_eq!(hit, wanted, "{levels:?}");
    };
    check(&[(72, 28), (72, 28)], &[false, false]);
    check(&[(50, 50), (50, 50)], &[false, false]);
    check(&[(25, 75), (100, 0)], &[false, false]);
    check(&[(25, 75), (25, 75)], &[true, true]);
    check(&[(5, 95), (65, 35)], &[true, false]);
}

#[test]
fn degraded_endpoints_take_what_healthy_ones_cannot() {
    let check = |healthy: usize, degraded: usize, wanted: f64| {
        let mut list = endpoints(100);
        for (n, endpoint) in list.iter_mut().enumerate().skip(healthy) {
            let is_degraded = n < healthy + degraded;
            endpoint.health = if is_degraded { HealthStatus::Degraded } else { HealthStatus::Unhealthy };
        }
        let cluster = balanced(Algorithm::Random, &Assignment::of(list));
        let share: f64 = shares(&cluster, 100_000, false)[..healthy].iter().sum();
        assert!((share - wanted).abs() < 0.01, "{healthy} {degraded}: {share} is not {wanted}");
    };
    check(100, 0, 1.0);
    check(72, 28, 1.0);
    check(71, 29, 0.99);
    check(50, 50, 0.7);
    check(25, 65, 0.35);
}

#[test]
fn localities_take_traffic_by_weight_and_less_when_partly_down() {
    let locality = |n: u32, weight, unhealthy: u32| {
        let mut one = level(n, 10 - unhealthy, unhealthy);
        one.priority = 0;
        one.weight = Some(weight);
        one.locality = Arc::new(shared_config::endpoint::Locality { zone: n.to_string(), ..Default::default() });
        one
    };
    let check = |localities: Vec<LocalityEndpoints>, first: f64| {
        let cluster = balanced(Algorithm::RoundRobin, &Assignment { localities, ..Assignment::of(vec![]) });
        let share: f64 = shares(&cluster, 100_000, false)[..10].iter().sum();
        assert!((share - first).abs() < 0.005, "{share} is not {first}");
    };
    check(vec![locality(0, 1, 0), locality(1, 3, 0)], 0.25);
    // Half of the second is down: it counts 3 * 1.4 * 0.5 = 2.1.
    check(vec![locality(0, 1, 0), locality(1, 3, 5)], 1.0 / 3.1);
    check(vec![locality(0, 1, 0), locality(1, 0, 0)], 1.0);
}

/// The share of the second of two endpoints `seconds` after it became healthy; the first was there long before.
fn slow_start_share(algorithm: Algorithm, seconds: u64) -> f64 {
    let slow_start = SlowStart { window: Duration::from_secs(60), aggression: 1.0, least: 0.1 };
    let policy = LbPolicy { slow_start: Some(slow_start), ..LbPolicy::of(algorithm) };
    let cluster = cluster(config(|c| c.lb = policy), &Assignment::of(endpoints(2)));
    let begin = Instant::now();
    let states: Vec<_> = cluster.endpoints().map(|e| Arc::clone(&e.state)).collect();
    states[0].healthy_since(begin);
    states[1].healthy_since(begin + Duration::from_secs(1000));
    cluster.refresh_at(begin + Duration::from_secs(1000 + seconds));
    shares(&cluster, 100_000, false)[1]
}

#[test]
fn slow_start_follows_its_curve() {
    for algorithm in [Algorithm::RoundRobin, least_request()] {
        for (seconds, factor) in [(0, 0.1), (6, 0.1), (15, 0.25), (30, 0.5), (45, 0.75), (60, 1.0)] {
            let (share, wanted) = (slow_start_share(algorithm.clone(), seconds), factor / (1.0 + factor));
            assert!((share - wanted).abs() < 0.01, "{algorithm:?} after {seconds} s: {share} is not {wanted}");
        }
    }
}

#[test]
fn tables_are_due_while_slow_start_goes_on() {
    let slow_start = SlowStart { window: Duration::from_secs(60), aggression: 1.0, least: 0.1 };
    let policy = LbPolicy { slow_start: Some(slow_start), ..LbPolicy::default() };
    let cluster = cluster(config(|c| c.lb = policy), &Assignment::of(endpoints(2)));
    let now = Instant::now();
    cluster.refresh_at(now);
    assert_eq!(cluster.next_refresh(), Some(now + Duration::from_millis(1200)));
    cluster.refresh_at(now + Duration::from_secs(61));
    assert_eq!(cluster.next_refresh(), None);
}

#[test]
fn an_endpoint_that_recovers_starts_slowly() {
    let cluster = balanced(Algorithm::RoundRobin, &Assignment::of(endpoints(1)));
    let state = Arc::clone(&cluster.endpoints().next().unwrap().state);
    let now = Instant::now();
    state.healthy_since(now);
    let later = latency::stamp(now + Duration::from_secs(100));
    assert!(state.time_healthy(later) >= Duration::from_secs(99));
    for flag in [Flag::FailedActiveCheck, Flag::FailedOutlierCheck] {
        state.set(flag, true);
    }
    state.healthy_since(now);
    state.set(Flag::FailedActiveCheck, false);
    assert_eq!(state.time_healthy(latency::stamp(now)), Duration::ZERO, "it is still ejected");
    let before = latency::stamp(Instant::now());
    state.set(Flag::FailedOutlierCheck, false);
    assert!(state.time_healthy(before + 1000) <= Duration::from_secs(1));
}

fn peak_ewma() -> Algorithm {
    Algorithm::PeakEwma(PeakEwma { decay: Duration::from_secs(10), default_rtt: Duration::from_secs(1) })
}

fn least_time() -> Algorithm {
    Algorithm::LeastTime(LeastTime { measure: Measure::Header, choices: None })
}

/// Endpoints with these response times in milliseconds; 0 was never measured.
fn measured(algorithm: Algorithm, weights: &[u32], millis: &[u64]) -> Arc<Cluster> {
    let cluster = balanced(algorithm, &Assignment::of(weighted(weights)));
    let now = Instant::now();
    for (endpoint, millis) in cluster.endpoints().zip(millis).filter(|(_, millis)| **millis > 0) {
        let since = now - Duration::from_millis(*millis);
        cluster.note_head(&endpoint.state, since, now);
    }
    cluster
}

#[test]
fn the_faster_of_two_endpoints_is_picked() {
    check_shares(&measured(peak_ewma(), &[1, 1], &[10, 100]), false, &[1.0, 0.0], 0.0);
    // Of two different ones the slowest of three is never the better one.
    check_shares(&measured(peak_ewma(), &[1, 1, 1], &[10, 100, 20]), false, &[2.0 / 3.0, 0.0, 1.0 / 3.0], 0.01);
    // One with nothing to go by is tried at once.
    check_shares(&measured(peak_ewma(), &[1, 1], &[10, 0]), false, &[0.0, 1.0], 0.0);
    check_shares(&measured(peak_ewma(), &[1, 3], &[10, 10]), false, &[0.25, 0.75], 0.01);
    check_shares(&measured(least_time(), &[1, 1, 1], &[10, 9, 11]), false, &[0.0, 1.0, 0.0], 0.0);
    check_shares(&measured(least_time(), &[1, 1, 2], &[10, 9, 11]), false, &[0.0, 0.0, 1.0], 0.0);
    check_shares(&measured(least_time(), &[1, 1], &[10, 0]), false, &[0.0, 1.0], 0.0);
}

#[test]
fn requests_in_progress_count_with_response_time() {
    for algorithm in [peak_ewma(), least_time()] {
        let cluster = measured(algorithm, &[1, 1], &[10, 25]);
        let fast = Arc::clone(&cluster.endpoints().next().unwrap().state);
        let _running: Vec<_> = (0..2).map(|_| fast.begin_request()).collect();
        // 10 * 3 is more than 25 * 1.
        let shares = shares(&cluster, 10_000, false);
        assert!(shares[0] < 0.3 && shares[1] > 0.7, "{shares:?}");
    }
}

#[test]
fn a_lost_request_does_not_look_fast() {
    let cluster = measured(least_time(), &[1, 1], &[100, 0]);
    let broken = Arc::clone(&cluster.endpoints().nth(1).unwrap().state);
    cluster.note_loss(&broken, Instant::now());
    check_shares(&cluster, false, &[1.0, 0.0], 0.0);
}

/// How picks spread over the zones of an upstream, for a proxy in the first zone: `(proxies, endpoints)` by zone.
fn zones(zones: &[(u32, u32)], change: impl FnOnce(&mut ZoneAware)) -> Vec<f64> {
    let mut zone_aware = ZoneAware {
        enabled: 100.0,
        min_cluster_size: 6,
        fail_traffic_on_panic: false,
        force_direct: false,
        basis: LocalityBasis::HealthyEndpoints,
    };
    change(&mut zone_aware);
    let name = |n: usize| shared_config::endpoint::Locality { zone: n.to_string(), ..Default::default() };
    let assignment = |count: &dyn Fn(&(u32, u32)) -> u32| {
        let mut all = endpoints(zones.iter().map(count).sum());
        let localities = zones.iter().enumerate().map(|(n, zone)| {
            let rest = all.split_off(count(zone) as usize);
            let endpoints = std::mem::replace(&mut all, rest);
            LocalityEndpoints { locality: Arc::new(name(n)), endpoints, ..LocalityEndpoints::default() }
        });
        Assignment { localities: localities.collect(), ..Assignment::of(vec![]) }
    };
    let local = Arc::new(LocalCluster::new("test", name(0), crate::refresh::Bell::default()));
    let site = crate::Site { local: Some(local), ..crate::cluster::tests::site() };
    let proxies = Cluster::compile(config(|_| {}), &assignment(&|zone| zone.0), None, None, &site);
    proxies.take_over(None);
    let policy = LbPolicy { locality: LocalityLb::ZoneAware(zone_aware), ..LbPolicy::default() };
    let upstream = config(|c| {
        c.lb = policy;
        c.name = "upstream".into();
    });
    let upstream = Cluster::compile(upstream, &assignment(&|zone| zone.1), None, None, &site);
    let mut by_zone = vec![0.0; zones.len()];
    for (share, endpoint) in shares(&upstream, 100_000, false).iter().zip(upstream.endpoints()) {
        by_zone[endpoint.locality.zone.parse::<usize>().unwrap()] += share;
    }
    by_zone
}

#[track_caller]
fn check_zones(given: &[(u32, u32)], wanted: &[f64]) {
    let found = zones(given, |_| {});
    for (found_one, wanted) in found.iter().zip(wanted) {
        assert!((found_one - wanted).abs() < 0.01, "{given:?}: {found:?}");
    }
}

#[test]
fn traffic_stays_in_its_zone_as_far_as_that_is_fair() {
    check_zones(&[(5, 5), (5, 5)], &[1.0, 0.0]);
    check_zones(&[(2, 8), (8, 8)], &[1.0, 0.0]);
    // Half of the proxies and a quarter of the endpoints are here: half of the traffic stays.
    check_zones(&[(4, 4), (2, 4), (2, 8)], &[0.5, 0.0, 0.5]);
    // The local zone has no endpoints.
    check_zones(&[(2, 0), (2, 4), (4, 12)], &[0.0, 0.0, 1.0]);
    // Too few endpoints for zones to matter.
    check_zones(&[(5, 2), (5, 2)], &[0.5, 0.5]);
    assert_eq!(zones(&[(9, 1), (1, 9)], |c| c.force_direct = true), [1.0, 0.0]);
    let half = zones(&[(5, 5), (5, 5)], |c| c.enabled = 50.0);
    assert!((half[0] - 0.75).abs() < 0.01, "{half:?}");
}

#[test]
fn a_session_keeps_its_endpoint_while_that_is_well() {
    let cluster = balanced(Algorithm::RoundRobin, &Assignment::of(endpoints(3)));
    let third = Arc::clone(cluster.endpoints().nth(2).unwrap());
    let pick = |sticky: &StickyHost| {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut context = PickContext { sticky: Some(sticky), ..PickContext::new(&mut rng, 0) };
        cluster.pick(&mut context).map(|endpoint| endpoint.state.id)
    };
    let mut sticky = StickyHost { address: third.address.clone(), is_strict: false, status: 503 };
    assert!((0..10).all(|_| pick(&sticky) == Ok(third.state.id)));
    third.state.set(Flag::FailedActiveCheck, true);
    assert!(pick(&sticky).is_ok_and(|id| id != third.state.id));
    sticky.is_strict = true;
    assert_eq!(pick(&sticky), Err(crate::PickError::Strict));
    sticky.address = Address::Ip("192.0.2.1:80".parse().unwrap());
    assert_eq!(pick(&sticky), Err(crate::PickError::Strict));
}
