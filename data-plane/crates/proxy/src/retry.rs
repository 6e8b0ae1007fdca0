//! Sends the request: picks an endpoint, connects, sends, and does it again where the policy says so.
//!
//! A request that may have had an effect is never sent twice unless the operator asked for it.

use std::borrow::Cow;
use std::future::poll_fn;
use std::hint::cold_path;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use dp_http::flags::Flags;
use dp_http::stream::{ClientStream, Reset, StreamError, StreamErrorKind};
use dp_http::{RequestHead, ResponseHead};
use dp_upstream::{Asked, Checkout, CheckoutOptions, ConnectError, Endpoint, Guard, Outcome, Proxied, Resource};
use shared_config::cluster::HttpOptions;
use shared_config::route::RetryPolicy;
use stdx::backoff::Backoff;

use crate::clocks::Expired;
use crate::fault::Fault;
use crate::relay::pump_up;
use crate::route::{self, Chosen};
use crate::stream::Stream;
use crate::{normalize, shadow, tunnel};

mod decide;
mod hedge;
mod pick;
mod running;

pub(crate) use hedge::Hedges;

pub(crate) use decide::Tries;
use decide::{Lost, Verdict};
use hedge::Rival;
use pick::{Tried, pick};
pub(crate) use running::{Asker, Reporter, Running, charge_fault};

/// A try that brought the head of a response.
pub(crate) struct Upstream {
    pub(crate) checkout: Checkout,
    pub(crate) head: ResponseHead,
    request: Running,
}

/// Why a try brought none.
pub(crate) enum Failure {
    /// Nothing that another try could mend: the client left, a deadline of the stream passed, a filter replied.
    Final(Fault),
    Connect(ConnectError),
    /// `reused`: the connection had served before.
    Stream {
        error: StreamError,
        reused: bool,
    },
    PerTry(Expired),
    /// It takes long, and goes on beside the next one.
    Slow(Box<Rival>),
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Final(fault)
    }
}

/// Brings the head of the final response, or the reason why there is none.
pub(crate) async fn send(stream: &mut Stream<'_>, chosen: &Chosen) -> Result<Box<Upstream>, Fault> {
    let sent = match send_and_retry(stream, chosen).await {
        Err(Fault::Overtaken) => hedge::winner(stream).ok_or(Fault::Overtaken),
        other => other,
    };
    stream.hedges.cancel();
    let (stats, shard) = (&chosen.cluster.state.stats, stream.worker.shard);
    match &sent {
        Ok(upstream) => upstream.request.charge(&upstream.head, stream.clocks.now),
        Err(fault) => charge_fault(stats, shard, fault),
    }
    if stream.body.was_given_up() {
        stats.retry_or_shadow_abandoned().inc(shard);
    }
    stream.body.forget();
    sent
}

async fn send_and_retry(stream: &mut Stream<'_>, chosen: &Chosen) -> Result<Box<Upstream>, Fault> {
    let config = &chosen.plan().config;
    route::start_clocks(stream, chosen.plan());
    let policy = config.retry.as_ref();
    let hedged = config.hedge_on_per_try_timeout;
    let mut tries = Tries::new(policy, hedged, &mut stream.request, stream.clocks.route_timeout);
    if tries.may_repeat() {
        stream.body.keep(chosen.buffer_limit(stream));
    }
    shadow::send(stream, chosen.plan());
    let mut backoff = back_off(policy);
    let mut tried = Tried::default();
    // Counts against the retry breaker for as long as the retry runs.
    let mut retrying: Option<Guard> = None;
    loop {
        tries.made += 1;
        if tries.made > 1 {
            // The try before and the wait for this one took their time.
            stream.clocks.read();
        }
        stream.body.rewind();
        let mut asked = None;
        match attempt(stream, chosen, &tries, &mut tried).await {
            Ok(upstream) => {
                let verdict = tries.after_response(&upstream.head);
                if verdict == Verdict::Keep && retrying.is_some() {
                    chosen.cluster.state.stats.upstream_rq_retry_success().inc(stream.worker.shard);
                }
                if verdict == Verdict::Keep || !again(stream, chosen, verdict, &mut retrying) {
                    if verdict == Verdict::Keep || stream.hedges.is_empty() {
                        return Ok(upstream);
                    }
                    upstream.cut_for_retry();
                    return Err(Box::pin(hedge::outlast(stream, Fault::UpstreamReset)).await);
                }
                cold_path();
                asked = policy.and_then(|p| decide::asked_delay(p, &upstream.head.headers, unix_now()));
                upstream.cut_for_retry();
            }
            Err(Failure::Slow(rival)) => {
                cold_path();
                stream.hedges.add(*rival, &tries.criteria);
                stream.timed_out = true;
                if !again(stream, chosen, tries.after_slow(), &mut retrying) {
                    return Err(Box::pin(hedge::outlast(stream, Fault::PerTryTimeout)).await);
                }
            }
            Err(failure) => {
                cold_path();
                if is_stale(&failure, stream) && tries.after_stale(stream.body.can_replay()) {
                    // A session still sticks to it.
                    tried.forget_last();
                    continue;
                }
                let lost = failure.lost();
                stream.timed_out = lost == Some(Lost::Timeout);
                let verdict = lost.map_or(Verdict::Keep, |lost| tries.after_loss(lost));
                if !again(stream, chosen, verdict, &mut retrying) {
                    return match lost {
                        Some(_) => Err(Box::pin(hedge::outlast(stream, failure.fault())).await),
                        None => Err(failure.fault()),
                    };
                }
            }
        }
        let stats = &chosen.cluster.state.stats;
        match asked {
            Some(_) => stats.upstream_rq_retry_backoff_ratelimited(),
            None => stats.upstream_rq_retry_backoff_exponential(),
        }
        .inc(stream.worker.shard);
        stream.clocks.end_try();
        Box::pin(wait(stream, asked.unwrap_or_else(|| backoff.next_delay()))).await?;
    }
}

/// Whether to try once more; if so, takes its place among the retries.
fn again(stream: &mut Stream<'_>, chosen: &Chosen, verdict: Verdict, retrying: &mut Option<Guard>) -> bool {
    // The retry before is over: its place is free.
    *retrying = None;
    let (stats, shard) = (&chosen.cluster.state.stats, stream.worker.shard);
    match verdict {
        Verdict::Keep => return false,
        Verdict::Spent => {
            stats.upstream_rq_retry_limit_exceeded().inc(shard);
            stream.info.flags.set(Flags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
            return false;
        }
        Verdict::Again if !stream.body.can_replay() => return false,
        Verdict::Again => {}
    }
    *retrying = chosen.cluster.admit(Resource::Retries, chosen.priority, stream.worker.index());
    if retrying.is_none() {
        stream.info.flags.set(Flags::UPSTREAM_OVERFLOW);
        return false;
    }
    stats.upstream_rq_retry().inc(shard);
    true
}

/// Whether a reused connection turned out to be closed, so that sending again cannot do harm: nothing was processed,
/// or processing it twice changes nothing.
fn is_stale(failure: &Failure, stream: &Stream<'_>) -> bool {
    let Failure::Stream { error, reused: true } = failure else { return false };
    let broke = matches!(error.kind, StreamErrorKind::Closed | StreamErrorKind::Io(_) | StreamErrorKind::Reset(_));
    broke && (error.retry_safe || (stream.request.method.is_idempotent() && stream.body.is_empty()))
}

/// One try: an endpoint, a connection, the request up, the head of the response down.
async fn attempt(
    stream: &mut Stream<'_>,
    chosen: &Chosen,
    tries: &Tries<'_>,
    tried: &mut Tried,
) -> Result<Box<Upstream>, Failure> {
    // Each try may go to another member of an aggregate.
    let this_try = chosen.for_try(&mut stream.worker.rng());
    let chosen = &*this_try;
    stream.info.upstream.attempts = tries.made;
    stream.info.upstream.failure = None;
    let endpoint = pick(stream, chosen, tried)?;
    let asker = Asker {
        priority: chosen.priority,
        shard: stream.worker.shard,
        by_status: stream.rules.chain().router().is_none_or(|router| router.dynamic_stats),
        now: stream.clocks.now,
    };
    let mut request = Running::begin(&chosen.cluster, &endpoint, &asker)?;
    stream.info.upstream.host = Some(endpoint.address.clone());
    stream.info.host_metadata.clone_from(&endpoint.shown_metadata);
    stream.clocks.begin_try(tries.per_try, tries.per_try_idle);
    let mut checkout = match connect(stream, chosen, &endpoint).await {
        Ok(checkout) => checkout,
        Err(failure) => {
            cold_path();
            stream.info.upstream.failure = failure.of_transport();
            request.lost(&failure, false);
            return Err(failure);
        }
    };
    request.observe(Outcome::Connected);
    normalize::attempt(stream, chosen, &endpoint, tries);
    let end = stream.body.is_empty() && stream.tunnel.is_none();
    stream.body.sent = end;
    stream.info.timing.upstream_first_sent = Some(stream.since_start(stream.clocks.now));
    let reused = checkout.reused;
    let answered = match checkout.stream.send_head(&stream.request, end) {
        Ok(()) => response_head(stream, &mut checkout.stream, reused).await,
        Err(error) => Err(Failure::Stream { error, reused }),
    };
    stream.clocks.per_try = None;
    stream.clocks.connected = false;
    match answered {
        Ok(head) => {
            request.answered(&stream.request, &head, stream.clocks.now);
            Ok(Box::new(Upstream { checkout, head, request }))
        }
        Err(Failure::PerTry(_)) if tries.hedged && stream.body.sent => {
            cold_path();
            Err(Failure::Slow(Rival::of(stream, checkout, request)))
        }
        Err(failure) => {
            cold_path();
            checkout.stream.reset(Reset::Cancel);
            request.lost(&failure, is_stale(&failure, stream));
            Err(failure)
        }
    }
}

/// Takes a connection to the endpoint.
async fn connect(stream: &mut Stream<'_>, chosen: &Chosen, endpoint: &Arc<Endpoint>) -> Result<Checkout, Failure> {
    let cluster = &chosen.cluster;
    let options = CheckoutOptions {
        priority: chosen.priority,
        downstream: stream.request.protocol,
        server_name: cluster.config.http.auto_sni.then(|| server_name(&stream.request, &cluster.config.http).into()),
        owner: Some(stream.conn.info.id),
        proxied: cluster.config.proxy_protocol.as_ref().map(|_| Proxied::of(&stream.info.connection, &[])),
    };
    let begun = stream.clocks.now;
    stream.info.timing.upstream_connect_start = Some(stream.since_start(begun));
    let pools = &stream.worker.pools;
    // Most requests find a connection; what it takes to wait for one is boxed.
    let checkout = if tunnel::ends_here(stream, &chosen.plan().config.upgrades) {
        cold_path();
        let raw = async { Ok(pools.connect_raw(cluster, endpoint, &options).await?.into_checkout(cluster)) };
        Box::pin(while_wanted(stream, raw)).await?
    } else {
        match pools.ask(cluster, endpoint, &options).map_err(Failure::Connect)? {
            Asked::Free(checkout) => checkout,
            Asked::Waits(waiting) => {
                cold_path();
                Box::pin(while_wanted(stream, pools.wait(waiting, cluster, endpoint, &options))).await?
            }
        }
    };
    if !checkout.reused {
        cold_path();
        stream.clocks.touch();
        stream.clocks.settle();
    }
    stream.clocks.connected(cluster.config.http.max_stream_duration);
    if stream.body.complete {
        stream.clocks.start_per_try();
    }
    let upstream = &mut stream.info.upstream;
    let connection = &checkout.connection;
    upstream.local.clone_from(&connection.local);
    upstream.protocol = Some(connection.protocol);
    upstream.connection_id = connection.id;
    upstream.tls.clone_from(&connection.tls);
    if !checkout.reused {
        cold_path();
        stream.info.timing.upstream_connect_complete = Some(stream.since_start(stream.clocks.now));
    }
    Ok(checkout)
}

/// Connects, for as long as somebody waits for it.
async fn while_wanted(
    stream: &mut Stream<'_>,
    connecting: impl Future<Output = Result<Checkout, ConnectError>>,
) -> Result<Checkout, Failure> {
    let mut connecting = std::pin::pin!(connecting);
    poll_fn(|cx| {
        if let Poll::Ready(made) = connecting.as_mut().poll(cx) {
            return Poll::Ready(made.map_err(Failure::Connect));
        }
        stream.poll_trouble(cx, |expired| Failure::Final(expired.fault())).map(Err)
    })
    .await
}

/// The name to ask for by TLS: of the header that is configured for it, else the host of the request.
fn server_name<'r>(request: &'r RequestHead, options: &HttpOptions) -> &'r str {
    let named = Some(options.auto_sni_header.as_str()).filter(|header| !header.is_empty());
    let named = named.and_then(|header| request.headers.text(header)).filter(|name| !name.is_empty());
    named.unwrap_or_else(|| host_only(request.authority()))
}

/// The host of an authority, without its port.
fn host_only(authority: &str) -> &str {
    match authority.rfind(':').filter(|at| !authority[*at..].contains(']')) {
        Some(at) => &authority[..at],
        None => authority,
    }
}

/// Sends the request and waits for the head of the final response; passes interim responses on.
async fn response_head(stream: &mut Stream<'_>, up: &mut ClientStream, reused: bool) -> Result<ResponseHead, Failure> {
    poll_fn(|cx| {
        if let Err(fault) = pump_up(stream, up, cx) {
            cold_path();
            return Poll::Ready(Err(Failure::Final(fault)));
        }
        loop {
            match up.poll_head(cx) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Failure::Stream { error, reused })),
                Poll::Ready(Ok(head)) if head.is_informational() && head.status != 101 => interim(stream, &head, cx),
                Poll::Ready(Ok(head)) => {
                    stream.clocks.touch();
                    stream.clocks.settle();
                    stream.info.timing.upstream_first_received = Some(stream.since_start(stream.clocks.now));
                    return Poll::Ready(Ok(head));
                }
            }
        }
        stream
            .poll_trouble(cx, |expired| match expired {
                Expired::PerTry | Expired::PerTryIdle | Expired::MaxUpstream => Failure::PerTry(expired),
                other => Failure::Final(other.fault()),
            })
            .map(Err)
    })
    .await
}

/// Passes an interim response on (RFC 9110 §15.2), except 100, which the proxy answered itself.
fn interim(stream: &mut Stream<'_>, head: &ResponseHead, cx: &mut std::task::Context<'_>) {
    if head.status != 100 && stream.request.protocol != dp_http::Protocol::Http10 {
        // A client that is gone is noticed by the final response.
        let _ = stream.down.send_informational(head);
        let _ = stream.down.poll_flush(cx);
    }
}

/// Waits before the next try, for as long as the client stays.
async fn wait(stream: &mut Stream<'_>, delay: Duration) -> Result<(), Fault> {
    let mut sleep = std::pin::pin!(tokio::time::sleep(delay));
    poll_fn(|cx| {
        if sleep.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        stream.poll_trouble(cx, Expired::fault).map(Err)
    })
    .await
}

fn back_off(policy: Option<&RetryPolicy>) -> Backoff {
    let back_off = policy.map(|policy| policy.back_off).unwrap_or_default();
    Backoff::new(back_off.base, back_off.max)
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

// === impl Failure ===

impl Failure {
    /// What the retry policy is asked about; `None` when no try could mend it.
    fn lost(&self) -> Option<Lost> {
        Some(match self {
            Self::Final(_) | Self::Slow(_) => return None,
            Self::Connect(error) if error.is_overflow() => return None,
            Self::Connect(_) => Lost::Connect,
            Self::Stream { error, .. } if error.kind == StreamErrorKind::Reset(Reset::Refused) => Lost::Refused,
            Self::Stream { error, .. } => Lost::Reset { started: !error.retry_safe },
            Self::PerTry(_) => Lost::Timeout,
        })
    }

    /// Whether the endpoint is to blame, as far as one can tell: not for a client that left, a full pool, or an idle
    /// connection that it had closed.
    fn is_of_endpoint(&self) -> bool {
        match self {
            Self::Final(fault) => matches!(fault, Fault::RouteTimeout),
            Self::Connect(error) => !error.is_overflow(),
            Self::Stream { error, reused } => !(*reused && error.retry_safe),
            Self::PerTry(_) | Self::Slow(_) => true,
        }
    }

    /// Why there is no connection (`%UPSTREAM_TRANSPORT_FAILURE_REASON%`).
    fn of_transport(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Connect(ConnectError::Timeout) => None,
            Self::Connect(error) if !error.is_overflow() => Some(error.to_string().into()),
            _ => None,
        }
    }

    pub(crate) fn fault(self) -> Fault {
        match self {
            Self::Final(fault) => fault,
            Self::Connect(error) if error.is_overflow() => Fault::Overflow,
            Self::Connect(ConnectError::Timeout) => Fault::ConnectTimeout,
            Self::Connect(error) => Fault::ConnectFailure(error.to_string().into()),
            Self::Stream { error, .. } => upstream_fault(&error),
            Self::PerTry(expired) => expired.fault(),
            Self::Slow(_) => Fault::PerTryTimeout,
        }
    }
}

/// What a broken upstream stream is called.
pub(crate) fn upstream_fault(error: &StreamError) -> Fault {
    match error.kind {
        StreamErrorKind::Closed | StreamErrorKind::Io(_) => Fault::UpstreamTermination,
        StreamErrorKind::Reset(_) => Fault::UpstreamReset,
        StreamErrorKind::Protocol(details) => Fault::UpstreamProtocol(details.into()),
        StreamErrorKind::Timeout => Fault::ConnectTimeout,
        StreamErrorKind::TooLarge => Fault::UpstreamProtocol("response_headers_too_large".into()),
    }
}

// === impl Upstream ===

#[allow(clippy::boxed_local, reason = "it comes in its box, and would have to be copied out of it")]
impl Upstream {
    /// Who takes the report that may come with the trailers; `None` for nearly all clusters.
    pub(crate) fn reporter(&self) -> Option<Reporter> {
        self.request.reporter()
    }

    /// Whether the response has no body, or all of it came.
    pub(crate) fn is_complete(&self) -> bool {
        self.checkout.stream.is_response_complete()
    }

    /// The exchange is over: the connection may serve again.
    pub(crate) fn finish(self: Box<Self>) {
        let this = *self;
        this.request.finish();
        this.checkout.finish();
    }

    /// Its answer is not the one that is wanted.
    fn cut_for_retry(self: Box<Self>) {
        self.request.charge_retried(&self.head);
        self.cut(true);
    }

    /// The upstream broke off in the middle of the response.
    pub(crate) fn broke(self: Box<Self>) {
        self.request.observe(Outcome::Failed);
        self.cut(false);
    }

    /// The try lasted longer than one may.
    pub(crate) fn outlasted(self: Box<Self>) {
        self.request.note_max_duration();
        self.cut(false);
    }

    /// The exchange ends here: the connection is not used again, unless it carries other streams.
    pub(crate) fn cut(mut self: Box<Self>, good: bool) {
        self.checkout.stream.reset(Reset::Cancel);
        self.request.end(good);
    }
}
