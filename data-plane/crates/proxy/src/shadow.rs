//! Mirrors: copies of requests that nobody waits for (Envoy `request_mirror_policies`).
//!
//! A mirror never slows the request down: one that does not keep up with the body is given up.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use dp_http::info::ConnectionInfo;
use dp_http::stream::{ClientStream, Reset, StreamError};
use dp_http::{Frame, Headers, RequestHead};
use dp_snapshot::Forward;
use dp_upstream::{CheckoutOptions, Cluster, Destination, Outcome, PickContext, Priority, Proxied};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::fault::Fault;
use crate::retry::{Asker, Failure, Running, charge_fault};
use crate::route;
use crate::stream::Stream;
use crate::worker::Worker;

/// Pieces of a body that may wait for a slow mirror.
const AHEAD: usize = 64;

/// The longest a mirrored request may wait for its connection, and for its answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// Where the body of a request is copied to, for each mirror that still follows.
#[derive(Debug, Default)]
pub(crate) struct Shadows(Vec<mpsc::Sender<Piece>>);

#[derive(Debug, Clone)]
enum Piece {
    Data(Bytes),
    Trailers(Headers),
    End,
}

/// Starts the mirrors of a route.
pub(crate) fn send(stream: &mut Stream<'_>, plan: &Forward) {
    for mirror in &plan.mirrors {
        let sampled = mirror.config.fraction.as_ref().is_none_or(|share| share.value().admits(fastrand::u64(..)));
        let name = route::named(&mirror.cluster, &stream.request.headers).filter(|_| sampled);
        let snapshot = stream.snapshot.as_ref();
        let Some(cluster) = name.and_then(|name| snapshot.and_then(|s| s.cluster(name))).cloned() else { continue };
        let mut head = stream.request.clone();
        if let Some(host) = &mirror.config.host_rewrite {
            head.set_authority(host);
        } else if mirror.config.shadow_suffix {
            let host = suffixed(head.authority());
            head.set_authority(&host);
        }
        mirror.headers.apply_to_request(&mut head, &stream.info);
        let end = stream.body.is_empty();
        let worker = Rc::clone(&stream.conn.worker);
        let connection = Arc::clone(&stream.info.connection);
        if end {
            tokio::task::spawn_local(run(worker, cluster, connection, head, None));
            continue;
        }
        let (sender, receiver) = mpsc::channel(AHEAD);
        stream.shadows.0.push(sender);
        tokio::task::spawn_local(run(worker, cluster, connection, head, Some(receiver)));
    }
}

/// `-shadow` goes behind the host, before a port.
fn suffixed(authority: &str) -> String {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => format!("{host}-shadow:{port}"),
        _ => format!("{authority}-shadow"),
    }
}

// === impl Shadows ===

impl Shadows {
    /// Copies a piece of the request, or its end, to the mirrors.
    pub(crate) fn copy(&mut self, data: &Bytes, end: bool) {
        if self.0.is_empty() {
            return;
        }
        let piece = Piece::Data(data.clone());
        self.0.retain(|mirror| mirror.try_send(piece.clone()).is_ok() && (!end || mirror.try_send(Piece::End).is_ok()));
    }

    /// The request ended after its last piece.
    pub(crate) fn end(&mut self, trailers: Option<&Headers>) {
        for mirror in self.0.drain(..) {
            // A mirror that does not keep up is given up.
            let _ = mirror.try_send(trailers.map_or(Piece::End, |trailers| Piece::Trailers(trailers.clone())));
        }
    }
}

/// Sends one copy and reads its answer away.
async fn run(
    worker: Rc<Worker>,
    cluster: Arc<Cluster>,
    connection: Arc<ConnectionInfo>,
    head: RequestHead,
    mut body: Option<mpsc::Receiver<Piece>>,
) {
    let picked = {
        let mut rng = worker.rng();
        let (cluster, place) = cluster.member(&mut rng);
        // An original destination is not known here: such a cluster takes no mirrored requests.
        let destination = Destination::Authority(head.authority());
        let mut context = PickContext { place, destination, ..PickContext::new(&mut rng, worker.index()) };
        cluster.pick(&mut context).map(|endpoint| (Arc::clone(cluster), endpoint))
    };
    let Ok((cluster, endpoint)) = picked else { return };
    let proxied = cluster.config.proxy_protocol.as_ref().map(|_| Proxied::of(&connection, &[]));
    let options = CheckoutOptions { downstream: head.protocol, proxied, ..CheckoutOptions::default() };
    let asker = Asker { priority: Priority::Default, shard: worker.shard, by_status: true, now: Instant::now() };
    // What becomes of a mirrored request counts at its endpoint like that of any other.
    let Ok(mut request) = Running::begin(&cluster, &endpoint, &asker) else { return };
    let lose = |failure: Failure, request: Running, is_stale| {
        request.lost(&failure, is_stale);
        charge_fault(&cluster.state.stats, worker.shard, &failure.fault());
    };
    let mut checkout = match tokio::time::timeout(PATIENCE, worker.pools.checkout(&cluster, &endpoint, &options)).await
    {
        Ok(Ok(checkout)) => checkout,
        Ok(Err(error)) => return lose(Failure::Connect(error), request, false),
        Err(_) => return lose(Failure::Final(Fault::RouteTimeout), request, false),
    };
    request.observe(Outcome::Connected);
    let failure =
        match tokio::time::timeout(PATIENCE, exchange(&mut checkout.stream, &head, &mut body, &mut request)).await {
            Ok(Ok(true)) => {
                request.finish();
                return checkout.finish();
            }
            Ok(Ok(false)) => Failure::Final(Fault::DownstreamGone),
            Ok(Err(error)) => Failure::Stream { error, reused: checkout.reused },
            Err(_) => Failure::Final(Fault::RouteTimeout),
        };
    checkout.stream.reset(Reset::Cancel);
    let is_stale = matches!(&failure, Failure::Stream { error, reused: true } if error.retry_safe);
    lose(failure, request, is_stale);
}

/// Sends the request and reads the answer to its end; false when the request was given up on its way.
async fn exchange(
    up: &mut ClientStream,
    head: &RequestHead,
    body: &mut Option<mpsc::Receiver<Piece>>,
    request: &mut Running,
) -> Result<bool, StreamError> {
    up.send_head(head, body.is_none())?;
    let mut answered = false;
    poll_fn(|cx| {
        while let Some(pieces) = body {
            if up.poll_ready(cx)?.is_pending() {
                break;
            }
            match pieces.poll_recv(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Piece::Data(data))) => up.send_data(data, false)?,
                Poll::Ready(Some(Piece::Trailers(trailers))) => {
                    up.send_trailers(&trailers)?;
                    *body = None;
                }
                Poll::Ready(Some(Piece::End)) => {
                    up.send_data(Bytes::new(), true)?;
                    *body = None;
                }
                // The request itself was given up.
                Poll::Ready(None) => return Poll::Ready(Ok(false)),
            }
        }
        let _ = up.poll_flush(cx)?;
        while !answered {
            let response = ready!(up.poll_head(cx)?);
            if !response.is_informational() {
                let now = Instant::now();
                request.answered(head, &response, now);
                request.charge(&response, now);
                answered = true;
            }
        }
        loop {
            match ready!(up.poll_body(cx)) {
                None => return Poll::Ready(Ok(true)),
                Some(Ok(Frame::Data(_))) => {}
                Some(Ok(Frame::Trailers(trailers))) => {
                    if let Some(reporter) = request.reporter() {
                        reporter.trailers(&trailers, Instant::now());
                    }
                    return Poll::Ready(Ok(true));
                }
                Some(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suffix_goes_before_the_port() {
        assert_eq!(suffixed("a.example:80"), "a.example-shadow:80");
        assert_eq!(suffixed("a.example"), "a.example-shadow");
        assert_eq!(suffixed("[::1]"), "[::1]-shadow");
    }
}
