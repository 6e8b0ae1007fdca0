//! Endpoints that are made when a request asks for them: original destinations and forwarded hosts.
//!
//! Bounded, and forgotten when nobody uses them; pools go with the endpoints. All workers share them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry as Place;
use dp_http::info::Address;
use shared_config::cluster::Discovery;
use shared_config::endpoint::{EndpointHealthCheck, HealthStatus};
use tokio::time::Instant;

use super::Cluster;
use crate::dns::cache::DnsCache;
use crate::endpoint::{Endpoint, EndpointState};
use crate::pick::{PickContext, PickError};

/// Where one request wants to go, for clusters that leave that to the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Destination<'a> {
    #[default]
    Unknown,
    Address(SocketAddr),
    /// A host, with a port or without.
    Authority(&'a str),
}

/// What an endpoint is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Address(SocketAddr),
    /// The id of a host in the DNS cache.
    Host(u64),
}

/// The endpoints that one cluster made on demand.
#[derive(Debug)]
pub(crate) struct OnDemand {
    endpoints: DashMap<Key, Made>,
    /// How long an endpoint may be unused.
    interval: Duration,
    swept: Mutex<Instant>,
    /// Endpoints made and forgotten so far.
    changes: AtomicU64,
}

#[derive(Debug)]
struct Made {
    endpoint: Arc<Endpoint>,
    /// Since the last sweep.
    used: AtomicBool,
}

/// The most endpoints that one cluster makes. Whoever chooses destinations could otherwise fill the memory.
pub(crate) const MOST: usize = 16 * 1024;

// === impl OnDemand ===

impl OnDemand {
    /// How long endpoints may be unused, for clusters that make them on demand.
    pub(crate) fn interval_of(discovery: &Discovery) -> Option<Duration> {
        match discovery {
            Discovery::OriginalDst(original) => Some(original.cleanup_interval),
            Discovery::ForwardProxy(forward) => Some(forward.cache.host_ttl),
            _ => None,
        }
    }

    pub(crate) fn new(interval: Duration) -> Self {
        Self { endpoints: DashMap::new(), interval, swept: Mutex::new(Instant::now()), changes: AtomicU64::new(0) }
    }

    /// The endpoint of a key, made now if need be. When its address changed, new connections go to the new one.
    /// `None` when there are too many.
    pub(crate) fn endpoint(&self, key: Key, address: SocketAddr, hostname: Option<&Arc<str>>) -> Option<Arc<Endpoint>> {
        let address = Address::Ip(address);
        if let Some(made) = self.endpoints.get(&key)
            && made.endpoint.address == address
        {
            made.used.store(true, Relaxed);
            return Some(Arc::clone(&made.endpoint));
        }
        if self.endpoints.len() >= MOST {
            return None;
        }
        match self.endpoints.entry(key) {
            Place::Occupied(mut there) => {
                if there.get().endpoint.address != address {
                    let state = Arc::clone(&there.get().endpoint.state);
                    there.insert(Made { endpoint: endpoint(state, address), used: AtomicBool::new(true) });
                }
                Some(Arc::clone(&there.get().endpoint))
            }
            Place::Vacant(place) => {
                self.changes.fetch_add(1, Relaxed);
                let endpoint =
                    endpoint(Arc::new(EndpointState::new(hostname.cloned().unwrap_or_else(|| "".into()))), address);
                place.insert(Made { endpoint: Arc::clone(&endpoint), used: AtomicBool::new(true) });
                Some(endpoint)
            }
        }
    }

    /// Forgets what was neither picked nor connected to since the last sweep, if it is time; whether anything came or
    /// went meanwhile.
    pub(crate) fn sweep(&self, now: Instant) -> bool {
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(*swept) >= self.interval {
            *swept = now;
            self.endpoints.retain(|_, made| {
                let state = &made.endpoint.state;
                let keep = made.used.swap(false, Relaxed) || state.connections() > 0 || state.active() > 0;
                if !keep {
                    state.retire();
                    self.changes.fetch_add(1, Relaxed);
                }
                keep
            });
        }
        self.changes.swap(0, Relaxed) > 0
    }

    /// The cluster is gone, or its connections would not do any more.
    pub(crate) fn retire(&self) {
        self.endpoints.iter().for_each(|made| made.endpoint.state.retire());
    }

    pub(crate) fn len(&self) -> usize {
        self.endpoints.len()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Endpoint>> {
        self.endpoints.iter().map(|made| Arc::clone(&made.endpoint)).collect()
    }
}

// === impl Cluster ===

impl Cluster {
    /// The endpoint that the request asks for.
    pub(crate) fn pick_on_demand(
        &self,
        on_demand: &OnDemand,
        context: &PickContext<'_>,
    ) -> Result<Arc<Endpoint>, PickError> {
        let stats = &self.state.stats;
        let known = match (context.destination, &self.names) {
            (Destination::Address(address), None) => Some((Key::Address(address), address, None)),
            (Destination::Authority(authority), Some(names)) => self.host(names, authority),
            _ => None,
        };
        let Some((key, address, hostname)) = known else {
            stats.upstream_cx_none_healthy().inc(context.worker + 1);
            return Err(PickError::Unhealthy);
        };
        on_demand.endpoint(key, address, hostname.as_ref()).ok_or_else(|| {
            stats.upstream_cx_overflow().inc(context.worker + 1);
            PickError::Full
        })
    }

    /// A host that was resolved before.
    fn host(&self, names: &DnsCache, authority: &str) -> Option<(Key, SocketAddr, Option<Arc<str>>)> {
        let (host, address) = names.known(authority, self.default_port())?;
        Some((Key::Host(host.id), address, Some(Arc::clone(&host.name))))
    }

    /// The port of hosts that name none.
    pub fn default_port(&self) -> u16 {
        if self.tls.is_some() { 443 } else { 80 }
    }

    /// The endpoints that requests asked for.
    pub fn made_endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.on_demand.as_ref().map(|on_demand| on_demand.all()).unwrap_or_default()
    }

    /// Forgets endpoints that nobody uses any more; call now and then.
    pub fn sweep(&self, now: Instant) {
        if self.on_demand.as_ref().is_some_and(|on_demand| on_demand.sweep(now)) {
            self.state.stats.membership_change().inc(0);
            self.report();
        }
    }

    /// `next` takes this one's place: what it does not go on with is retired.
    pub(super) fn retire_on_demand(&self, next: &Cluster) {
        if let Some(on_demand) = &self.on_demand
            && !next.on_demand.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, on_demand))
        {
            on_demand.retire();
        }
    }
}

fn endpoint(state: Arc<EndpointState>, address: Address) -> Arc<Endpoint> {
    let display = address.to_string().into();
    Arc::new(Endpoint {
        vitals: state.vitals(),
        state,
        address,
        addresses: Box::default(),
        weight: 1,
        priority: 0,
        locality: Arc::default(),
        metadata: Arc::default(),
        shown_metadata: None,
        discovery: HealthStatus::Unknown,
        health_check: EndpointHealthCheck::default(),
        checked: false,
        leaving: false,
        display,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    fn made(all: &OnDemand, key: Key, port: u16) -> Arc<Endpoint> {
        all.endpoint(key, address(port), None).unwrap()
    }

    #[test]
    fn an_endpoint_is_kept_while_it_is_used_and_retired_afterwards() {
        let second = Duration::from_secs(1);
        let (all, start) = (OnDemand::new(second), Instant::now());
        let key = Key::Address(address(80));
        let endpoint = made(&all, key, 80);
        assert_eq!(made(&all, key, 80).state.id, endpoint.state.id);
        assert!(all.sweep(start + second), "it came");
        let request = endpoint.state.begin_request();
        assert!(!all.sweep(start + 2 * second) && !endpoint.state.is_retired());
        drop(request);
        assert!(all.sweep(start + 3 * second) && endpoint.state.is_retired());
        assert_eq!(all.len(), 0);
        assert_ne!(made(&all, key, 80).state.id, endpoint.state.id);
    }

    #[test]
    fn a_host_that_moved_keeps_its_state() {
        let all = OnDemand::new(Duration::from_secs(1));
        let before = made(&all, Key::Host(1), 80);
        let after = made(&all, Key::Host(1), 81);
        assert_eq!(before.state.id, after.state.id);
        assert_ne!(before.address, after.address);
    }

    #[test]
    fn there_are_never_too_many() {
        let all = OnDemand::new(Duration::from_secs(1));
        let add = |n: usize| all.endpoint(Key::Host(n as u64), address(80), None);
        assert!((0..MOST).all(|n| add(n).is_some()));
        assert!(add(MOST).is_none());
        assert!(add(7).is_some(), "one that is there already is still found");
    }
}
