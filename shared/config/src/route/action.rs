//! Routes that forward: to which cluster, how rewritten, how long (`RouteAction`).

use std::time::Duration;

use crate::core::{Metadata, RuntimeFraction};
use crate::header::{HeaderMutation, Mutations};
use crate::http_filter::PerRouteConfigs;
use crate::matcher::Substitution;

use super::hash::HashPolicy;
use super::retry::RetryPolicy;
use super::template::TemplateRewrite;

mod decode;

pub(super) use self::decode::{Inherited, decode_hedge, decode_mirrors};

#[derive(Debug, Clone, PartialEq)]
pub struct RouteAction {
    pub cluster: ClusterSpecifier,
    /// What to answer when the cluster does not exist: 503, 404 or 500.
    pub cluster_not_found: u16,
    pub path_rewrite: PathRewrite,
    pub host_rewrite: HostRewrite,
    pub append_x_forwarded_host: bool,
    /// Until the whole response came; `None` for ever.
    pub timeout: Option<Duration>,
    /// Without any byte either way. `None` leaves it to the connection manager, zero means for ever.
    pub idle_timeout: Option<Duration>,
    pub max_stream_duration: Option<MaxStreamDuration>,
    /// `None`: only what the request's own headers ask for is retried.
    pub retry: Option<RetryPolicy>,
    /// A try that takes longer than its time goes on while another one is made.
    pub hedge_on_per_try_timeout: bool,
    pub mirrors: Vec<Mirror>,
    pub hash: Vec<HashPolicy>,
    /// What the metadata of the endpoint must be, in a cluster with subsets.
    pub metadata_match: Metadata,
    pub priority: Priority,
    pub upgrades: Vec<UpgradeConfig>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ClusterSpecifier {
    Cluster(String),
    /// The cluster that the first value of this header names. Lower case.
    Header(String),
    Weighted(WeightedClusters),
}

#[derive(Debug, Clone, PartialEq)]
pub struct WeightedClusters {
    pub clusters: Vec<ClusterWeight>,
    /// The sum of all weights; more than zero.
    pub total: u32,
    /// Runtime keys `PREFIX.CLUSTER` may override weights; empty for none.
    pub runtime_key_prefix: String,
    pub source: WeightSource,
}

/// The number that picks among weighted clusters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WeightSource {
    /// The stream's random value.
    Random,
    /// A number in this header (lower case), else the stream's random value.
    Header(String),
    /// The hash by the route's hash policy, else the stream's random value.
    Hash,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ClusterWeight {
    /// A cluster, or the header that names it.
    pub cluster: ClusterSpecifier,
    pub weight: u32,
    pub headers: Mutations,
    /// Added to the route's.
    pub metadata_match: Metadata,
    pub filters: PerRouteConfigs,
    pub host_rewrite: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum PathRewrite {
    None,
    /// Replaces what the route matched.
    Prefix(String),
    /// Replaces every match in the path without its query.
    Regex(Substitution),
    Template(TemplateRewrite),
}

#[derive(Debug, Clone, PartialEq)]
pub enum HostRewrite {
    None,
    Literal(String),
    /// The host name of the endpoint.
    Auto,
    /// The first value of this header; lower case.
    Header(String),
    /// What comes of the path without its query.
    PathRegex(Substitution),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MaxStreamDuration {
    /// `None` leaves it to the connection manager, zero means for ever.
    pub max: Option<Duration>,
    /// The most that `grpc-timeout` may ask for; `None` means the header does not count, zero means no bound.
    pub grpc_timeout_max: Option<Duration>,
    /// Taken from what `grpc-timeout` asks for.
    pub grpc_timeout_offset: Option<Duration>,
}

/// A copy of the request that nobody waits for (`RequestMirrorPolicy`).
#[derive(Debug, Clone, PartialEq)]
pub struct Mirror {
    pub cluster: ClusterSpecifier,
    /// `None`: all requests.
    pub fraction: Option<RuntimeFraction>,
    /// Append `-shadow` to the host.
    pub shadow_suffix: bool,
    pub headers: Vec<HeaderMutation>,
    pub host_rewrite: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Priority {
    #[default]
    Default,
    High,
}

/// Whether requests that ask for this upgrade are let through (`UpgradeConfig`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradeConfig {
    /// Lower case.
    pub upgrade: String,
    pub enabled: bool,
    /// The tunnel ends here: its bytes go to the cluster as they are. Only for CONNECT.
    pub connect: Option<ConnectConfig>,
}

/// How a tunnel ends at this proxy (`UpgradeConfig.ConnectConfig`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectConfig {
    /// A POST is a tunnel too: its body goes to the cluster, what comes back is the body of the answer.
    pub allow_post: bool,
}
