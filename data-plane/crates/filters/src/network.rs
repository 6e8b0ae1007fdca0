//! Network filters: they let a connection in or close it, before anything is made of its bytes. One file per filter.
//!
//! Those that only count decide before the TLS handshake, as in Envoy; access control decides after it, because it may
//! ask for the client's certificate, and so does what is written for others. Never: bytes, upstream connections.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use dp_format::FormatError;
use dp_http::StreamInfo;
use shared_config::network_filter::NetworkFilter;
use shared_telemetry::Registry;

use crate::services::KeepStore;
use crate::state::Objects;

pub mod connection_limit;
pub mod local_ratelimit;
pub mod rbac;

/// The network filters of a filter chain, compiled.
#[derive(Default)]
pub struct NetworkChain(Box<[Filter]>);

enum Filter {
    ConnectionLimit(connection_limit::ConnectionLimit),
    LocalRateLimit(local_ratelimit::LocalRateLimit),
    Rbac(Box<rbac::Rbac>),
    SetFilterState(Objects),
}

/// A connection is closed.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// After this long, so that a client does not come back at once.
    pub delay: Option<Duration>,
    /// `%CONNECTION_TERMINATION_DETAILS%`.
    pub details: Cow<'static, str>,
}

/// What a connection holds as long as it is open. Without limits it holds nothing and takes no memory.
#[derive(Debug, Default)]
pub struct Held(Vec<connection_limit::Place>);

// === impl NetworkChain ===

impl NetworkChain {
    /// Compiles the filters of the chain at `place`; the counts of one that did not change go on.
    ///
    /// # Errors
    /// A format is wrong.
    pub fn compile(
        filters: &[NetworkFilter],
        place: &str,
        keep: &KeepStore,
        registry: &Registry,
    ) -> Result<Self, FormatError> {
        let compile = |(index, filter): (usize, &NetworkFilter)| {
            let place = format!("{place}/{index}");
            Some(Ok(match filter {
                // The TCP proxy is told of it when it is compiled.
                NetworkFilter::SniCluster | NetworkFilter::SniForward(_) => return None,
                NetworkFilter::ConnectionLimit(config) => {
                    Filter::ConnectionLimit(connection_limit::ConnectionLimit::compile(config, &place, keep, registry))
                }
                NetworkFilter::LocalRateLimit(config) => {
                    Filter::LocalRateLimit(local_ratelimit::LocalRateLimit::compile(config, &place, keep, registry))
                }
                NetworkFilter::Rbac(config) => Filter::Rbac(Box::new(rbac::Rbac::compile(config, registry))),
                NetworkFilter::SetFilterState(config) => match Objects::compile(&config.values) {
                    Ok(objects) => Filter::SetFilterState(objects),
                    Err(error) => return Some(Err(error)),
                },
            }))
        };
        filters.iter().enumerate().filter_map(compile).collect::<Result<_, _>>().map(Self)
    }

    /// A connection came in; nothing was read of it that matters here.
    ///
    /// # Errors
    /// It is to be closed.
    pub fn on_connection(&self, shard: usize) -> Result<Held, Refusal> {
        let mut held = Held::default();
        for filter in &self.0 {
            match filter {
                Filter::ConnectionLimit(limit) => held.0.extend(limit.admit(shard)?),
                Filter::LocalRateLimit(limit) => limit.admit(Instant::now(), shard)?,
                Filter::Rbac(_) | Filter::SetFilterState(_) => {}
            }
        }
        Ok(held)
    }

    /// Whether a filter looks at connections that are established.
    pub fn looks_at_established(&self) -> bool {
        self.0.iter().any(|filter| matches!(filter, Filter::Rbac(_) | Filter::SetFilterState(_)))
    }

    /// A connection is established: its TLS handshake is over.
    ///
    /// # Errors
    /// It is to be closed.
    pub fn on_established(&self, info: &mut StreamInfo, shard: usize) -> Result<(), Refusal> {
        for filter in &self.0 {
            match filter {
                Filter::Rbac(rbac) => rbac.admit(info, shard)?,
                Filter::SetFilterState(objects) => objects.write(info, None),
                Filter::ConnectionLimit(_) | Filter::LocalRateLimit(_) => {}
            }
        }
        Ok(())
    }
}
