//! Where a request goes: finds the route, and says what following it means.
//!
//! Matching itself is in `dp-routing`; what is decided here is one request's choice among weights and headers.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use dp_http::info::{Address, StickyHost};
use dp_http::{HeaderName, Headers, LocalReply, Method, NameSet, name};
use dp_routing::{Found, MatchContext, original_location, tls_location};
use dp_snapshot::{Action as Plan, ClusterName, Direct, Forward, RouteEntry, Target, Targets};
use dp_upstream::{Cluster, Criteria, Place, Priority};
use shared_config::lb_policy::OverrideSource;
use shared_config::route::{Priority as PriorityConfig, WeightSource};

use crate::fault::Fault;
use crate::normalize;
use crate::stream::Stream;
use crate::tunnel::Tunnel;

/// What following the route means.
pub(crate) enum Action {
    Reply(LocalReply),
    Forward(Chosen),
}

/// A route that forwards, with this request's choices.
#[derive(Clone)]
pub(crate) struct Chosen {
    route: Arc<RouteEntry>,
    /// Among weighted clusters.
    target: Option<usize>,
    pub(crate) cluster: Arc<Cluster>,
    /// Where in the cluster to look, when an aggregate decided that.
    pub(crate) place: Option<Place>,
    pub(crate) hash: Option<u64>,
    pub(crate) priority: Priority,
}

/// Finds the route of a request, and among weighted clusters the one it goes to. Called again when a filter changed
/// what routes look at.
pub(crate) fn find(stream: &mut Stream<'_>) {
    let https = crate::normalize::is_https(&stream.request.headers);
    let context = MatchContext {
        random: stream.random,
        https,
        internal: stream.info.internal,
        tls: stream.conn.info.tls.as_ref(),
    };
    stream.rules.target = None;
    stream.needs_tls = false;
    stream.rules.route = None;
    let route = match stream.rules.hcm.routes.find(&stream.request, &context) {
        Found::Route(host, entry) => {
            stream.info.virtual_host = Some(Arc::clone(&host.name));
            &entry.payload
        }
        Found::TlsRequired(_) => {
            stream.needs_tls = true;
            return;
        }
        Found::NoVirtualHost | Found::NoRoute(_) => return,
    };
    stream.rules.route = Some(Arc::clone(route));
    stream.info.route = Some(Arc::clone(&route.name)).filter(|name| !name.is_empty());
    stream.info.route_metadata.clone_from(&route.metadata);
    if let Plan::Forward(forward) = &route.action {
        stream.rules.target = choose(stream, forward);
        let name = match &forward.targets {
            Targets::One(name) => Some(name),
            Targets::Weighted { targets, .. } => stream.rules.target.and_then(|at| targets.get(at)).map(|t| &t.cluster),
        };
        stream.info.upstream.cluster = match name {
            Some(ClusterName::Fixed(name)) => Some(Arc::clone(name)),
            Some(name) => named(name, &stream.request.headers).map(Arc::from),
            None => None,
        };
    }
}

/// Picks among weighted clusters.
fn choose(stream: &Stream<'_>, forward: &Forward) -> Option<usize> {
    let Targets::Weighted { weights, source, .. } = &forward.targets else { return None };
    let number = match source {
        WeightSource::Random => stream.random,
        WeightSource::Header(field) => {
            let asked = stream.request.headers.text(field.as_str()).and_then(|text| text.parse().ok());
            asked.unwrap_or(stream.random)
        }
        WeightSource::Hash => forward.hash.evaluate(&stream.request, &stream.info).hash.unwrap_or(stream.random),
    };
    Some(weights.pick(number))
}

/// What to do, after the filters had their say.
pub(crate) fn action(stream: &mut Stream<'_>) -> Result<Action, Fault> {
    let (stats, shard) = (&stream.rules.hcm.stats, stream.worker.shard);
    stats.rq_total().inc(shard);
    if stream.needs_tls {
        return Ok(Action::Reply(redirect(301, &tls_location(&stream.request))));
    }
    let Some(route) = stream.rules.route.clone() else { return Err(Fault::NoRoute) };
    match &route.action {
        Plan::NonForwarding => Err(Fault::Internal("non_forwarding_route")),
        Plan::Redirect(plan) => {
            stats.rq_redirect().inc(shard);
            let https = crate::normalize::is_https(&stream.request.headers);
            let location = plan.location(&stream.request, https);
            let original = stream.request.path().to_owned();
            if let Some(path) = plan.rewritten(&original) {
                // What header operators and the access log see, as in Envoy.
                normalize::set_path(stream, original, &path);
            }
            Ok(Action::Reply(redirect(plan.status, &location)))
        }
        Plan::Direct(plan) => {
            stats.rq_direct_response().inc(shard);
            Ok(Action::Reply(direct(stream, plan)))
        }
        Plan::Forward(forward) => {
            allow_tunnel(stream, forward)?;
            let chosen = resolve(stream, route)?;
            normalize::prepare(stream, &chosen);
            Ok(Action::Forward(chosen))
        }
    }
}

fn redirect(status: u16, location: &str) -> LocalReply {
    let mut reply = LocalReply::new(status, "direct_response");
    reply.headers.append(&name::LOCATION, location.as_bytes());
    reply
}

fn direct(stream: &Stream<'_>, plan: &Direct) -> LocalReply {
    let mut reply = LocalReply::new(plan.status, "direct_response").body(plan.body.clone());
    if plan.status == 201 || (300..400).contains(&plan.status) {
        reply.headers.append(&name::LOCATION, original_location(&stream.request).as_bytes());
    }
    reply
}

/// Upgrades and CONNECT pass only where route or connection manager allow them.
fn allow_tunnel(stream: &Stream<'_>, forward: &Forward) -> Result<(), Fault> {
    let Some(tunnel) = &stream.tunnel else { return Ok(()) };
    let protocol = match tunnel {
        Tunnel::Upgrade(protocol) => protocol.as_str(),
        Tunnel::Connect => "connect",
    };
    let by_route = forward.config.upgrades.iter().find(|upgrade| upgrade.upgrade == protocol).map(|u| u.enabled);
    let of_manager = || stream.rules.hcm.config.upgrades.iter().find(|upgrade| upgrade.protocol == protocol);
    let allowed = by_route.or_else(|| of_manager().map(|upgrade| upgrade.enabled)).unwrap_or(false);
    if allowed { Ok(()) } else { Err(Fault::UpgradeRefused) }
}

/// Finds the cluster in the snapshot of this request.
fn resolve(stream: &mut Stream<'_>, route: Arc<RouteEntry>) -> Result<Chosen, Fault> {
    let forward = plan(&route);
    let not_found = || Fault::NoCluster(forward.config.cluster_not_found);
    let cluster_name = match &forward.targets {
        Targets::One(cluster) => cluster,
        Targets::Weighted { targets, .. } => {
            let target = stream.rules.target.and_then(|at| targets.get(at));
            &target.ok_or_else(not_found)?.cluster
        }
    };
    let name = named(cluster_name, &stream.request.headers);
    let snapshot = stream.snapshot.as_ref();
    let cluster = name.and_then(|name| snapshot.and_then(|snapshot| snapshot.cluster(name))).cloned();
    let Some(cluster) = cluster else {
        stream.info.upstream.cluster = None;
        return Err(not_found());
    };
    if stream.info.upstream.cluster.as_deref() != Some(&**cluster.name()) {
        stream.info.upstream.cluster = Some(Arc::clone(cluster.name()));
    }
    stream.info.cluster_metadata.clone_from(&cluster.shown_metadata);
    let mut hash = None;
    if !forward.hash.is_empty() {
        let hashed = forward.hash.evaluate(&stream.request, &stream.info);
        hash = hashed.hash;
        stream.set_cookies = hashed.set_cookies;
    }
    let priority = match forward.config.priority {
        PriorityConfig::Default => Priority::Default,
        PriorityConfig::High => Priority::High,
    };
    Ok(Chosen { route, target: stream.rules.target, cluster, place: None, hash, priority })
}

/// The name of a cluster for this request; `None` when the header that holds it is missing.
pub(crate) fn named<'n>(cluster: &'n ClusterName, headers: &'n Headers) -> Option<&'n str> {
    match cluster {
        ClusterName::Fixed(name) => Some(name),
        ClusterName::Header(field) => headers.text(field),
    }
}

/// What asks for a timeout; for us only.
static TIMEOUTS: NameSet = NameSet::of(&[
    &name::X_ENVOY_UPSTREAM_RQ_TIMEOUT_ALT_RESPONSE,
    &name::X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS,
    &name::X_ENVOY_UPSTREAM_STREAM_DURATION_MS,
]);

/// Starts the clocks of the route (Envoy `RouteAction.timeout`, `idle_timeout`, `max_stream_duration`).
pub(crate) fn start_clocks(stream: &mut Stream<'_>, plan: &Forward) {
    let config = &plan.config;
    let headers = &stream.request.headers;
    let mut timeout = config.timeout;
    if let Some(max) = &config.max_stream_duration {
        let limit = max.max.or(stream.rules.hcm.config.http.max_stream_duration);
        let asked = max.grpc_timeout_max.and_then(|most| {
            let asked = headers.text(&name::GRPC_TIMEOUT).and_then(grpc_timeout)?;
            let asked = if most.is_zero() { asked } else { asked.min(most) };
            Some(asked.saturating_sub(max.grpc_timeout_offset.unwrap_or_default()))
        });
        stream.clocks.max_stream = asked.or(limit).filter(|d| !d.is_zero()).map(|d| stream.clocks.began + d);
        if asked.is_some() {
            timeout = None;
        }
    }
    if let Some(asked) = asked_timeout(stream) {
        timeout = Some(asked);
    }
    stream.clocks.asked_upstream = milliseconds(stream, &name::X_ENVOY_UPSTREAM_STREAM_DURATION_MS);
    let headers = &mut stream.request.headers;
    stream.clocks.timeout_is_204 = headers.contains(&name::X_ENVOY_UPSTREAM_RQ_TIMEOUT_ALT_RESPONSE);
    headers.remove_all(TIMEOUTS);
    if let Some(idle) = config.idle_timeout {
        stream.clocks.idle = Some(idle).filter(|idle| !idle.is_zero());
    }
    stream.clocks.route_timeout = timeout.filter(|timeout| !timeout.is_zero());
    if stream.body.complete && stream.request.method != Method::Connect {
        stream.clocks.start_route();
    }
}

/// The timeout that an internal client, or a proxy before this one, asks for.
fn asked_timeout(stream: &Stream<'_>) -> Option<Duration> {
    let respected = stream.rules.chain().router().is_some_and(|router| router.respect_expected_rq_timeout);
    let expected = respected.then(|| milliseconds(stream, &name::X_ENVOY_EXPECTED_RQ_TIMEOUT_MS)).flatten();
    expected.or_else(|| milliseconds(stream, &name::X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS))
}

fn milliseconds(stream: &Stream<'_>, field: &HeaderName) -> Option<Duration> {
    stream.request.headers.text(field)?.parse().ok().map(Duration::from_millis)
}

/// `grpc-timeout`: up to eight digits and a unit (gRPC over HTTP/2).
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

/// How a route forwards. Only for one that does, as every [`Chosen`] has.
fn plan(route: &RouteEntry) -> &Forward {
    match &route.action {
        Plan::Forward(forward) => forward,
        _ => unreachable!("a chosen route forwards"),
    }
}

// === impl Chosen ===

impl Chosen {
    pub(crate) fn plan(&self) -> &Forward {
        plan(&self.route)
    }

    /// The choices for one try: an aggregate is replaced by the member whose turn it is.
    pub(crate) fn for_try(&self, rng: &mut fastrand::Rng) -> Cow<'_, Self> {
        let (cluster, place) = self.cluster.member(rng);
        if place.is_none() {
            return Cow::Borrowed(self);
        }
        Cow::Owned(Self { cluster: Arc::clone(cluster), place, ..self.clone() })
    }

    pub(crate) fn route(&self) -> &RouteEntry {
        &self.route
    }

    /// The weighted cluster that was picked, with what it changes of its route.
    pub(crate) fn target(&self) -> Option<&Target> {
        match &self.plan().targets {
            Targets::Weighted { targets, .. } => targets.get(self.target?),
            Targets::One(_) => None,
        }
    }

    /// What the metadata of the endpoint must be, by the route and what filters said of this request.
    pub(crate) fn criteria<'a>(&'a self, stream: &Stream<'_>) -> Option<Cow<'a, Criteria>> {
        // Only a cluster with subsets looks at it.
        self.cluster.config.lb.subset.as_ref()?;
        let of_route = match self.target() {
            Some(target) => target.criteria.as_ref(),
            None => self.plan().criteria.as_ref(),
        };
        match stream.info.metadata.as_ref().and_then(|metadata| metadata.get("envoy.lb")) {
            Some(dynamic) => Some(Cow::Owned(Criteria::with_text(of_route, dynamic))),
            None => of_route.map(Cow::Borrowed),
        }
    }

    /// The endpoint that the session sticks to or the request asks for, on the try after so many others.
    pub(crate) fn sticky<'s>(&self, stream: &'s Stream<'_>, tries: usize) -> Option<Cow<'s, StickyHost>> {
        // Another try may go elsewhere, as in Envoy.
        if let Some(sticky) = stream.info.sticky.as_deref().filter(|_| tries == 0) {
            return Some(Cow::Borrowed(sticky));
        }
        let text = self.cluster.config.lb.override_sources.iter().find_map(|source| match source {
            OverrideSource::Header(field) => stream.request.headers.text(field.as_str()),
            OverrideSource::Metadata { namespace, key } => {
                stream.info.metadata.as_ref()?.get(namespace)?.get(key).map(String::as_str)
            }
        })?;
        let address = Address::Ip(text.split(',').nth(tries)?.trim().parse().ok()?);
        Some(Cow::Owned(StickyHost { address, is_strict: false, status: 503 }))
    }

    /// How much of the request may be kept for another try.
    pub(crate) fn buffer_limit(&self, stream: &Stream<'_>) -> usize {
        self.route.buffer_limit.unwrap_or(stream.rules.hcm.buffer_limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_timeout_has_a_unit() {
        assert_eq!(grpc_timeout("100m"), Some(Duration::from_millis(100)));
        assert_eq!(grpc_timeout("2S"), Some(Duration::from_secs(2)));
        assert_eq!(grpc_timeout("123456789S"), None);
        assert_eq!(grpc_timeout("S"), None);
        assert_eq!(grpc_timeout(""), None);
        assert_eq!(grpc_timeout("1x"), None);
    }
}
