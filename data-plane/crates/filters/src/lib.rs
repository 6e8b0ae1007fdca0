//! Filters: the contract of HTTP filters, the registry, the chain of a route, network filters, and one file per filter.
//!
//! A filter is plain `&self` functions over its immutable compiled configuration and a small state per stream.
//! Never: upstream connections, sockets, the proxy, spawning tasks.

mod bucket;
pub mod chain;
mod fields;
pub mod filter;
pub mod http;
mod matching;
pub mod network;
pub mod registry;
pub mod run;
pub mod services;
mod state;
#[cfg(test)]
mod testing;

pub use chain::{Chain, Compiler, Level};
pub use filter::{Cx, Flow, HeaderEdit, HeaderEdits, HttpFilter, Verdict, Wait};
pub use run::{Run, Step};
pub use services::{ClusterHealth, Health, KeepStore, NameCaches, NameLookup, Names, Scope, Services};
