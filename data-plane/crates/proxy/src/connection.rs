//! From an accepted socket to a filter chain: PROXY header, ClientHello, chain, TLS, then HTTP or TCP.
//!
//! Everything a stranger can make us wait for has a deadline here.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use dp_format::Inputs;
use dp_http::info::{Address, ConnectionInfo, TlsInfo};
use dp_http::io::Io;
use dp_http::{Protocol, StreamInfo};
use dp_net::listen::Accepted;
use dp_net::rewind::Rewind;
use dp_net::{proxy_protocol, sniff, tls};
use dp_snapshot::chain_match::Facts;
use dp_snapshot::{FilterChain, Listener, Network};
use stdx::drain::Phase;
use tokio::time::timeout;

use crate::worker::Worker;
use crate::{http_connection, tcp};

/// What the streams of one downstream connection share.
pub(crate) struct Connection {
    pub(crate) worker: Rc<Worker>,
    pub(crate) listener: Arc<Listener>,
    pub(crate) chain: Arc<FilterChain>,
    pub(crate) info: Arc<ConnectionInfo>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.worker.pools.disown(self.info.id);
    }
}

/// What was learned before the filter chain was known.
struct Found {
    stream: Rewind<dp_net::stream::Stream>,
    direct_remote: Address,
    remote: Address,
    local: Address,
    /// `local` is where the client wanted to go, rather than where we accepted it.
    is_restored: bool,
    server_name: Option<Arc<str>>,
    application_protocols: Vec<String>,
    is_tls: bool,
}

/// Serves one accepted connection to its end.
pub(crate) async fn serve(worker: Rc<Worker>, listener: Arc<Listener>, accepted: Accepted) {
    let shard = worker.shard;
    // The end of the process waits for it.
    let _guard = worker.drain.guard();
    let stats = Arc::clone(&listener.stats);
    stats.downstream_cx_total().inc(shard);
    stats.downstream_cx_active().inc(shard);
    let began = Instant::now();
    let early = ConnectionInfo {
        id: 0,
        direct_remote: accepted.remote.clone(),
        remote: accepted.remote.clone(),
        local: accepted.local.clone(),
        is_restored: false,
        tls: None,
        requested_server_name: None,
        start: SystemTime::now(),
        listener: Arc::clone(&listener.name),
        filter_chain: "".into(),
    };
    let mut info = Arc::new(early);
    let logged = Arc::clone(&listener);
    let ended = identify(worker, listener, accepted, &mut info).await;
    log(&logged, info, began);
    if let Err(end) = ended {
        match end {
            Early::Timeout => stats.downstream_pre_cx_timeout().inc(shard),
            Early::NoChain => stats.no_filter_chain_match().inc(shard),
            Early::Closed => {}
        }
    }
    stats.downstream_cx_active().dec(shard);
    stats.downstream_cx_destroy().inc(shard);
    stats.downstream_cx_length_ms().record(shard, u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
}

/// Why a connection ended before its first request.
enum Early {
    Timeout,
    NoChain,
    Closed,
}

/// Writes the listener's own access logs: a line a connection.
fn log(listener: &Listener, info: Arc<ConnectionInfo>, began: Instant) {
    if listener.access_logs.is_empty() {
        return;
    }
    let start = info.start;
    let mut info = StreamInfo::new(info, Protocol::Http11, start, began);
    info.duration = Some(began.elapsed());
    let inputs = Inputs { info: &info, request: None, response: None, trailers: None, local_reply_body: "" };
    for log in &listener.access_logs {
        log.log(&inputs, fastrand::u64(..));
    }
}

async fn identify(
    worker: Rc<Worker>,
    listener: Arc<Listener>,
    accepted: Accepted,
    known: &mut Arc<ConnectionInfo>,
) -> Result<(), Early> {
    let mut found = Found {
        stream: Rewind::new(accepted.stream),
        direct_remote: accepted.remote.clone(),
        remote: accepted.remote,
        local: accepted.local,
        is_restored: false,
        server_name: None,
        application_protocols: Vec::new(),
        is_tls: false,
    };
    let looked = within(listener.filters_timeout, look(&listener, &mut found)).await;
    match looked {
        Some(result) => result?,
        None if listener.continue_on_timeout => {}
        None => return Err(Early::Timeout),
    }
    let chain = choose(&listener, &found).ok_or(Early::NoChain)?;
    let guard = chain.drain.guard();
    let (io, tls) = secure(&chain, found.stream, worker.shard).await?;
    let info = ConnectionInfo {
        id: worker.next_id(),
        direct_remote: found.direct_remote,
        remote: found.remote,
        local: found.local,
        is_restored: found.is_restored,
        requested_server_name: found.server_name.or_else(|| tls.as_ref().and_then(|tls| tls.sni.clone())),
        tls,
        start: SystemTime::now(),
        listener: Arc::clone(&listener.name),
        filter_chain: Arc::clone(&chain.name),
    };
    let info = Arc::new(info);
    *known = Arc::clone(&info);
    let conn = Connection { worker, listener, chain, info };
    let mut phase = conn.chain.drain.watch();
    tokio::select! {
        () = carry(conn, io) => {}
        // The drain time is over: what still runs is cut.
        _ = phase.wait_for(|phase| *phase == Phase::Now) => {}
    }
    drop(guard);
    Ok(())
}

/// Hands the bytes to what the chain ends in.
async fn carry(conn: Connection, io: Io) {
    match &conn.chain.network {
        Network::Http(hcm) => {
            let hcm = Arc::clone(hcm);
            http_connection::serve(conn, hcm, io).await;
        }
        Network::Tcp(proxy) => {
            let proxy = Arc::clone(proxy);
            tcp::serve(conn, &proxy, io).await;
        }
        Network::Close => {}
    }
}

/// Runs the listener filters: reads the PROXY header, looks at the ClientHello.
async fn look(listener: &Listener, found: &mut Found) -> Result<(), Early> {
    if listener.original_dst
        && let Some(address) = found.stream.stream().original_destination()
    {
        found.local = Address::Ip(address);
        found.is_restored = true;
    }
    if let Some(options) = listener.proxy_protocol {
        let proxied = proxy_protocol::read_header(&mut found.stream, options).await.map_err(|error| {
            tracing::debug!(listener = %listener.name, %error, "refused a connection");
            Early::Closed
        })?;
        if let Some((source, destination)) = proxied.and_then(|proxied| proxied.addresses) {
            found.remote = Address::Ip(source);
            found.local = Address::Ip(destination);
            found.is_restored = true;
        }
    }
    if listener.inspect_tls
        && let Some(hello) = sniff::tls(&mut found.stream).await.map_err(|_| Early::Closed)?
    {
        found.is_tls = true;
        found.server_name = hello.server_name.map(|name| name.to_ascii_lowercase().into());
        found.application_protocols = hello.alpn;
    }
    Ok(())
}

fn choose(listener: &Listener, found: &Found) -> Option<Arc<FilterChain>> {
    let address = |address: &Address| -> Option<(IpAddr, u16)> { Some((address.ip()?, address.port()?)) };
    let facts = Facts {
        local: address(&found.local),
        direct_remote: address(&found.direct_remote),
        remote: address(&found.remote),
        server_name: found.server_name.as_deref().unwrap_or_default(),
        is_tls: found.is_tls,
        application_protocols: &found.application_protocols,
    };
    listener.choose(&facts).cloned()
}

/// Takes the TLS handshake, if the chain has one.
async fn secure(
    chain: &FilterChain,
    stream: Rewind<dp_net::stream::Stream>,
    shard: usize,
) -> Result<(Io, Option<TlsInfo>), Early> {
    let Some(server) = &chain.tls else {
        return Ok(match stream.into_stream() {
            Ok(dp_net::stream::Stream::Tcp(stream)) => (Box::new(stream), None),
            Ok(stream) => (Box::new(stream), None),
            Err(stream) => (Box::new(stream), None),
        });
    };
    let handshake = async {
        match stream.into_stream() {
            Ok(stream) => tls::accept(stream, Arc::clone(&server.config), server.describe)
                .await
                .map(|(stream, info)| (Box::new(stream) as Io, info)),
            Err(stream) => tls::accept(stream, Arc::clone(&server.config), server.describe)
                .await
                .map(|(stream, info)| (Box::new(stream) as Io, info)),
        }
    };
    match within(Some(server.handshake_timeout), handshake).await {
        None => Err(Early::Timeout),
        Some(Ok((io, info))) => {
            server.stats.handshake().inc(shard);
            Ok((io, Some(info)))
        }
        Some(Err(error)) => {
            tracing::debug!(%error, "refused a connection");
            server.stats.connection_error().inc(shard);
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
