//! What a valid proxy configuration is: plain types on top, decode from the wire below.
//!
//! No I/O, no async, nothing that runs. Both planes link this crate, so that the control plane sees a resource with
//! the proxy's own eyes before it commits it.

// Deprecated fields are decoded or refused like any other.
#![allow(deprecated)]

pub mod access_log;
pub mod bootstrap;
pub mod cluster;
pub mod core;
pub mod endpoint;
pub mod filter_state;
pub mod hcm;
pub mod header;
pub mod health_check;
pub mod http_filter;
pub mod invalid;
pub mod lb_policy;
pub mod listener;
pub mod matcher;
pub mod network_filter;
pub mod outlier;
pub mod proxy_protocol;
pub mod resource;
pub mod route;
pub mod runtime;
pub mod secret;
pub mod substitution;
pub mod tcp_proxy;
pub mod tls;
pub mod udp_proxy;
