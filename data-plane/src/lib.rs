//! The program `weir-proxy`: wires the data plane together and decides nothing.

mod admin;
mod control;
mod endpoint_reports;
pub mod flags;
mod health;
mod health_checks;
mod loads;
mod names;
mod outlier_log;
mod process;
mod refresh;
mod signals;
mod sources;
mod stats;

pub use process::{Options, Proxy, StartError, validate};
