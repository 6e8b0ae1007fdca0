//! The management API: the same services over gRPC and over REST/JSON, on one port.
//!
//! Who may ask, what to answer, how errors look. No logic of configurations: that is `cp-pipeline`.

mod apart;
pub mod auth;
pub mod calls;
mod config;
mod convert;
mod endpoint;
mod failure;
mod fleet;
mod grpc;
mod redact;
mod rest;
pub mod serve;

pub use auth::{Access, Role, Token, TokenError, hash_token};
pub use config::ConfigCore;
pub use fleet::FleetCore;
pub use serve::{Management, ServeError, Tls};
