//! Route configurations: which request goes where, and what happens to it on the way.
//!
//! What a route inherits (retry policy, mirrors, buffer limit) is already resolved. Which of two routes wins, and what
//! the formats in header values mean, is the data plane's business.

use std::sync::Arc;

use crate::core::Metadata;
use crate::header::Mutations;
use crate::http_filter::PerRouteConfigs;

mod action;
mod decode;
mod hash;
mod path;
mod respond;
mod retry;
pub mod template;

pub use self::action::{
    ClusterSpecifier, ClusterWeight, ConnectConfig, HostRewrite, MaxStreamDuration, Mirror, PathRewrite, Priority,
    RouteAction, UpgradeConfig, WeightSource, WeightedClusters,
};
pub use self::hash::{CookieSpec, HashPolicy, HashSource};
pub use self::path::{PathMatcher, RouteMatch, TlsMatch};
pub use self::respond::{DirectResponse, Redirect, RedirectPath};
pub use self::retry::{Avoid, BackOff, RateLimitedBackOff, ResetFormat, ResetHeader, RetryOn, RetryPolicy, is_canary};

/// A set of virtual hosts (`envoy.config.route.v3.RouteConfiguration`). The default has none.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RouteConfiguration {
    pub name: String,
    pub virtual_hosts: Vec<VirtualHost>,
    /// Lower-case names of headers that are taken from requests which are not internal.
    pub internal_only_headers: Vec<String>,
    pub headers: Mutations,
    /// Apply the changes of the route last instead of first, so that they win.
    pub most_specific_wins: bool,
    /// Refuse routes to clusters that do not exist; `None` leaves it to where the configuration comes from.
    pub validate_clusters: Option<bool>,
    /// The port in the `:authority` of a request plays no part in picking a virtual host.
    pub ignore_port: bool,
    /// What follows a `;` in a path plays no part in matching it.
    pub ignore_path_parameters: bool,
    pub filters: PerRouteConfigs,
    pub metadata: Metadata,
}

/// Routes for some host names (`VirtualHost`).
#[derive(Debug, Clone, PartialEq)]
pub struct VirtualHost {
    pub name: String,
    /// Lower case: names, `*.suffix`, `prefix.*` or `*`. No two virtual hosts share one.
    pub domains: Vec<String>,
    pub routes: Vec<Route>,
    pub require_tls: RequireTls,
    pub headers: Mutations,
    pub filters: PerRouteConfigs,
    /// Send `x-envoy-attempt-count` upstream.
    pub attempt_count_in_request: bool,
    /// Send `x-envoy-attempt-count` downstream.
    pub attempt_count_in_response: bool,
    /// Send `x-envoy-is-timeout-retry` upstream.
    pub is_timeout_retry_header: bool,
    pub metadata: Metadata,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RequireTls {
    #[default]
    None,
    /// Requests that are not internal must use TLS.
    ExternalOnly,
    All,
}

/// A match and what to do then (`Route`).
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    pub name: String,
    pub matches: RouteMatch,
    pub action: Action,
    pub headers: Mutations,
    pub filters: PerRouteConfigs,
    pub metadata: Metadata,
    /// Statistics of its own (`vhost.NAME.route.PREFIX.`); none when empty.
    pub stat_prefix: String,
    /// Most bytes of a request kept for retries and mirrors; `None` leaves it to the listener.
    pub buffer_limit: Option<u64>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Route(Arc<RouteAction>),
    Redirect(Redirect),
    DirectResponse(DirectResponse),
    /// For servers that answer themselves (proxyless gRPC); a proxy answers 500 as Envoy does.
    NonForwarding,
}
