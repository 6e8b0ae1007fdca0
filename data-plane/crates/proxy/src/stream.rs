//! **The spine**: one request, from its head to its access log.
//!
//! Only this file, `connection.rs`, `http_connection.rs` and `tcp.rs` put steps in order; every step is a leaf in a
//! file of its own that returns a value. `docs/life-of-a-request.md` tells the same story in words.

use std::hint::cold_path;
use std::sync::Arc;

use dp_filters::{Chain, Run};
use dp_http::stream::ServerStream;
use dp_http::{RequestHead, StreamInfo};
use dp_snapshot::{Action, Hcm, RouteEntry, Snapshot, Target, Targets};
use shared_config::cluster::Discovery;
use tokio::time::Instant;

use crate::body::RequestBody;
use crate::clocks::Clocks;
use crate::connection::Connection;
use crate::fault::Fault;
use crate::finish::Finish;
use crate::relay::{Down, Held};
use crate::retry::Hedges;
use crate::shadow::Shadows;
use crate::timer::LazyTimer;
use crate::tunnel::Tunnel;
use crate::worker::Worker;
use crate::{filter, finish, normalize, relay, reply, retry, route};

/// One request and all that is known about it.
pub(crate) struct Stream<'c> {
    pub(crate) worker: &'c Worker,
    pub(crate) conn: &'c Connection,
    pub(crate) rules: Rules<'c>,
    /// The one snapshot this request sees, until its clusters are known.
    pub(crate) snapshot: Option<Arc<Snapshot>>,
    /// The virtual host takes only TLS.
    pub(crate) needs_tls: bool,
    pub(crate) down: ServerStream<'c>,
    pub(crate) timer: &'c mut LazyTimer,
    pub(crate) request: RequestHead,
    pub(crate) tunnel: Option<Tunnel>,
    pub(crate) body: RequestBody,
    pub(crate) filters: Run,
    pub(crate) info: StreamInfo,
    pub(crate) clocks: Clocks,
    /// A chunk of the request that a filter holds up.
    pub(crate) held_request: Option<Box<Held>>,
    pub(crate) shadows: Shadows,
    pub(crate) hedges: Hedges,
    /// The try before this one ran out of time.
    pub(crate) timed_out: bool,
    /// Cookies that a hash policy made.
    pub(crate) set_cookies: Vec<String>,
    /// What was sent down so far.
    pub(crate) reply: Down,
    pub(crate) finish: Finish<'c>,
    /// Decides sampling and weights; one number a stream.
    pub(crate) random: u64,
}

/// The parts of the configuration that apply to a stream.
pub(crate) struct Rules<'c> {
    pub(crate) hcm: &'c Hcm,
    pub(crate) route: Option<Arc<RouteEntry>>,
    /// Among the weighted clusters of the route.
    pub(crate) target: Option<usize>,
}

/// Serves one request; afterwards the codec knows whether its connection can serve another.
pub(crate) async fn serve(stream: &mut Stream<'_>) {
    if let Err(fault) = proxy(stream).await {
        cold_path();
        Box::pin(reply::fault(stream, fault)).await;
    }
    finish::log(stream);
}

async fn proxy(stream: &mut Stream<'_>) -> Result<(), Fault> {
    normalize::request(stream)?;
    route::find(stream);
    filter::request(stream).await?;
    match route::action(stream)? {
        route::Action::Reply(local) => Box::pin(reply::local(stream, local)).await,
        route::Action::Forward(chosen) => {
            let mut upstream = retry::send(stream, &chosen).await?;
            normalize::from_upstream(stream, &chosen, &mut upstream.head);
            stream.let_go_of_snapshot();
            let held = filter::response(stream, &mut upstream).await?;
            relay::both_ways(stream, upstream, held).await
        }
    }
}

// === impl Rules ===

impl Rules<'_> {
    /// The filters of the route and its weighted cluster, or those of the listener while there is no route.
    pub(crate) fn chain(&self) -> &Chain {
        let Some(route) = &self.route else { return &self.hcm.filters };
        self.weighted_target().map_or(&route.filters, |target| &target.filters)
    }

    /// The weighted cluster that was picked, with what it changes of its route.
    pub(crate) fn weighted_target(&self) -> Option<&Target> {
        let Action::Forward(forward) = &self.route.as_deref()?.action else { return None };
        let Targets::Weighted { targets, .. } = &forward.targets else { return None };
        targets.get(self.target?)
    }

    /// Whether the route sends the request on, rather than answering it.
    pub(crate) fn is_forwarded(&self) -> bool {
        self.route.as_ref().is_some_and(|route| matches!(route.action, Action::Forward(_)))
    }
}

// === impl Stream ===

impl Stream<'_> {
    /// A long stream keeps its route and its endpoint, not the world.
    fn let_go_of_snapshot(&mut self) {
        self.snapshot = None;
    }

    /// The port of hosts that name none, when a filter asks for that and the route leads to a dynamic forward proxy.
    pub(crate) fn forward_port(&self) -> Option<u16> {
        if !self.rules.hcm.forwards_names || !self.rules.is_forwarded() {
            return None;
        }
        let cluster = self.snapshot.as_ref()?.cluster(self.info.upstream.cluster.as_deref()?)?;
        matches!(cluster.config.discovery, Discovery::ForwardProxy(_)).then(|| cluster.default_port())
    }

    /// Time since the request began, for the timings in the access log.
    #[inline(never)]
    pub(crate) fn since_start(&self, now: Instant) -> std::time::Duration {
        now.saturating_duration_since(self.clocks.began)
    }
}
