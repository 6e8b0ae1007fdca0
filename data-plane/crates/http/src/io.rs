//! The byte stream under a codec.

use tokio::io::{AsyncRead, AsyncWrite};

/// What bytes flow through: TCP, TLS, a unix socket, or memory in a test. Stays on one worker, so it is not `Send`.
pub trait Transport: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Transport for T {}

/// An owned byte stream of any kind.
pub type Io = Box<dyn Transport>;
