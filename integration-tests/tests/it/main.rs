//! The running proxy between raw clients and scripted origins, topic by topic.

#![allow(clippy::unwrap_used)]

mod balancing;
mod changes;
mod connect;
mod discovery;
mod examples;
mod faults;
mod file_sources;
mod health;
mod http1;
mod http2;
mod retries;
mod routing;
mod tcp;
mod upgrades;
