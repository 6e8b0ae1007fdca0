//! Listening sockets: bound for all workers before anything starts, and the accept loop's one step.
//!
//! With SO_REUSEPORT every worker has its own socket and the kernel spreads connections; else they share one.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::sync::Arc;
use std::time::Duration;

use dp_http::info::Address;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use crate::stream::{Keepalive, Stream};

/// How to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenOptions {
    /// How many workers accept.
    pub workers: usize,
    /// Whether each worker has its own socket.
    pub reuse_port: bool,
    /// Refuses an address at which another process listens with SO_REUSEPORT too; the kernel would share it silently.
    pub exclusive: bool,
    pub backlog: u32,
    /// An IPv6 wildcard address also takes IPv4 connections.
    pub ipv4_compat: bool,
    pub keepalive: Option<Keepalive>,
    /// Permissions of a unix socket's file.
    pub mode: Option<u32>,
    /// Takes datagrams; they stick to a worker only where each has its own socket, so that else only one takes them.
    pub datagrams: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {}", reason(source))]
pub struct BindError {
    pub address: Address,
    pub source: io::Error,
}

/// Sockets that are bound and listening, one for each worker, outside of any runtime.
#[derive(Debug)]
pub struct Bound {
    address: Address,
    sockets: Vec<Socket>,
}

/// One worker's listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: ListenSocket,
    /// The local address of every accepted connection, when it cannot differ from the one listened on.
    fixed_local: Option<Address>,
    address: Address,
}

#[derive(Debug)]
enum ListenSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A connection that came in.
#[derive(Debug)]
pub struct Accepted {
    pub stream: Stream,
    pub remote: Address,
    pub local: Address,
}

/// How long accepting rests when the process is out of descriptors or memory: from, and up to.
const REST: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            workers: 1,
            reuse_port: true,
            exclusive: true,
            backlog: 4096,
            ipv4_compat: false,
            keepalive: None,
            mode: None,
            datagrams: false,
        }
    }
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "the address is in use by another process".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied (ports below 1024 need CAP_NET_BIND_SERVICE)".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this host has no such address".to_owned(),
        _ => error.to_string(),
    }
}

// === impl Bound ===

impl Bound {
    /// Binds and listens for all workers, or for none. A port of 0 is resolved once, and all workers share it.
    pub fn bind(address: &Address, options: &ListenOptions) -> Result<Self, BindError> {
        let bound = match address {
            Address::Ip(ip) => bind_ip(*ip, options),
            Address::Pipe(path) => bind_unix(path, options),
        };
        bound.map_err(|source| BindError { address: address.clone(), source })
    }

    /// The address with its real port.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The listeners, one for each worker, to be turned into [`Listener`]s on their workers.
    pub fn split(self) -> Vec<Bound> {
        let Self { address, sockets } = self;
        sockets.into_iter().map(|socket| Self { address: address.clone(), sockets: vec![socket] }).collect()
    }

    /// Registers the first socket with the runtime of this thread, for datagrams.
    pub fn into_datagrams(mut self) -> io::Result<crate::udp::Datagrams> {
        let socket = self.sockets.pop().ok_or(io::ErrorKind::NotConnected)?;
        match self.address {
            Address::Ip(address) => crate::udp::Datagrams::new(socket, address),
            Address::Pipe(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Registers the first socket with the runtime of this thread.
    pub fn into_listener(mut self) -> io::Result<Listener> {
        let socket = self.sockets.pop().ok_or(io::ErrorKind::NotConnected)?;
        let fixed_local = match &self.address {
            Address::Ip(ip) if ip.ip().is_unspecified() => None,
            address => Some(address.clone()),
        };
        let socket = match &self.address {
            Address::Ip(_) => ListenSocket::Tcp(TcpListener::from_std(socket.into())?),
            Address::Pipe(_) => ListenSocket::Unix(UnixListener::from_std(socket.into())?),
        };
        Ok(Listener { socket, fixed_local, address: self.address })
    }
}

fn bind_ip(mut address: SocketAddr, options: &ListenOptions) -> io::Result<Bound> {
    if options.exclusive && options.reuse_port && address.port() != 0 {
        // Without SO_REUSEPORT the kernel refuses an address that anybody listens on.
        open_ip(address, &ListenOptions { reuse_port: false, ..options.clone() })?;
    }
    let first = open_ip(address, options)?;
    address = first.local_addr()?.as_socket().unwrap_or(address);
    let mut sockets = vec![first];
    while sockets.len() < options.workers.max(1) && (options.reuse_port || !options.datagrams) {
        sockets.push(if options.reuse_port { open_ip(address, options)? } else { sockets[0].try_clone()? });
    }
    if options.datagrams {
        return Ok(Bound { address: Address::Ip(address), sockets });
    }
    // Listening comes last: no connection may wait in the queue of a socket that is closed again on an error.
    let listened = if options.reuse_port { &sockets[..] } else { &sockets[..1] };
    for socket in listened {
        socket.listen(backlog(options))?;
    }
    Ok(Bound { address: Address::Ip(address), sockets })
}

fn backlog(options: &ListenOptions) -> i32 {
    i32::try_from(options.backlog).unwrap_or(i32::MAX)
}

fn open_ip(address: SocketAddr, options: &ListenOptions) -> io::Result<Socket> {
    let kind = if options.datagrams { Type::DGRAM } else { Type::STREAM };
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    socket.set_nonblocking(true)?;
    // For datagrams it would let another process take the address.
    socket.set_reuse_address(!options.datagrams)?;
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(!options.ipv4_compat)?;
    }
    if !options.datagrams {
        // Connections inherit both from the listening socket, which saves a system call for each.
        socket.set_tcp_nodelay(true)?;
        if let Some(keepalive) = options.keepalive {
            keepalive.apply(&SockRef::from(&socket))?;
        }
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn bind_unix(path: &Arc<str>, options: &ListenOptions) -> io::Result<Bound> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&socket2::SockAddr::unix(&**path)?)?;
    if let Some(mode) = options.mode {
        std::fs::set_permissions(&**path, std::fs::Permissions::from_mode(mode))?;
    }
    socket.listen(backlog(options))?;
    let mut sockets = vec![socket];
    while sockets.len() < options.workers.max(1) {
        sockets.push(sockets[0].try_clone()?);
    }
    Ok(Bound { address: Address::Pipe(Arc::clone(path)), sockets })
}

/// Removes the socket file of a process that ended without doing so. A file of another kind stays.
fn remove_stale(path: &str) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => {}
        _ => return Ok(()),
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        _ => Ok(()),
    }
}

// === impl Listener ===

impl Listener {
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The next connection. Errors that concern only a connection are skipped; when the process is out of descriptors
    /// or memory, accepting rests a little and goes on. Safe to cancel.
    pub async fn accept(&self) -> Accepted {
        let mut rest = REST.0;
        loop {
            let error = match self.try_accept().await {
                Ok(accepted) => return accepted,
                Err(error) => error,
            };
            if concerns_only_one_connection(&error) {
                continue;
            }
            tracing::warn!(address = %self.address, %error, "cannot accept connections; trying again");
            tokio::time::sleep(rest).await;
            rest = (rest * 2).min(REST.1);
        }
    }

    async fn try_accept(&self) -> io::Result<Accepted> {
        match &self.socket {
            ListenSocket::Tcp(listener) => {
                let (stream, remote) = listener.accept().await?;
                let local = match &self.fixed_local {
                    Some(local) => local.clone(),
                    None => Address::Ip(stream.local_addr()?),
                };
                Ok(Accepted { stream: Stream::Tcp(stream), remote: Address::Ip(remote), local })
            }
            ListenSocket::Unix(listener) => {
                let (stream, remote) = listener.accept().await?;
                let path = remote.as_pathname().and_then(|path| path.to_str()).unwrap_or_default();
                Ok(Accepted {
                    stream: Stream::Unix(stream),
                    remote: Address::Pipe(Arc::from(path)),
                    local: self.address.clone(),
                })
            }
        }
    }
}

fn concerns_only_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, NotConnected, PermissionDenied};
    // EPROTO and the network errors that Linux passes on from the new connection.
    let passed_on = matches!(error.raw_os_error(), Some(71 | 92 | 95 | 100 | 101 | 112 | 113));
    passed_on
        || matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | NotConnected | PermissionDenied)
}

#[cfg(test)]
mod tests;
