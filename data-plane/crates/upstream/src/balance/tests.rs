//! Shares that the balancers give, counted over many picks.

use std::collections::BTreeMap;

use shared_config::endpoint::{Assignment, Endpoint as EndpointConfig, HealthStatus, LocalityEndpoints};
use shared_config::lb_policy::{Consistent, HashFunction, Maglev, RingHash};

use super::*;
use crate::cluster::tests::{cluster, config, endpoints};
use crate::cluster::{Cluster, PickContext};

fn balanced(algorithm: Algorithm, assignment: &Assignment) -> Arc<Cluster> {
    cluster(config(|c| c.lb = LbPolicy { algorithm, locality_weighted: true }), assignment)
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
        let mut context = PickContext { rng: &mut rng, worker: 0, hash, tried: &[], reselect: 0 };
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
            let mut context = PickContext { rng: &mut rng, worker: 0, hash, tried: &[], reselect: 0 };
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

/// Not a test of speed, which a debug build on a busy machine cannot give: `cargo test --release -- --ignored` prints it.
#[test]
#[ignore = "prints figures; run it in a release build"]
fn what_a_pick_from_10_000_endpoints_costs() {
    let many = endpoints(10_000);
    let weights: Vec<u32> = (0..10_000).map(|n| n % 7 + 1).collect();
    let uneven = weighted(&weights);
    let cases = [
        ("round robin", Algorithm::RoundRobin, &many),
        ("round robin, weighted", Algorithm::RoundRobin, &uneven),
        ("least request", least_request(), &many),
        ("least request, weighted", least_request(), &uneven),
        ("random", Algorithm::Random, &many),
        ("ring hash", ring(1024), &many),
        ("maglev", maglev(), &many),
    ];
    for (name, algorithm, list) in cases {
        let began = std::time::Instant::now();
        let cluster = balanced(algorithm, &Assignment::of(list.clone()));
        let built = began.elapsed();
        let mut rng = fastrand::Rng::with_seed(1);
        let mut hashes = fastrand::Rng::with_seed(2);
        let began = std::time::Instant::now();
        for _ in 0..1_000_000 {
            let hash = Some(hashes.u64(..));
            let mut context = PickContext { rng: &mut rng, worker: 0, hash, tried: &[], reselect: 0 };
            std::hint::black_box(cluster.pick(&mut context).unwrap());
        }
        tracing::info!(name, ?built, nanos = began.elapsed().as_nanos() / 1_000_000);
        std::io::Write::write_fmt(
            &mut std::io::stderr(),
            format_args!("{name}: {} ns a pick, made in {built:?}\n", began.elapsed().as_nanos() / 1_000_000),
        )
        .unwrap();
    }
}
