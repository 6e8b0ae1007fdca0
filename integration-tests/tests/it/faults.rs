//! Ten origins, each a process, under a steady load, of which one at a time is killed, stalls, resets, is slow or flaps.
//! With retries no request that may be repeated fails once the fault is found, be it by health checks or by outlier
//! detection, and the origin is back when it is well again.
//!
//! `WEIR_FAULT_RATE` is the load in requests a second; a few hundred by default, for machines that do other things too.
//! The proxy runs in this process, so that retries are counted as they begin and end.

#![allow(clippy::print_stdout, reason = "the figures are for docs/load-balancing.md")]

mod load;
mod origin;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dp_upstream::{Cluster, Priority, Resource};
use integration_tests::config::{bootstrap, cluster, hcm, listener, merge, to};
use integration_tests::eventually::eventually;
use integration_tests::proxy::{Running, start_with};
use serde_json::{Value, json};

use load::Load;
use origin::{Fault, Origin};

const ORIGINS: usize = 10;
const WORKERS: usize = 2;
/// Retries at a time that the budget always allows.
const LEAST_RETRIES: u32 = 4;

/// Who finds out that an origin has a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finder {
    Checks,
    Outliers,
    Nobody,
}

struct Bench {
    origins: Vec<Origin>,
    proxy: Running,
    log: std::path::PathBuf,
    _directory: tempfile::TempDir,
}

impl Finder {
    fn settings(self, log: &std::path::Path) -> Value {
        match self {
            Self::Checks => json!({ "health_checks": [{
                "timeout": "2s", "interval": "0.1s", "no_traffic_interval": "0.1s",
                "unhealthy_threshold": 1, "healthy_threshold": 1,
                "http_health_check": { "path": "/health" },
                "always_log_health_check_success": true,
                "always_log_health_check_failures": true,
                "event_log_path": log,
            }] }),
            // Failures in a row find all but the one that flaps.
            Self::Outliers => json!({ "outlier_detection": {
                "consecutive_5xx": 3, "max_ejection_percent": 20,
                "interval": "0.25s", "base_ejection_time": "0.5s", "max_ejection_time": "1s",
                "enforcing_failure_percentage": 100, "failure_percentage_threshold": 30,
                "failure_percentage_minimum_hosts": 3, "failure_percentage_request_volume": 4,
            } }),
            Self::Nobody => json!({}),
        }
    }

    fn finds(self, fault: Fault) -> bool {
        match fault {
            Fault::Killed | Fault::Stalls | Fault::Resets => true,
            // Checks find it every other time, until the next one.
            Fault::Flaps => self == Self::Outliers,
            Fault::None | Fault::Slow | Fault::FailsChecks => false,
        }
    }
}

impl Bench {
    fn new(finder: Finder) -> Self {
        let origins: Vec<Origin> = (0..ORIGINS).map(|_| Origin::new()).collect();
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("events");
        let addresses: Vec<_> = origins.iter().map(|origin| origin.address).collect();
        let mut cluster = cluster("origin", &addresses);
        merge(&mut cluster, finder.settings(&log));
        let budget = json!({ "budget_percent": { "value": 20 }, "min_retry_concurrency": LEAST_RETRIES });
        cluster["circuit_breakers"] = json!({ "thresholds": [{ "retry_budget": budget }] });
        let action = json!({
            "timeout": "15s",
            "retry_policy": {
                "retry_on": "5xx,reset,connect-failure,refused-stream",
                "num_retries": 3,
                "per_try_timeout": "2s",
                "retry_host_predicate": [{ "name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
                } }],
                "host_selection_retry_max_attempts": 5,
                "retry_back_off": { "base_interval": "0.005s", "max_interval": "0.02s" },
            },
        });
        let mut bootstrap = bootstrap(vec![listener("main", hcm(to("origin", action)))], vec![cluster]);
        bootstrap["cluster_manager"] = json!({ "outlier_detection": { "event_log_path": log } });
        let proxy = start_with(&bootstrap, WORKERS);
        let bench = Self { origins, proxy, log, _directory: directory };
        bench.wait_healthy(ORIGINS);
        bench
    }

    fn cluster(&self) -> Arc<Cluster> {
        Arc::clone(self.proxy.proxy.snapshot().cluster("origin").unwrap())
    }

    fn healthy(&self) -> usize {
        self.cluster().state.stats.membership_healthy().value() as usize
    }

    fn wait_healthy(&self, count: usize) {
        eventually(&format!("{count} healthy origins"), || self.healthy() == count);
    }

    fn retries(&self) -> u64 {
        self.cluster().state.stats.upstream_rq_retry().value()
    }

    /// Puts a fault on an origin, waits until it is found if it will be, mends it, and waits until all is well. No
    /// request fails that begins after it was found, and none at all where there is nothing to find.
    fn suffer(&mut self, fault: Fault, nth: usize, finder: Finder, load: &Load) {
        let (set, retries) = (Instant::now(), self.retries());
        self.origins[nth].set(fault);
        if finder.finds(fault) {
            self.wait_healthy(ORIGINS - 1);
        }
        let found = Instant::now();
        let mut watched = load.passes();
        let mended = Instant::now();
        self.origins[nth].set(Fault::None);
        let checks = self.events(&self.origins[nth]).len();
        self.wait_healthy(ORIGINS);
        let back = Instant::now();
        self.check_return(nth, checks);
        watched += load.passes();
        let before = load.failures(set).len() - load.failures(found).len();
        println!(
            "{finder:?}: {fault:?}: {before} failed in the {:.2} s until it was found, none of {watched} after that; \
             {} retries; back {:.2} s after it was mended",
            (found - set).as_secs_f64(),
            self.retries() - retries,
            (back - mended).as_secs_f64(),
        );
        assert!(load.failures(found).is_empty(), "{fault:?}: {:?} failed after it was found", load.failures(found));
    }

    /// An origin that answers again since `known` of its checks is back with the next one that begins: only a check that
    /// ran already may fail before.
    fn check_return(&self, nth: usize, known: usize) {
        let events = self.events(&self.origins[nth]);
        let failed = events[known..].iter().take_while(|event| *event == "health_check_failure_event").count();
        assert!(failed <= 1, "{failed} checks failed after the origin was well: {events:?}");
    }

    /// What happened to one origin: the action of an ejection, or the field that says what a health check did.
    fn events(&self, origin: &Origin) -> Vec<String> {
        const KINDS: [&str; 4] = [
            "add_healthy_event",
            "eject_unhealthy_event",
            "successful_health_check_event",
            "health_check_failure_event",
        ];
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let kind = |line: Value| match line["action"].as_str() {
            Some(action) => (line["upstream_url"] == json!(origin.address.to_string())).then(|| action.to_owned()),
            None if line["host"]["socket_address"]["port_value"] != json!(origin.address.port()) => None,
            None => KINDS.into_iter().find(|kind| !line[*kind].is_null()).map(str::to_owned),
        };
        lines.filter_map(kind).collect()
    }
}

/// Watches that no more retries run at a time than the budget allows.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u32>,
}

impl Watch {
    fn start(cluster: Arc<Cluster>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let used = |resource| cluster.state.breakers.used(Priority::Default, resource);
            let (mut most, mut active) = (0, VecDeque::from([0; 1000]));
            while !stopped.load(SeqCst) {
                active.pop_front();
                active.push_back(used(Resource::Requests) + used(Resource::Pending));
                let retries = used(Resource::Retries);
                // Allowed is a share of what ran when they began. One that is turned down counts for a moment, one a worker.
                let recent = active.iter().max().copied().unwrap_or_default();
                let allowed = LEAST_RETRIES.max(recent / 5) + WORKERS as u32;
                assert!(retries <= allowed, "{retries} retries at a time, {allowed} allowed");
                most = most.max(retries);
                thread::sleep(Duration::from_millis(1));
            }
            most
        });
        Self { stop, thread }
    }

    /// The most retries at a time.
    fn end(self) -> u32 {
        self.stop.store(true, SeqCst);
        self.thread.join().unwrap()
    }
}

/// Each fault in its turn, on an origin of its own.
fn round(finder: Finder, after_each: impl Fn(&Bench, &Origin, Fault)) {
    let mut bench = Bench::new(finder);
    let load = Load::start(bench.proxy.address("main"));
    let watch = Watch::start(bench.cluster());
    let began = Instant::now();
    load.passes();
    assert_eq!(load.failures(began).len(), 0, "all is well");
    for (nth, fault) in [Fault::Killed, Fault::Stalls, Fault::Resets, Fault::Slow, Fault::Flaps].into_iter().enumerate()
    {
        bench.suffer(fault, nth, finder, &load);
        after_each(&bench, &bench.origins[nth], fault);
    }
    let came_and_went = Instant::now();
    // One that comes and goes faster than anybody makes up his mind.
    for _ in 0..3 {
        bench.origins[5].set(Fault::Killed);
        load.passes();
        bench.origins[5].set(Fault::None);
        load.passes();
    }
    bench.wait_healthy(ORIGINS);
    assert_eq!(load.failures(came_and_went).len(), 0, "an origin that comes and goes");
    let most = watch.end();
    let failed = load.failures(began).len();
    let outcome = load.end();
    let stats = &bench.cluster().state.stats;
    let (retries, tries) = (stats.upstream_rq_retry().value(), stats.upstream_rq_total().value());
    println!("{finder:?}: {outcome}, {failed} failed, {retries} retries, at most {most} at a time");
    assert!(retries > 0, "the faults were not met");
    assert!(retries <= tries / 5 + u64::from(LEAST_RETRIES), "{retries} of {tries} tries were retries");
}

#[test]
fn no_request_fails_once_a_check_found_a_fault_and_the_origin_is_back_with_its_first_good_check() {
    round(Finder::Checks, |bench, origin, fault| {
        // Every check that passes leaves a line: the first one after the fault is the one that brought it back.
        let events = bench.events(origin);
        let found = events.iter().position(|event| event == "eject_unhealthy_event");
        assert!(found.is_some() || !Finder::Checks.finds(fault), "{fault:?}");
        let after = events.iter().skip(found.map_or(events.len(), |found| found + 1));
        let next = after.into_iter().find(|event| *event != "health_check_failure_event");
        assert_eq!(next.map(String::as_str), found.map(|_| "add_healthy_event"), "{fault:?}");
    });
}

#[test]
fn no_request_fails_once_an_origin_with_a_fault_was_ejected_and_it_is_back_after_its_time() {
    round(Finder::Outliers, |bench, origin, fault| {
        let wanted = if Finder::Outliers.finds(fault) { Some("UNEJECT") } else { None };
        eventually(&format!("{fault:?}: {wanted:?} is logged last"), || {
            bench.events(origin).last().map(String::as_str) == wanted
        });
    });
}

#[test]
fn of_many_requests_that_fail_at_once_only_as_many_are_tried_again_as_the_budget_allows() {
    let mut bench = Bench::new(Finder::Nobody);
    let load = Load::start(bench.proxy.address("main"));
    let watch = Watch::start(bench.cluster());
    let began = Instant::now();
    let cluster = bench.cluster();
    let active = || cluster.state.breakers.used(Priority::Default, Resource::Requests);
    let overflow = || cluster.state.stats.upstream_rq_retry_overflow().value();
    load.passes();
    bench.origins[0].set(Fault::Stalls);
    eventually("many requests hang", || active() >= 10 * LEAST_RETRIES);
    bench.origins[0].set(Fault::Killed);
    eventually("they fail", || overflow() > 0);
    load.passes();
    let failed = load.failures(began);
    assert_eq!(failed.len() as u64, overflow(), "who is not tried again fails, and nobody else");
    println!("{} failed at once, at most {} retries at a time", failed.len(), watch.end());
    load.end();
}

#[test]
fn panic_is_entered_when_most_origins_fail_their_checks_and_left_when_they_are_back() {
    let mut bench = Bench::new(Finder::Checks);
    let load = Load::start(bench.proxy.address("main"));
    let began = Instant::now();
    let cluster = bench.cluster();
    let panics = || cluster.state.stats.lb_healthy_panic().value();
    load.passes();
    assert_eq!(panics(), 0);
    bench.origins[..6].iter_mut().for_each(|origin| origin.set(Fault::FailsChecks));
    bench.wait_healthy(4);
    let before = panics();
    let watched = load.passes();
    assert!(panics() >= before + watched, "health is disregarded");
    bench.origins[..6].iter_mut().for_each(|origin| origin.set(Fault::None));
    bench.wait_healthy(ORIGINS);
    load.passes();
    let after = panics();
    load.passes();
    assert_eq!(panics(), after, "health counts again");
    assert_eq!(load.failures(began).len(), 0);
    load.end();
}
