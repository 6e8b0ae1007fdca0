//! The PROXY protocol, versions 1 and 2, at the start of a connection: read, and written.
//!
//! Reading is strict: a header that is not exactly right ends the connection, because its address is trusted.

use std::io;
use std::net::{IpAddr, SocketAddr};

use proxy_header::{Error, ParseConfig, Protocol, ProxyHeader};
use tokio::io::AsyncRead;

use crate::rewind::Rewind;

/// Which headers are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyProtocolOptions {
    pub allow_v1: bool,
    pub allow_v2: bool,
    /// A connection that does not start with a header is taken as it is.
    pub optional: bool,
}

/// What a header said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxied {
    pub version: u8,
    /// Source and destination; `None` for a connection of the proxy itself (LOCAL, UNKNOWN) or a unix socket.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// The extensions of version 2, by their type.
    pub tlvs: Vec<(u8, Vec<u8>)>,
}

#[derive(Debug, thiserror::Error)]
pub enum ProxyProtocolError {
    #[error("the connection does not start with a PROXY protocol header")]
    Missing,
    #[error("the PROXY protocol header is malformed")]
    Malformed,
    #[error("PROXY protocol version {0} is not allowed here")]
    Version(u8),
    #[error("the PROXY protocol header is longer than {LIMIT} bytes")]
    TooLong,
    #[error("the connection ended within the PROXY protocol header")]
    Ended,
    #[error("cannot read the PROXY protocol header: {0}")]
    Io(#[from] io::Error),
}

/// The longest header taken, extensions included.
pub const LIMIT: usize = 4096;

const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

impl Default for ProxyProtocolOptions {
    fn default() -> Self {
        Self { allow_v1: true, allow_v2: true, optional: false }
    }
}

/// Reads and takes away the header. `None` when there is none and it is optional. The deadline is the caller's.
pub async fn read_header<S: AsyncRead + Unpin>(
    stream: &mut Rewind<S>,
    options: ProxyProtocolOptions,
) -> Result<Option<Proxied>, ProxyProtocolError> {
    loop {
        match parse(stream.ahead(), options)? {
            Parsed::Header(proxied, length) => {
                stream.consume(length);
                return Ok(Some(proxied));
            }
            Parsed::None => return Ok(None),
            Parsed::Incomplete => {
                if stream.ahead().len() >= LIMIT {
                    return Err(ProxyProtocolError::TooLong);
                }
                if !stream.read_ahead(stream.ahead().len() + 1, LIMIT).await? {
                    return Err(ProxyProtocolError::Ended);
                }
            }
        }
    }
}

/// What the first bytes of a connection are.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A header, and its length.
    Header(Proxied, usize),
    /// No header, and none was required.
    None,
    Incomplete,
}

/// Parses the first bytes of a connection.
pub fn parse(bytes: &[u8], options: ProxyProtocolOptions) -> Result<Parsed, ProxyProtocolError> {
    // Where a header is optional, those of a version that is not allowed are not looked for, as in Envoy.
    let looked_for = |allowed: bool, signature| {
        if allowed || !options.optional { starts(bytes, signature) } else { Some(false) }
    };
    let version = match (looked_for(options.allow_v1, V1), looked_for(options.allow_v2, V2)) {
        (Some(true), _) => 1,
        (_, Some(true)) => 2,
        (None, _) | (_, None) => return Ok(Parsed::Incomplete),
        _ if options.optional => return Ok(Parsed::None),
        _ => return Err(ProxyProtocolError::Missing),
    };
    if !(if version == 1 { options.allow_v1 } else { options.allow_v2 }) {
        return Err(ProxyProtocolError::Version(version));
    }
    if version == 2 && bytes.len() >= 16 && 16 + usize::from(u16::from_be_bytes([bytes[14], bytes[15]])) > LIMIT {
        return Err(ProxyProtocolError::TooLong);
    }
    let (header, length) = match ProxyHeader::parse(bytes, ParseConfig::default()) {
        Ok(parsed) => parsed,
        Err(Error::BufferTooShort) => return Ok(Parsed::Incomplete),
        Err(_) => return Err(ProxyProtocolError::Malformed),
    };
    // Rust's number parser takes a sign, the protocol does not.
    if version == 1 && header.proxied_address().is_some() && bytes[..length].contains(&b'+') {
        return Err(ProxyProtocolError::Malformed);
    }
    let addresses = match header.proxied_address() {
        Some(address) if address.protocol == Protocol::Datagram => return Err(ProxyProtocolError::Malformed),
        address => address.map(|address| (address.source, address.destination)),
    };
    let tlvs = if version == 2 { tlvs(&bytes[..length])? } else { Vec::new() };
    Ok(Parsed::Header(Proxied { version, addresses, tlvs }, length))
}

// === writing ===

/// The header for a connection from `source` to `destination`; without addresses, one that says nothing of them.
pub fn encode<'t>(
    version: u8,
    addresses: Option<(SocketAddr, SocketAddr)>,
    tlvs: impl Iterator<Item = (u8, &'t [u8])>,
) -> Vec<u8> {
    let addresses = addresses.map(|(source, destination)| same_family(source, destination));
    if version == 1 { encode_v1(addresses) } else { encode_v2(addresses, tlvs) }
}

fn encode_v1(addresses: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let Some((source, destination)) = addresses else { return b"PROXY UNKNOWN\r\n".to_vec() };
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
}

fn encode_v2<'t>(addresses: Option<(SocketAddr, SocketAddr)>, tlvs: impl Iterator<Item = (u8, &'t [u8])>) -> Vec<u8> {
    // Command, family and protocol: LOCAL of nothing, or PROXY of a stream.
    let (command, family) = match addresses {
        None => (0x20, 0x00),
        Some((source, _)) if source.is_ipv4() => (0x21, 0x11),
        Some(_) => (0x21, 0x21),
    };
    let mut header = [V2, &[command, family, 0, 0]].concat();
    for address in addresses.iter().flat_map(|(source, destination)| [source, destination]) {
        match address.ip() {
            IpAddr::V4(ip) => header.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => header.extend_from_slice(&ip.octets()),
        }
    }
    for address in addresses.iter().flat_map(|(source, destination)| [source, destination]) {
        header.extend_from_slice(&address.port().to_be_bytes());
    }
    for (kind, value) in tlvs {
        // What does not fit any more is left out: a length of 16 bits holds for each and for all.
        if let Ok(length) = u16::try_from(value.len())
            && header.len() - 16 + 3 + value.len() <= usize::from(u16::MAX)
        {
            header.push(kind);
            header.extend_from_slice(&length.to_be_bytes());
            header.extend_from_slice(value);
        }
    }
    let length = u16::try_from(header.len() - 16).unwrap_or(u16::MAX);
    header[14..16].copy_from_slice(&length.to_be_bytes());
    header
}

/// A header names one family: IPv4 if both are, else IPv6.
fn same_family(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (source, destination) = (plain(source), plain(destination));
    if source.is_ipv4() == destination.is_ipv4() {
        return (source, destination);
    }
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    (mapped(source), mapped(destination))
}

// === parts of the parser ===

/// Whether `bytes` start with `signature`; `None` while that is open.
fn starts(bytes: &[u8], signature: &[u8]) -> Option<bool> {
    let n = bytes.len().min(signature.len());
    if bytes[..n] != signature[..n] {
        return Some(false);
    }
    (n == signature.len()).then_some(true)
}

/// The extensions of a whole header of version 2, which lie behind the addresses.
fn tlvs(header: &[u8]) -> Result<Vec<(u8, Vec<u8>)>, ProxyProtocolError> {
    let addresses = match header.get(13).map(|family| family >> 4) {
        Some(1) => 12,
        Some(2) => 36,
        Some(3) => 216,
        _ => 0,
    };
    let mut rest = header.get(16 + addresses..).ok_or(ProxyProtocolError::Malformed)?;
    let mut found = Vec::new();
    while let [kind, high, low, tail @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let value = tail.get(..length).ok_or(ProxyProtocolError::Malformed)?;
        found.push((*kind, value.to_vec()));
        rest = &tail[length..];
    }
    if rest.is_empty() { Ok(found) } else { Err(ProxyProtocolError::Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: ProxyProtocolOptions = ProxyProtocolOptions { allow_v1: true, allow_v2: true, optional: false };

    #[track_caller]
    fn check(bytes: &[u8], expected: &str) {
        let shown = match parse(bytes, OPTIONS) {
            Ok(Parsed::Header(proxied, length)) => {
                let addresses = proxied.addresses.map_or("local".into(), |(from, to)| format!("{from} {to}"));
                format!("v{} {addresses} {:?} {length}", proxied.version, proxied.tlvs)
            }
            Ok(other) => format!("{other:?}"),
            Err(error) => format!("{error}"),
        };
        assert_eq!(shown, expected);
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        [V2, &[command, family], &(body.len() as u16).to_be_bytes(), body].concat()
    }

    #[test]
    fn version_1_is_read_strictly() {
        check(b"PROXY TCP4 1.2.3.4 5.6.7.8 9 80\r\nGET", "v1 1.2.3.4:9 5.6.7.8:80 [] 33");
        check(b"PROXY TCP6 ::1 ::2 9 80\r\n", "v1 [::1]:9 [::2]:80 [] 25");
        check(b"PROXY UNKNOWN anything\r\n", "v1 local [] 24");
        check(b"PROXY TCP4 1.2.3.4 5.6.7.8 +9 80\r\n", "the PROXY protocol header is malformed");
        check(b"PROXY TCP4 ::1 5.6.7.8 9 80\r\n", "the PROXY protocol header is malformed");
        check(b"PROXY TCP4 1.2.3.4 5.6.7.8 9 70000\r\n", "the PROXY protocol header is malformed");
        check(b"PRO", "Incomplete");
        check(b"GET / HTTP/1.1\r\n", "the connection does not start with a PROXY protocol header");
    }

    #[test]
    fn version_2_is_read_with_its_extensions() {
        let body = [1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 0, 80, 0xE0, 0, 2, 7, 7];
        check(&v2(0x21, 0x11, &body), "v2 1.2.3.4:9 5.6.7.8:80 [(224, [7, 7])] 33");
        check(&v2(0x20, 0x00, b""), "v2 local [] 16");
        check(&v2(0x21, 0x11, &body[..12])[..20], "Incomplete");
        check(&v2(0x21, 0x11, &body[..15]), "the PROXY protocol header is malformed");
        check(&v2(0x21, 0x12, &body), "the PROXY protocol header is malformed");
        check(&v2(0x22, 0x11, &body), "the PROXY protocol header is malformed");
        check(&v2(0x20, 0x00, &[0; 5000]), "the PROXY protocol header is longer than 4096 bytes");
    }

    #[tokio::test]
    async fn the_header_is_taken_away_and_the_rest_is_read() {
        let mut stream = Rewind::new(&b"PROXY TCP4 1.2.3.4 5.6.7.8 9 80\r\nGET"[..]);
        assert!(read_header(&mut stream, OPTIONS).await.unwrap().is_some());
        let mut rest = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut rest).await.unwrap();
        assert_eq!(rest, "GET");
    }

    #[tokio::test]
    async fn a_connection_without_a_header_passes_only_when_that_is_allowed() {
        let mut stream = Rewind::new(&b"GET / HTTP/1.1\r\n\r\n"[..]);
        let optional = ProxyProtocolOptions { optional: true, ..OPTIONS };
        assert_eq!(read_header(&mut stream, optional).await.unwrap(), None);
        let v1_only = ProxyProtocolOptions { allow_v2: false, ..OPTIONS };
        assert!(matches!(parse(&v2(0x20, 0, b""), v1_only), Err(ProxyProtocolError::Version(2))));
    }

    #[test]
    fn versions_that_are_not_allowed_are_not_looked_for_where_a_header_is_optional() {
        let v1_only = ProxyProtocolOptions { allow_v2: false, optional: true, ..OPTIONS };
        assert_eq!(parse(&v2(0x20, 0, b""), v1_only).unwrap(), Parsed::None);
        assert_eq!(parse(b"PRO", v1_only).unwrap(), Parsed::Incomplete);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let v4 = ("1.2.3.4:9".parse().unwrap(), "5.6.7.8:80".parse().unwrap());
        let v6 = ("[2001:db8::1]:9".parse().unwrap(), "[::2]:80".parse().unwrap());
        let mixed = ("[::ffff:1.2.3.4]:9".parse().unwrap(), "[::2]:80".parse().unwrap());
        let tlvs = || [(0xE0, &b"ab"[..]), (2, b"")].into_iter();
        check(&encode(1, Some(v4), tlvs()), "v1 1.2.3.4:9 5.6.7.8:80 [] 33");
        check(&encode(1, Some(v6), tlvs()), "v1 [2001:db8::1]:9 [::2]:80 [] 33");
        check(&encode(1, None, tlvs()), "v1 local [] 15");
        check(&encode(2, Some(v4), tlvs()), "v2 1.2.3.4:9 5.6.7.8:80 [(224, [97, 98]), (2, [])] 36");
        check(&encode(2, Some(v6), [].into_iter()), "v2 [2001:db8::1]:9 [::2]:80 [] 52");
        check(&encode(2, Some(mixed), [].into_iter()), "v2 [::ffff:1.2.3.4]:9 [::2]:80 [] 52");
        check(&encode(2, None, [].into_iter()), "v2 local [] 16");
    }

    proptest::proptest! {
        #[test]
        fn no_input_panics(head in 0usize..3, bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let bytes = [[&b""[..], V1, V2][head], &bytes].concat();
            let _ = parse(&bytes, OPTIONS);
        }
    }
}
