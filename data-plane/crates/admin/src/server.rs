//! The HTTP side: accepting, limits, methods.
//!
//! Small limits everywhere: few connections, small heads, no bodies, and a deadline.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use shared_telemetry::Registry;
use shared_telemetry::log::LogHandle;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use crate::handlers::{self, Answer, PATHS};
use crate::query::Query;
use crate::state::{AdminState, Exchange};

/// What the admin server works with.
pub struct Admin {
    pub state: Arc<dyn AdminState>,
    pub registry: Registry,
    /// `None` where another program set logging up: `/logging` says so.
    pub logs: Option<LogHandle>,
}

const MAX_CONNECTIONS: usize = 64;
const HEAD_LIMIT: usize = 16 << 10;
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// A connection is closed after this time, however slowly it is read.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(300);

/// Serves until `stop` resolves; what runs then is cut.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>, stop: impl Future<Output = ()>) {
    let mut seats: Vec<Seat> = Vec::new();
    let mut connections = tokio::task::JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = &mut stop => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, remote)) = accepted else {
            // Out of descriptors: the proxy's own connections come first.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        seats.retain(|seat| !seat.task.is_finished());
        if seats.len() >= MAX_CONNECTIONS && !free_a_seat(&mut seats) {
            continue;
        }
        let idle = Idle::new(Mutex::new(Some(Instant::now())));
        let task = connections.spawn(serve_connection(stream, remote, Arc::clone(&admin), Arc::clone(&idle)));
        seats.push(Seat { task, idle });
    }
}

/// Since when nothing is answered on a connection; `None` while something is.
type Idle = Arc<Mutex<Option<Instant>>>;

struct Seat {
    task: AbortHandle,
    idle: Idle,
}

fn idle_since(idle: &Idle) -> MutexGuard<'_, Option<Instant>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes the connection that is idle longest, so that those which are kept open for nothing keep nobody out. Says whether
/// there was one: the newest is closed otherwise.
fn free_a_seat(seats: &mut Vec<Seat>) -> bool {
    let idle = seats.iter().enumerate().filter_map(|(at, seat)| Some(((*idle_since(&seat.idle))?, at)));
    let Some((_, at)) = idle.min() else { return false };
    seats.swap_remove(at).task.abort();
    true
}

async fn serve_connection(stream: TcpStream, remote: SocketAddr, admin: Arc<Admin>, idle: Idle) {
    let local = stream.local_addr().unwrap_or(remote);
    let service = service_fn(|request| {
        let (admin, idle) = (Arc::clone(&admin), Arc::clone(&idle));
        async move {
            *idle_since(&idle) = None;
            let response = respond(admin, request, remote, local).await;
            *idle_since(&idle) = Some(Instant::now());
            Ok::<_, Infallible>(response)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(HEAD_LIMIT)
        .serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_DEADLINE, connection).await {
        tracing::debug!(%error, "admin connection failed");
    }
}

async fn respond(
    admin: Arc<Admin>,
    request: Request<Incoming>,
    remote: SocketAddr,
    local: SocketAddr,
) -> Response<Full<Bytes>> {
    let began = Instant::now();
    let request = Arc::new(request.map(drop));
    let asked = (Arc::clone(&admin), Arc::clone(&request));
    // A page over 10,000 clusters takes a while to write; nothing else waits for it.
    let response = match tokio::task::spawn_blocking(move || answer(&asked.0, &asked.1)).await {
        Ok(response) => response,
        Err(_) => to_response(Answer::text(StatusCode::INTERNAL_SERVER_ERROR, "the request failed\n".into())),
    };
    admin.state.log(&Exchange {
        remote,
        local,
        method: request.method().as_str(),
        path: path_and_query(&request),
        headers: request.headers(),
        began,
        status: response.status().as_u16(),
        sent: hyper::body::Body::size_hint(response.body()).exact().and_then(|n| usize::try_from(n).ok()).unwrap_or(0),
    });
    response
}

fn path_and_query(request: &Request<()>) -> &str {
    request.uri().path_and_query().map_or("/", |path| path.as_str())
}

pub(crate) fn answer(admin: &Admin, request: &Request<()>) -> Response<Full<Bytes>> {
    let asked = path_and_query(request);
    if !admin.state.allows(asked) {
        return to_response(Answer::text(StatusCode::FORBIDDEN, format!("request to path {asked} not allowed\n")));
    }
    let path = request.uri().path();
    let path = if path.len() > 1 { path.trim_end_matches('/') } else { path };
    let Some(found) = PATHS.iter().find(|known| known.path == path) else {
        return to_response(Answer::text(StatusCode::NOT_FOUND, format!("invalid path. {}", handlers::help())));
    };
    let allowed = if found.changes { "POST" } else { "GET, HEAD" };
    let fits = if found.changes {
        request.method() == Method::POST
    } else {
        matches!(*request.method(), Method::GET | Method::HEAD)
    };
    if !fits {
        let reason = format!("method {} is not allowed here, use {allowed}\n", request.method());
        let mut response = to_response(Answer::text(StatusCode::METHOD_NOT_ALLOWED, reason));
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        return response;
    }
    if found.changes && is_foreign(request) {
        return to_response(Answer::text(StatusCode::FORBIDDEN, "requests from other sites are not allowed\n".into()));
    }
    let query = Query::parse(request.uri().query().unwrap_or_default());
    to_response((found.answer)(admin, &query))
}

/// Whether a browser sends this on behalf of another site's page. A name of that site may lead here as well (DNS
/// rebinding), so that a page may change things only where it was found by an address or as `localhost`.
fn is_foreign(request: &Request<()>) -> bool {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let (site, origin) = (header("sec-fetch-site"), header("origin"));
    let host = header("host").unwrap_or_default();
    match site {
        Some(site) if !matches!(site, "same-origin" | "none") => return true,
        None if origin.is_some_and(|origin| origin.split_once("://").map(|(_, host)| host) != Some(host)) => {
            return true;
        }
        _ => {}
    }
    (site.is_some() || origin.is_some()) && !stdx::host::is_literal(host)
}

fn to_response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, max-age=0"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests;
