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
mod retries;
mod routing;
mod stats;
mod tcp;
mod upgrades;
