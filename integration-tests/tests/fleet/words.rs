//! Words of the short language end to end: a text is applied, and a client looks at what the proxy does with it.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use data_plane::{Options, Proxy};
use integration_tests::dns::{NameServer, Service};
use integration_tests::eventually::PATIENCE;
use integration_tests::tls::Identity;
use integration_tests::upstream::{Origin, nowhere, reply};
use integration_tests::wire::{Message, Wire};

use crate::harness::*;

/// Both planes, and a configuration that is served.
struct Served {
    plane: Plane,
    proxy: Proxy,
    _folder: tempfile::TempDir,
}

impl Served {
    async fn text(text: &str) -> Self {
        Self::with(text, |bootstrap| bootstrap).await
    }

    async fn with(text: &str, change: impl FnOnce(String) -> String) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let plane = Plane::start(folder.path(), LOOPBACK).await;
        let revision = plane.apply(text).await;
        let proxy = start(&change(bootstrap("n", plane.xds, Api::Delta, "")), Options::default());
        serves(&proxy, revision).await;
        Self { plane, proxy, _folder: folder }
    }

    async fn apply(&self, text: &str) {
        serves(&self.proxy, self.plane.apply(text).await).await;
    }

    async fn connect(&self, listener: &str) -> Wire {
        Wire::connect(address(&self.proxy, listener).await)
    }

    /// The answer to one GET on a connection of its own.
    async fn ask(&self, path: &str, headers: &str) -> Message {
        self.connect("web").await.ask(format!("GET {path} HTTP/1.1\r\nhost: fleet.test\r\n{headers}\r\n"))
    }

    async fn body(&self, path: &str, headers: &str) -> String {
        self.ask(path, headers).await.text()
    }

    /// Who answers so many requests.
    async fn who(&self, many: usize) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for _ in 0..many {
            names.insert(self.body("/", "").await);
        }
        names
    }

    /// Waits until these answer, and nobody else.
    async fn until(&self, names: &[&str]) {
        let since = Instant::now();
        loop {
            let found = self.who(20).await;
            if found.iter().eq(names) {
                return;
            }
            assert!(since.elapsed() < PATIENCE, "never {names:?}: {found:?}");
        }
    }

    async fn end(self) {
        drop(self.proxy);
        self.plane.stop().await;
    }
}

/// One listener, one route and the cluster `app` with these keys.
fn app(keys: &str) -> String {
    format!("listeners: {{ web: '127.0.0.1:0' }}\nroutes: [{{ to: app }}]\nclusters: {{ app: {{ {keys} }} }}\n")
}

fn endpoints(origins: &[&Origin]) -> String {
    let list: Vec<String> = origins.iter().map(|o| format!("'{}'", o.address)).collect();
    format!("endpoints: [{}]", list.join(", "))
}

/// An origin that answers with its name while it is well, and with 503 otherwise.
fn moody(name: &'static str, well: bool) -> (Origin, Arc<AtomicBool>) {
    let switch = Arc::new(AtomicBool::new(well));
    let is_well = Arc::clone(&switch);
    (Origin::http(move |_| if is_well.load(SeqCst) { reply(200, name) } else { reply(503, "ill") }), switch)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn srv_records_say_who_answers_and_who_stands_in() {
    let (a, b) = (Origin::text("a"), Origin::text("b"));
    let server = NameServer::start();
    let service = |priority, origin: &Origin| {
        let port = origin.address.port();
        Service { priority, weight: 1, port, target: "host.test" }
    };
    server.set("host.test", &[[127, 0, 0, 1]]);
    server.set_services("_http._tcp.app.test", &[service(20, &b), service(10, &a)]);
    let at = server.address;
    let srv = format!("srv: {{ name: _http._tcp.app.test, family: v4, refresh: 20ms, ttl: false, resolvers: '{at}' }}");
    let served = Served::text(&app(&srv)).await;
    served.until(&["a"]).await;
    server.set_services("_http._tcp.app.test", &[service(20, &b)]);
    served.until(&["b"]).await;
    server.set_services("_http._tcp.app.test", &[service(1, &b), service(1, &a)]);
    served.until(&["a", "b"]).await;
    served.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_asked_of_the_resolvers_that_are_given() {
    let a = Origin::text("a");
    let server = NameServer::start();
    server.set("app.test", &[[127, 0, 0, 1]]);
    let (port, at) = (a.address.port(), server.address);
    let served =
        Served::text(&app(&format!("dns: {{ names: 'app.test:{port}', family: v4, resolvers: ['{at}'] }}"))).await;
    served.until(&["a"]).await;
    served.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_takes_an_endpoint_out_and_brings_it_back() {
    let (a, (b, b_is_well)) = (Origin::text("a"), moody("b", false));
    let health =
        "health: { http: /healthz, interval: 30ms, no_traffic_interval: 30ms, unhealthy: 1, healthy: 1 }, panic: 0%";
    let served = Served::text(&app(&format!("{}, {health}", endpoints(&[&a, &b])))).await;
    served.until(&["a"]).await;
    assert!(b.seen().iter().all(|request| request.path() == "/healthz" || request.path() == "/"));
    b_is_well.store(true, SeqCst);
    served.until(&["a", "b"]).await;
    served.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outlier_ejects_who_fails_again_and_again() {
    let (a, (b, _)) = (Origin::text("a"), moody("b", false));
    let outlier = "outlier: { consecutive_5xx: 3, eject: 1h, max_ejected: 50% }";
    let served = Served::text(&app(&format!("{}, {outlier}", endpoints(&[&a, &b])))).await;
    served.until(&["a"]).await;
    assert_eq!(b.seen().len(), 3, "it is out after the third");
    served.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_hides_what_may_be_tried_again() {
    let tries = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&tries);
    let shaky = Origin::http(move |_| match count.fetch_add(1, SeqCst) % 3 {
        2 => reply(200, "third"),
        _ => reply(500, "not yet"),
    });
    let (a, dead) = (Origin::text("a"), nowhere());
    let text = format!(
        "listeners: {{ web: '127.0.0.1:0' }}
routes:
  - {{ match: /again, to: shaky, retry: {{ on: 5xx, attempts: 2, backoff: {{ base: 1ms }} }} }}
  - {{ match: /once, to: shaky }}
  - {{ to: half, retry: {{ on: connect-failure, backoff: {{ base: 1ms }} }} }}
clusters: {{ shaky: '{}', half: ['{}', '{dead}'] }}
",
        shaky.address, a.address
    );
    let served = Served::text(&text).await;
    assert_eq!(served.body("/again", "").await, "third");
    assert_eq!(tries.load(SeqCst), 3);
    assert_eq!(served.ask("/once", "").await.status(), 500);
    assert!(served.who(10).await.iter().eq(["a"]), "the dead one is never seen");
    served.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hedge_sends_a_second_try_beside_the_first() {
    // The first is answered only when the second is there, and the second never is.
    let slow = Origin::scripted(|number, wire, origin| {
        let Some(request) = wire.try_message() else { return };
        origin.note(request);
        if number == 0 {
            while origin.seen().len() < 2 {
                std::thread::sleep(Duration::from_millis(1));
            }
            wire.send(reply(200, "first"));
        }
        wire.rest();
    });
    let text = format!(
        "listeners: {{ web: '127.0.0.1:0' }}
routes: [{{ to: slow, hedge: true, retry: {{ on: reset, attempts: 1, per_try_timeout: 50ms }} }}]
clusters: {{ slow: '{}' }}
",
        slow.address
    );
    let served = Served::text(&text).await;
    assert_eq!(served.body("/", "").await, "first");
    assert_eq!(slow.seen().len(), 2);
    served.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_hashed_or_sticky_stays_with_its_endpoint() {
    let origins: Vec<Origin> = ["a", "b", "c", "d"].into_iter().map(Origin::text).collect();
    let all = endpoints(&origins.iter().collect::<Vec<_>>());
    let served = Served::text(&app(&format!("{all}, balance: {{ ring_hash: {{ header: x-user }} }}"))).await;
    let mut names = BTreeSet::new();
    for user in 0..20 {
        let header = format!("x-user: user-{user}\r\n");
        let first = served.body("/", &header).await;
        assert_eq!(served.body("/", &header).await, first, "{user}");
        names.insert(first);
    }
    assert!(names.len() > 1, "{names:?}");

    served.apply(&app(&format!("{all}, balance: {{ maglev: {{ cookie: who, ttl: 1h }} }}"))).await;
    stays(&served, "who").await;
    served.apply(&app(&format!("{}, sticky: {{ cookie: stay }}", endpoints(&[&origins[0], &origins[1]])))).await;
    let (name, cookie) = stays(&served, "stay").await;
    served.apply(&app(&format!("{all}, sticky: {{ cookie: stay }}"))).await;
    for _ in 0..8 {
        assert_eq!(served.body("/", &cookie).await, name, "others came");
    }
    served.end().await;
}

/// A client that sends back the cookie it got finds the same endpoint; gives its name, and the header.
async fn stays(served: &Served, cookie: &str) -> (String, String) {
    let first = served.ask("/", "").await;
    let set = first.header("set-cookie").unwrap_or_else(|| panic!("no cookie: {first:?}"));
    assert!(set.starts_with(&format!("{cookie}=")), "{set}");
    let header = format!("cookie: {}\r\n", set.split(';').next().expect("a value"));
    for _ in 0..8 {
        assert_eq!(served.body("/", &header).await, first.text());
    }
    (first.text(), header)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxy_protocol_is_read_and_written() {
    let web = Origin::text("a");
    // Says what it was told before the first byte of the client.
    let tcp = Origin::scripted(|_, wire, _| {
        let line = wire.line().unwrap_or_default();
        wire.send(format!("{line}|"));
        wire.rest();
    });
    let text = format!(
        "listeners:
  web: {{ address: '127.0.0.1:0', proxy_protocol: {{ from: 127.0.0.0/8 }} }}
  strange: {{ address: '127.0.0.1:0', protocol: tcp, to: tcp, proxy_protocol: {{ from: 10.0.0.0/8 }} }}
  raw: {{ address: '127.0.0.1:0', protocol: tcp, to: tcp, proxy_protocol: true }}
routes: [{{ on: web, to: app }}]
clusters: {{ app: '{}', tcp: {{ endpoints: '{}', proxy_protocol: v1 }} }}
",
        web.address, tcp.address
    );
    let served = Served::text(&text).await;
    let header = "PROXY TCP4 203.0.113.7 203.0.113.9 4711 80\r\n";
    let mut wire = served.connect("web").await;
    assert_eq!(wire.ask(format!("{header}GET / HTTP/1.1\r\nhost: a\r\n\r\n")).text(), "a");
    assert_eq!(web.last().header("x-forwarded-for"), Some("203.0.113.7"));
    let mut wire = served.connect("raw").await;
    assert_eq!(wire.send(header).bytes(header.len() - 1), format!("{}|", header.trim_end()).as_bytes());
    assert!(served.connect("strange").await.send(header).is_closed(), "nobody there is believed");
    served.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_passed_on_by_its_server_name_and_not_touched() {
    let echo = |name: &'static str| {
        Origin::scripted(move |_, wire, _| {
            wire.send(name);
            while let [byte] = wire.bytes(1)[..] {
                wire.send([byte]);
            }
        })
    };
    let (a, b) = (echo("a"), echo("b"));
    let text = format!(
        "listeners: {{ pass: {{ address: '127.0.0.1:0', protocol: tls }} }}
routes:
  - {{ on: pass, match: {{ sni: '*.db.test' }}, to: b }}
  - {{ on: pass, match: {{ sni: a.test }}, to: a }}
clusters: {{ a: '{}', b: '{}' }}
",
        a.address, b.address
    );
    let served = Served::text(&text).await;
    for (name, expected) in [("a.test", Some("a")), ("x.db.test", Some("b")), ("other.test", None)] {
        let config = Identity::new(&["a.test"]).client(&[]);
        let mut client = rustls::ClientConnection::new(config, name.try_into().expect("a name")).expect("a client");
        let mut hello = Vec::new();
        client.write_tls(&mut hello).expect("a hello");
        let mut wire = served.connect("pass").await;
        wire.send(&hello);
        match expected {
            Some(who) => assert_eq!(wire.bytes(1 + hello.len()), [who.as_bytes(), &hello].concat(), "{name}"),
            None => assert!(wire.is_closed(), "{name}"),
        }
    }
    served.end().await;
}

/// Answers every datagram with its name.
fn datagrams(name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind(LOOPBACK).expect("a free port");
    let address = socket.local_addr().expect("bound");
    std::thread::spawn(move || {
        while let Ok((_, from)) = socket.recv_from(&mut [0; 2048]) {
            let _ = socket.send_to(name.as_bytes(), from);
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_of_a_client_stay_together_unless_each_may_go_elsewhere() {
    let origins = [datagrams("a"), datagrams("b")];
    let text = format!(
        "listeners:
  together: {{ address: '127.0.0.1:0', protocol: udp, to: app }}
  apart: {{ address: '127.0.0.1:0', protocol: udp, to: app, per_packet: true }}
clusters: {{ app: ['{}', '{}'] }}
",
        origins[0], origins[1]
    );
    let served = Served::text(&text).await;
    for (listener, expected) in [("together", 1), ("apart", 2)] {
        let client = UdpSocket::bind(LOOPBACK).expect("a free port");
        client.connect(address(&served.proxy, listener).await).expect("connects");
        client.set_read_timeout(Some(PATIENCE)).expect("a socket takes options");
        let mut names = BTreeSet::new();
        for _ in 0..8 {
            client.send(b"x").expect("sends");
            let mut buffer = [0; 16];
            let length = client.recv(&mut buffer).expect("an answer");
            names.insert(buffer[..length].to_vec());
        }
        assert_eq!(names.len(), expected, "{listener}: {names:?}");
    }
    served.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_over_a_limit_is_refused_at_once() {
    let open = Arc::new(AtomicBool::new(false));
    let gate = Arc::clone(&open);
    let slow = Origin::http(move |_| {
        while !gate.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        reply(200, "slow")
    });
    let a = Origin::text("a");
    let text = format!(
        "listeners:
  web: '127.0.0.1:0'
  narrow: {{ address: '127.0.0.1:0', max_connections: 1 }}
  few: {{ address: '127.0.0.1:0', connection_rate: {{ limit: 1/day, burst: 2 }} }}
routes: [{{ on: web, to: slow }}, {{ on: [narrow, few], to: app }}]
clusters: {{ app: '{}', slow: {{ endpoints: '{}', limits: {{ requests: 1 }} }} }}
",
        a.address, slow.address
    );
    let served = Served::text(&text).await;
    const REQUEST: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut first = served.connect("web").await;
    first.send(REQUEST);
    eventually("the first is at the origin", || slow.connections() == 1).await;
    let second = served.ask("/", "").await;
    assert_eq!((second.status(), second.header("x-envoy-overloaded")), (503, Some("true")));
    open.store(true, SeqCst);
    assert_eq!(first.message().text(), "slow");

    let mut first = served.connect("narrow").await;
    assert_eq!(first.ask(REQUEST).text(), "a");
    assert!(served.connect("narrow").await.is_closed());
    assert_eq!(first.ask(REQUEST).text(), "a", "who is in stays in");
    for _ in 0..2 {
        assert_eq!(served.connect("few").await.ask(REQUEST).text(), "a");
    }
    assert!(served.connect("few").await.is_closed());
    served.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_start_gives_a_new_endpoint_little_and_then_its_share() {
    const WINDOW: Duration = Duration::from_secs(3);
    let (a, b) = (Origin::text("a"), Origin::text("b"));
    let of =
        |origins: &[&Origin]| app(&format!("{}, slow_start: {{ window: 3s, min_weight: 5% }}", endpoints(origins)));
    let served = Served::text(&of(&[&a])).await;
    let share = async || {
        let before = b.seen().len();
        served.who(40).await;
        b.seen().len() - before
    };
    let since = Instant::now();
    loop {
        // Nothing is said about the middle of the window: another try when the machine was too slow.
        tokio::time::sleep(WINDOW).await;
        let added = Instant::now();
        served.apply(&of(&[&a, &b])).await;
        let early = share().await;
        if added.elapsed() < WINDOW / 3 {
            assert!((0..16).contains(&early), "{early} of 40 in the beginning");
            break;
        }
        assert!(since.elapsed() < PATIENCE, "too slow");
        served.apply(&of(&[&a])).await;
    }
    while share().await < 18 {
        assert!(since.elapsed() < PATIENCE, "never half");
    }
    served.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_may_ask_for_a_subset() {
    let (a, b) = (Origin::text("a"), Origin::text("b"));
    let text = format!(
        "listeners: {{ web: '127.0.0.1:0' }}
routes:
  - {{ match: /1, to: {{ cluster: app, subset: {{ version: v1 }} }} }}
  - {{ match: /2, to: {{ cluster: app, subset: {{ version: v2 }} }} }}
  - {{ match: /3, to: {{ cluster: app, subset: {{ version: v3 }} }} }}
  - {{ to: app }}
clusters:
  app:
    endpoints: [{{ address: '{}', labels: {{ version: v1 }} }}, {{ address: '{}', labels: {{ version: v2 }} }}]
    subsets: version
",
        a.address, b.address
    );
    let served = Served::text(&text).await;
    for _ in 0..6 {
        assert_eq!((served.body("/1", "").await, served.body("/2", "").await), ("a".into(), "b".into()));
    }
    assert_eq!(served.ask("/3", "").await.status(), 503);
    served.apply(&text.replace("subsets: version", "subsets: { by: version, fallback: { version: v2 } }")).await;
    assert_eq!(served.body("/3", "").await, "b");
    served.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zone_aware_keeps_requests_in_the_zone_of_the_proxy() {
    let (a, b) = (Origin::text("a"), Origin::text("b"));
    let zoned =
        format!("endpoints: [{{ address: '{}', zone: one }}, {{ address: '{}', zone: two }}]", a.address, b.address);
    // One proxy in each zone, of which this is the first.
    let local = |bootstrap: String| {
        let member = |zone: &str, port: u16| {
            format!(
                "{{ locality: {{ zone: {zone} }}, lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, \
                 port_value: {port} }} }} }} }}] }}"
            )
        };
        let members = [member("one", 1), member("two", 2)].join(", ");
        let cluster = format!(
            "  - {{ name: proxies, type: STATIC, load_assignment: {{ cluster_name: proxies, endpoints: [{members}] }} }}\n"
        );
        let placed = bootstrap.replace("cluster: edge }", "cluster: edge, locality: { zone: one } }");
        format!("cluster_manager: {{ local_cluster_name: proxies }}\n{placed}{cluster}")
    };
    let served = Served::with(&app(&zoned), local).await;
    served.until(&["a", "b"]).await;
    served.apply(&app(&format!("{zoned}, zone_aware: {{ min_endpoints: 1 }}"))).await;
    served.until(&["a"]).await;
    served.end().await;
}
