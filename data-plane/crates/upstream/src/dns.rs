//! Resolving the names of a DNS cluster, over and over: each answer becomes the endpoints of the next version.
//!
//! Runs on the control thread. A failure keeps the last answer; an answer that changes nothing is not told.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ProtocolConfig, ResolveHosts, ResolverConfig,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{ResolverBuilder, TokioResolver};
use shared_config::cluster::discovery::Resolver as ResolverOptions;
use shared_config::cluster::{Discovery, Dns, LookupFamily};
use shared_config::core::Address;
use shared_config::endpoint::Assignment;
use stdx::backoff::Backoff;

/// Asks name servers.
pub struct Resolver {
    resolver: TokioResolver,
    family: LookupFamily,
}

#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    #[error("the system's resolver configuration cannot be read: {0}")]
    System(String),
    #[error("{0} could not be resolved: {1}")]
    Lookup(String, String),
    #[error("{0} has no address")]
    NoAddress(String),
}

/// Addresses of a name, and how long they hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub addresses: Vec<IpAddr>,
    pub ttl: Duration,
}

/// Resolves the names of one cluster until it is dropped.
pub struct Resolution {
    dns: Dns,
    logical: bool,
    wanted: Assignment,
    resolver: Resolver,
    backoff: Option<Backoff>,
    /// The last answer for each endpoint of `wanted`, in order.
    known: Vec<Option<Vec<IpAddr>>>,
}

// === impl Resolution ===

impl Resolution {
    /// `None` when the discovery is not by DNS.
    ///
    /// # Errors
    /// There is no resolver to ask.
    pub fn new(discovery: &Discovery) -> Result<Option<Self>, DnsError> {
        let (dns, wanted, logical) = match discovery {
            Discovery::StrictDns(dns, assignment) => (dns, assignment, false),
            Discovery::LogicalDns(dns, assignment) => (dns, assignment, true),
            Discovery::Static(_) | Discovery::Eds(_) => return Ok(None),
        };
        let resolver = Resolver::new(&dns.resolver, dns.family)?;
        let known = vec![None; wanted.endpoints().count()];
        let backoff = dns.failure_refresh.map(|(base, max)| Backoff::new(base, max));
        Ok(Some(Self { dns: dns.clone(), logical, wanted: wanted.clone(), resolver, backoff, known }))
    }

    /// Resolves for ever, and tells each answer that differs from the one before; also the first, even if nothing
    /// could be resolved, so that a cluster is not waited for any longer.
    pub async fn run(mut self, mut tell: impl FnMut(Assignment)) {
        let mut told = None;
        loop {
            let delay = self.round().await;
            let found = self.assignment();
            if told.as_ref() != Some(&found) {
                tell(found.clone());
                told = Some(found);
            }
            tokio::time::sleep(delay).await;
        }
    }

    /// Asks for every name once; how long to wait before the next round.
    async fn round(&mut self) -> Duration {
        let mut ttl = Duration::MAX;
        let mut failed = false;
        for (endpoint, known) in self.wanted.localities.iter().flat_map(|l| &l.endpoints).zip(&mut self.known) {
            let Address::Name { host, .. } = &endpoint.address else { continue };
            match self.resolver.resolve(host).await {
                Ok(answer) => {
                    ttl = ttl.min(answer.ttl);
                    *known = Some(answer.addresses);
                }
                Err(error) => {
                    tracing::warn!(%error, "keeping the last answer");
                    failed = true;
                }
            }
        }
        self.delay(ttl, failed)
    }

    fn delay(&mut self, ttl: Duration, failed: bool) -> Duration {
        if failed {
            return self.backoff.as_mut().map_or(self.dns.refresh, Backoff::next_delay);
        }
        if let Some(backoff) = &mut self.backoff {
            backoff.reset();
        }
        let refresh = match self.dns.respect_ttl && ttl < Duration::MAX {
            true => ttl.max(self.dns.minimum_refresh),
            false => self.dns.refresh,
        };
        refresh + self.dns.jitter.mul_f64(fastrand::f64())
    }

    /// The endpoints by the answers so far; a name without one has no endpoint.
    fn assignment(&self) -> Assignment {
        let mut answers = self.known.iter();
        let mut assignment = self.wanted.clone();
        for locality in &mut assignment.localities {
            let wanted = std::mem::take(&mut locality.endpoints);
            for endpoint in wanted {
                let answer = answers.next().and_then(Option::as_ref);
                let Address::Name { host, port } = &endpoint.address else {
                    locality.endpoints.push(endpoint);
                    continue;
                };
                // A logical endpoint is one, whatever the number of its addresses.
                let count = if self.logical { 1 } else { usize::MAX };
                for ip in answer.into_iter().flatten().take(count) {
                    let mut found = endpoint.clone();
                    found.address = Address::Ip(SocketAddr::new(*ip, *port));
                    if found.hostname.is_empty() {
                        found.hostname.clone_from(host);
                    }
                    locality.endpoints.push(found);
                }
            }
        }
        assignment
    }
}

// === impl Resolver ===

impl Resolver {
    /// # Errors
    /// No server is named, and the system's configuration cannot be read.
    pub fn new(options: &ResolverOptions, family: LookupFamily) -> Result<Self, DnsError> {
        let mut builder = builder(options)?;
        let settings = builder.options_mut();
        settings.ip_strategy = match family {
            LookupFamily::V4Only => LookupIpStrategy::Ipv4Only,
            LookupFamily::V6Only => LookupIpStrategy::Ipv6Only,
            LookupFamily::V4Preferred => LookupIpStrategy::Ipv4thenIpv6,
            LookupFamily::Auto => LookupIpStrategy::Ipv6thenIpv4,
            LookupFamily::All => LookupIpStrategy::Ipv4AndIpv6,
        };
        settings.use_hosts_file = ResolveHosts::Always;
        // A name is asked for when its time is up, so a cache could only answer with what we know.
        settings.cache_size = 0;
        settings.os_port_selection = true;
        if let Some(timeout) = options.query_timeout {
            settings.timeout = timeout;
        }
        if let Some(tries) = options.tries {
            settings.attempts = tries.saturating_sub(1) as usize;
        }
        if options.no_search {
            settings.ndots = 0;
        }
        let resolver = builder.build().map_err(|error| DnsError::System(error.to_string()))?;
        Ok(Self { resolver, family })
    }

    /// The addresses of `name`, in a stable order; at least one.
    ///
    /// # Errors
    /// No server answered, or the name has no address of the wanted family.
    pub async fn resolve(&self, name: &str) -> Result<Answer, DnsError> {
        if let Ok(ip) = name.parse::<IpAddr>() {
            return Ok(Answer { addresses: vec![ip], ttl: Duration::MAX });
        }
        let looked_up = self.resolver.lookup_ip(name).await;
        let answer = looked_up.map_err(|error| DnsError::Lookup(name.to_owned(), error.to_string()))?;
        let mut addresses: Vec<IpAddr> = answer.iter().filter(|ip| self.is_wanted(*ip)).collect();
        // Servers rotate their answers; that is no change.
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.is_empty() {
            return Err(DnsError::NoAddress(name.to_owned()));
        }
        Ok(Answer { addresses, ttl: answer.valid_until().saturating_duration_since(Instant::now()) })
    }

    /// The hosts file knows nothing of families.
    fn is_wanted(&self, ip: IpAddr) -> bool {
        match self.family {
            LookupFamily::V4Only => ip.is_ipv4(),
            LookupFamily::V6Only => ip.is_ipv6(),
            LookupFamily::Auto | LookupFamily::V4Preferred | LookupFamily::All => true,
        }
    }
}

fn builder(options: &ResolverOptions) -> Result<ResolverBuilder<TokioRuntimeProvider>, DnsError> {
    let system = TokioResolver::builder_tokio();
    let own = || {
        let servers = options.servers.iter().map(|server| name_server(*server, options.tcp)).collect();
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    match system {
        _ if !options.servers.is_empty() && !options.only_as_fallback => Ok(own()),
        Ok(system) => Ok(system),
        Err(_) if !options.servers.is_empty() => Ok(own()),
        Err(error) => Err(DnsError::System(error.to_string())),
    }
}

fn name_server(address: SocketAddr, tcp_only: bool) -> NameServerConfig {
    let connection = |protocol| {
        let mut connection = ConnectionConfig::new(protocol);
        connection.port = address.port();
        connection
    };
    let mut connections = vec![connection(ProtocolConfig::Tcp)];
    if !tcp_only {
        connections.insert(0, connection(ProtocolConfig::Udp));
    }
    NameServerConfig::new(address.ip(), true, connections)
}

#[cfg(test)]
mod tests;
