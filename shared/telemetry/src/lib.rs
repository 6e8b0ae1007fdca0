//! What both planes say about themselves: log set-up, and a registry of statistics with Envoy's names rendered as
//! Envoy's text, JSON and Prometheus.
//!
//! Never names of particular metrics: who counts something defines its block with [`stats!`].

pub mod log;
pub mod stats;

pub use stats::histogram::Histogram;
pub use stats::registry::Registry;
pub use stats::render::Selection;
pub use stats::scope::Scope;
