//! The connections of both servers: accepting them, TLS, what one of them may ask for, and the end of those that say nothing.
//!
//! Who is at the other end has shown nothing yet. Never looks at what is said.

mod connection;
mod incoming;

use std::time::Duration;

use tonic::transport::Server;

pub use connection::Connection;
pub use incoming::{Incoming, TlsIncoming};

/// A handshake that takes longer is given up.
pub const HANDSHAKE: Duration = Duration::from_secs(10);

// A connection whose other end is gone is found within about 40 seconds.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A proxy in between may bring many clients over one connection.
const STREAMS: u32 = 1000;
/// A client that makes us reset more streams than this is cut off.
const MAX_RESETS: usize = 1024;

/// A server with the limits of both.
pub fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS)
        .http2_max_local_error_reset_streams(Some(MAX_RESETS))
}
