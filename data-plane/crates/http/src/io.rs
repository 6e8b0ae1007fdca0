//! The byte stream under a codec.

use std::any::Any;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// What bytes flow through: TCP, TLS, a unix socket, or memory in a test. Stays on one worker, so it is not `Send`.
pub trait Transport: AsyncRead + AsyncWrite + Unpin {
    /// The socket, when it is that and nothing else: whether it can be read is known without a buffer to read into.
    fn as_tcp(&self) -> Option<&TcpStream> {
        self.as_any().downcast_ref()
    }

    /// For those who know what it may be.
    fn as_any(&self) -> &dyn Any;
}

impl<T: AsyncRead + AsyncWrite + Unpin + 'static> Transport for T {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An owned byte stream of any kind.
pub type Io = Box<dyn Transport>;
