//! From an accepted socket to a filter chain: listener filters, chain, network filters, TLS, then HTTP or TCP.
//!
//! Everything a stranger can make us wait for has a deadline here.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use dp_filters::network::{Held, Refusal};
use dp_format::Inputs;
use dp_http::info::{Address, ConnectionInfo, IpText, TlsInfo};
use dp_http::io::Io;
use dp_http::{Protocol, StreamInfo};
use dp_net::listen::Accepted;
use dp_net::rewind::Rewind;
use dp_net::{Reset, Resettable, Stream, tls};
use dp_snapshot::chain_match::Facts;
use dp_snapshot::{FilterChain, Listener, Network};
use stdx::drain::{Guard, Phase};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::worker::Worker;
use crate::{http_connection, look, tcp};

/// What the streams of one downstream connection share.
pub(crate) struct Connection {
    pub(crate) worker: Rc<Worker>,
    pub(crate) listener: Arc<Listener>,
    pub(crate) chain: Arc<FilterChain>,
    pub(crate) info: Arc<ConnectionInfo>,
    /// The client's address as its requests name it.
    pub(crate) remote_text: Option<IpText>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.worker.pools.disown(self.info.id);
    }
}

/// What was learned before the filter chain was known.
pub(crate) struct Found {
    pub(crate) stream: Rewind<Stream>,
    /// The addresses, and what a PROXY header said besides.
    pub(crate) info: ConnectionInfo,
    pub(crate) server_name: Option<Arc<str>>,
    pub(crate) application_protocols: Vec<String>,
    pub(crate) is_tls: bool,
}

impl Found {
    fn new(accepted: Accepted) -> Self {
        Self {
            stream: Rewind::new(accepted.stream),
            info: ConnectionInfo::between(accepted.remote, accepted.local),
            server_name: None,
            application_protocols: Vec::new(),
            is_tls: false,
        }
    }
}

/// Serves one accepted connection to its end.
pub(crate) async fn serve(worker: Rc<Worker>, listener: Arc<Listener>, accepted: Accepted) {
    let shard = worker.shard;
    let stats = Arc::clone(&listener.stats);
    let _counted = match worker.budget.as_ref().filter(|_| !listener.config.ignore_global_limit) {
        None => None,
        Some(budget) => match budget.admit() {
            Some(counted) => Some(counted),
            None => return stats.downstream_global_cx_overflow().inc(shard),
        },
    };
    // The end of the process waits for it.
    let _guard = worker.drain.guard();
    stats.downstream_cx_total().inc(shard);
    stats.downstream_cx_active().inc(shard);
    let began = Instant::now();
    let mut early = ConnectionInfo::between(accepted.remote.clone(), accepted.local.clone());
    early.listener = Arc::clone(&listener.name);
    let mut info = Arc::new(early);
    // Boxed, so that an open connection holds nothing of what opening it took.
    match Box::pin(open(worker, Arc::clone(&listener), accepted, &mut info)).await {
        Ok(open) => carry(open).await,
        Err(Early::Timeout) => stats.downstream_pre_cx_timeout().inc(shard),
        Err(Early::NoChain) => stats.no_filter_chain_match().inc(shard),
        Err(Early::Filter) => stats.downstream_listener_filter_error().inc(shard),
        Err(Early::Left) => stats.downstream_listener_filter_remote_close().inc(shard),
        Err(Early::Closed) => {}
    }
    log(&listener, info, began);
    stats.downstream_cx_active().dec(shard);
    stats.downstream_cx_destroy().inc(shard);
    stats.downstream_cx_length_ms().record(shard, u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
}

/// Why a connection ended before its first request.
pub(crate) enum Early {
    Timeout,
    NoChain,
    /// A listener filter closed it.
    Filter,
    /// The client left while listener filters still looked.
    Left,
    Closed,
}

/// Writes the listener's own access logs: a line a connection.
fn log(listener: &Listener, info: Arc<ConnectionInfo>, began: Instant) {
    if listener.access_logs.is_empty() {
        return;
    }
    let start = info.start;
    let mut info = StreamInfo::new(info, Protocol::Http11, start, began);
    info.log_type = "NotSet";
    info.duration = Some(began.elapsed());
    let inputs = Inputs { info: &info, request: None, response: None, trailers: None, local_reply_body: "" };
    for log in &listener.access_logs {
        log.log(&inputs, fastrand::u64(..));
    }
}

/// A connection whose filter chain is known and that was let in.
struct Open {
    conn: Connection,
    io: Io,
    reset: Reset,
    /// What a network filter counts for as long as the connection is open.
    _held: Held,
    _guard: Guard,
}

/// Finds the filter chain and brings the connection to where it can carry something.
async fn open(
    worker: Rc<Worker>,
    listener: Arc<Listener>,
    accepted: Accepted,
    known: &mut Arc<ConnectionInfo>,
) -> Result<Open, Early> {
    let shard = worker.shard;
    let mut found = Found::new(accepted);
    if !listener.filters.is_empty() {
        listener.stats.downstream_pre_cx_active().inc(shard);
        let looked = within(listener.filters_timeout, look::run(&listener, &mut found, shard)).await;
        listener.stats.downstream_pre_cx_active().dec(shard);
        match looked {
            Some(result) => result?,
            None if listener.continue_on_timeout => {}
            None => return Err(Early::Timeout),
        }
    }
    let chain = choose(&listener, &found).ok_or(Early::NoChain)?;
    let guard = chain.drain.guard();
    let Found { stream, server_name, mut info, .. } = found;
    info.id = worker.next_id();
    info.start = SystemTime::now();
    info.listener = Arc::clone(&listener.name);
    info.filter_chain = Arc::clone(&chain.name);
    info.requested_server_name = server_name;
    let held = match chain.filters.on_connection(shard) {
        Ok(held) => held,
        Err(refusal) => {
            *known = Arc::new(info);
            refuse(&chain, stream_info(known), refusal, stream).await;
            return Err(Early::Closed);
        }
    };
    let (io, reset, tls) = secure(&chain, stream, shard).await?;
    if info.requested_server_name.is_none() {
        info.requested_server_name = tls.as_ref().and_then(|tls| tls.sni.clone());
    }
    info.tls = tls;
    *known = Arc::new(info);
    if chain.filters.looks_at_established() {
        let mut stream = stream_info(known);
        if let Err(refusal) = chain.filters.on_established(&mut stream, shard) {
            refuse(&chain, stream, refusal, io).await;
            return Err(Early::Closed);
        }
        let (metadata, filter_state) = (stream.metadata.take(), stream.filter_state.take());
        drop(stream);
        // Nobody else has it yet.
        if let Some(info) = Arc::get_mut(known) {
            (info.metadata, info.filter_state) = (metadata, filter_state);
        }
    }
    let remote_text = known.remote.ip().map(IpText::new);
    let conn = Connection { worker, listener, chain, info: Arc::clone(known), remote_text };
    Ok(Open { conn, io, reset, _held: held, _guard: guard })
}

fn stream_info(info: &Arc<ConnectionInfo>) -> StreamInfo {
    StreamInfo::new(Arc::clone(info), Protocol::Http11, info.start, Instant::now())
}

/// Closes a connection that a network filter did not let in, perhaps after a while.
async fn refuse<S>(chain: &FilterChain, info: StreamInfo, refusal: Refusal, stream: S) {
    if let Network::Tcp(proxy) = &chain.network {
        tcp::refused(proxy, info, &refusal.details);
    }
    if let Some(delay) = refusal.delay {
        // Passing time is all that is waited for; the end of the drain time ends it too.
        let _ = timeout(delay, chain.drain.reached(Phase::Now)).await;
    }
    drop(stream);
}

/// Hands the bytes to what the chain ends in, for as long as the connection may last.
async fn carry(open: Open) {
    let Open { conn, io, reset, _held, _guard } = open;
    let chain = Arc::clone(&conn.chain);
    let cut = chain.drain.reached(Phase::Now);
    let carried = async {
        match &chain.network {
            Network::Http(hcm) => http_connection::serve(conn, Arc::clone(hcm), io).await,
            // Boxed, so that a connection of HTTP does not pay for what TCP needs.
            Network::Tcp(proxy) => Box::pin(tcp::serve(conn, proxy, tcp::Down { io, reset })).await,
            Network::Close => {}
        }
    };
    tokio::select! {
        biased;
        () = carried => {}
        // The drain time is over: what still runs is cut.
        () = cut => {}
    }
}

fn choose(listener: &Listener, found: &Found) -> Option<Arc<FilterChain>> {
    let address = |address: &Address| -> Option<(IpAddr, u16)> { Some((address.ip()?, address.port()?)) };
    let facts = Facts {
        local: address(&found.info.local),
        direct_remote: address(&found.info.direct_remote),
        remote: address(&found.info.remote),
        server_name: found.server_name.as_deref().unwrap_or_default(),
        is_tls: found.is_tls,
        application_protocols: &found.application_protocols,
    };
    listener.choose(&facts).cloned()
}

/// Takes the TLS handshake, if the chain has one. Connections that are only copied can be made to end with a reset.
async fn secure(
    chain: &FilterChain,
    stream: Rewind<Stream>,
    shard: usize,
) -> Result<(Io, Reset, Option<TlsInfo>), Early> {
    let mut reset = Reset::default();
    let (io, tls) = if matches!(chain.network, Network::Tcp(_)) {
        let stream = stream.map(|stream| {
            let (stream, its) = Resettable::new(stream);
            reset = its;
            stream
        });
        match stream.into_stream() {
            Ok(stream) => shake(chain, stream, shard).await?,
            Err(stream) => shake(chain, stream, shard).await?,
        }
    } else {
        match stream.into_stream() {
            Ok(Stream::Tcp(stream)) => shake(chain, stream, shard).await?,
            Ok(stream) => shake(chain, stream, shard).await?,
            Err(stream) => shake(chain, stream, shard).await?,
        }
    };
    Ok((io, reset, tls))
}

async fn shake<S>(chain: &FilterChain, stream: S, shard: usize) -> Result<(Io, Option<TlsInfo>), Early>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let Some(server) = &chain.tls else { return Ok((Box::new(stream), None)) };
    let handshake = tls::accept(stream, Arc::clone(&server.config), server.describe);
    let Some(shaken) = within(Some(server.handshake_timeout), handshake).await else { return Err(Early::Timeout) };
    server.stats.count(shaken.as_ref().map(|(_, info)| info), shard);
    match shaken {
        Ok((stream, info)) => Ok((Box::new(stream), Some(info))),
        Err(error) => {
            tracing::debug!(%error, "refused a connection");
            Err(Early::Closed)
        }
    }
}

/// `None` when `limit` passed first.
async fn within<F: Future>(limit: Option<Duration>, future: F) -> Option<F::Output> {
    match limit {
        None => Some(future.await),
        Some(limit) => timeout(limit, future).await.ok(),
    }
}
