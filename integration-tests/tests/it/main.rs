//! The running proxy between raw clients and scripted origins, topic by topic.

#![allow(clippy::unwrap_used)]

mod balancing;
mod changes;
mod connect;
mod examples;
mod file_sources;
mod discovery;
mod http1;
mod http2;
mod network_filters;
mod passthrough;
mod proxy_protocol;
mod retries;
mod routing;
mod tcp;
mod udp;
mod upgrades;
