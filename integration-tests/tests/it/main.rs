//! The running proxy between raw clients and scripted origins, topic by topic.

#![allow(clippy::unwrap_used)]

mod attacks;
mod balancing;
mod breakers;
mod changes;
mod connect;
mod deadlines;
mod discovery;
mod examples;
mod faults;
mod file_sources;
mod filter_state;
mod handshakes;
mod health;
mod hedging;
mod http1;
mod http2;
mod load_reports;
mod network_filters;
mod outlier;
mod passthrough;
mod proxy_protocol;
mod retries;
mod routing;
mod stats;
mod tcp;
mod udp;
mod upgrades;
