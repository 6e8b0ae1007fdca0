//! Datagrams: a socket that takes them from many senders, and one that talks to a single endpoint.
//!
//! Sending never waits: what the kernel does not take is lost, as datagrams are.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::UdpSocket;

/// A socket for the datagrams of many.
#[derive(Debug)]
pub struct Datagrams {
    socket: UdpSocket,
    local: SocketAddr,
}

// === impl Datagrams ===

impl Datagrams {
    pub(crate) fn new(socket: Socket, local: SocketAddr) -> io::Result<Self> {
        Ok(Self { socket: UdpSocket::from_std(socket.into())?, local })
    }

    /// The address it listens on. Where that is a wildcard, answers come from the address that the route to the client
    /// has.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The length and sender of the next datagram; what does not fit into `buffer` is cut off. Safe to cancel.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.socket.recv_from(buffer).await
    }

    pub fn send(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        let sent = SockRef::from(&self.socket).send_to(bytes, &to.into())?;
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

/// A socket that only talks to one endpoint.
#[derive(Debug)]
pub struct Channel {
    socket: UdpSocket,
}

// === impl Channel ===

impl Channel {
    /// Opens a socket to `to`, from `source` if one is given.
    pub fn open(to: SocketAddr, source: Option<SocketAddr>) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::DGRAM, None)?;
        socket.set_nonblocking(true)?;
        if let Some(source) = source.filter(|source| source.is_ipv4() == to.is_ipv4()) {
            socket.bind(&source.into())?;
        }
        socket.connect(&to.into())?;
        Ok(Self { socket: UdpSocket::from_std(socket.into())? })
    }

    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = SockRef::from(&self.socket).send(bytes)?;
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Waits until there is something to receive. Safe to cancel.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// The length of a datagram that is there; what does not fit into `buffer` is cut off.
    pub fn try_receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.try_recv(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::{Bound, ListenOptions};
    use dp_http::info::Address;

    #[tokio::test]
    async fn an_answer_reaches_who_asked() {
        let options = ListenOptions { datagrams: true, ..ListenOptions::default() };
        let bound = Bound::bind(&Address::Ip("127.0.0.1:0".parse().unwrap()), &options).unwrap();
        let datagrams = bound.into_datagrams().unwrap();
        let channel = Channel::open(datagrams.local(), None).unwrap();
        channel.send(b"question").unwrap();
        let mut buffer = [0; 5];
        let (length, from) = datagrams.receive(&mut buffer).await.unwrap();
        assert_eq!((&buffer, length), (b"quest", 5));
        datagrams.send(b"answer", from).unwrap();
        channel.readable().await.unwrap();
        assert_eq!(channel.try_receive(&mut [0; 100]).unwrap(), 6);
    }

    #[tokio::test]
    async fn an_address_that_another_process_has_is_refused() {
        let options = ListenOptions { datagrams: true, workers: 2, ..ListenOptions::default() };
        let first = Bound::bind(&Address::Ip("127.0.0.1:0".parse().unwrap()), &options).unwrap();
        let address = first.address().clone();
        assert_eq!(first.split().len(), 2);
        let other = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let taken = Address::Ip(other.local_addr().unwrap());
        assert!(Bound::bind(&taken, &options).is_err());
        assert!(Bound::bind(&address, &options).is_ok());
        let single = ListenOptions { reuse_port: false, ..options };
        assert_eq!(Bound::bind(&address, &single).unwrap().split().len(), 1);
    }
}
