//! Resolving the names of a DNS cluster, over and over: each answer becomes the endpoints of the next version.
//!
//! A failure keeps the last answer; an answer that changes nothing is not told. Each name has its own clock.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use shared_config::cluster::{Discovery, Dns};
use shared_config::core::Address;
use shared_config::endpoint::{Assignment, Endpoint, LocalityEndpoints};
use stdx::backoff::Backoff;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{DnsError, Resolver, Service};
use crate::stats::ClusterStats;

/// Resolves the names of one cluster until it is dropped.
pub struct Resolution {
    dns: Dns,
    wanted: Wanted,
    resolver: Rc<Resolver>,
    stats: Arc<ClusterStats>,
    /// The last answer to each question, in order.
    known: Vec<Option<Found>>,
}

/// What the endpoints are made of.
enum Wanted {
    /// Each endpoint with a name stands for all its addresses.
    Strict(Assignment),
    /// One endpoint, whatever the number of its addresses.
    Logical(Assignment),
    Srv(String),
}

/// One answer.
#[derive(Debug, Clone, PartialEq)]
enum Found {
    Addresses(Vec<IpAddr>),
    Services(Vec<(Service, Vec<IpAddr>)>),
}

/// One thing to ask for, again and again.
struct Question {
    name: String,
    is_srv: bool,
    dns: Dns,
    resolver: Rc<Resolver>,
    stats: Arc<ClusterStats>,
    backoff: Option<Backoff>,
}

// === impl Resolution ===

impl Resolution {
    /// `None` when the discovery is not by DNS.
    ///
    /// # Errors
    /// There is no resolver to ask.
    pub fn new(discovery: &Discovery, stats: Arc<ClusterStats>) -> Result<Option<Self>, DnsError> {
        let (dns, wanted) = match discovery {
            Discovery::StrictDns(dns, assignment) => (dns, Wanted::Strict(assignment.clone())),
            Discovery::LogicalDns(dns, assignment) => (dns, Wanted::Logical(assignment.clone())),
            Discovery::Srv(srv) => (&srv.dns, Wanted::Srv(srv.name.clone())),
            _ => return Ok(None),
        };
        let resolver = Rc::new(Resolver::new(&dns.resolver, dns.family)?);
        let known = vec![None; wanted.names().len()];
        Ok(Some(Self { dns: dns.clone(), wanted, resolver, stats, known }))
    }

    /// Resolves for ever, and tells each answer that differs from the one before. The first is told when every name
    /// was asked for once, even if nothing could be resolved, so that a cluster is not waited for any longer.
    pub async fn run(mut self, mut tell: impl FnMut(Assignment)) {
        let (sender, mut answers) = mpsc::unbounded_channel();
        // Dropping the set ends the questions.
        let mut asking = JoinSet::new();
        for (index, name) in self.wanted.names().into_iter().enumerate() {
            asking.spawn_local(self.question(name).ask_for_ever(index, sender.clone()));
        }
        let mut silent: BTreeSet<usize> = (0..self.known.len()).collect();
        let mut told = None;
        loop {
            if silent.is_empty() {
                let found = self.assignment();
                if told.as_ref() != Some(&found) {
                    tell(found.clone());
                    told = Some(found);
                } else {
                    self.stats.update_no_rebuild().inc(0);
                }
            }
            // `sender` is here, so there is always more to come.
            let Some((index, found)) = answers.recv().await else { return };
            silent.remove(&index);
            match found {
                // One answer without addresses does not take the only endpoint away.
                Some(Found::Addresses(none)) if none.is_empty() && matches!(self.wanted, Wanted::Logical(_)) => {}
                None => {}
                some => self.known[index] = some,
            }
        }
    }

    fn question(&self, name: String) -> Question {
        Question {
            name,
            is_srv: matches!(self.wanted, Wanted::Srv(_)),
            dns: self.dns.clone(),
            resolver: Rc::clone(&self.resolver),
            stats: Arc::clone(&self.stats),
            backoff: self.dns.failure_refresh.map(|(base, max)| Backoff::new(base, max)),
        }
    }

    /// The endpoints by the answers so far; a name without one has no endpoint.
    fn assignment(&self) -> Assignment {
        match &self.wanted {
            Wanted::Strict(wanted) => self.addressed(wanted, usize::MAX),
            Wanted::Logical(wanted) => self.addressed(wanted, 1),
            Wanted::Srv(_) => match self.known.first() {
                Some(Some(Found::Services(services))) => by_service(services),
                _ => Assignment::of(Vec::new()),
            },
        }
    }

    /// Names replaced by their addresses, at most `most` each.
    fn addressed(&self, wanted: &Assignment, most: usize) -> Assignment {
        let mut answers = self.known.iter();
        let mut assignment = wanted.clone();
        for locality in &mut assignment.localities {
            for endpoint in std::mem::take(&mut locality.endpoints) {
                let Address::Name { host, port } = &endpoint.address else {
                    locality.endpoints.push(endpoint);
                    continue;
                };
                let Some(Some(Found::Addresses(answer))) = answers.next() else { continue };
                locality.endpoints.extend(answer.iter().take(most).map(|ip| {
                    let mut found = endpoint.clone();
                    found.address = Address::Ip(SocketAddr::new(*ip, *port));
                    if found.hostname.is_empty() {
                        found.hostname.clone_from(host);
                    }
                    found
                }));
            }
        }
        assignment
    }
}

/// Priorities in their order become levels; the weight of a service is divided among its addresses.
fn by_service(services: &[(Service, Vec<IpAddr>)]) -> Assignment {
    let priorities: BTreeSet<u16> = services.iter().map(|(service, _)| service.priority).collect();
    // Whole weights, though a service may have several addresses.
    let scale = if services.iter().any(|(_, addresses)| addresses.len() > 1) { 1000 } else { 1 };
    let level = |priority: &u16| {
        let mut endpoints = Vec::new();
        for (service, addresses) in services.iter().filter(|(service, _)| service.priority == *priority) {
            let share = (u32::from(service.weight) * scale).checked_div(addresses.len() as u32).unwrap_or(0);
            endpoints.extend(addresses.iter().map(|ip| Endpoint {
                hostname: service.target.trim_end_matches('.').to_owned(),
                // A weight of 0 is meant for services that are hardly used (RFC 2782).
                weight: share.max(1),
                ..Endpoint::new(Address::Ip(SocketAddr::new(*ip, service.port)))
            }));
        }
        endpoints
    };
    let mut assignment = Assignment::of(Vec::new());
    assignment.localities = priorities
        .iter()
        .zip(0..)
        .map(|(wire, priority)| LocalityEndpoints { priority, endpoints: level(wire), ..LocalityEndpoints::default() })
        .collect();
    assignment
}

impl Wanted {
    fn names(&self) -> Vec<String> {
        match self {
            Self::Srv(name) => vec![name.clone()],
            Self::Strict(assignment) | Self::Logical(assignment) => {
                let name = |endpoint: &Endpoint| match &endpoint.address {
                    Address::Name { host, .. } => Some(host.to_string()),
                    _ => None,
                };
                assignment.endpoints().filter_map(name).collect()
            }
        }
    }
}

// === impl Question ===

impl Question {
    async fn ask_for_ever(mut self, index: usize, answers: mpsc::UnboundedSender<(usize, Option<Found>)>) {
        loop {
            self.stats.update_attempt().inc(0);
            let (found, delay) = match self.ask().await {
                Ok((found, ttl)) => {
                    self.stats.update_success().inc(0);
                    if found.is_empty() {
                        self.stats.update_empty().inc(0);
                    }
                    (Some(found), self.after_success(ttl))
                }
                Err(error) => {
                    tracing::warn!(%error, "keeping the last answer");
                    self.stats.update_failure().inc(0);
                    (None, self.backoff.as_mut().map_or(self.dns.refresh, Backoff::next_delay))
                }
            };
            if answers.send((index, found)).is_err() {
                return;
            }
            tokio::time::sleep(delay).await;
        }
    }

    async fn ask(&self) -> Result<(Found, Duration), DnsError> {
        if !self.is_srv {
            let answer = self.resolver.resolve(&self.name).await?;
            return Ok((Found::Addresses(answer.found), answer.ttl));
        }
        let services = self.resolver.services(&self.name).await?;
        let mut ttl = services.ttl;
        let mut found = Vec::with_capacity(services.found.len());
        for service in services.found {
            // If one target cannot be resolved the whole answer is not known.
            let answer = self.resolver.resolve(&service.target).await?;
            ttl = ttl.min(answer.ttl);
            found.push((service, answer.found));
        }
        Ok((Found::Services(found), ttl))
    }

    fn after_success(&mut self, ttl: Duration) -> Duration {
        if let Some(backoff) = &mut self.backoff {
            backoff.reset();
        }
        let refresh = match self.dns.respect_ttl && ttl < Duration::MAX {
            true => ttl.max(self.dns.minimum_refresh),
            false => self.dns.refresh,
        };
        refresh + self.dns.jitter.mul_f64(fastrand::f64())
    }
}

impl Found {
    fn is_empty(&self) -> bool {
        match self {
            Self::Addresses(addresses) => addresses.is_empty(),
            Self::Services(services) => services.iter().all(|(_, addresses)| addresses.is_empty()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
