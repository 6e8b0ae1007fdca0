//! Ten origins under a steady load, of which one at a time is killed, stalls, resets, is slow or flaps: with retries and
//! health checks no request that may be repeated fails once the fault is found, and the origin is back with the first
//! check that it passes.
//!
//! `WEIR_FAULT_RATE` is the load in requests a second; a few hundred by default, for machines that do other things too.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dp_upstream::{Cluster, Priority, Resource};
use integration_tests::config::{bootstrap, cluster, hcm, listener, merge, to};
use integration_tests::eventually::eventually;
use integration_tests::proxy::{Running, start_with};
use integration_tests::upstream::reply;
use integration_tests::wire::Wire;
use serde_json::{Value, json};

const ORIGINS: usize = 10;
const CLIENTS: usize = 8;
const WORKERS: usize = 2;
/// Retries at a time that the budget always allows.
const LEAST_RETRIES: u32 = 4;
/// How many requests are looked at after a fault was found, and after it was mended.
const WINDOW: u64 = 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Nobody listens, and all connections are gone.
    Killed,
    /// Takes requests and never answers.
    Stalls,
    /// Resets the connection instead of an answer.
    Resets,
    /// Answers late.
    Slow,
    /// Says 503 to every other request.
    Flaps,
    /// Says 503 to health checks and serves all the same.
    FailsChecks,
}

/// An origin with a fault that can be changed.
#[derive(Clone)]
struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    fault: Mutex<Fault>,
    open: Mutex<Vec<TcpStream>>,
    asked: AtomicUsize,
}

impl Shared {
    fn fault(&self) -> Fault {
        *self.fault.lock().unwrap()
    }
}

impl Origin {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared =
            Arc::new(Shared { fault: Mutex::new(Fault::None), open: Mutex::default(), asked: AtomicUsize::new(0) });
        let origin = Self { address, shared };
        origin.listen(listener);
        origin
    }

    /// Serves until it is killed.
    fn listen(&self, listener: TcpListener) {
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.fault() == Fault::Killed {
                    return;
                }
                let Ok(stream) = stream else { continue };
                shared.open.lock().unwrap().push(stream.try_clone().unwrap());
                let shared = Arc::clone(&shared);
                thread::spawn(move || serve(&mut Wire::new(stream), &shared));
            }
        });
    }

    fn set(&self, fault: Fault) {
        let before = std::mem::replace(&mut *self.shared.fault.lock().unwrap(), fault);
        if fault == Fault::Killed {
            // Wakes the listener up, so that it sees that it is dead.
            let _ = TcpStream::connect(self.address);
            for stream in self.shared.open.lock().unwrap().drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        if before == Fault::Killed {
            let mut listener = None;
            eventually("the port is free", || {
                listener = TcpListener::bind(self.address).ok();
                listener.is_some()
            });
            self.listen(listener.unwrap());
        }
    }
}

fn serve(wire: &mut Wire, shared: &Shared) {
    while let Some(request) = wire.try_message() {
        let nth = shared.asked.fetch_add(1, SeqCst);
        let is_check = request.path() == "/health";
        match shared.fault() {
            Fault::None => {}
            Fault::Killed => return,
            Fault::Stalls => {
                // Ends when the other side gives up.
                wire.rest();
                return;
            }
            Fault::Resets => {
                let socket = socket2::SockRef::from(wire.socket());
                socket.set_linger(Some(Duration::ZERO)).unwrap();
                return;
            }
            Fault::Slow => thread::sleep(Duration::from_millis(100)),
            Fault::Flaps if nth.is_multiple_of(2) => {
                wire.send(reply(503, "flap"));
                continue;
            }
            Fault::FailsChecks if is_check => {
                wire.send(reply(503, "no"));
                continue;
            }
            Fault::Flaps | Fault::FailsChecks => {}
        }
        wire.send(reply(200, "fine"));
    }
}

/// Clients that ask at a steady pace, whatever comes.
struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(to: SocketAddr) -> Self {
        let rate: f64 = std::env::var("WEIR_FAULT_RATE").ok().and_then(|rate| rate.parse().ok()).unwrap_or(200.0);
        let pause = Duration::from_secs_f64(CLIENTS as f64 / rate);
        let load = Self { stop: Arc::default(), asked: Arc::default(), failed: Arc::default(), clients: Vec::new() };
        let client = |_| {
            let (stop, asked, failed) = (Arc::clone(&load.stop), Arc::clone(&load.asked), Arc::clone(&load.failed));
            thread::spawn(move || {
                let mut wire = Wire::connect(to);
                let mut next = Instant::now();
                while !stop.load(SeqCst) {
                    let answer = wire.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").try_message();
                    if answer.as_ref().is_none_or(|answer| answer.status() != 200) {
                        failed.fetch_add(1, SeqCst);
                        wire = Wire::connect(to);
                    }
                    asked.fetch_add(1, SeqCst);
                    next += pause;
                    thread::sleep(next.saturating_duration_since(Instant::now()));
                }
            })
        };
        Self { clients: (0..CLIENTS).map(client).collect(), ..load }
    }

    fn failed(&self) -> u64 {
        self.failed.load(SeqCst)
    }

    /// Lets so many requests begin and end. Those that had begun before are not among them.
    fn passes(&self) {
        let until = self.asked.load(SeqCst) + WINDOW + CLIENTS as u64;
        eventually("requests are answered", || self.asked.load(SeqCst) >= until);
    }

    fn end(self) -> u64 {
        self.stop.store(true, SeqCst);
        self.clients.into_iter().for_each(|client| client.join().unwrap());
        self.asked.load(SeqCst)
    }
}

struct Bench {
    origins: Vec<Origin>,
    proxy: Running,
    log: std::path::PathBuf,
    _directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let origins: Vec<Origin> = (0..ORIGINS).map(|_| Origin::new()).collect();
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("events");
        let addresses: Vec<SocketAddr> = origins.iter().map(|origin| origin.address).collect();
        let mut cluster = cluster("origin", &addresses);
        merge(
            &mut cluster,
            json!({
                "health_checks": [{
                    "timeout": "2s", "interval": "0.1s", "no_traffic_interval": "0.1s",
                    "unhealthy_threshold": 1, "healthy_threshold": 1,
                    "http_health_check": { "path": "/health" },
                    "always_log_health_check_success": true,
                    "event_log_path": log,
                }],
                "circuit_breakers": { "thresholds": [{
                    "retry_budget": { "budget_percent": { "value": 20 }, "min_retry_concurrency": LEAST_RETRIES },
                }] },
            }),
        );
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
        let bootstrap = bootstrap(vec![listener("main", hcm(to("origin", action)))], vec![cluster]);
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

    /// The events of one origin, by the field that says what happened.
    fn events(&self, origin: &Origin) -> Vec<String> {
        const KINDS: [&str; 4] = [
            "add_healthy_event",
            "eject_unhealthy_event",
            "successful_health_check_event",
            "health_check_failure_event",
        ];
        let text = std::fs::read_to_string(&self.log).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines
            .filter(|line| line["host"]["socket_address"]["port_value"] == json!(origin.address.port()))
            .filter_map(|line| KINDS.into_iter().find(|kind| !line[*kind].is_null()).map(str::to_owned))
            .collect()
    }
}

/// Watches that no more retries run at a time than the budget allows.
fn watch_budget(cluster: Arc<Cluster>, stop: Arc<AtomicBool>) -> JoinHandle<u32> {
    thread::spawn(move || {
        let mut most = 0;
        while !stop.load(SeqCst) {
            most = most.max(cluster.state.breakers.used(Priority::Default, Resource::Retries));
            thread::sleep(Duration::from_millis(1));
        }
        most
    })
}

#[test]
fn no_request_fails_once_a_fault_is_found_and_the_origin_is_back_with_its_first_good_check() {
    let bench = Bench::new();
    let load = Load::start(bench.proxy.address("main"));
    let watched = Arc::new(AtomicBool::new(false));
    let budget = watch_budget(bench.cluster(), Arc::clone(&watched));
    load.passes();
    assert_eq!(load.failed(), 0, "all is well");
    for (nth, fault) in [Fault::Killed, Fault::Stalls, Fault::Resets].into_iter().enumerate() {
        let origin = &bench.origins[nth];
        let before = bench.events(origin).len();
        origin.set(fault);
        bench.wait_healthy(ORIGINS - 1);
        let failed = load.failed();
        load.passes();
        assert_eq!(load.failed(), failed, "{fault:?}: requests failed after it was found");
        origin.set(Fault::None);
        bench.wait_healthy(ORIGINS);
        load.passes();
        assert_eq!(load.failed(), failed, "{fault:?}: requests failed after it was mended");
        // Every check that passes leaves a line: the first one after the fault is the one that brought it back.
        let events: Vec<String> = bench.events(origin).split_off(before);
        let found = events.iter().position(|event| event == "eject_unhealthy_event").unwrap();
        let next = events[found + 1..].iter().find(|event| *event != "health_check_failure_event");
        assert_eq!(next.map(String::as_str), Some("add_healthy_event"), "{fault:?}");
    }
    // Health checks pass, or pass every other time: nothing may fail at any time.
    let failed = load.failed();
    for (nth, fault) in [(3, Fault::Slow), (4, Fault::Flaps)] {
        bench.origins[nth].set(fault);
        load.passes();
        bench.origins[nth].set(Fault::None);
        bench.wait_healthy(ORIGINS);
        assert_eq!(load.failed(), failed, "{fault:?}");
    }
    watched.store(true, SeqCst);
    let most = budget.join().unwrap();
    let asked = load.end();
    let stats = &bench.cluster().state.stats;
    let (retries, tries) = (stats.upstream_rq_retry().value(), stats.upstream_rq_total().value());
    // A retry that is turned down counts for a moment, one a worker.
    let allowed = LEAST_RETRIES.max(CLIENTS as u32 / 5) + WORKERS as u32;
    assert!(most <= allowed, "{most} retries at a time, {allowed} allowed");
    assert!(retries > 0, "the faults were not met");
    assert!(retries <= tries / 5 + u64::from(LEAST_RETRIES), "{retries} of {tries} tries were retries");
    println!("{asked} requests, {failed} failed before a fault was found, {retries} retries, at most {most} at a time");
}

#[test]
fn panic_is_entered_when_most_origins_fail_their_checks_and_left_when_they_are_back() {
    let bench = Bench::new();
    let load = Load::start(bench.proxy.address("main"));
    let panics = || bench.cluster().state.stats.lb_healthy_panic().value();
    load.passes();
    assert_eq!(panics(), 0);
    bench.origins[..6].iter().for_each(|origin| origin.set(Fault::FailsChecks));
    bench.wait_healthy(4);
    let before = panics();
    load.passes();
    assert!(panics() >= before + WINDOW, "health is disregarded");
    bench.origins[..6].iter().for_each(|origin| origin.set(Fault::None));
    bench.wait_healthy(ORIGINS);
    load.passes();
    let after = panics();
    load.passes();
    assert_eq!((panics(), load.failed()), (after, 0), "health counts again, and nothing failed");
    load.end();
}
