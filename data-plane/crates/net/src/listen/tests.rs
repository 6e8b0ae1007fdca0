//! Listening on loopback.

use std::os::unix::fs::PermissionsExt;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::dial::{DialOptions, dial};

fn loopback() -> Address {
    Address::Ip(SocketAddr::from(([127, 0, 0, 1], 0)))
}

fn workers(workers: usize) -> ListenOptions {
    ListenOptions { workers, ..ListenOptions::default() }
}

#[tokio::test]
async fn all_workers_share_the_port_that_was_chosen() {
    let bound = Bound::bind(&loopback(), &workers(3)).unwrap();
    let address = bound.address().clone();
    assert!(address.port() > Some(0));
    let listeners: Vec<Listener> = bound.split().into_iter().map(|bound| bound.into_listener().unwrap()).collect();
    assert_eq!(listeners.len(), 3);
    assert!(listeners.iter().all(|listener| *listener.address() == address));
    let mut client = dial(&address, &DialOptions::default()).await.unwrap();
    let accepted = tokio::select! {
        accepted = listeners[0].accept() => accepted,
        accepted = listeners[1].accept() => accepted,
        accepted = listeners[2].accept() => accepted,
    };
    assert_eq!(accepted.local, address);
    let Stream::Tcp(tcp) = &accepted.stream else { panic!("not TCP") };
    assert!(tcp.nodelay().unwrap(), "inherited from the listening socket");
    assert_eq!(Address::Ip(tcp.peer_addr().unwrap()), accepted.remote);
    let mut server = accepted.stream;
    server.write_all(b"hi").await.unwrap();
    let mut got = [0; 2];
    client.read_exact(&mut got).await.unwrap();
}

#[test]
fn a_port_in_use_is_refused_with_its_address_even_when_it_could_be_shared() {
    let first = Bound::bind(&loopback(), &workers(1)).unwrap();
    let error = Bound::bind(first.address(), &workers(2)).unwrap_err();
    let expected = format!("cannot listen on {}: the address is in use by another process", first.address());
    assert_eq!(error.to_string(), expected);
    let shared = ListenOptions { exclusive: false, ..workers(2) };
    assert!(Bound::bind(first.address(), &shared).is_ok());
}

#[test]
fn an_address_of_another_host_is_refused() {
    let address = Address::Ip("192.0.2.1:0".parse().unwrap());
    let error = Bound::bind(&address, &workers(1)).unwrap_err();
    assert_eq!(error.to_string(), "cannot listen on 192.0.2.1:0: this host has no such address");
}

#[tokio::test]
async fn without_reuse_port_workers_share_one_socket() {
    let options = ListenOptions { reuse_port: false, ..workers(2) };
    let bound = Bound::bind(&loopback(), &options).unwrap();
    let address = bound.address().clone();
    let mut listeners = bound.split().into_iter().map(|bound| bound.into_listener().unwrap());
    let (first, second) = (listeners.next().unwrap(), listeners.next().unwrap());
    drop(first);
    let options = DialOptions::default();
    let (dialled, _) = tokio::join!(dial(&address, &options), second.accept());
    dialled.unwrap();
}

#[tokio::test]
async fn a_wildcard_listener_tells_the_local_address_of_each_connection() {
    let address = Address::Ip("[::]:0".parse().unwrap());
    let bound = Bound::bind(&address, &ListenOptions { ipv4_compat: true, ..workers(1) }).unwrap();
    let port = bound.address().port().unwrap();
    let listener = bound.into_listener().unwrap();
    let target = Address::Ip(SocketAddr::from(([127, 0, 0, 1], port)));
    let options = DialOptions { source: Some("127.0.0.1:0".parse().unwrap()), ..DialOptions::default() };
    let (dialled, accepted) = tokio::join!(dial(&target, &options), listener.accept());
    dialled.unwrap();
    assert_eq!(accepted.local.ip(), target.ip());
}

#[tokio::test]
async fn a_unix_socket_has_its_mode_and_a_stale_file_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weir.sock");
    let address = Address::Pipe(Arc::from(path.to_str().unwrap()));
    let options = ListenOptions { mode: Some(0o600), ..workers(2) };
    drop(Bound::bind(&address, &options).unwrap());
    let bound = Bound::bind(&address, &options).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(Bound::bind(&address, &options).is_err(), "somebody listens there");
    let listener = bound.split().remove(1).into_listener().unwrap();
    let options = DialOptions::default();
    let (dialled, accepted) = tokio::join!(dial(&address, &options), listener.accept());
    dialled.unwrap();
    assert_eq!(accepted.local, address);
}

#[test]
fn a_file_that_is_no_socket_is_never_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    std::fs::write(&path, "keep me").unwrap();
    let address = Address::Pipe(Arc::from(path.to_str().unwrap()));
    assert!(Bound::bind(&address, &workers(1)).is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "keep me");
}
