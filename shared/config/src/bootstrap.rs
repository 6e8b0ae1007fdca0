//! The bootstrap: who this proxy is, what it serves from the start, and where the rest comes from.
//!
//! Read from YAML or JSON text with [`read`]. Opens no file but is told what was in it.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::access_log::AccessLog;
use crate::core::{Address, ApiSource, ConfigSource};
use crate::matcher::StringMatcher;
use crate::resource::Resource;
use crate::runtime::RuntimeLayer;

mod decode;
mod overload;
mod read;

pub use decode::decode;
pub use read::read;

/// A bootstrap.
#[derive(Debug, Clone, PartialEq)]
pub struct Bootstrap {
    /// Who we are; flags may say otherwise.
    pub node: Node,
    /// Listeners, clusters and secrets that are always there, in the order of the document.
    pub static_resources: Vec<StaticResource>,
    /// The aggregated stream.
    pub ads: Option<ApiSource>,
    /// Where listeners come from.
    pub lds: Option<ConfigSource>,
    /// Where clusters come from.
    pub cds: Option<ConfigSource>,
    /// The static cluster that this proxy is an endpoint of, for zone-aware routing.
    pub local_cluster: Option<String>,
    /// The admin server; none without it.
    pub admin: Option<Admin>,
    /// The most connections of clients that may be open at a time.
    pub max_connections: Option<u64>,
    /// The server that load is reported to.
    pub load_stats: Option<ApiSource>,
    /// Runtime values, later layers over earlier ones.
    pub runtime_layers: Vec<RuntimeLayer>,
    /// The file that is told of endpoints ejected by outlier detection, and of their return.
    pub outlier_event_log: Option<String>,
}

/// Who we are.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Node {
    /// Unique.
    pub id: String,
    /// The service we belong to.
    pub cluster: String,
    /// Free-form, for the control plane.
    pub metadata: BTreeMap<String, Value>,
    /// Where we are.
    pub region: String,
    /// Where we are.
    pub zone: String,
    /// Where we are.
    pub sub_zone: String,
}

/// A resource of the bootstrap, with the message it was decoded from, for dumps and content hashes.
#[derive(Debug, Clone, PartialEq)]
pub struct StaticResource {
    /// The type URL of the message.
    pub type_url: String,
    /// The encoded message.
    pub value: bytes::Bytes,
    /// What it means.
    pub resource: Resource,
}

/// The admin server.
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// Where it listens.
    pub address: Address,
    /// Its logs.
    pub access_logs: Vec<AccessLog>,
    /// The paths that are answered; all when empty.
    pub allow_paths: Vec<StringMatcher>,
}

impl Bootstrap {
    /// The static resources of one kind, as `pick` selects them.
    pub fn statics<'a, T: 'a>(&'a self, pick: impl Fn(&'a Resource) -> Option<&'a T>) -> impl Iterator<Item = &'a T> {
        self.static_resources.iter().filter_map(move |entry| pick(&entry.resource))
    }
}

#[cfg(test)]
mod tests;
