//! The program `weir-proxy`: wires the data plane together and decides nothing.

mod admin;
mod control;
pub mod flags;
mod health;
mod health_checks;
mod loads;
mod names;
mod process;
mod refresh;
mod signals;
mod sources;

pub use process::{Options, Proxy, StartError, validate};
