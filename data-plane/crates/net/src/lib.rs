//! Sockets: listening, accepting, dialling, TLS, what a connection's first bytes say, and copying bytes.
//!
//! Never HTTP messages, never configuration: options are plain values.

pub mod buffer;
pub mod client_hello;
pub mod dial;
pub mod listen;
pub mod proxy_protocol;
pub mod relay;
pub mod rewind;
pub mod sniff;
pub mod stream;
pub mod tls;
pub mod udp;

pub use dial::{DialOptions, dial, dial_first};
pub use listen::{Accepted, BindError, Bound, ListenOptions, Listener};
pub use relay::{Direction, End, Relayed, Side, relay};
pub use rewind::Rewind;
pub use stream::{Keepalive, Reset, Resettable, Stream};
