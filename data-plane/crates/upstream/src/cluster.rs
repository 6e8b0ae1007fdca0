//! A cluster at work: its endpoints, the tables to pick from, and the state that outlives one version of it.
//!
//! A version is made from configuration without side effects and takes effect with `take_over`. Never connects.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use dp_http::info::Address;
use dp_http::{h1, h2};
use hashbrown::{HashMap, HashSet};
use shared_config::cluster::{Cluster as Config, Discovery, Thresholds};
use shared_config::endpoint::{Assignment, DropOverload, LocalityEndpoints};
use shared_config::lb_policy::LocalityLb;
use shared_telemetry::{Registry, Scope};
use tokio::time::Instant;

use crate::balance::zone::LocalCluster;
use crate::balance::{Levels, Locality, Place, Rules, Tables};
use crate::breaker::{Guard, Priority, Resource};
use crate::dns::cache::DnsCache;
use crate::endpoint::{Endpoint, EndpointState};
use crate::orca::weigh;
use crate::outlier::{EventSink, OutlierStats};
use crate::refresh::Bell;
use crate::stats::{HealthCheckStats, LbStats};

mod aggregate;
mod departed;
mod endpoints;
mod health;
mod identity;
pub mod on_demand;
mod state;
mod tls;

pub(crate) use endpoints::address;
pub(crate) use identity::Identity;
pub use state::ClusterState;
pub use tls::Tls;

use aggregate::Aggregate;
use departed::Departed;
use endpoints::{addresses, endpoint, shown};
use identity::At;
use on_demand::OnDemand;

/// What clusters are made for: the process they run in.
#[derive(Clone)]
pub struct Site {
    pub registry: Registry,
    /// Worker threads; shard 0 of the statistics is the control thread's.
    pub workers: usize,
    pub bell: Bell,
    /// The cluster that this proxy is one of, for zone-aware routing.
    pub local: Option<Arc<LocalCluster>>,
    /// The log of ejections, if there is one.
    pub events: Option<Arc<dyn EventSink>>,
}

/// One version of a cluster.
pub struct Cluster {
    pub config: Arc<Config>,
    pub state: Arc<ClusterState>,
    pub tls: Option<Tls>,
    levels: Levels,
    /// By what identifies them over versions.
    pub(crate) known: HashMap<Identity, Arc<Endpoint>>,
    pub(crate) tables: ArcSwap<Tables>,
    /// How many changes of health the tables know of.
    seen: AtomicU64,
    /// The same of the local cluster.
    seen_local: AtomicU64,
    pub(crate) drop: Option<DropOverload>,
    /// The clusters in whose place this one stands.
    aggregate: Option<Aggregate>,
    /// Endpoints that come by request, for clusters that have no others.
    pub(crate) on_demand: Option<Arc<OnDemand>>,
    /// Where hosts are looked up, for a dynamic forward proxy.
    names: Option<Arc<DnsCache>>,
    /// The version before has connections that would not do for this one.
    renewed: bool,
    /// For formatters (`%CLUSTER_METADATA%`).
    pub shown_metadata: Option<Arc<dp_http::info::Metadata>>,
    overprovisioning: u32,
    weighted_priority_health: bool,
    workers: usize,
    local: Option<Arc<LocalCluster>>,
    pub(crate) events: Option<Arc<dyn EventSink>>,
    /// It is warm only when every endpoint was checked.
    warms: bool,
}

// === impl Cluster ===

impl Cluster {
    /// Makes a version of a cluster. Endpoints that `previous` has too keep their state, unless connections made
    /// under its configuration would not do for this one. Changes nothing that is in use.
    pub fn compile(
        config: Arc<Config>,
        assignment: &Assignment,
        tls: Option<Tls>,
        previous: Option<&Cluster>,
        site: &Site,
    ) -> Self {
        let same_connections = previous.is_some_and(|p| {
            p.config == config
                && !(config.close_on_set_change && p.has_others_than(assignment))
                && p.tls.as_ref().map(|t| Arc::as_ptr(&t.config)) == tls.as_ref().map(|t| Arc::as_ptr(&t.config))
        });
        let state = previous.map_or_else(|| Arc::new(ClusterState::new(&config, site)), |p| Arc::clone(&p.state));
        if config.lb.subset.is_some() || matches!(config.lb.locality, LocalityLb::ZoneAware(_)) {
            let scope = || Scope::cluster(&config.stat_name);
            state.lb_stats.get_or_init(|| LbStats::register(&site.registry, scope()));
        }
        let on_demand = OnDemand::interval_of(&config.discovery).map(|interval| {
            let kept = previous.filter(|_| same_connections).and_then(|previous| previous.on_demand.clone());
            kept.unwrap_or_else(|| Arc::new(OnDemand::new(interval)))
        });
        if config.health_check.is_some() {
            state.health.get_or_init(|| HealthCheckStats::register(&site.registry, Scope::cluster(&config.stat_name)));
        }
        let mut cluster = Self {
            warms: config.health_check.is_some() && previous.is_none_or(|p| p.config != config || !p.is_warm()),
            seen: AtomicU64::new(state.health_changed.count()),
            seen_local: AtomicU64::new(0),
            aggregate: None,
            on_demand,
            names: None,
            renewed: previous.is_some() && !same_connections,
            state,
            tls,
            levels: Levels::new(),
            known: HashMap::new(),
            tables: ArcSwap::from_pointee(Tables::empty()),
            drop: assignment.drop.clone(),
            shown_metadata: shown(&config.metadata),
            overprovisioning: assignment.overprovisioning,
            weighted_priority_health: assignment.weighted_priority_health,
            workers: site.workers,
            local: site.local.clone(),
            events: site.events.clone(),
            config,
        };
        if cluster.config.outlier.is_some() {
            let scope = || Scope::cluster(&cluster.config.stat_name);
            cluster.state.outliers.count_with(|| OutlierStats::register(&site.registry, scope()));
        }
        for locality in &assignment.localities {
            cluster.add(locality, previous, same_connections);
        }
        if let Some(previous) = previous {
            cluster.keep_leaving(previous);
        }
        cluster.seen_local = AtomicU64::new(cluster.local_changes());
        let now = Instant::now();
        weigh(&cluster.levels, &cluster.config.lb.algorithm, now);
        cluster.tables = ArcSwap::from_pointee(Tables::build(&cluster.levels, &cluster.rules(now)));
        cluster
    }

    /// Stands for these clusters, in the order of preference.
    #[must_use]
    pub fn of_members(mut self, members: &[Arc<Cluster>]) -> Self {
        self.aggregate = Some(Aggregate::new(members, self.config.panic_threshold));
        self
    }

    /// Looks hosts up here.
    #[must_use]
    pub fn by_names(mut self, names: Arc<DnsCache>) -> Self {
        self.names = Some(names);
        self
    }

    /// The cluster that takes a request: itself, or of an aggregate the member whose turn it is, and where in it.
    pub fn member<'c>(self: &'c Arc<Self>, rng: &mut fastrand::Rng) -> (&'c Arc<Self>, Option<Place>) {
        match self.aggregate.as_ref().and_then(|aggregate| aggregate.choose(rng)) {
            Some((member, place)) => (member, Some(place)),
            None => (self, None),
        }
    }

    fn add(&mut self, locality: &LocalityEndpoints, previous: Option<&Cluster>, same_connections: bool) {
        let logical = matches!(self.config.discovery, Discovery::LogicalDns(..));
        let mut endpoints = Vec::with_capacity(locality.endpoints.len());
        for config in &locality.endpoints {
            // A name that was not resolved yet is no endpoint yet.
            let Some(address) = address(&config.address) else { continue };
            let identity = Identity::of(config, &address, logical);
            let checked = self.config.health_check.is_some() && !config.health_check.disabled;
            if self.known.contains_key(&identity) {
                continue;
            }
            let before = previous.and_then(|p| p.known.get(&identity));
            let state = match before {
                Some(before) if same_connections => Arc::clone(&before.state),
                Some(before) => Arc::new(before.state.renewed()),
                // One that left and comes back while its last connections are open is the one it was.
                None => {
                    let departed = self.state.departed.find(&identity).filter(|_| same_connections);
                    departed
                        .unwrap_or_else(|| Arc::new(EndpointState::of_new(config.hostname.as_str().into(), checked)))
                }
            };
            let addresses = addresses(config, &self.config.happy_eyeballs);
            let endpoint = endpoint(config, locality, (address, addresses), state, before, checked);
            self.known.insert(identity, Arc::clone(&endpoint));
            endpoints.push(endpoint);
        }
        let priority = locality.priority as usize;
        if self.levels.len() <= priority {
            self.levels.resize_with(priority + 1, Vec::new);
        }
        let name = Arc::clone(&locality.locality);
        self.levels[priority].push(Locality { name, weight: locality.weight, endpoints });
    }

    /// Whether endpoints come or go.
    fn has_others_than(&self, assignment: &Assignment) -> bool {
        let logical = matches!(self.config.discovery, Discovery::LogicalDns(..));
        let wanted: hashbrown::HashSet<Identity> = assignment
            .endpoints()
            .filter_map(|config| Some(Identity::of(config, &address(&config.address)?, logical)))
            .collect();
        wanted.len() != self.known.len() || !wanted.iter().all(|identity| self.known.contains_key(identity))
    }

    fn rules(&self, now: Instant) -> Rules<'_> {
        Rules {
            ignore_unchecked: self.config.ignore_new_until_checked,
            policy: &self.config.lb,
            panic_threshold: self.config.panic_threshold,
            overprovisioning: self.overprovisioning,
            weighted_priority_health: self.weighted_priority_health,
            workers: self.workers,
            now,
            local: self.local.as_deref(),
            stats: self.state.lb_stats.get().map(|stats| &**stats),
        }
    }

    /// Takes the place of `previous`: endpoints that are gone are retired, and the statistics tell of this version.
    pub fn take_over(&self, previous: Option<&Cluster>) {
        let kept: hashbrown::HashSet<u64> = self.endpoints().map(|e| e.state.id).collect();
        // What checks found once means nothing where nobody checks any more.
        let forgot = self.endpoints().filter(|e| !e.checked && e.state.forget_checks()).count();
        if forgot > 0 {
            self.refresh();
        }
        if self.renewed {
            self.state.departed.clear();
        }
        if let Some(before) = previous {
            let gone = before.known.iter().filter(|(_, e)| !kept.contains(&e.state.id));
            let gone = gone.map(|(identity, endpoint)| (identity, &endpoint.state));
            gone.clone().for_each(|(_, state)| state.retire());
            if !self.renewed {
                self.state.departed.note(gone);
            }
            before.retire_on_demand(self);
        }
        self.endpoints().for_each(|e| e.state.revive());
        let changed = previous
            .is_none_or(|p| p.known.len() != self.known.len() || p.endpoints().any(|e| !kept.contains(&e.state.id)));
        if changed {
            self.state.stats.membership_change().inc(0);
        }
        self.state.show_breakers(&self.config);
        if self.begin_outlier_interval() { self.refresh() } else { self.report() }
    }

    /// The cluster is gone: its endpoints are retired.
    pub fn retire(&self) {
        self.endpoints().for_each(|e| e.state.retire());
        if let Some(on_demand) = &self.on_demand {
            on_demand.retire();
        }
    }

    /// Makes the tables anew after an endpoint's health changed. The control thread does, see [`Cluster::is_stale`].
    pub fn refresh(&self) {
        self.refresh_at(Instant::now());
    }

    pub(crate) fn refresh_at(&self, now: Instant) {
        // Read first: a change that comes meanwhile makes the tables stale again.
        self.seen.store(self.state.health_changed.count(), Relaxed);
        self.seen_local.store(self.local_changes(), Relaxed);
        self.end_outlier_interval(now);
        weigh(&self.levels, &self.config.lb.algorithm, now);
        self.tables.store(Arc::new(Tables::build(&self.levels, &self.rules(now))));
        self.report();
    }

    /// Whether something changed that the tables do not know of.
    pub fn is_stale(&self) -> bool {
        self.seen.load(Relaxed) != self.state.health_changed.count()
            || self.seen_local.load(Relaxed) != self.local_changes()
    }

    /// When the tables have to be made anew even if nothing is told: while slow start holds endpoints back, and
    /// when an interval of outlier detection ends.
    pub fn next_refresh(&self) -> Option<Instant> {
        [self.tables.load().due, self.outlier_interval_ends()].into_iter().flatten().min()
    }

    /// How often the local cluster changed, if the tables depend on it.
    fn local_changes(&self) -> u64 {
        let is_zone_aware = matches!(self.config.lb.locality, LocalityLb::ZoneAware(_));
        self.local.as_ref().filter(|_| is_zone_aware).map_or(0, |local| local.changes())
    }

    fn report(&self) {
        self.recount_ejected();
        let (tables, stats) = (self.tables.load(), &self.state.stats);
        let made = self.on_demand.as_ref().map_or(0, |on_demand| on_demand.len());
        stats.membership_total().set((self.known.len() + made) as u64);
        stats.membership_healthy().set((tables.healthy + made) as u64);
        stats.membership_degraded().set(tables.degraded as u64);
        let unchecked = self.config.ignore_new_until_checked;
        stats.membership_excluded().set(self.endpoints().filter(|e| e.is_excluded(unchecked)).count() as u64);
        self.report_checks();
        stats.max_host_weight().set(self.endpoints().map(|e| self.weight_of(e).into()).max().unwrap_or(0));
        if let (Some(subsets), Some(stats)) = (&tables.subsets, self.state.lb_stats.get()) {
            let now: HashSet<u64> = subsets.ids().collect();
            let mut before = self.state.subsets.lock().unwrap_or_else(PoisonError::into_inner);
            stats.lb_subsets_active().set(now.len() as u64);
            stats.lb_subsets_created().add(0, now.difference(&before).count() as u64);
            stats.lb_subsets_removed().add(0, before.difference(&now).count() as u64);
            stats.lb_subsets_single_host_per_subset_duplicate().set(subsets.duplicates);
            *before = now;
        }
        if let Some(local) = self.local.as_deref().filter(|local| local.name == self.state.name) {
            local.note(self.levels.first().map_or(&[], |level| &**level));
        }
    }

    pub fn name(&self) -> &Arc<str> {
        &self.state.name
    }

    /// How much output of a connection may wait.
    pub(crate) fn output_limit(&self) -> usize {
        (self.config.buffer_limit as usize).max(16 * 1024)
    }

    /// All endpoints with what identifies them over versions.
    pub(crate) fn identified(&self) -> impl Iterator<Item = (&Identity, &Arc<Endpoint>)> {
        self.known.iter()
    }

    /// What the HTTP/1 codec is told.
    pub(crate) fn http1_options(&self) -> Rc<h1::ClientOptions> {
        let http = &self.config.http;
        Rc::new(h1::ClientOptions {
            max_head_size: http.max_headers_kb as usize * 1024,
            max_headers: http.max_headers_count as usize,
            trailers: http.h1.trailers,
            output_limit: self.output_limit(),
            ..h1::ClientOptions::default()
        })
    }

    /// What the HTTP/2 codec is told.
    pub(crate) fn http2_options(&self) -> h2::ClientOptions {
        let http = &self.config.http;
        let ping = http.h2.keepalive.as_ref().and_then(|keepalive| {
            keepalive.interval.map(|interval| h2::Ping {
                interval,
                timeout: keepalive.timeout,
                jitter: interval.mul_f64(keepalive.jitter_percent / 100.0),
            })
        });
        h2::ClientOptions {
            limits: h2::Limits {
                max_concurrent_streams: http.h2.max_concurrent_streams,
                initial_stream_window: http.h2.stream_window,
                initial_connection_window: http.h2.connection_window,
                max_header_list_size: http.max_headers_kb * 1024,
                max_headers: http.max_headers_count as usize,
                header_table_size: http.h2.header_table_size,
                ping,
                ..h2::Limits::default()
            },
            frames: h2::FrameLimits {
                empty: http.h2.frames.empty,
                priority: http.h2.frames.priority,
                window_updates: http.h2.frames.window_updates,
            },
        }
    }

    pub fn connect_timeout(&self) -> Duration {
        self.config.connect_timeout
    }

    pub(crate) fn endpoint_count(&self) -> usize {
        self.known.len()
    }

    /// All endpoints, by priority.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.levels.iter().flatten().flat_map(|locality| &locality.endpoints)
    }

    /// The endpoint with this address, for sessions that stick to one; only if it is well enough for that.
    pub fn endpoint_at(&self, address: &Address) -> Option<&Arc<Endpoint>> {
        let endpoint = match &self.config.discovery {
            Discovery::LogicalDns(..) => self.endpoints().find(|endpoint| endpoint.address == *address),
            _ => self.known.get(&At(address)),
        };
        endpoint.filter(|endpoint| self.config.lb.override_host.contains(endpoint.status()))
    }

    /// Whether a priority that is not among these can take requests.
    pub fn has_priority_besides(&self, without: &[u32]) -> bool {
        self.tables.load().has_priority_besides(without)
    }

    /// The limits for requests of this priority.
    pub fn thresholds(&self, priority: Priority) -> &Thresholds {
        match priority {
            Priority::Default => &self.config.breakers.default,
            Priority::High => &self.config.breakers.high,
        }
    }

    /// A request begins at an endpoint.
    pub fn note_started(&self, priority: Priority, now: Instant) {
        self.state.breakers.note_started(self.thresholds(priority), priority, now);
    }

    /// Takes one unit of a resource, unless the circuit breaker is open; counts the overflow on behalf of `worker`.
    pub fn admit(&self, resource: Resource, priority: Priority, worker: usize) -> Option<Guard> {
        let guard = self.state.breakers.admit(self.thresholds(priority), priority, resource);
        if guard.is_none() {
            let stats = &self.state.stats;
            match resource {
                Resource::Connections => stats.upstream_cx_overflow(),
                Resource::Pending | Resource::Requests => stats.upstream_rq_pending_overflow(),
                Resource::Retries => stats.upstream_rq_retry_overflow(),
                Resource::Pools => stats.upstream_cx_pool_overflow(),
            }
            .inc(worker + 1);
        }
        guard
    }
}

#[cfg(test)]
pub(crate) mod tests;
