//! Connecting to an address.
//!
//! Never a deadline (the caller has one), never a name to resolve.

use std::io;
use std::net::SocketAddr;

use dp_http::info::Address;
use socket2::SockRef;
use tokio::net::{TcpSocket, UnixStream};

use crate::stream::{Keepalive, Stream};

/// How to connect.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct DialOptions {
    /// The address to connect from; port 0 lets the system choose.
    pub source: Option<SocketAddr>,
    pub keepalive: Option<Keepalive>,
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
        socket.bind(source)?;
    }
    Ok(Stream::Tcp(socket.connect(address).await?))
}
