//! Wire types: the Envoy v3 API and our own protos, generated at build time, and the JSON/YAML codec for them.
//!
//! Never imports a workspace crate.

mod any;
pub mod json;
pub mod pgv;
pub use any::Any;

#[allow(clippy::all, unreachable_pub, dead_code, rust_2018_idioms, missing_docs)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/envoy/mod.rs"));
    pub mod own {
        include!(concat!(env!("OUT_DIR"), "/weir/mod.rs"));
    }
}
pub use generated::own::weir;

/// The descriptors of our own protos, for gRPC reflection.
pub const WEIR_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/weir.binpb"));

pub use generated::{envoy, google, udpa, validate, xds};
