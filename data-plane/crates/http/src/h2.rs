//! HTTP/2 (RFC 9113) over the `h2` crate, both sides.
//!
//! That crate does frames, HPACK, flow control and some bounds against floods (resets, CONTINUATION, small frames);
//! here are the others, the rules on heads, back-pressure towards our own streams, and our message types. A WebSocket by extended
//! CONNECT (RFC 8441) looks to the rest of the proxy like one by HTTP/1: GET with a `connect_protocol`, answered 101.

mod client;
mod convert;
mod floods;
mod incoming;
mod keepalive;
mod options;
mod outgoing;
mod rewind;
mod server;

pub use client::{ClientConn, ClientStream, Driver};
pub use floods::FrameLimits;
pub use options::{ClientOptions, Limits, Ping, ServerOptions};
use rewind::Rewind;
pub use server::{ServerConn, ServerStream};
