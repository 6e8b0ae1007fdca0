//! **The short spine**: one TCP connection: pick, connect, copy, finish.
//!
//! Either side may end its half while the other goes on. A side that is reset resets the other one, so that nobody
//! takes what came so far for everything.

use std::cell::Cell;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dp_filters::NameLookup;
use dp_format::Inputs;
use dp_http::flags::Flags;
use dp_http::io::Io;
use dp_http::{Protocol, StreamInfo};
use dp_net::relay::{Direction, End, Side, relay};
use dp_net::stream::Reset;
use dp_snapshot::TcpProxy;
use dp_upstream::{CheckoutOptions, Cluster, Criteria, Endpoint, Outcome, PickContext, Proxied, RawConnection};
use shared_config::tcp_proxy::TcpHash;
use stdx::backoff::Backoff;
use stdx::drain::Phase;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until, timeout};

use crate::connection::Connection;
use crate::destination;
use crate::timer::deadline;

/// How long a side may take to accept its last bytes after the other one broke.
const FLUSH: Duration = Duration::from_secs(10);

/// The client's side: its bytes, and how to end them with a reset.
pub(crate) struct Down {
    pub(crate) io: Io,
    pub(crate) reset: Reset,
}

/// Carries one connection to an endpoint and back.
pub(crate) async fn serve(conn: Connection, proxy: &TcpProxy, down: Down) {
    let start = Instant::now();
    let mut info = StreamInfo::new(Arc::clone(&conn.info), Protocol::Http11, SystemTime::now(), start.into_std());
    proxy.stats.downstream_cx_total().inc(conn.worker.shard);
    if proxy.config.log.on_start {
        log(proxy, &mut info, "TcpConnectionStart", start);
    }
    if let Some(up) = connect(&conn, proxy, &mut info, start).await {
        if proxy.config.log.on_connected {
            log(proxy, &mut info, "TcpUpstreamConnected", start);
        }
        copy(&conn, proxy, &mut info, start, (down, up)).await;
    }
    log(proxy, &mut info, "TcpConnectionEnd", start);
}

/// A network filter did not let the connection in; says so in the log.
pub(crate) fn refused(proxy: &TcpProxy, mut info: StreamInfo, details: &str) {
    info.termination = details.to_owned().into();
    let start = Instant::from_std(info.began);
    log(proxy, &mut info, "TcpConnectionEnd", start);
}

fn log(proxy: &TcpProxy, info: &mut StreamInfo, kind: &'static str, start: Instant) {
    if proxy.access_logs.is_empty() {
        return;
    }
    info.log_type = kind;
    info.duration = Some(start.elapsed());
    let inputs = Inputs { info, request: None, response: None, trailers: None, local_reply_body: "" };
    let random = fastrand::u64(..);
    for log in &proxy.access_logs {
        log.log(&inputs, random);
    }
}

// === copying ===

/// Why the copying ended.
enum Over {
    Ended(End),
    TooLong,
    Drained,
    /// The endpoint failed its health check.
    Unhealthy,
}

async fn copy(
    conn: &Connection,
    proxy: &TcpProxy,
    info: &mut StreamInfo,
    start: Instant,
    (mut down, mut up): (Down, RawConnection),
) {
    let (config, stats, shard) = (&proxy.config, &proxy.stats, conn.worker.shard);
    let (forward, backward) = (Cell::new(0), Cell::new(0));
    let over = {
        let copying = relay(&mut *down.io, &mut *up.io, config.idle_timeout, |direction, n| match direction {
            Direction::Forward => {
                stats.downstream_cx_rx_bytes_total().add(shard, n as u64);
                forward.set(forward.get() + n as u64);
            }
            Direction::Backward => {
                stats.downstream_cx_tx_bytes_total().add(shard, n as u64);
                backward.set(backward.get() + n as u64);
            }
        });
        tokio::pin!(copying);
        let mut cut = conn.chain.drain.reached(Phase::Now);
        let limit = deadline(start, longest(proxy));
        let mut ticks = config.log.interval.map(ticks);
        loop {
            tokio::select! {
                biased;
                relayed = &mut copying => break Over::Ended(relayed.end),
                () = &mut cut => break Over::Drained,
                () = until(limit) => break Over::TooLong,
                () = up.connection.endpoint_failed() => break Over::Unhealthy,
                () = tick(&mut ticks) => {
                    note_sizes(info, forward.get(), backward.get());
                    log(proxy, info, "TcpPeriodic", start);
                }
            }
        }
    };
    note_sizes(info, forward.get(), backward.get());
    match over {
        Over::Ended(End::Closed) | Over::Drained => {}
        Over::Ended(End::Idle) => {
            stats.idle_timeout().inc(shard);
            info.flags.set(Flags::STREAM_IDLE_TIMEOUT);
        }
        Over::Unhealthy => info.flags.set(Flags::UPSTREAM_CONNECTION_TERMINATION),
        Over::TooLong => {
            stats.max_downstream_connection_duration().inc(shard);
            info.flags.set(Flags::DURATION_TIMEOUT);
        }
        Over::Ended(End::Failed(Side::First, error)) => {
            info.flags.set(Flags::DOWNSTREAM_CONNECTION_TERMINATION);
            end_other(&mut up.io, &up.reset, &error).await;
        }
        Over::Ended(End::Failed(Side::Second, error)) => {
            let was_reset = error.kind() == ErrorKind::ConnectionReset;
            let flag = if was_reset { Flags::UPSTREAM_REMOTE_RESET } else { Flags::UPSTREAM_CONNECTION_TERMINATION };
            info.flags.set(flag);
            end_other(&mut down.io, &down.reset, &error).await;
        }
    }
}

/// Ends the side that still works as the other one ended: with a reset, or after its last bytes.
async fn end_other(io: &mut Io, reset: &Reset, error: &std::io::Error) {
    if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) {
        reset.arm();
    } else {
        // It may break as well, or take too long.
        let _ = timeout(FLUSH, io.shutdown()).await;
    }
}

fn note_sizes(info: &mut StreamInfo, forward: u64, backward: u64) {
    info.sizes.received = forward;
    info.sizes.sent = backward;
    info.sizes.upstream_sent = forward;
    info.sizes.upstream_received = backward;
}

/// The longest life of this connection, with its share of chance.
fn longest(proxy: &TcpProxy) -> Option<Duration> {
    let longest = proxy.config.max_downstream_connection_duration?;
    Some(longest + longest.mul_f64(proxy.config.max_duration_jitter / 100.0 * fastrand::f64()))
}

async fn until(limit: Option<Instant>) {
    match limit {
        Some(limit) => sleep_until(limit).await,
        None => std::future::pending().await,
    }
}

fn ticks(every: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn tick(ticks: &mut Option<Interval>) {
    match ticks {
        Some(ticks) => drop(ticks.tick().await),
        None => std::future::pending().await,
    }
}

// === connecting ===

/// Tries as many endpoints as the configuration allows.
async fn connect(conn: &Connection, proxy: &TcpProxy, info: &mut StreamInfo, start: Instant) -> Option<RawConnection> {
    let worker = &conn.worker;
    let host = host(conn, proxy, info).await?;
    let chosen = proxy.choose(&conn.info, fastrand::u64(..));
    let chosen = chosen.and_then(|(name, criteria)| Some((worker.snapshot().cluster(name)?.clone(), criteria)));
    let Some((cluster, criteria)) = chosen else {
        proxy.stats.downstream_cx_no_route().inc(worker.shard);
        info.flags.set(Flags::NO_CLUSTER_FOUND);
        return None;
    };
    info.upstream.cluster = Some(Arc::clone(cluster.name()));
    info.cluster_metadata.clone_from(&cluster.shown_metadata);
    let mut tried = Vec::new();
    let mut backoff = proxy.config.backoff.map(|(base, max)| Backoff::new(base, max));
    loop {
        // Each try may go to another member of an aggregate.
        let (cluster, endpoint) = pick(conn, proxy, (&cluster, criteria), (&tried, host.as_deref()), info)?;
        info.upstream.attempts += 1;
        let options = CheckoutOptions {
            proxied: cluster.config.proxy_protocol.as_ref().map(|_| Proxied::of(&conn.info, &proxy.config.proxy_tlvs)),
            ..CheckoutOptions::default()
        };
        info.upstream.host = Some(endpoint.address.clone());
        info.host_metadata.clone_from(&endpoint.shown_metadata);
        info.timing.upstream_connect_start = Some(start.elapsed());
        match worker.pools.connect_raw(&cluster, &endpoint, &options).await {
            Ok(made) => {
                cluster.observe(&endpoint, Outcome::Carried, worker.index());
                note_upstream(info, &made, start);
                return Some(made);
            }
            Err(error) if error.is_overflow() => {
                info.flags.set(Flags::UPSTREAM_OVERFLOW);
                return None;
            }
            Err(error) => {
                cluster.observe(&endpoint, Outcome::Failed, worker.index());
                info.upstream.failure = Some(error.to_string().into());
            }
        }
        info.flags.set(Flags::UPSTREAM_CONNECTION_FAILURE);
        if info.upstream.attempts >= proxy.config.max_connect_attempts {
            info.flags.set(Flags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
            cluster.state.stats.upstream_cx_connect_attempts_exceeded().inc(worker.shard);
            return None;
        }
        tried.push(endpoint.state.id);
        if let Some(backoff) = &mut backoff {
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }
}

/// Waits until the server name is resolved, where that is asked for (`sni_dynamic_forward_proxy`); the host to connect to,
/// if the client named one. `None`: the connection is to be closed. The outcome is found by the pick.
async fn host(conn: &Connection, proxy: &TcpProxy, info: &mut StreamInfo) -> Option<Option<String>> {
    let (Some(forward), Some(name)) = (&proxy.forward, conn.info.requested_server_name.as_deref()) else {
        return Some(None);
    };
    let details = match forward.names.look_up(name, forward.port) {
        NameLookup::Found | NameLookup::Failed => None,
        NameLookup::Waiting(found) => {
            found.await;
            None
        }
        NameLookup::Overflow => Some("dns_cache_overflow"),
        NameLookup::PendingOverflow => Some("dynamic_forward_proxy_pending_request_overflow"),
    };
    match details {
        None => Some(Some(format!("{name}:{}", forward.port))),
        Some(details) => {
            info.termination = details.into();
            None
        }
    }
}

fn pick(
    conn: &Connection,
    proxy: &TcpProxy,
    (cluster, criteria): (&Arc<Cluster>, Option<&Criteria>),
    (tried, host): (&[u64], Option<&str>),
    info: &mut StreamInfo,
) -> Option<(Arc<Cluster>, Arc<Endpoint>)> {
    let hash = hash(proxy, info);
    let mut rng = conn.worker.rng();
    let worker = conn.worker.index();
    let reselect = tried.len() as u32;
    let (cluster, place) = cluster.member(&mut rng);
    let destination = destination::of_connection(cluster, &conn.info, host);
    let mut context =
        PickContext { hash, tried, reselect, criteria, place, destination, ..PickContext::new(&mut rng, worker) };
    let Ok(endpoint) = cluster.pick(&mut context) else {
        info.flags.set(Flags::NO_HEALTHY_UPSTREAM);
        return None;
    };
    Some((Arc::clone(cluster), endpoint))
}

fn hash(proxy: &TcpProxy, info: &StreamInfo) -> Option<u64> {
    let hash = |text: &str| stdx::hash::xxh64(text.as_bytes(), 0);
    match proxy.config.hash.as_ref()? {
        TcpHash::SourceIp => info.connection.remote.ip().map(|ip| hash(&ip.to_string())),
        TcpHash::FilterState(key) => info.hashable(key).map(hash),
    }
}

fn note_upstream(info: &mut StreamInfo, made: &RawConnection, start: Instant) {
    let connection = &made.connection;
    info.upstream.local.clone_from(&connection.local);
    info.upstream.connection_id = connection.id;
    info.upstream.tls.clone_from(&connection.tls);
    info.timing.upstream_connect_complete = Some(connection.timing.connected.duration_since(start));
    info.timing.upstream_handshake_complete = connection.timing.handshake.map(|at| at.duration_since(start));
}
