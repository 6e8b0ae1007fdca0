//! HTTP/2 (RFC 9113) over the `h2` crate, both sides.

mod client;
mod server;

pub use client::ClientStream;
pub use server::ServerStream;
