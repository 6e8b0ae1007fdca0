//! What a pick from 10,000 endpoints costs under each policy, and what a change of one of them does.
//!
//! `cargo bench -p dp-upstream --profile bench-fast` prints it; nothing is asserted.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "it is there to print")]

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dp_upstream::refresh::Bell;
use dp_upstream::{Cluster, PickContext, Site};
use shared_config::cluster::{Cluster as Config, Discovery};
use shared_config::core::Address;
use shared_config::endpoint::{Assignment, Endpoint};
use shared_config::lb_policy::{
    Algorithm, Consistent, HashFunction, LbPolicy, LeastRequest, LeastTime, Maglev, Measure, PeakEwma, RingHash,
};
use shared_telemetry::Registry;

const ENDPOINTS: u32 = 10_000;
const PICKS: u32 = 1_000_000;

fn assignment(weighted: bool) -> Assignment {
    let endpoint = |n: u32| {
        let [_, a, b, c] = n.to_be_bytes();
        let mut endpoint = Endpoint::new(Address::Ip(SocketAddr::from(([10, a, b, c], 80))));
        endpoint.weight = if weighted { n % 7 + 1 } else { 1 };
        endpoint
    };
    Assignment::of((1..=ENDPOINTS).map(endpoint).collect())
}

fn policies() -> Vec<(&'static str, Algorithm, bool)> {
    let consistent = Consistent::default();
    let ring = |minimum_size| {
        let consistent = consistent.clone();
        Algorithm::RingHash(RingHash { minimum_size, maximum_size: 8_388_608, function: HashFunction::Xx, consistent })
    };
    let least_request = || Algorithm::LeastRequest(LeastRequest { choices: 2, bias: 1.0, full_scan: false });
    let ewma = || Algorithm::PeakEwma(PeakEwma { decay: Duration::from_secs(10), default_rtt: Duration::from_secs(1) });
    let least_time = |choices| Algorithm::LeastTime(LeastTime { measure: Measure::Header, choices });
    vec![
        ("round robin", Algorithm::RoundRobin, false),
        ("round robin, weighted", Algorithm::RoundRobin, true),
        ("least request", least_request(), false),
        ("least request, weighted", least_request(), true),
        ("random", Algorithm::Random, false),
        ("ring hash, 1,024 at least", ring(1024), false),
        ("ring hash, 1,000,000 at least", ring(1_000_000), false),
        ("Maglev, 65,537", Algorithm::Maglev(Maglev { table_size: 65_537, consistent }), false),
        ("peak EWMA", ewma(), false),
        ("peak EWMA, weighted", ewma(), true),
        ("least time of 2", least_time(Some(2)), false),
    ]
}

/// Nanoseconds a pick.
fn pick(cluster: &Cluster) -> u128 {
    let now = Some(tokio::time::Instant::now());
    let mut rng = fastrand::Rng::with_seed(1);
    let mut hashes = fastrand::Rng::with_seed(2);
    let began = Instant::now();
    for _ in 0..PICKS {
        let hash = Some(hashes.u64(..));
        let mut context = PickContext { hash, now, ..PickContext::new(&mut rng, 0) };
        black_box(cluster.pick(&mut context).unwrap());
    }
    began.elapsed().as_nanos() / u128::from(PICKS)
}

fn main() {
    println!(
        "| policy, {ENDPOINTS} endpoints | ns a pick | first tables | one endpoint less | one endpoint's health |"
    );
    println!("|---|---|---|---|---|");
    for (name, algorithm, weighted) in policies() {
        let site = Site { registry: Registry::new(2), workers: 1, bell: Bell::default(), local: None, events: None };
        let mut config = Config::new("bench", Discovery::Static(Assignment::default()));
        config.lb = LbPolicy::of(algorithm);
        let config = Arc::new(config);
        let mut all = assignment(weighted);
        let began = Instant::now();
        let first = Cluster::compile(Arc::clone(&config), &all, None, None, &site);
        let made = began.elapsed();
        first.take_over(None);
        // Endpoints are in use, so that their counters differ.
        let running: Vec<_> = first.endpoints().step_by(3).map(|endpoint| endpoint.state.begin_request()).collect();
        let nanos = pick(&first);
        all.localities[0].endpoints.pop();
        let began = Instant::now();
        let next = Cluster::compile(config, &all, None, Some(&first), &site);
        next.take_over(Some(&first));
        let updated = began.elapsed();
        let began = Instant::now();
        next.refresh();
        println!("| {name} | {nanos} | {made:.1?} | {updated:.1?} | {:.1?} |", began.elapsed());
        drop(running);
    }
}
