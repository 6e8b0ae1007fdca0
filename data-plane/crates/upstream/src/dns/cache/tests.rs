//! One cache between requests and a name server on loopback.

use std::cell::RefCell;
use std::rc::Rc;

use shared_config::cluster::LookupFamily;
use shared_config::cluster::discovery::Resolver as ResolverOptions;
use tokio::net::UdpSocket;
use tokio::task::LocalSet;

use super::*;
use crate::dns::resolution::tests::{Zone, serve};

fn config(server: SocketAddr) -> Config {
    Config {
        name: "test".into(),
        family: LookupFamily::V4Only,
        refresh: Duration::from_millis(5),
        minimum_refresh: Duration::from_millis(5),
        host_ttl: Duration::from_secs(60),
        max_hosts: 2,
        forget_failures: false,
        failure_refresh: None,
        max_pending: 1,
        resolver: ResolverOptions { servers: vec![server], ..ResolverOptions::default() },
        preresolve: Vec::new(),
        query_timeout: Some(Duration::from_secs(5)),
    }
}

/// Runs `test` with a cache and the name server that it asks.
fn check<F: Future<Output = ()>>(change: impl FnOnce(&mut Config), zone: &Zone, test: impl FnOnce(Arc<DnsCache>) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(LocalSet::new().run_until(async {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut config = config(socket.local_addr().unwrap());
        change(&mut config);
        tokio::task::spawn_local(serve(socket, Rc::clone(zone)));
        let (caches, mut work) = DnsCaches::new(Registry::new(1));
        let cache = caches.cache(&config).unwrap();
        tokio::task::spawn_local(work.recv().await.unwrap().run());
        test(cache).await;
    }));
}

/// The first answer holds for a second.
fn zone(addresses: &[[u8; 4]]) -> Zone {
    Rc::new(RefCell::new((addresses.to_vec(), 0)))
}

async fn looked_up(cache: &Arc<DnsCache>, authority: &str) -> bool {
    match cache.look_up(authority, 80) {
        Lookup::Found => true,
        Lookup::Waiting(waiting) => waiting.found().await,
        Lookup::Failed | Lookup::Overflow | Lookup::PendingOverflow => false,
    }
}

#[test]
fn a_name_is_resolved_once_for_all_who_ask() {
    check(
        |_| {},
        &zone(&[[10, 0, 0, 1]]),
        async |cache| {
            assert!(looked_up(&cache, "A.test:81").await);
            assert!(matches!(cache.look_up("a.TEST:81", 80), Lookup::Found));
            let (host, address) = cache.known("a.test:81", 80).unwrap();
            assert_eq!((&*host.name, address.to_string().as_str()), ("a.test", "10.0.0.1:81"));
            assert!(cache.known("b.test", 80).is_none(), "knowing asks nobody");
        },
    );
}

#[test]
fn there_are_only_so_many_names_and_requests_that_wait() {
    check(
        |_| {},
        &zone(&[[10, 0, 0, 1]]),
        async |cache| {
            let first = cache.look_up("a.test", 80);
            assert!(matches!(first, Lookup::Waiting(_)));
            assert!(matches!(cache.look_up("b.test", 80), Lookup::PendingOverflow));
            drop(first);
            assert!(matches!(cache.look_up("b.test", 80), Lookup::Waiting(_)));
            assert!(matches!(cache.look_up("c.test", 80), Lookup::Overflow));
        },
    );
}

#[test]
fn an_address_that_was_found_outlives_a_failure_and_a_failure_is_mended() {
    let zone = zone(&[]);
    check(
        |_| {},
        &zone,
        async |cache| {
            assert!(!looked_up(&cache, "a.test").await);
            zone.borrow_mut().0.push([10, 0, 0, 1]);
            while !matches!(cache.look_up("a.test", 80), Lookup::Found) {
                tokio::task::yield_now().await;
            }
            let (host, address) = cache.known("a.test", 80).unwrap();
            for outcome in [Outcome::Failed, Outcome::TimedOut, Outcome::Nothing] {
                assert_eq!(cache.note(&host, outcome, &mut None), Some(Duration::from_millis(5)));
                assert_eq!(cache.known("a.test", 80).unwrap().1, address);
            }
        },
    );
}

#[test]
fn what_nobody_uses_or_nobody_finds_is_forgotten() {
    check(
        |config| config.host_ttl = Duration::from_millis(1),
        &zone(&[[10, 0, 0, 1]]),
        async |cache| {
            assert!(looked_up(&cache, "a.test").await);
            while !cache.hosts.is_empty() {
                tokio::task::yield_now().await;
            }
        },
    );
    check(
        |config| config.forget_failures = true,
        &zone(&[]),
        async |cache| {
            assert!(!looked_up(&cache, "a.test").await);
            assert!(cache.hosts.is_empty());
        },
    );
}

#[test]
fn one_name_stands_for_one_configuration() {
    let (caches, _work) = DnsCaches::new(Registry::new(1));
    let config = config("127.0.0.1:1".parse().unwrap());
    let cache = caches.cache(&config).unwrap();
    assert!(Arc::ptr_eq(&cache, &caches.cache(&config).unwrap()));
    let other = Config { max_hosts: 3, ..config };
    assert!(caches.cache(&other).is_err());
    drop(cache);
    assert!(caches.cache(&other).is_ok(), "nobody uses the first any more");
}
