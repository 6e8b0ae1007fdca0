//! **The short spine**: one TCP connection: pick, connect, copy, finish.

use std::sync::Arc;
use std::time::SystemTime;

use dp_format::Inputs;
use dp_http::flags::Flags;
use dp_http::io::Io;
use dp_http::{Protocol, StreamInfo};
use dp_net::relay::{Direction, End, relay};
use dp_snapshot::TcpProxy;
use dp_upstream::{CheckoutOptions, PickContext, RawConnection};
use tokio::time::{Instant, timeout};

use crate::connection::Connection;
use crate::destination;

/// Carries one connection to an endpoint and back.
pub(crate) async fn serve(conn: Connection, proxy: &TcpProxy, mut down: Io) {
    let shard = conn.worker.shard;
    let start = Instant::now();
    let mut info = StreamInfo::new(Arc::clone(&conn.info), Protocol::Http11, SystemTime::now(), start.into_std());
    proxy.stats.downstream_cx_total().inc(shard);
    if let Some(mut up) = connect(&conn, proxy, &mut info).await {
        let config = &proxy.config;
        let copy = relay(&mut *down, &mut *up.io, config.idle_timeout, |direction, n| match direction {
            Direction::Forward => proxy.stats.downstream_cx_rx_bytes_total().add(shard, n as u64),
            Direction::Backward => proxy.stats.downstream_cx_tx_bytes_total().add(shard, n as u64),
        });
        let drain = Arc::clone(&conn.chain);
        let mut phase = drain.drain.watch();
        let relayed = tokio::select! {
            relayed = async {
                match config.max_downstream_connection_duration {
                    Some(limit) => timeout(limit, copy).await.ok(),
                    None => Some(copy.await),
                }
            } => relayed,
            _ = phase.wait_for(|phase| *phase == stdx::drain::Phase::Now) => None,
            () = up.connection.endpoint_failed() => {
                info.flags.set(Flags::UPSTREAM_CONNECTION_TERMINATION);
                None
            }
        };
        if let Some(relayed) = relayed {
            info.sizes.received = relayed.forward;
            info.sizes.sent = relayed.backward;
            note_end(&mut info, &relayed.end);
        }
    }
    info.duration = Some(start.elapsed());
    let inputs = Inputs { info: &info, request: None, response: None, trailers: None, local_reply_body: "" };
    let random = fastrand::u64(..);
    for log in &proxy.access_logs {
        log.log(&inputs, random);
    }
}

fn note_end(info: &mut StreamInfo, end: &End) {
    match end {
        End::Closed => {}
        End::Idle => info.flags.set(Flags::STREAM_IDLE_TIMEOUT),
        End::Failed(Direction::Forward, _) => info.flags.set(Flags::DOWNSTREAM_CONNECTION_TERMINATION),
        End::Failed(Direction::Backward, _) => info.flags.set(Flags::UPSTREAM_CONNECTION_TERMINATION),
    }
}

/// Tries as many endpoints as the configuration allows.
async fn connect(conn: &Connection, proxy: &TcpProxy, info: &mut StreamInfo) -> Option<RawConnection> {
    let worker = &conn.worker;
    let cluster = {
        let name = proxy.choose(conn.info.requested_server_name.as_deref(), fastrand::u64(..));
        let snapshot = worker.snapshot();
        name.and_then(|name| snapshot.cluster(name)).cloned()
    };
    let Some(cluster) = cluster else {
        proxy.stats.downstream_cx_no_route().inc(worker.shard);
        info.flags.set(Flags::NO_CLUSTER_FOUND);
        return None;
    };
    info.upstream.cluster = Some(Arc::clone(cluster.name()));
    let hash = proxy.config.hash_source_ip.then(|| conn.info.remote.ip()).flatten();
    let hash = hash.map(|ip| stdx::hash::xxh64(ip.to_string().as_bytes(), 0));
    let mut tried = Vec::new();
    for _ in 0..proxy.config.max_connect_attempts.max(1) {
        info.upstream.attempts += 1;
        let picked = {
            let mut rng = worker.rng();
            // Each try may go to another member of an aggregate.
            let (cluster, place) = cluster.member(&mut rng);
            let mut context = PickContext {
                hash,
                tried: &tried,
                reselect: tried.len() as u32,
                place,
                destination: destination::of_connection(cluster, &conn.info),
                ..PickContext::new(&mut rng, worker.index())
            };
            cluster.pick(&mut context).map(|endpoint| (Arc::clone(cluster), endpoint))
        };
        let Ok((cluster, endpoint)) = picked else {
            info.flags.set(Flags::NO_HEALTHY_UPSTREAM);
            return None;
        };
        info.upstream.host = Some(endpoint.address.clone());
        match worker.pools.connect_raw(&cluster, &endpoint, &CheckoutOptions::default()).await {
            Ok(made) => {
                info.upstream.local.clone_from(&made.connection.local);
                return Some(made);
            }
            Err(error) if error.is_overflow() => {
                info.flags.set(Flags::UPSTREAM_OVERFLOW);
                return None;
            }
            Err(error) => info.upstream.failure = Some(error.to_string().into()),
        }
        tried.push(endpoint.state.id);
    }
    info.flags.set(Flags::UPSTREAM_CONNECTION_FAILURE);
    None
}
