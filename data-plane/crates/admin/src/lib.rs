//! The admin server: Envoy's paths over HTTP, for people, probes and scrapers.
//!
//! Reads everything through [`AdminState`]; what changes something is POST only. Never the proxy's own listeners.

mod config_dump;
mod handlers;
mod query;
pub mod server;
pub mod state;
mod views;

pub use server::{Admin, serve};
pub use state::{
    AdminState, Check, ClusterView, Drain, Exchange, HostView, ListenerView, Ready, ThresholdsView, Unready,
};
