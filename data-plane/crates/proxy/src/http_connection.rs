//! One HTTP connection: decodes requests and serves each, one after the other or side by side.
//!
//! After this file nothing asks which version of HTTP a request came by.

use std::future::poll_fn;
use std::hint::cold_path;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use dp_filters::Run;
use dp_http::flags::Flags;
use dp_http::h1::{self, HeadError, Version};
use dp_http::io::Io;
use dp_http::stream::{ServerStream, StreamError};
use dp_http::{LocalReply, Protocol, RequestHead, Reset, StreamInfo, h2};
use dp_observe::stats::HttpStats;
use dp_snapshot::{Hcm, Network, Snapshot};
use shared_config::hcm::Codec;
use stdx::drain::Phase;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::body::RequestBody;
use crate::clocks::Clocks;
use crate::connection::Connection;
use crate::fault::Fault;
use crate::finish::{self, Finish};
use crate::relay::Down;
use crate::resets::Resets;
use crate::retry::Hedges;
use crate::shadow::Shadows;
use crate::stream::{self, Rules, Stream};
use crate::timer::{LazyTimer, deadline, earlier};
use crate::{reply, tunnel};

/// Serves a connection until it ends, drains or breaks.
pub(crate) async fn serve(conn: Connection, hcm: Arc<Hcm>, io: Io) {
    let shard = conn.worker.shard;
    let stats = Arc::clone(&hcm.stats);
    let is_tls = conn.info.tls.is_some();
    let born = Instant::now();
    stats.downstream_cx_total().inc(shard);
    stats.downstream_cx_active().inc(shard);
    if is_tls {
        stats.downstream_cx_ssl_total().inc(shard);
        stats.downstream_cx_ssl_active().inc(shard);
    }
    let codec = h1::ServerConn::new(io, Arc::clone(&hcm.http1));
    let end = carry(conn, hcm, codec).await;
    if is_tls {
        stats.downstream_cx_ssl_active().dec(shard);
    }
    stats.downstream_cx_active().dec(shard);
    stats.downstream_cx_destroy().inc(shard);
    stats.downstream_cx_length_ms().record(shard, u64::try_from(born.elapsed().as_millis()).unwrap_or(u64::MAX));
    end.count(&stats, shard);
}

/// Why a connection ended.
#[derive(Clone, Copy)]
enum End {
    /// The client closed it, or it broke.
    Remote,
    Idle,
    TooOld,
    TooManyRequests,
    TooManyResets,
    /// The client sent too many frames that bring nothing.
    Flooded(&'static str),
    Drained,
    /// We closed it for another reason.
    Local,
}

// === impl End ===

impl End {
    fn count(self, stats: &HttpStats, shard: usize) {
        match self {
            Self::Remote => return stats.downstream_cx_destroy_remote().inc(shard),
            Self::Idle => stats.downstream_cx_idle_timeout().inc(shard),
            Self::TooOld => stats.downstream_cx_max_duration_reached().inc(shard),
            Self::TooManyResets => stats.downstream_rq_too_many_premature_resets().inc(shard),
            Self::Flooded(what) => {
                tracing::debug!(what, "a client was cut off");
                stats.downstream_cx_protocol_error().inc(shard);
            }
            Self::TooManyRequests => stats.downstream_cx_max_requests_reached().inc(shard),
            Self::Drained => stats.downstream_cx_drain_close().inc(shard),
            Self::Local => {}
        }
        stats.downstream_cx_destroy_local().inc(shard);
    }

    /// A deadline passed: of idleness or of the whole connection.
    fn of_time(end_of_life: Option<Instant>) -> Self {
        if end_of_life.is_some_and(|end| Instant::now() >= end) { Self::TooOld } else { Self::Idle }
    }
}

/// How long a client that speaks no HTTP/2 where it has to is listened to before its connection ends.
const REFUSED_PATIENCE: Duration = Duration::from_secs(1);

async fn carry(conn: Connection, hcm: Arc<Hcm>, mut codec: h1::ServerConn) -> End {
    let mut timer = LazyTimer::default();
    let version = match identify(&conn, &hcm, &mut codec, &mut timer).await {
        Ok(version) => version,
        Err(end) => return end,
    };
    let (stats, shard) = (Arc::clone(&hcm.stats), conn.worker.shard);
    match version {
        Version::Http1 => {
            stats.downstream_cx_http1_total().inc(shard);
            stats.downstream_cx_http1_active().inc(shard);
            let end = serve_http1(&conn, hcm, &mut codec, &mut timer).await;
            stats.downstream_cx_http1_active().dec(shard);
            end
        }
        Version::Http2 => {
            stats.downstream_cx_http2_total().inc(shard);
            stats.downstream_cx_http2_active().inc(shard);
            let (io, start) = codec.into_parts();
            // Boxed: an HTTP/1 connection that waits should not pay for what HTTP/2 needs.
            let end = Box::pin(serve_http2(conn, hcm, io, start)).await;
            stats.downstream_cx_http2_active().dec(shard);
            end
        }
    }
}

/// Finds out which version of HTTP the client speaks.
async fn identify(
    conn: &Connection,
    hcm: &Hcm,
    codec: &mut h1::ServerConn,
    timer: &mut LazyTimer,
) -> Result<Version, End> {
    let alpn = conn.info.tls.as_ref().and_then(|tls| tls.alpn.as_deref());
    let known = match (hcm.config.codec, alpn) {
        (Codec::Http2, _) | (Codec::Auto, Some("h2")) => Some(Version::Http2),
        (Codec::Http1, _) | (Codec::Auto, Some(_)) => return Ok(Version::Http1),
        (Codec::Auto, None) => None,
    };
    let wait = deadline(Instant::now(), hcm.config.http.idle_timeout);
    match timer.before(wait, codec.detect()).await {
        // What does not begin as HTTP/2 must is read away before the end, so that the end is no reset.
        Some(Some(Version::Http1)) if known.is_some() => {
            hcm.stats.downstream_cx_protocol_error().inc(conn.worker.shard);
            timer.before(deadline(Instant::now(), Some(REFUSED_PATIENCE)), codec.close()).await;
            Err(End::Local)
        }
        Some(Some(version)) => Ok(version),
        Some(None) => Err(End::Remote),
        None => Err(End::Idle),
    }
}

// === HTTP/1 ===

async fn serve_http1(conn: &Connection, hcm: Arc<Hcm>, codec: &mut h1::ServerConn, timer: &mut LazyTimer) -> End {
    let mut view = View::new(conn, hcm);
    let born = Instant::now();
    let mut served: u32 = 0;
    let mut drained = conn.chain.drain.reached(Phase::Draining);
    let end = loop {
        let options = &view.hcm.config.http;
        let end_of_life = deadline(born, options.max_connection_duration);
        let idle = earlier(deadline(Instant::now(), options.idle_timeout), end_of_life);
        let ended = {
            let mut readable = pin!(codec.wait_readable());
            poll_fn(|cx| {
                if let Poll::Ready(open) = readable.as_mut().poll(cx) {
                    return Poll::Ready((!open).then_some(End::Remote));
                }
                if Pin::new(&mut drained).poll(cx).is_ready() {
                    return Poll::Ready(Some(End::Drained));
                }
                timer.poll_deadline(cx, idle).map(|()| Some(End::of_time(end_of_life)))
            })
            .await
        };
        if let Some(end) = ended {
            cold_path();
            break end;
        }
        let start = Instant::now();
        let limit = deadline(start, view.hcm.config.timeouts.request_headers);
        let head = timer.before(limit, codec.read_head()).await;
        let snapshot = view.refresh();
        let head = match head {
            Some(Ok(Some(head))) if !is_method_allowed(&head, &view.hcm) => {
                let error = HeadError { status: 400, details: "http1.codec_error" };
                // Boxed, as this is rare.
                Box::pin(refuse(conn, (&view.hcm, snapshot), codec, timer, error)).await;
                break End::Local;
            }
            Some(Ok(Some(head))) => head,
            Some(Ok(None)) => break End::Remote,
            refused => {
                cold_path();
                let late = HeadError { status: 408, details: "request_header_timeout" };
                let error = refused.and_then(Result::err).unwrap_or(late);
                Box::pin(refuse(conn, (&view.hcm, snapshot), codec, timer, error)).await;
                break End::Local;
            }
        };
        served = served.saturating_add(1);
        let most = view.hcm.config.http.max_requests_per_connection;
        let last = if most.is_some_and(|max| served >= max) {
            Some(End::TooManyRequests)
        } else if conn.is_draining() {
            Some(End::Drained)
        } else {
            end_of_life.filter(|end| start >= *end).map(|_| End::TooOld)
        };
        if last.is_some() {
            cold_path();
            codec.close_after_response();
        }
        // Boxed, so that a connection that waits for its next request holds nothing of the last one.
        let exchange = Box::pin(async {
            let mut stream = begin(conn, (&view.hcm, snapshot), head, ServerStream::H1(codec), timer, start);
            stream::serve(&mut stream).await;
        });
        exchange.await;
        if !codec.is_keep_alive() {
            cold_path();
            break last.unwrap_or(End::Local);
        }
    };
    let patience = deadline(Instant::now(), view.hcm.config.timeouts.delayed_close);
    if patience.is_some() {
        // What the client still sends is read for a while, so that it can read our last response.
        timer.before(patience, codec.close()).await;
    }
    end
}

/// Methods that are in no registry are let through only when asked for (Envoy `allow_custom_methods`).
fn is_method_allowed(head: &RequestHead, hcm: &Hcm) -> bool {
    /// Those that Envoy knows beside the ones of RFC 9110.
    static REGISTERED: &[&str] = &[
        "ACL",
        "BIND",
        "CHECKOUT",
        "COPY",
        "LINK",
        "LOCK",
        "MERGE",
        "MKACTIVITY",
        "MKCALENDAR",
        "MKCOL",
        "MOVE",
        "MSEARCH",
        "M-SEARCH",
        "NOTIFY",
        "PROPFIND",
        "PROPPATCH",
        "PURGE",
        "REBIND",
        "REPORT",
        "SEARCH",
        "SOURCE",
        "SUBSCRIBE",
        "UNBIND",
        "UNLINK",
        "UNLOCK",
        "UNSUBSCRIBE",
    ];
    match &head.method {
        dp_http::Method::Other(name) => hcm.config.http1.allow_custom_methods || REGISTERED.contains(&&**name),
        _ => true,
    }
}

/// Answers a head that no request could be made of; the connection ends afterwards.
async fn refuse(
    conn: &Connection,
    (hcm, snapshot): (&Hcm, Arc<Snapshot>),
    codec: &mut h1::ServerConn,
    timer: &mut LazyTimer,
    error: HeadError,
) {
    hcm.stats.downstream_cx_protocol_error().inc(conn.worker.shard);
    codec.close_after_response();
    let mut head = RequestHead::default();
    head.protocol = Protocol::Http11;
    let mut stream = begin(conn, (hcm, snapshot), head, ServerStream::H1(codec), timer, Instant::now());
    stream.body.complete = true;
    // What can be parsed but not served has no body in Envoy.
    let unserved = matches!(error.details, "missing_host" | "empty_host");
    let body = if unserved { "" } else { h1::reason_phrase(error.status) };
    let local = LocalReply::new(error.status, error.details).body(body).flag(Flags::DOWNSTREAM_PROTOCOL_ERROR);
    reply::fault(&mut stream, Fault::Reply(Box::new(local))).await;
    finish::log(&mut stream);
}

// === HTTP/2 ===

async fn serve_http2(conn: Connection, hcm: Arc<Hcm>, io: Io, start: bytes::Bytes) -> End {
    let conn = Rc::new(conn);
    let mut view = View::new(&conn, hcm);
    let born = Instant::now();
    let mut timer = LazyTimer::default();
    let mut drained = conn.chain.drain.reached(Phase::Draining);
    let start_by = deadline(born, view.hcm.config.timeouts.request_headers);
    let Some(Ok(mut codec)) = timer.before(start_by, h2::ServerConn::handshake(io, start, &view.hcm.http2)).await
    else {
        return End::Remote;
    };
    let active = Rc::new(std::cell::Cell::new(0u32));
    let ended = Rc::new(Notify::new());
    let resets = Rc::new(Resets::default());
    let mut served: u32 = 0;
    let mut leaving: Option<End> = None;
    let mut idle_since = born;
    loop {
        let options = &view.hcm.config.http;
        let idle = if active.get() == 0 { deadline(idle_since, options.idle_timeout) } else { None };
        let end_of_life = deadline(born, options.max_connection_duration).filter(|_| leaving.is_none());
        let leave = leaving.is_none().then_some(&mut drained);
        let event = next_event(&mut codec, &ended, leave, (&mut timer, idle, end_of_life)).await;
        let (head, down) = match event {
            Event::Accepted(Some(Ok(accepted))) => accepted,
            Event::Accepted(Some(Err(_)) | None) => {
                let end = codec.flood().map_or(End::Remote, End::Flooded);
                return leaving.unwrap_or(end);
            }
            Event::Ended if resets.are_too_many() && leaving.is_none() => {
                leaving = Some(End::TooManyResets);
                codec.abrupt_shutdown(Reset::EnhanceYourCalm);
                continue;
            }
            Event::Ended => {
                idle_since = Instant::now();
                continue;
            }
            Event::Leave(end) => {
                if let Some(end) = leaving.replace(end) {
                    return end;
                }
                codec.graceful_shutdown();
                continue;
            }
        };
        let snapshot = view.refresh();
        served = served.saturating_add(1);
        if view.hcm.config.http.max_requests_per_connection.is_some_and(|max| served >= max) && leaving.is_none() {
            leaving = Some(End::TooManyRequests);
            codec.graceful_shutdown();
        }
        idle_since = Instant::now();
        active.set(active.get() + 1);
        let (conn, hcm, active) = (Rc::clone(&conn), Arc::clone(&view.hcm), Rc::clone(&active));
        let (ended, resets, start) = (Rc::clone(&ended), Rc::clone(&resets), idle_since);
        tokio::task::spawn_local(async move {
            let mut timer = LazyTimer::default();
            let down = ServerStream::H2(Box::new(down));
            let mut stream = begin(&conn, (&hcm, snapshot), head, down, &mut timer, start);
            stream::serve(&mut stream).await;
            active.set(active.get() - 1);
            resets.note(stream.info.status == 0, start.elapsed());
            if active.get() == 0 || resets.are_too_many() {
                ended.notify_one();
            }
        });
    }
}

/// What comes first. `drained` is asked while the connection is not ending anyway.
async fn next_event(
    codec: &mut h2::ServerConn,
    ended: &Notify,
    mut drained: Option<&mut (impl Future<Output = ()> + Unpin)>,
    (timer, idle, end_of_life): (&mut LazyTimer, Option<Instant>, Option<Instant>),
) -> Event {
    let mut ended = pin!(ended.notified());
    poll_fn(|cx| {
        if let Poll::Ready(accepted) = codec.poll_accept(cx) {
            return Poll::Ready(Event::Accepted(accepted));
        }
        if ended.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Event::Ended);
        }
        if drained.as_mut().is_some_and(|drained| Pin::new(&mut **drained).poll(cx).is_ready()) {
            return Poll::Ready(Event::Leave(End::Drained));
        }
        timer.poll_deadline(cx, earlier(idle, end_of_life)).map(|()| Event::Leave(End::of_time(end_of_life)))
    })
    .await
}

#[allow(clippy::large_enum_variant, reason = "one at a time, on the stack, taken apart at once: a box would only cost")]
enum Event {
    Accepted(Option<Result<(RequestHead, h2::ServerStream), StreamError>>),
    /// The last stream ended, so that the connection is idle from now on, or one too many was given up.
    Ended,
    /// Time to end the connection gracefully.
    Leave(End),
}

// === both ===

/// The connection manager of a connection as the newest snapshot has it.
struct View {
    listener: Arc<str>,
    chain: u64,
    worker: Rc<crate::worker::Worker>,
    /// Of the snapshot that `hcm` is of. The snapshot itself is held by no connection, so that one that lives long
    /// does not keep a configuration that is gone.
    generation: u64,
    hcm: Arc<Hcm>,
}

impl View {
    fn new(conn: &Connection, hcm: Arc<Hcm>) -> Self {
        let mut view = Self {
            listener: Arc::clone(&conn.listener.name),
            chain: conn.chain.id,
            worker: Rc::clone(&conn.worker),
            generation: 0,
            hcm,
        };
        view.resolve(&conn.worker.snapshot());
        view
    }

    /// Follows the latest snapshot, and gives it; costs one atomic load when it did not change.
    fn refresh(&mut self) -> Arc<Snapshot> {
        let snapshot = self.worker.snapshot();
        if snapshot.generation != self.generation {
            self.resolve(&snapshot);
        }
        snapshot
    }

    /// A chain that is gone serves its last connections as it was.
    fn resolve(&mut self, snapshot: &Snapshot) {
        self.generation = snapshot.generation;
        let chain = snapshot.listener(&self.listener).and_then(|listener| listener.chain_by_id(self.chain));
        if let Some(Network::Http(hcm)) = chain.map(|chain| &chain.network) {
            self.hcm = Arc::clone(hcm);
        }
    }
}

/// A stream at its beginning.
fn begin<'c>(
    conn: &'c Connection,
    (hcm, snapshot): (&'c Hcm, Arc<Snapshot>),
    request: RequestHead,
    down: ServerStream<'c>,
    timer: &'c mut LazyTimer,
    start: Instant,
) -> Stream<'c> {
    let mut info = StreamInfo::new(Arc::clone(&conn.info), request.protocol, SystemTime::now(), start.into_std());
    info.sizes.request_headers = down.sizes().head_in;
    let config = &hcm.config;
    let mut clocks = Clocks::new(start);
    clocks.idle = config.timeouts.stream_idle;
    clocks.request = deadline(start, config.timeouts.request);
    clocks.max_stream = deadline(start, config.http.max_stream_duration);
    let complete = down.is_request_complete();
    let tunnel = tunnel::requested(&request);
    let protocol = request.protocol;
    Stream {
        worker: &conn.worker,
        conn,
        rules: Rules { hcm, route: None, target: None },
        snapshot: Some(snapshot),
        needs_tls: false,
        shadows: Shadows::default(),
        hedges: Hedges::default(),
        set_cookies: Vec::new(),
        timed_out: false,
        down,
        timer,
        tunnel,
        body: RequestBody::new(complete),
        filters: Run::new(&hcm.filters),
        request,
        info,
        clocks,
        reply: Down::default(),
        finish: Finish::begin(hcm, protocol, conn.worker.shard),
        held_request: None,
        random: fastrand::u64(..),
    }
}

impl Connection {
    /// Whether new requests on this connection should be its last.
    pub(crate) fn is_draining(&self) -> bool {
        self.chain.drain.phase() > Phase::Serving || self.worker.drain.phase() > Phase::Serving
    }
}
