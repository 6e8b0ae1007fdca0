//! The PROXY protocol header that a connection of a cluster begins with, when the cluster has one.
//!
//! Made once a connection. What the header says is part of what makes two connections alike: a connection that told an
//! upstream of one client is never used for another.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use dp_http::info::{Address, ConnectionInfo};
use dp_net::proxy_protocol::encode;
use shared_config::invalid::Problems;
use shared_config::proxy_protocol::{Outbound, Tlv, of_endpoint};

use crate::endpoint::Endpoint;

/// Who a connection is made for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Proxied {
    pub source: Address,
    pub destination: Address,
    pub tlvs: Arc<[(u8, Bytes)]>,
}

impl Proxied {
    /// The client of a downstream connection. `own`: sent when the client had no header itself.
    pub fn of(connection: &ConnectionInfo, own: &[Tlv]) -> Arc<Self> {
        let tlvs = match &connection.proxied {
            Some(tlvs) => Arc::clone(tlvs),
            None => own.iter().map(|tlv| (tlv.kind, tlv.value.clone())).collect(),
        };
        Arc::new(Self { source: connection.remote.clone(), destination: connection.local.clone(), tlvs })
    }
}

/// The header for a connection to `endpoint`. Without a client (a health check) version 1 tells of the connection
/// itself, and version 2 says LOCAL, as Envoy does.
pub(crate) fn header(
    config: &Outbound,
    endpoint: &Endpoint,
    proxied: Option<&Proxied>,
    local: Option<&Address>,
) -> Vec<u8> {
    let addresses = match proxied {
        Some(proxied) => ip(&proxied.source).zip(ip(&proxied.destination)),
        None if config.version == 1 => local.and_then(ip).zip(ip(&endpoint.address)),
        None => None,
    };
    // The nearest to the endpoint wins: its own, then the cluster's, then the client's.
    let of_endpoint = of_endpoint(&endpoint.metadata, &mut Problems::default());
    let own = of_endpoint.iter().chain(config.added.iter().filter(|tlv| !has(&of_endpoint, tlv.kind)));
    let passed = proxied
        .into_iter()
        .flat_map(|proxied| proxied.tlvs.iter())
        .filter(|(kind, _)| config.pass.admits(*kind) && !has(&of_endpoint, *kind) && !has(&config.added, *kind));
    let passed = passed.map(|(kind, value)| (*kind, &value[..]));
    encode(config.version, addresses, own.map(|tlv| (tlv.kind, &tlv.value[..])).chain(passed))
}

fn has(tlvs: &[Tlv], kind: u8) -> bool {
    tlvs.iter().any(|tlv| tlv.kind == kind)
}

fn ip(address: &Address) -> Option<SocketAddr> {
    match address {
        Address::Ip(address) => Some(*address),
        Address::Pipe(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use dp_net::proxy_protocol::{Parsed, ProxyProtocolOptions, parse};
    use shared_config::core::Address as ConfigAddress;
    use shared_config::endpoint::{Assignment, Endpoint as EndpointConfig};
    use shared_config::proxy_protocol::PassTlvs;

    use super::*;
    use crate::cluster::tests;

    fn endpoint() -> Arc<Endpoint> {
        let endpoint = EndpointConfig::new(ConfigAddress::Ip("127.0.0.1:6".parse().unwrap()));
        let cluster = tests::cluster(tests::config(|_| {}), &Assignment::of(vec![endpoint]));
        Arc::clone(cluster.endpoints().next().unwrap())
    }

    #[track_caller]
    fn check(config: &Outbound, proxied: Option<&Proxied>, addresses: Option<&str>, tlvs: &[(u8, &[u8])]) {
        let local = Address::Ip("127.0.0.1:5".parse().unwrap());
        let header = header(config, &endpoint(), proxied, Some(&local));
        let Parsed::Header(read, length) = parse(&header, ProxyProtocolOptions::default()).unwrap() else { panic!() };
        assert_eq!(length, header.len());
        assert_eq!(read.addresses.map(|(from, to)| format!("{from} {to}")).as_deref(), addresses);
        let expected: Vec<_> = tlvs.iter().map(|(kind, value)| (*kind, value.to_vec())).collect();
        assert_eq!(read.tlvs, expected);
    }

    #[test]
    fn a_header_tells_of_the_client_and_passes_on_what_it_may() {
        let tlvs = [(1, Bytes::from_static(b"h2")), (2, Bytes::from_static(b"name")), (3, Bytes::from_static(b"c"))];
        let proxied = Proxied {
            source: Address::Ip("1.2.3.4:5".parse().unwrap()),
            destination: Address::Ip("5.6.7.8:9".parse().unwrap()),
            tlvs: tlvs.into(),
        };
        let added = vec![Tlv { kind: 2, value: Bytes::from_static(b"own") }];
        let config = |version, pass, added| Outbound { version, pass, added };
        let said = Some("1.2.3.4:5 5.6.7.8:9");
        check(&config(1, PassTlvs::None, vec![]), Some(&proxied), said, &[]);
        check(&config(2, PassTlvs::None, vec![]), Some(&proxied), said, &[]);
        check(&config(2, PassTlvs::Only(vec![1, 2]), added), Some(&proxied), said, &[(2, b"own"), (1, b"h2")]);
        check(&config(2, PassTlvs::None, vec![]), None, None, &[]);
        check(&config(1, PassTlvs::None, vec![]), None, Some("127.0.0.1:5 127.0.0.1:6"), &[]);
    }
}
