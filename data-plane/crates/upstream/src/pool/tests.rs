//! Pools over loopback origins.

use std::future::poll_fn;
use std::net::SocketAddr;

use dp_http::h1::{ServerConn, ServerOptions};
use dp_http::{Method, RequestHead, ResponseHead};
use shared_config::cluster::Cluster as Config;
use shared_config::core::Address;
use shared_config::endpoint::{Assignment, Endpoint as EndpointConfig};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use super::*;
use crate::Tls;
use crate::breaker::Priority;
use crate::cluster::tests::{cluster, config};

/// Runs `test` as a worker does.
fn on_a_worker(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(LocalSet::new().run_until(test));
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

struct Bench {
    pools: Pools,
    cluster: Arc<Cluster>,
    endpoint: Arc<Endpoint>,
}

impl Bench {
    fn new(address: SocketAddr, change: impl FnOnce(&mut Config)) -> Self {
        let assignment = Assignment::of(vec![EndpointConfig::new(Address::Ip(address))]);
        let cluster = cluster(config(change), &assignment);
        let endpoint = Arc::clone(cluster.endpoints().next().unwrap());
        Self { pools: Pools::new(0), cluster, endpoint }
    }

    async fn checkout(&self) -> Result<Checkout, ConnectError> {
        self.pools.checkout(&self.cluster, &self.endpoint, &CheckoutOptions::default()).await
    }

    /// One GET from checkout to finish; whether the connection was used before.
    async fn get(&self) -> bool {
        let mut checkout = self.checkout().await.unwrap();
        get(&mut checkout).await;
        let reused = checkout.reused;
        checkout.finish();
        reused
    }

    fn connections(&self) -> u32 {
        self.cluster.state.breakers.used(Priority::Default, Resource::Connections)
    }
}

async fn get(checkout: &mut Checkout) {
    let head = RequestHead::new(Method::Get, "test", "/");
    checkout.stream.send_head(&head, true).unwrap();
    let response = poll_fn(|cx| checkout.stream.poll_head(cx)).await.unwrap();
    assert_eq!(response.status, 204);
    assert!(poll_fn(|cx| checkout.stream.poll_body(cx)).await.is_none());
}

fn no_content() -> ResponseHead {
    ResponseHead { status: 204, ..ResponseHead::default() }
}

/// Answers every request on every HTTP/1 connection with 204.
async fn http1(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::task::spawn_local(async move { serve(stream, usize::MAX).await });
    }
}

/// Answers so many requests, then closes.
async fn serve(stream: TcpStream, requests: usize) {
    let mut conn = ServerConn::new(Box::new(stream), Arc::new(ServerOptions::default()));
    for _ in 0..requests {
        let Ok(Some(_)) = conn.read_head().await else { return };
        conn.send_head(&no_content(), true).unwrap();
        poll_fn(|cx| conn.poll_flush(cx)).await.unwrap();
    }
}

/// Answers every stream on every HTTP/2 connection with 204; says goodbye after `streams`.
async fn http2(listener: TcpListener, streams: usize) {
    use dp_http::h2::{ServerConn, ServerOptions};
    while let Ok((stream, _)) = listener.accept().await {
        tokio::task::spawn_local(async move {
            let mut conn =
                ServerConn::handshake(Box::new(stream), bytes::Bytes::new(), &ServerOptions::default()).await.unwrap();
            let mut left = streams;
            while let Some(Ok((_, mut stream))) = conn.accept().await {
                stream.send_head(&no_content(), true).unwrap();
                left -= 1;
                if left == 0 {
                    conn.graceful_shutdown();
                }
            }
        });
    }
}

#[test]
fn a_connection_is_used_again() {
    on_a_worker(async {
        let (listener, address) = listen().await;
        tokio::task::spawn_local(http1(listener));
        let bench = Bench::new(address, |_| {});
        assert!(!bench.get().await);
        assert!(bench.get().await);
        assert_eq!((bench.connections(), bench.pools.idle()), (1, 1));
        assert_eq!(bench.cluster.state.stats.upstream_cx_total().value(), 1);
    });
}

#[test]
fn a_connection_that_was_closed_while_idle_is_not_used_again() {
    on_a_worker(async {
        let (listener, address) = listen().await;
        tokio::task::spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                serve(stream, 1).await;
            }
        });
        let bench = Bench::new(address, |_| {});
        assert!(!bench.get().await);
        // The close of the other side arrives while nothing runs here.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!bench.get().await);
        assert_eq!(bench.cluster.state.stats.upstream_cx_total().value(), 2);
    });
}

#[test]
fn a_connection_takes_no_more_requests_than_allowed() {
    on_a_worker(async {
        let (listener, address) = listen().await;
        tokio::task::spawn_local(http1(listener));
        let bench = Bench::new(address, |c| c.http.max_requests_per_connection = Some(2));
        assert_eq!([bench.get().await, bench.get().await, bench.get().await], [false, true, false]);
        assert_eq!(bench.cluster.state.stats.upstream_cx_max_requests().value(), 1);
    });
}

#[test]
fn a_retired_endpoints_connections_close_when_their_request_ends() {
    on_a_worker(async {
        let (listener, address) = listen().await;
        tokio::task::spawn_local(http1(listener));
        let bench = Bench::new(address, |_| {});
        bench.get().await;
        let mut running = bench.checkout().await.unwrap();
        bench.get().await;
        assert_eq!(bench.connections(), 2);
        bench.cluster.retire();
        bench.pools.sweep(Instant::now()).await;
        assert_eq!(bench.connections(), 1);
        get(&mut running).await;
        running.finish();
        assert_eq!((bench.connections(), bench.pools.idle()), (0, 0));
    });
}

#[test]
fn an_idle_connection_is_closed_after_its_timeout() {
    on_a_worker(async {
        let (listener, address) = listen().await;
        tokio::task::spawn_local(http1(listener));
        let bench = Bench::new(address, |c| c.http.idle_timeout = Some(Duration::from_secs(60)));
        bench.get().await;
        bench.pools.sweep(Instant::now() + Duration::from_secs(59)).await;
        assert_eq!(bench.pools.idle(), 1);
        bench.pools.sweep(Instant::now() + Duration::from_secs(61)).await;
        assert_eq!((bench.pools.idle(), bench.connections()), (0, 0));
        assert_eq!(bench.cluster.state.stats.upstream_cx_idle_timeout().value(), 1);
    });
}

#[test]
fn others_have_their_turns_while_many_connections_are_looked_after() {
    on_a_worker(async {
        let (listener, address) = listen().await;
        tokio::task::spawn_local(http1(listener));
        let bench = Bench::new(address, |_| {});
        for number in 0..150 {
            let server_name = Some(format!("{number}.test").into());
            let options = CheckoutOptions { server_name, ..CheckoutOptions::default() };
            let mut checkout = bench.pools.checkout(&bench.cluster, &bench.endpoint, &options).await.unwrap();
            get(&mut checkout).await;
            checkout.finish();
        }
        let turns = Rc::new(Cell::new(0));
        let other = tokio::task::spawn_local({
            let turns = Rc::clone(&turns);
            async move {
                loop {
                    tokio::task::yield_now().await;
                    turns.set(turns.get() + 1);
                }
            }
        });
        tokio::task::yield_now().await;
        let before = turns.get();
        bench.pools.sweep(Instant::now()).await;
        assert!(turns.get() >= before + 2, "{} turns", turns.get() - before);
        assert_eq!(bench.pools.idle(), 150);
        other.abort();
    });
}

#[test]
fn who_waits_gets_the_next_free_connection_when_no_more_may_be_made() {
    on_a_worker(async {
        let (listener, address) = listen().await;
        tokio::task::spawn_local(http1(listener));
        let bench = Rc::new(Bench::new(address, |c| c.breakers.default.connections = 1));
        let mut first = bench.checkout().await.unwrap();
        let waiting = tokio::task::spawn_local({
            let bench = Rc::clone(&bench);
            async move { bench.get().await }
        });
        tokio::task::yield_now().await;
        assert_eq!(bench.cluster.state.stats.upstream_rq_pending_active().value(), 1);
        get(&mut first).await;
        first.finish();
        assert!(waiting.await.unwrap());
        assert_eq!(bench.connections(), 1);
        assert!(bench.cluster.state.stats.upstream_cx_overflow().value() >= 1);
    });
}

#[test]
fn a_connection_given_up_makes_room_for_who_waits() {
    on_a_worker(async {
        let (listener, address) = listen().await;
        tokio::task::spawn_local(http1(listener));
        let bench = Rc::new(Bench::new(address, |c| c.breakers.default.connections = 1));
        let first = bench.checkout().await.unwrap();
        let waiting = tokio::task::spawn_local({
            let bench = Rc::clone(&bench);
            async move { bench.get().await }
        });
        tokio::task::yield_now().await;
        drop(first);
        assert!(!waiting.await.unwrap());
    });
}

#[test]
fn too_many_who_wait_are_turned_away() {
    on_a_worker(async {
        let (_listener, address) = listen().await;
        let bench = Bench::new(address, |c| c.breakers.default.pending_requests = 0);
        assert!(matches!(bench.checkout().await, Err(ConnectError::PendingOverflow)));
        assert_eq!(bench.cluster.state.stats.upstream_rq_pending_overflow().value(), 1);
        assert_eq!(bench.connections(), 0);
    });
}

#[test]
fn a_refused_connection_says_so_and_leaves_nothing_behind() {
    on_a_worker(async {
        let (listener, address) = listen().await;
        drop(listener);
        let bench = Bench::new(address, |_| {});
        let error = bench.checkout().await.err().unwrap();
        assert_eq!(error.to_string(), "delayed connect error: Connection refused");
        tokio::task::yield_now().await;
        assert_eq!(bench.connections(), 0);
        assert_eq!(bench.cluster.state.stats.upstream_cx_connect_fail().value(), 1);
        assert_eq!(bench.cluster.state.breakers.used(Priority::Default, Resource::Pending), 0);
    });
}

#[test]
fn a_connection_whose_caller_left_serves_the_next_one() {
    on_a_worker(async {
        let (listener, address) = listen().await;
        tokio::task::spawn_local(http1(listener));
        let bench = Bench::new(address, |_| {});
        {
            let mut leaving = std::pin::pin!(bench.checkout());
            let polled = poll_fn(|cx| std::task::Poll::Ready(leaving.as_mut().poll(cx).is_pending())).await;
            assert!(polled, "connecting takes a while");
        }
        assert_eq!(bench.cluster.state.breakers.used(Priority::Default, Resource::Pending), 0);
        while bench.pools.idle() == 0 {
            tokio::task::yield_now().await;
        }
        bench.get().await;
        assert_eq!(bench.cluster.state.stats.upstream_cx_total().value(), 1);
    });
}

#[test]
fn connecting_ends_at_the_timeout() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(LocalSet::new().run_until(async {
        // The kernel accepts the connection, but nobody answers the TLS handshake.
        let (_listener, address) = listen().await;
        let assignment = Assignment::of(vec![EndpointConfig::new(Address::Ip(address))]);
        let site = crate::cluster::tests::site();
        let tls = Tls::new(
            Arc::new(client_config()),
            (String::new(), false),
            |_| dp_http::info::PeerCertificate::default(),
            dp_net::tls::TlsStats::register(&site.registry, shared_telemetry::Scope::cluster("c").child("ssl")),
        );
        let cluster = Arc::new(Cluster::compile(config(|_| {}), &assignment, Some(tls), None, &site));
        let endpoint = Arc::clone(cluster.endpoints().next().unwrap());
        let bench = Bench { pools: Pools::new(0), cluster, endpoint };
        let began = Instant::now();
        assert!(matches!(bench.checkout().await, Err(ConnectError::Timeout)));
        assert_eq!(began.elapsed().as_secs(), 5);
        assert_eq!(bench.cluster.state.stats.upstream_cx_connect_timeout().value(), 1);
        tokio::task::yield_now().await;
        assert_eq!(bench.connections(), 0);
    }));
}

fn client_config() -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
}

#[test]
fn requests_share_an_http2_connection() {
    on_a_worker(async {
        let (listener, address) = listen().await;
        tokio::task::spawn_local(http2(listener, usize::MAX));
        let bench = Bench::new(address, |c| c.http.protocols = Protocols::Http2);
        let (first, second, third) = tokio::join!(bench.checkout(), bench.checkout(), bench.checkout());
        for checkout in [first, second, third] {
            let mut checkout = checkout.unwrap();
            get(&mut checkout).await;
            checkout.finish();
        }
        assert_eq!(bench.cluster.state.stats.upstream_cx_http2_total().value(), 1);
        assert_eq!(bench.connections(), 1);
    });
}

#[test]
fn no_stream_is_opened_after_goodbye() {
    on_a_worker(async {
        let (listener, address) = listen().await;
        tokio::task::spawn_local(http2(listener, 1));
        let bench = Bench::new(address, |c| c.http.protocols = Protocols::Http2);
        bench.get().await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!bench.get().await);
        assert_eq!(bench.cluster.state.stats.upstream_cx_http2_total().value(), 2);
    });
}

#[test]
fn a_raw_connection_carries_bytes_and_counts_until_it_is_dropped() {
    on_a_worker(async {
        let (listener, address) = listen().await;
        tokio::task::spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"hello").await.unwrap();
        });
        let bench = Bench::new(address, |_| {});
        let mut raw =
            bench.pools.connect_raw(&bench.cluster, &bench.endpoint, &CheckoutOptions::default()).await.unwrap();
        let mut text = String::new();
        raw.io.read_to_string(&mut text).await.unwrap();
        assert_eq!((&*text, bench.connections()), ("hello", 1));
        drop(raw);
        assert_eq!(bench.connections(), 0);
    });
}

#[test]
fn a_connection_that_is_too_old_takes_no_more_requests() {
    on_a_worker(async {
        let (listener, address) = listen().await;
        tokio::task::spawn_local(http1(listener));
        let bench = Bench::new(address, |c| {
            c.http.max_connection_duration = Some(Duration::from_millis(20));
            c.http.max_connection_duration_jitter = 50.0;
        });
        let checkout = bench.checkout().await.unwrap();
        let connection = &checkout.connection;
        let age = connection.expires.unwrap() - connection.timing.began;
        assert!((Duration::from_millis(20)..=Duration::from_millis(30)).contains(&age), "{age:?}");
        drop(checkout);
        bench.get().await;
        tokio::time::sleep(Duration::from_millis(40)).await;
        assert!(!bench.get().await);
        assert_eq!(bench.cluster.state.stats.upstream_cx_max_duration_reached().value(), 1);
    });
}

#[test]
fn connections_are_opened_ahead() {
    on_a_worker(async {
        let (listener, address) = listen().await;
        tokio::task::spawn_local(http1(listener));
        let bench = Bench::new(address, |c| c.preconnect_ratio = 2.0);
        let mut held = Vec::new();
        for number in 1..=3 {
            held.push(bench.checkout().await.unwrap());
            while bench.pools.idle() < number {
                tokio::task::yield_now().await;
            }
            assert_eq!((bench.connections(), bench.pools.idle()), (2 * number as u32, number));
        }
    });
}

#[test]
fn an_endpoint_that_is_down_is_not_connected_to_again_and_again() {
    on_a_worker(async {
        let (listener, address) = listen().await;
        drop(listener);
        let bench = Bench::new(address, |c| c.preconnect_ratio = 3.0);
        assert!(bench.checkout().await.is_err());
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(bench.cluster.state.stats.upstream_cx_connect_fail().value() <= 3);
    });
}

#[test]
fn another_address_of_the_endpoint_is_used_when_the_first_one_refuses() {
    on_a_worker(async {
        let (listener, address) = listen().await;
        tokio::task::spawn_local(http1(listener));
        let refusing = listen().await.1;
        let mut endpoint = EndpointConfig::new(Address::Ip(refusing));
        endpoint.additional = vec![Address::Ip(address)];
        let cluster = cluster(config(|_| {}), &Assignment::of(vec![endpoint]));
        let endpoint = Arc::clone(cluster.endpoints().next().unwrap());
        let pools = Pools::new(0);
        let mut checkout = pools.checkout(&cluster, &endpoint, &CheckoutOptions::default()).await.unwrap();
        get(&mut checkout).await;
        assert_eq!(checkout.connection.remote.to_string(), address.to_string());
    });
}

#[test]
fn no_more_pools_than_allowed_until_one_is_empty() {
    on_a_worker(async {
        let ((first, one), (second, two)) = (listen().await, listen().await);
        tokio::task::spawn_local(http1(first));
        tokio::task::spawn_local(http1(second));
        let endpoints = [one, two].map(|address| EndpointConfig::new(Address::Ip(address)));
        let limited = config(|c| c.breakers.default.connection_pools = 1);
        let cluster = cluster(limited, &Assignment::of(endpoints.to_vec()));
        let all: Vec<_> = cluster.endpoints().cloned().collect();
        let pools = Pools::new(0);
        let options = CheckoutOptions::default();
        let held = pools.checkout(&cluster, &all[0], &options).await.unwrap();
        let error = pools.checkout(&cluster, &all[1], &options).await.err();
        assert!(matches!(error, Some(ConnectError::PoolOverflow)), "{error:?}");
        assert_eq!(cluster.state.stats.upstream_cx_pool_overflow().value(), 1);
        drop(held);
        pools.close_idle();
        assert!(pools.checkout(&cluster, &all[1], &options).await.is_ok());
    });
}

#[test]
fn a_downstream_connection_may_have_connections_of_its_own() {
    on_a_worker(async {
        let (listener, address) = listen().await;
        tokio::task::spawn_local(http1(listener));
        let bench = Bench::new(address, |c| c.pool_per_downstream = true);
        let get_for = async |owner| {
            let options = CheckoutOptions { owner: Some(owner), ..CheckoutOptions::default() };
            let mut checkout = bench.pools.checkout(&bench.cluster, &bench.endpoint, &options).await.unwrap();
            get(&mut checkout).await;
            let reused = checkout.reused;
            checkout.finish();
            reused
        };
        assert_eq!([get_for(1).await, get_for(2).await, get_for(1).await], [false, false, true]);
        assert_eq!(bench.connections(), 2);
        bench.pools.disown(1);
        assert_eq!((bench.connections(), bench.pools.idle()), (1, 1));
        assert_eq!([get_for(1).await, get_for(2).await], [false, true]);
    });
}
