//! Where a request wants to go, for clusters that leave that to the request: original destinations, forwarded hosts.
//!
//! A header is looked at only where the cluster says so: whoever can send it chooses where this proxy connects to.

use std::net::SocketAddr;

use dp_http::StreamInfo;
use dp_http::info::{Address, ConnectionInfo};
use dp_upstream::{Cluster, Destination};
use shared_config::cluster::{Discovery, OriginalDst};

use crate::stream::Stream;

/// For a request.
pub(crate) fn of_request<'s>(cluster: &Cluster, stream: &'s Stream<'_>) -> Destination<'s> {
    match &cluster.config.discovery {
        Discovery::ForwardProxy(_) => Destination::Authority(stream.request.authority()),
        Discovery::OriginalDst(from) => {
            let by_metadata =
                || metadata(from, &stream.info).and_then(|text| address(cluster, text, stream.worker.shard));
            let by_header = || {
                let text = stream.request.headers.text(from.header.as_deref()?)?;
                address(cluster, text, stream.worker.shard)
            };
            original(from, by_metadata().or_else(by_header), &stream.info.connection)
        }
        _ => Destination::Unknown,
    }
}

/// For a connection that is passed on as it is: to `host`, else to the one it names by TLS.
pub(crate) fn of_connection<'c>(
    cluster: &Cluster,
    connection: &'c ConnectionInfo,
    host: Option<&'c str>,
) -> Destination<'c> {
    match &cluster.config.discovery {
        Discovery::ForwardProxy(_) => {
            let host = host.or(connection.requested_server_name.as_deref());
            host.map_or(Destination::Unknown, Destination::Authority)
        }
        Discovery::OriginalDst(from) => original(from, None, connection),
        _ => Destination::Unknown,
    }
}

/// What the request says, else where the client connected to, if that is known.
fn original(from: &OriginalDst, said: Option<SocketAddr>, connection: &ConnectionInfo) -> Destination<'static> {
    let connected = || match connection.local {
        Address::Ip(address) if connection.is_restored => Some(address),
        _ => None,
    };
    let Some(mut address) = said.or_else(connected) else { return Destination::Unknown };
    if let Some(port) = from.port {
        address.set_port(port);
    }
    Destination::Address(address)
}

fn metadata<'i>(from: &OriginalDst, info: &'i StreamInfo) -> Option<&'i str> {
    let key = from.metadata.as_ref()?;
    Some(info.metadata.as_ref()?.get(&key.filter)?.get(&key.path)?.as_str())
}

fn address(cluster: &Cluster, text: &str, shard: usize) -> Option<SocketAddr> {
    let address = text.trim().parse().ok();
    if address.is_none() {
        cluster.state.stats.original_dst_host_invalid().inc(shard);
    }
    address
}
