//! Asking name servers: addresses of a name, and what an SRV name says.
//!
//! Runs on the control thread. `resolution.rs` keeps the endpoints of a cluster up to date, `cache.rs` the hosts that
//! requests ask for; here is one question and its answer.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ProtocolConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError as Negative, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::{ResolverBuilder, TokioResolver};
use shared_config::cluster::LookupFamily;
use shared_config::cluster::discovery::Resolver as ResolverOptions;

pub mod cache;
pub(crate) mod resolution;

pub use resolution::Resolution;

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
}

/// What a name stands for, and how long that holds. Nothing, when the name servers say so: a name that does not exist,
/// or has no such records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer<T = IpAddr> {
    pub found: Vec<T>,
    pub ttl: Duration,
}

/// One record of an SRV name (RFC 2782).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    pub priority: u16,
    pub weight: u16,
    pub target: String,
    pub port: u16,
}

// === impl Resolver ===

impl Resolver {
    /// # Errors
    /// No server is named, and the system's configuration cannot be read.
    pub fn new(options: &ResolverOptions, family: LookupFamily) -> Result<Self, DnsError> {
        let mut builder = builder(options)?;
        let settings = builder.options_mut();
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

    /// The addresses of `name`, in a stable order.
    ///
    /// # Errors
    /// No server answered, or one failed.
    pub async fn resolve(&self, name: &str) -> Result<Answer, DnsError> {
        if let Ok(ip) = name.parse::<IpAddr>() {
            return Ok(Answer { found: vec![ip], ttl: Duration::MAX });
        }
        let (first, second) = (RecordType::A, RecordType::AAAA);
        let mut answer = match self.family {
            LookupFamily::V4Only => self.addresses(name, first).await?,
            LookupFamily::V6Only => self.addresses(name, second).await?,
            LookupFamily::V4Preferred => self.either(name, first, second).await?,
            LookupFamily::Auto => self.either(name, second, first).await?,
            LookupFamily::All => {
                match tokio::join!(self.addresses(name, first), self.addresses(name, second)) {
                    (Ok(mut both), Ok(more)) => {
                        both.found.extend(more.found);
                        Answer { ttl: both.ttl.min(more.ttl), found: both.found }
                    }
                    // Half an answer is one, unless it is that there is nothing.
                    (Ok(half), Err(_)) | (Err(_), Ok(half)) if !half.found.is_empty() => half,
                    (Err(error), _) | (_, Err(error)) => return Err(error),
                }
            }
        };
        // Servers rotate their answers; that is no change.
        answer.found.sort_unstable();
        answer.found.dedup();
        Ok(answer)
    }

    /// The services of an SRV name, in a stable order.
    ///
    /// # Errors
    /// No server answered, or one failed.
    pub async fn services(&self, name: &str) -> Result<Answer<Service>, DnsError> {
        let mut answer = self
            .ask(name, RecordType::SRV, |data| match data {
                // The root as target says that there is no such service.
                RData::SRV(srv) if !srv.target.is_root() => Some(Service {
                    priority: srv.priority,
                    weight: srv.weight,
                    target: srv.target.to_ascii(),
                    port: srv.port,
                }),
                _ => None,
            })
            .await?;
        answer.found.sort_unstable();
        answer.found.dedup();
        Ok(answer)
    }

    /// Addresses of one kind, or of the other if there are none.
    async fn either(&self, name: &str, first: RecordType, second: RecordType) -> Result<Answer, DnsError> {
        let answer = self.addresses(name, first).await;
        match answer {
            Ok(answer) if !answer.found.is_empty() => Ok(answer),
            Ok(_) => self.addresses(name, second).await,
            // A failure of the first must not look like a name without addresses.
            Err(error) => match self.addresses(name, second).await {
                Ok(answer) if !answer.found.is_empty() => Ok(answer),
                _ => Err(error),
            },
        }
    }

    async fn addresses(&self, name: &str, kind: RecordType) -> Result<Answer, DnsError> {
        self.ask(name, kind, |data| match data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
            _ => None,
        })
        .await
    }

    async fn ask<T>(
        &self,
        name: &str,
        kind: RecordType,
        read: impl Fn(&RData) -> Option<T>,
    ) -> Result<Answer<T>, DnsError> {
        match self.resolver.lookup(name, kind).await {
            Ok(lookup) => {
                Ok(Answer { found: lookup.answers().iter().filter_map(|r| read(&r.data)).collect(), ttl: ttl(&lookup) })
            }
            Err(error) if is_nothing(&error) => Ok(Answer { found: Vec::new(), ttl: Duration::MAX }),
            Err(error) => Err(DnsError::Lookup(name.to_owned(), error.to_string())),
        }
    }
}

fn ttl(lookup: &Lookup) -> Duration {
    lookup.valid_until().saturating_duration_since(Instant::now())
}

/// Whether a server said that there is nothing, rather than that it could not say.
fn is_nothing(error: &NetError) -> bool {
    matches!(error, NetError::Dns(Negative::NoRecordsFound(none))
        if matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError))
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
