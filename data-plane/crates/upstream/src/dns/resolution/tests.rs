//! Names looked up at a server on loopback.

use std::cell::RefCell;
use std::rc::Rc;

use shared_config::cluster::discovery::Resolver as ResolverOptions;
use shared_config::cluster::{LookupFamily, Srv};
use tokio::net::UdpSocket;
use tokio::task::LocalSet;

use super::*;

/// What the server answers for any A query; an empty list is a failure, 0.0.0.0 a name that does not exist. The second
/// part is the TTL.
pub(crate) type Zone = Rc<RefCell<(Vec<[u8; 4]>, u32)>>;

/// How often the server of this zone was asked; the TTL it answers with counts up.
fn asked(zone: &Zone) -> u32 {
    zone.borrow().1
}

/// A name server that knows one thing.
pub(crate) async fn serve(socket: UdpSocket, zone: Zone) {
    let mut packet = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut packet).await {
        zone.borrow_mut().1 += 1;
        let reply = answer(&packet[..length], &zone.borrow().0, zone.borrow().1);
        let _ = socket.send_to(&reply, from).await;
    }
}

/// RFC 1035 §4: the header, the question again, and an A record for each address.
fn answer(query: &[u8], addresses: &[[u8; 4]], ttl: u32) -> Vec<u8> {
    let question_end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let kind = query[question_end - 3];
    if kind == 33 {
        return services(query, question_end, ttl);
    }
    let (code, addresses) = match addresses {
        [] => (2, addresses),
        [[0, 0, 0, 0]] => (3, &[][..]),
        _ if kind == 1 => (0, addresses),
        _ => (0, &[][..]),
    };
    let mut reply =
        vec![query[0], query[1], 0x81, 0x80 | code, 0, 1, 0, u8::try_from(addresses.len()).unwrap(), 0, 0, 0, 0];
    reply.extend(&query[12..question_end]);
    for address in addresses {
        reply.extend([0xc0, 12, 0, 1, 0, 1]);
        reply.extend(ttl.to_be_bytes());
        reply.extend([0, 4]);
        reply.extend(address);
    }
    reply
}

/// Two services: the better one at port 81 with weight 3, the other at 82.
fn services(query: &[u8], question_end: usize, ttl: u32) -> Vec<u8> {
    let mut reply = vec![query[0], query[1], 0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 0];
    reply.extend(&query[12..question_end]);
    for (priority, weight, port) in [(20_u8, 0_u8, 82_u8), (10, 3, 81)] {
        reply.extend([0xc0, 12, 0, 33, 0, 1]);
        reply.extend(ttl.to_be_bytes());
        reply.extend([0, 14, 0, priority, 0, weight, 0, port]);
        reply.extend(b"\x01t\x04test\x00");
    }
    reply
}

fn stats() -> Arc<ClusterStats> {
    Arc::new(ClusterStats::new(1))
}

fn dns(server: Option<SocketAddr>) -> Dns {
    Dns {
        refresh: Duration::from_millis(10),
        jitter: Duration::ZERO,
        failure_refresh: None,
        respect_ttl: false,
        minimum_refresh: Duration::from_millis(1),
        family: LookupFamily::V4Only,
        resolver: ResolverOptions {
            servers: server.into_iter().collect(),
            query_timeout: Some(Duration::from_secs(2)),
            ..ResolverOptions::default()
        },
    }
}

fn named(name: &str) -> Assignment {
    Assignment::of(vec![Endpoint::new(Address::Name { host: name.into(), port: 80 })])
}

/// Runs `test` with a resolution of `a.test` against a server with this zone, and what it tells.
fn check<F: Future<Output = ()>>(
    discovery: impl FnOnce(Dns) -> Discovery,
    zone: &Zone,
    test: impl FnOnce(tokio::sync::mpsc::UnboundedReceiver<Vec<String>>) -> F,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(LocalSet::new().run_until(async {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::task::spawn_local(serve(socket, Rc::clone(zone)));
        let resolution = Resolution::new(&discovery(dns(Some(address))), stats()).unwrap().unwrap();
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        tokio::task::spawn_local(resolution.run(move |assignment| {
            let _ = sender.send(assignment.endpoints().map(|e| e.address.to_string()).collect());
        }));
        test(receiver).await;
    }));
}

#[test]
fn every_address_is_an_endpoint_and_a_failure_keeps_them() {
    let zone = Rc::new(RefCell::new((vec![[10, 0, 0, 2], [10, 0, 0, 1]], 60)));
    check(
        |dns| Discovery::StrictDns(dns, named("a.test")),
        &zone,
        async |mut told| {
            assert_eq!(told.recv().await.unwrap(), ["10.0.0.1:80", "10.0.0.2:80"]);
            // Neither another order nor a failure is told; the next real change is.
            zone.borrow_mut().0.reverse();
            zone.borrow_mut().0.clear();
            let before = asked(&zone);
            while asked(&zone) < before + 3 {
                tokio::task::yield_now().await;
            }
            zone.borrow_mut().0.push([10, 0, 0, 3]);
            assert_eq!(told.recv().await.unwrap(), ["10.0.0.3:80"]);
        },
    );
}

#[test]
fn a_name_that_does_not_exist_any_more_has_no_endpoints() {
    let zone = Rc::new(RefCell::new((vec![[10, 0, 0, 1]], 60)));
    check(
        |dns| Discovery::StrictDns(dns, named("a.test")),
        &zone,
        async |mut told| {
            assert_eq!(told.recv().await.unwrap(), ["10.0.0.1:80"]);
            zone.borrow_mut().0 = vec![[0, 0, 0, 0]];
            assert!(told.recv().await.unwrap().is_empty());
        },
    );
}

#[test]
fn a_logical_endpoint_outlives_its_name() {
    let zone = Rc::new(RefCell::new((vec![[10, 0, 0, 1]], 60)));
    check(
        |dns| Discovery::LogicalDns(dns, named("a.test")),
        &zone,
        async |mut told| {
            assert_eq!(told.recv().await.unwrap(), ["10.0.0.1:80"]);
            zone.borrow_mut().0 = vec![[0, 0, 0, 0]];
            let before = asked(&zone);
            while asked(&zone) < before + 3 {
                tokio::task::yield_now().await;
            }
            zone.borrow_mut().0 = vec![[10, 0, 0, 2]];
            assert_eq!(told.recv().await.unwrap(), ["10.0.0.2:80"]);
        },
    );
}

#[test]
fn an_srv_name_gives_ports_and_the_order_of_preference() {
    let zone = Rc::new(RefCell::new((vec![[10, 0, 0, 1]], 60)));
    check(
        |dns| Discovery::Srv(Srv { name: "_x._tcp.a.test".into(), dns }),
        &zone,
        async |mut told| {
            assert_eq!(told.recv().await.unwrap(), ["10.0.0.1:81", "10.0.0.1:82"]);
        },
    );
}

#[test]
fn priorities_become_levels_and_weights_are_shared_by_addresses() {
    let service = |priority, weight, port| Service { priority, weight, target: "t.test.".into(), port };
    let ip = |last: u8| IpAddr::from([10, 0, 0, last]);
    let found = by_service(&[
        (service(10, 3, 81), vec![ip(1), ip(2)]),
        (service(10, 0, 82), vec![ip(3)]),
        (service(30, 1, 83), vec![ip(4)]),
        (service(40, 1, 84), vec![]),
    ]);
    let rows: Vec<_> = found
        .localities
        .iter()
        .flat_map(|l| l.endpoints.iter().map(|e| (l.priority, e.address.to_string(), e.weight, e.hostname.as_str())))
        .collect();
    assert_eq!(
        rows,
        [
            (0, "10.0.0.1:81".to_owned(), 1500, "t.test"),
            (0, "10.0.0.2:81".to_owned(), 1500, "t.test"),
            (0, "10.0.0.3:82".to_owned(), 1, "t.test"),
            (1, "10.0.0.4:83".to_owned(), 1000, "t.test"),
        ]
    );
}

#[test]
fn a_logical_cluster_has_one_endpoint() {
    let zone = Rc::new(RefCell::new((vec![[10, 0, 0, 1], [10, 0, 0, 2]], 60)));
    check(
        |dns| Discovery::LogicalDns(dns, named("a.test")),
        &zone,
        async |mut told| {
            assert_eq!(told.recv().await.unwrap(), ["10.0.0.1:80"]);
        },
    );
}

#[test]
fn a_cluster_is_told_of_even_when_its_name_does_not_resolve() {
    let zone = Rc::new(RefCell::new((vec![], 60)));
    check(
        |dns| Discovery::StrictDns(dns, named("a.test")),
        &zone,
        async |mut told| {
            assert!(told.recv().await.unwrap().is_empty());
        },
    );
}

#[test]
fn literals_and_the_hosts_file_need_no_server() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // Nothing listens there.
        let dns = dns(Some("127.0.0.1:1".parse().unwrap()));
        let resolver = Resolver::new(&dns.resolver, LookupFamily::V4Only).unwrap();
        assert_eq!(resolver.resolve("10.1.2.3").await.unwrap().found, ["10.1.2.3".parse::<IpAddr>().unwrap()]);
        assert_eq!(resolver.resolve("localhost").await.unwrap().found, ["127.0.0.1".parse::<IpAddr>().unwrap()]);
    });
}

#[test]
fn the_ttl_takes_the_place_of_the_refresh_rate_only_when_asked() {
    let delay = |respect_ttl, ttl| {
        let dns =
            Dns { respect_ttl, minimum_refresh: Duration::from_secs(1), ..dns(Some("127.0.0.1:1".parse().unwrap())) };
        let resolution = Resolution::new(&Discovery::StrictDns(dns, named("a.test")), stats()).unwrap().unwrap();
        resolution.question("a.test".into()).after_success(Duration::from_secs(ttl))
    };
    assert_eq!(delay(false, 30), Duration::from_millis(10));
    assert_eq!(delay(true, 30), Duration::from_secs(30));
    assert_eq!(delay(true, 0), Duration::from_secs(1));
}
