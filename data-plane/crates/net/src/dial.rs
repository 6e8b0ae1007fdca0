//! Connecting to an address.
//!
//! Never a deadline (the caller has one), never a name to resolve.

use std::io;
use std::net::SocketAddr;

use dp_http::info::Address;
use socket2::SockRef;
use tokio::net::{TcpSocket, UnixStream};

use crate::stream::{Keepalive, Stream};

mod race;

pub use race::dial_first;

/// How to connect.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct DialOptions {
    /// The address to connect from; port 0 lets the system choose.
    pub source: Option<SocketAddr>,
    pub keepalive: Option<Keepalive>,
}

/// The address to connect from cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct OfSource(io::Error);

/// Whether connecting failed because the address to connect from cannot be used.
pub fn is_of_source(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<OfSource>())
}

/// Connects. Dropping the future gives up.
pub async fn dial(address: &Address, options: &DialOptions) -> io::Result<Stream> {
    match address {
        Address::Ip(address) => dial_tcp(*address, options).await,
        Address::Pipe(path) => Ok(Stream::Unix(UnixStream::connect(&**path).await?)),
    }
}

async fn dial_tcp(address: SocketAddr, options: &DialOptions) -> io::Result<Stream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    if let Some(keepalive) = options.keepalive {
        keepalive.apply(&SockRef::from(&socket))?;
    }
    if let Some(source) = options.source.filter(|source| source.is_ipv4() == address.is_ipv4()) {
        socket.bind(source).map_err(|error| io::Error::new(error.kind(), OfSource(error)))?;
    }
    Ok(Stream::Tcp(socket.connect(address).await?))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_source_that_cannot_be_used_is_told_from_a_connect_that_failed() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        // An address for documentation, which no machine has (RFC 5737).
        let options = DialOptions { source: Some(([192, 0, 2, 1], 0).into()), ..DialOptions::default() };
        for (options, of_source) in [(options, true), (DialOptions::default(), false)] {
            let error = dial(&Address::Ip(free), &options).await.unwrap_err();
            assert_eq!(is_of_source(&error), of_source, "{error}");
        }
    }

    #[tokio::test]
    async fn keep_alive_reaches_the_socket() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let keepalive =
            Keepalive { time: Some(Duration::from_secs(77)), interval: Some(Duration::from_secs(7)), probes: Some(3) };
        let options = DialOptions { keepalive: Some(keepalive), ..DialOptions::default() };
        let address = Address::Ip(listener.local_addr().unwrap());
        let Stream::Tcp(stream) = dial(&address, &options).await.unwrap() else { panic!("TCP") };
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(77));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(7));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
    }
}
