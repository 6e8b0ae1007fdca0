//! From a request to its route, and the small calculations a route asks for: rewrites, redirects, hashes, headers.
//!
//! Everything here is compiled once a snapshot and pure afterwards: no clock, no random source, no I/O. The caller
//! hands in the stream's random value.

mod hash;
mod headers;
mod host;
mod inline;
mod matcher;
mod path;
mod query;
mod redirect;
mod rewrite;
mod table;
mod weight;

use dp_format::FormatError;
use dp_http::names::InvalidName;

pub use hash::{HashPolicies, Hashed};
pub use headers::{HeaderLevels, HeaderPlan, HeaderSteps};
pub use matcher::{MatchContext, RouteMatcher, is_grpc};
pub use query::query_parameter;
pub use redirect::{Redirect, original_location, tls_location};
pub use rewrite::{HostRewrite, PathRewrite};
pub use table::{Entry, Found, RouteTable, VirtualHost};
pub use weight::Weights;

/// What of a sound route configuration cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    #[error("{0}")]
    Name(#[from] InvalidName),
    #[error("value of header {name}: {error}")]
    Format { name: String, error: FormatError },
}
