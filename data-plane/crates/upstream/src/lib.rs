//! Clusters at work: which endpoint takes a request, how much of a cluster may be in use, and the connections to it.
//!
//! Never filters, routes or the proxy: a caller names a cluster, picks an endpoint and checks a connection out.

pub mod balance;
pub mod breaker;
pub mod cluster;
pub mod dns;
pub mod endpoint;
mod grpc;
pub mod health;
pub mod orca;
pub mod outlier;
pub mod pick;
pub mod pool;
pub mod proxy_header;
pub mod refresh;
pub mod stats;

pub use balance::Place;
pub use balance::subset::Criteria;
pub use balance::zone::LocalCluster;
pub use breaker::{Guard, Priority, Resource};
pub use cluster::on_demand::Destination;
pub use cluster::{Cluster, Site, Tls};
pub use endpoint::{Endpoint, EndpointState, Health};
pub use outlier::Outcome;
pub use pick::{PickContext, PickError};
pub use pool::{Asked, Checkout, CheckoutOptions, ConnectError, Pools, RawConnection};
pub use proxy_header::Proxied;
