//! HTTP messages and the codecs between them and bytes.
//!
//! After the codec, nothing knows which version of HTTP a request came by. Nothing outside this crate names a type of
//! an HTTP library. Never: filters, clusters, configuration, sockets.

mod authority;
pub mod cookie;
pub mod field;
pub mod flags;
pub mod h1;
pub mod h2;
pub mod head;
pub mod headers;
mod hop_by_hop;
pub mod info;
pub mod io;
pub mod names;
pub mod reply;
mod spare;
pub mod stream;

pub use field::Field;
pub use head::{Method, Protocol, RequestHead, ResponseHead, Scheme};
pub use headers::Headers;
pub use hop_by_hop::InvalidConnection;
pub use info::StreamInfo;
pub use io::Io;
pub use names::{HeaderName, NameSet, name};
pub use reply::LocalReply;
pub use stream::{ClientStream, Reset, ServerStream, StreamError, StreamErrorKind, WireSizes};

/// A piece of a message after its head.
#[derive(Debug)]
pub enum Frame {
    Data(bytes::Bytes),
    /// The end of the message, with trailer fields.
    Trailers(Headers),
}
