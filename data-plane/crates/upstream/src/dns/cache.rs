//! The names that requests ask for (dynamic forward proxying): a bounded cache that all workers share.
//!
//! Workers look up and wait; asking, refreshing and forgetting is done by one task a name on the control thread. What
//! the map is locked for ends before anything is awaited.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use shared_config::cluster::DnsCache as Config;
use shared_telemetry::{Registry, Scope};
use stdx::backoff::Backoff;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use super::{DnsError, Resolver};

shared_telemetry::stats! {
    /// Statistics of one cache: `dns_cache.NAME.…`.
    pub struct DnsCacheStats {
        counter dns_query_attempt,
        counter dns_query_success,
        counter dns_query_failure,
        counter dns_query_timeout,
        counter host_address_changed,
        counter host_added,
        counter host_removed,
        counter host_overflow,
        counter dns_rq_pending_overflow,
        gauge num_hosts,
    }
}

/// All caches of a process, by name. Clones share them.
#[derive(Clone)]
pub struct DnsCaches(Arc<Shared>);

struct Shared {
    registry: Registry,
    caches: Mutex<HashMap<String, Weak<DnsCache>>>,
    started: mpsc::UnboundedSender<Work>,
}

/// A cache whose names somebody has to resolve.
pub struct Work {
    cache: Weak<DnsCache>,
    hosts: mpsc::UnboundedReceiver<Arc<Host>>,
}

#[derive(Debug, thiserror::Error)]
#[error("the DNS cache {0:?} is in use with other settings; use the same ones, or another name")]
pub struct OtherSettings(String);

/// A bounded cache of names.
pub struct DnsCache {
    config: Config,
    hosts: DashMap<Box<str>, Arc<Host>>,
    pending: AtomicU32,
    wanted: mpsc::UnboundedSender<Arc<Host>>,
    stats: Arc<DnsCacheStats>,
    began: Instant,
}

/// A name with its port.
pub struct Host {
    /// Unique in this process.
    pub id: u64,
    /// As the map has it: host and port, in lower case.
    key: Box<str>,
    /// Without the port, and without brackets.
    pub name: Arc<str>,
    port: u16,
    found: watch::Sender<Found>,
    /// Milliseconds since the cache began.
    used: AtomicU64,
}

/// What is known of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Resolving,
    Failed,
    At(SocketAddr),
}

/// What a look-up comes to.
pub enum Lookup {
    Found,
    /// The name does not resolve.
    Failed,
    /// No more names fit.
    Overflow,
    /// Too many requests wait for names.
    PendingOverflow,
    Waiting(Waiting),
}

/// A place among those who wait for a name.
pub struct Waiting {
    cache: Arc<DnsCache>,
    found: watch::Receiver<Found>,
}

// === impl DnsCaches ===

impl DnsCaches {
    /// The second part tells of caches whose names have to be resolved, see [`Work::run`].
    pub fn new(registry: Registry) -> (Self, mpsc::UnboundedReceiver<Work>) {
        let (started, work) = mpsc::unbounded_channel();
        (Self(Arc::new(Shared { registry, caches: Mutex::default(), started })), work)
    }

    /// The cache of this configuration, for as long as somebody holds it.
    ///
    /// # Errors
    /// One of this name is in use that is configured otherwise.
    pub fn cache(&self, config: &Config) -> Result<Arc<DnsCache>, OtherSettings> {
        // Nothing in here can leave the map half-changed.
        let mut caches = self.0.caches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cache) = caches.get(&config.name).and_then(Weak::upgrade) {
            return if cache.config == *config { Ok(cache) } else { Err(OtherSettings(config.name.clone())) };
        }
        caches.retain(|_, cache| cache.strong_count() > 0);
        let (wanted, hosts) = mpsc::unbounded_channel();
        let scope = Scope::new(&format!("dns_cache.{}", config.name), "dns_cache").label("dns_cache", &config.name);
        let cache = Arc::new(DnsCache {
            config: config.clone(),
            hosts: DashMap::new(),
            pending: AtomicU32::new(0),
            wanted,
            stats: DnsCacheStats::register(&self.0.registry, scope),
            began: Instant::now(),
        });
        caches.insert(config.name.clone(), Arc::downgrade(&cache));
        for (host, port) in &config.preresolve {
            let _ = cache.host(host, *port);
        }
        // Nobody works when the configuration is only checked.
        let _ = self.0.started.send(Work { cache: Arc::downgrade(&cache), hosts });
        Ok(cache)
    }
}

// === impl DnsCache ===

impl DnsCache {
    /// Looks a name up for a request; one that nobody asked for yet begins to be resolved. A port in `authority` wins
    /// over `port`.
    pub fn look_up(self: &Arc<Self>, authority: &str, port: u16) -> Lookup {
        let Some(host) = self.host(authority, port) else {
            self.stats.host_overflow().inc(0);
            return Lookup::Overflow;
        };
        let found = host.found.subscribe();
        let state = *found.borrow();
        match state {
            Found::At(_) => Lookup::Found,
            Found::Failed => Lookup::Failed,
            Found::Resolving => {
                if self.pending.fetch_add(1, Relaxed) >= self.config.max_pending {
                    self.pending.fetch_sub(1, Relaxed);
                    self.stats.dns_rq_pending_overflow().inc(0);
                    return Lookup::PendingOverflow;
                }
                Lookup::Waiting(Waiting { cache: Arc::clone(self), found })
            }
        }
    }

    /// A name that was looked up before, with its address.
    pub fn known(&self, authority: &str, port: u16) -> Option<(Arc<Host>, SocketAddr)> {
        let (key, _, _) = split(authority, port)?;
        let host = Arc::clone(&*self.hosts.get(&*key)?);
        host.used.store(self.now(), Relaxed);
        let Found::At(address) = *host.found.borrow() else { return None };
        Some((host, address))
    }

    /// The host of a name, also a new one; `None` when no more fit or it is no name.
    fn host(&self, authority: &str, port: u16) -> Option<Arc<Host>> {
        let (key, name, port) = split(authority, port)?;
        if let Some(host) = self.hosts.get(&*key) {
            host.used.store(self.now(), Relaxed);
            return Some(Arc::clone(&*host));
        }
        // Workers may pass the limit by as many as they are, as in Envoy.
        if self.hosts.len() >= self.config.max_hosts {
            return None;
        }
        match self.hosts.entry(key.clone()) {
            Entry::Occupied(there) => Some(Arc::clone(there.get())),
            Entry::Vacant(place) => {
                static NEXT: AtomicU64 = AtomicU64::new(1);
                let host = Arc::new(Host {
                    id: NEXT.fetch_add(1, Relaxed),
                    key,
                    name: name.into(),
                    port,
                    found: watch::Sender::new(Found::Resolving),
                    used: AtomicU64::new(self.now()),
                });
                place.insert(Arc::clone(&host));
                self.stats.host_added().inc(0);
                // The resolving task lives as long as the cache, except when the process ends.
                let _ = self.wanted.send(Arc::clone(&host));
                Some(host)
            }
        }
    }

    fn forget(&self, host: &Host) {
        self.hosts.remove_if(&host.key, |_, there| there.id == host.id);
        self.stats.host_removed().inc(0);
        self.stats.num_hosts().set(self.hosts.len() as u64);
    }

    #[allow(clippy::cast_possible_truncation, reason = "more milliseconds than anybody waits")]
    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn is_unused(&self, host: &Host) -> bool {
        u128::from(self.now().saturating_sub(host.used.load(Relaxed))) > self.config.host_ttl.as_millis()
    }

    /// Keeps what came of asking for a host; how long to wait before asking again, unless it is to be forgotten.
    fn note(&self, host: &Host, outcome: Outcome, backoff: &mut Option<Backoff>) -> Option<Duration> {
        let before = *host.found.borrow();
        match outcome {
            Outcome::At(address, ttl) => {
                self.stats.dns_query_success().inc(0);
                if before != Found::At(address) {
                    self.stats.host_address_changed().inc(0);
                    host.found.send_replace(Found::At(address));
                }
                if let Some(backoff) = backoff {
                    backoff.reset();
                }
                // An address that was given instead of a name only has to be forgotten some time.
                let longest = self.config.host_ttl.max(self.config.minimum_refresh);
                return Some(if ttl == Duration::MAX { longest } else { ttl.max(self.config.minimum_refresh) });
            }
            Outcome::Nothing => self.stats.dns_query_success().inc(0),
            Outcome::Failed => self.stats.dns_query_failure().inc(0),
            Outcome::TimedOut => self.stats.dns_query_timeout().inc(0),
        }
        // An address that was found once stays.
        if !matches!(before, Found::At(_)) {
            host.found.send_replace(Found::Failed);
            if self.config.forget_failures {
                return None;
            }
        }
        Some(backoff.as_mut().map_or(self.config.refresh, Backoff::next_delay))
    }
}

/// The key of an authority, its name in lower case, and its port. No allocation can be saved here: the key is looked
/// up as one text.
fn split(authority: &str, default_port: u16) -> Option<(Box<str>, String, u16)> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => {
            (host, if port.is_empty() { default_port } else { port.parse().ok()? })
        }
        _ => (authority, default_port),
    };
    if host.is_empty() {
        return None;
    }
    let name = host.to_ascii_lowercase();
    let key = format!("{name}:{port}").into_boxed_str();
    let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
    Some((key, name, port))
}

// === impl Waiting ===

impl Waiting {
    /// Waits for the first answer; whether there is an address.
    pub async fn found(mut self) -> bool {
        match self.found.wait_for(|found| *found != Found::Resolving).await {
            Ok(found) => matches!(*found, Found::At(_)),
            // The name was forgotten before it was resolved.
            Err(_) => false,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.cache.pending.fetch_sub(1, Relaxed);
    }
}

// === resolving ===

enum Outcome {
    At(SocketAddr, Duration),
    /// The name has no address.
    Nothing,
    Failed,
    TimedOut,
}

impl Work {
    /// Resolves the names of one cache for as long as somebody holds it. On the control thread.
    pub async fn run(mut self) {
        let Some(config) = self.cache.upgrade().map(|cache| cache.config.clone()) else { return };
        let resolver = match Resolver::new(&config.resolver, config.family) {
            Ok(resolver) => Some(Rc::new(resolver)),
            Err(error) => {
                tracing::error!(cache = config.name, %error, "names cannot be resolved");
                None
            }
        };
        // Ends all of them when the cache is gone.
        let mut resolving = tokio::task::JoinSet::new();
        while let Some(host) = self.hosts.recv().await {
            while resolving.try_join_next().is_some() {}
            resolving.spawn_local(keep(self.cache.clone(), host, resolver.clone()));
        }
    }
}

/// Keeps one name up to date until nobody wants it any more.
async fn keep(cache: Weak<DnsCache>, host: Arc<Host>, resolver: Option<Rc<Resolver>>) {
    let mut backoff = cache.upgrade().and_then(|c| c.config.failure_refresh).map(|(base, max)| Backoff::new(base, max));
    loop {
        let Some(limit) = cache.upgrade().map(|cache| {
            cache.stats.dns_query_attempt().inc(0);
            cache.stats.num_hosts().set(cache.hosts.len() as u64);
            cache.config.query_timeout
        }) else {
            return;
        };
        let outcome = ask(resolver.as_deref(), &host, limit).await;
        let Some(delay) = cache.upgrade().and_then(|cache| {
            let delay = cache.note(&host, outcome, &mut backoff);
            if delay.is_none() {
                cache.forget(&host);
            }
            delay
        }) else {
            return;
        };
        tokio::time::sleep(delay).await;
        let Some(cache) = cache.upgrade() else { return };
        if cache.is_unused(&host) {
            return cache.forget(&host);
        }
    }
}

async fn ask(resolver: Option<&Resolver>, host: &Host, limit: Option<Duration>) -> Outcome {
    let Some(resolver) = resolver else { return Outcome::Failed };
    let asking = resolver.resolve(&host.name);
    let answer = match limit {
        None => asking.await,
        Some(limit) => match timeout(limit, asking).await {
            Ok(answer) => answer,
            Err(_) => return Outcome::TimedOut,
        },
    };
    match answer.map(|answer| (answer.found.first().copied(), answer.ttl)) {
        Ok((Some(ip), ttl)) => Outcome::At(SocketAddr::new(ip, host.port), ttl),
        Ok((None, _)) => Outcome::Nothing,
        Err(error @ (DnsError::Lookup(..) | DnsError::System(_))) => {
            tracing::debug!(%error, "a name that a request asked for");
            Outcome::Failed
        }
    }
}

#[cfg(test)]
mod tests;
