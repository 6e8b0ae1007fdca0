//! The PROXY protocol, from clients and towards origins.

use std::sync::{Arc, mpsc};

use integration_tests::config::{access_log, bootstrap, cluster, extension, hcm, http2, listener, tcp_proxy, to};
use integration_tests::eventually::found;
use integration_tests::proxy::{Running, start, try_start};
use integration_tests::tls::Identity;
use integration_tests::upstream::{Origin, reply};
use integration_tests::wire::Wire;
use serde_json::{Value, json};

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 2 from 1.2.3.4:5 to 5.6.7.8:9 with these TLVs.
fn v2(tlvs: &[(u8, &[u8])]) -> Vec<u8> {
    let mut body = vec![1, 2, 3, 4, 5, 6, 7, 8, 0, 5, 0, 9];
    for (kind, value) in tlvs {
        body.extend_from_slice(&[&[*kind, 0, value.len() as u8], *value].concat());
    }
    [V2, &[0x21, 0x11, 0, body.len() as u8], &body].concat()
}

/// A listener that takes the header, in front of a TCP proxy.
fn receiving(filter: Value, proxy: Value) -> Value {
    let mut listener = listener("main", proxy);
    listener["listener_filters"] = json!([extension("filters.listener.proxy_protocol.v3.ProxyProtocol", filter)]);
    listener
}

/// An origin that tells what came over each connection, up to its end.
fn hearer() -> (Origin, mpsc::Receiver<Vec<u8>>) {
    let (tell, told) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let origin = Origin::scripted(move |_, wire, _| tell.lock().unwrap().send(wire.rest()).unwrap());
    (origin, told)
}

// === from clients ===

/// What a client that sends `bytes` is logged as, and what its origin gets; `None` when it is not let in.
fn taken(filter: Value, format: &str, bytes: &[u8]) -> Option<(String, Vec<u8>)> {
    let (origin, told) = hearer();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let tcp = tcp_proxy("origin", json!({ "access_log": access_log(&path, format) }));
    let proxy = start(&bootstrap(vec![receiving(filter, tcp)], vec![cluster("origin", &[origin.address])]));
    let mut client = proxy.connect();
    client.send(bytes);
    client.finish_sending();
    client.rest();
    drop(proxy);
    let got = told.try_recv().ok()?;
    let line = found("a line", || std::fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n')));
    Some((line.trim().to_owned(), got))
}

#[track_caller]
fn check_taken(filter: Value, format: &str, bytes: &[u8], expected: Option<(&str, &str)>) {
    let taken = taken(filter, format, bytes);
    let expected = expected.map(|(line, got)| (line.to_owned(), got.as_bytes().to_vec()));
    assert_eq!(taken, expected);
}

#[test]
fn a_header_tells_who_the_client_is() {
    let format = "%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS%";
    let v1 = b"PROXY TCP4 1.2.3.4 5.6.7.8 9 80\r\nrest";
    check_taken(json!({}), format, v1, Some(("1.2.3.4:9 5.6.7.8:80", "rest")));
    let v2 = [&v2(&[])[..], b"rest"].concat();
    check_taken(json!({}), format, &v2, Some(("1.2.3.4:5 5.6.7.8:9", "rest")));
    let local = [V2, &[0x20, 0, 0, 0], b"rest"].concat();
    assert!(taken(json!({}), "%DOWNSTREAM_REMOTE_ADDRESS%", &local).unwrap().0.starts_with("127.0.0.1:"));
}

#[test]
fn a_client_without_a_header_is_only_let_in_where_that_is_allowed() {
    check_taken(json!({}), "-", b"GET / HTTP/1.1\r\n\r\n", None);
    check_taken(json!({ "disallowed_versions": ["V1"] }), "-", b"PROXY TCP4 1.2.3.4 5.6.7.8 9 80\r\n", None);
    let optional = json!({ "allow_requests_without_proxy_protocol": true });
    check_taken(optional, "-", b"GET / HTTP/1.1\r\n\r\n", Some(("-", "GET / HTTP/1.1\r\n\r\n")));
}

#[test]
fn extensions_become_metadata() {
    let rule = |kind, namespace, key| json!({ "tlv_type": kind, "on_tlv_present": { "metadata_namespace": namespace, "key": key } });
    let filter = json!({ "rules": [rule(2, "", "authority"), rule(224, "mine", "other"), rule(225, "mine", "none")] });
    let format = "%DYNAMIC_METADATA(envoy.filters.listener.proxy_protocol:authority)% \
                  %DYNAMIC_METADATA(mine:other)% %DYNAMIC_METADATA(mine:none)%";
    let header = v2(&[(2, b"a.example"), (224, b"\xff!")]);
    check_taken(filter, format, &header, Some(("a.example !! -", "")));
}

#[test]
fn only_some_neighbours_may_say_who_the_client_is() {
    let trusted = |prefix: &str| {
        let (origin, told) = hearer();
        let mut listener = receiving(json!({}), tcp_proxy("origin", json!({})));
        listener["filter_chains"][0]["filter_chain_match"] =
            json!({ "direct_source_prefix_ranges": [{ "address_prefix": prefix, "prefix_len": 8 }] });
        let proxy = start(&bootstrap(vec![listener], vec![cluster("origin", &[origin.address])]));
        let mut client = proxy.connect();
        client.send("PROXY TCP4 10.2.3.4 5.6.7.8 9 80\r\nx");
        client.finish_sending();
        client.rest();
        told.try_recv().is_ok()
    };
    assert!(trusted("127.0.0.0"));
    assert!(!trusted("10.0.0.0"));
}

// === towards origins ===

/// The cluster `origin`, whose connections begin with a header; `inner` is what is within.
fn sending(origin: &Origin, config: Value, inner: Option<Value>) -> Value {
    let inner = inner.unwrap_or_else(|| extension("transport_sockets.raw_buffer.v3.RawBuffer", json!({})));
    let mut cluster = cluster("origin", &[origin.address]);
    let transport = json!({ "config": config, "transport_socket": inner });
    let kind = "transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport";
    cluster["transport_socket"] = extension(kind, transport);
    cluster
}

/// A connection from an address that the test knows.
fn connect(proxy: &Running) -> (Wire, std::net::SocketAddr) {
    let client = proxy.connect();
    let address = client.socket().local_addr().unwrap();
    (client, address)
}

#[test]
fn an_origin_is_told_of_the_client_by_version_1() {
    let (origin, told) = hearer();
    let cluster = sending(&origin, json!({}), None);
    let proxy = start(&bootstrap(vec![listener("main", tcp_proxy("origin", json!({})))], vec![cluster]));
    let (mut client, address) = connect(&proxy);
    client.send("hello");
    client.finish_sending();
    let port = proxy.address("main").port();
    let expected = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {port}\r\nhello", address.port());
    assert_eq!(String::from_utf8(told.recv().unwrap()).unwrap(), expected);
}

#[test]
fn an_origin_is_told_of_the_client_of_a_client_with_its_extensions() {
    let (origin, told) = hearer();
    let pass = json!({ "match_type": "INCLUDE", "tlv_type": [2, 224] });
    let config = json!({
        "version": "V2",
        "pass_through_tlvs": { "match_type": "INCLUDE", "tlv_type": [2] },
        "added_tlvs": [{ "type": 225, "value": "b3du" }],
    });
    let cluster = sending(&origin, config, None);
    let filter = json!({ "pass_through_tlvs": pass });
    let listener = receiving(filter, tcp_proxy("origin", json!({})));
    let proxy = start(&bootstrap(vec![listener], vec![cluster]));
    let mut client = proxy.connect();
    client.send([&v2(&[(1, b"h2"), (2, b"name"), (224, b"x")])[..], b"hello"].concat());
    client.finish_sending();
    let expected = [&v2(&[(225, b"own"), (2, b"name")])[..], b"hello"].concat();
    assert_eq!(told.recv().unwrap(), expected);
}

#[test]
fn a_tcp_proxy_has_extensions_of_its_own_for_clients_without_a_header() {
    let (origin, told) = hearer();
    let config = json!({ "version": "V2", "pass_through_tlvs": {} });
    let tcp = tcp_proxy("origin", json!({ "proxy_protocol_tlvs": [{ "type": 226, "value": "dGNw" }] }));
    let proxy = start(&bootstrap(vec![listener("main", tcp)], vec![sending(&origin, config, None)]));
    let mut client = proxy.connect();
    client.finish_sending();
    let got = told.recv().unwrap();
    assert!(got.starts_with(V2) && got.ends_with(&[226, 0, 3, b't', b'c', b'p']), "{got:?}");
}

#[test]
fn the_header_stands_before_tls() {
    let identity = Identity::new(&["localhost"]);
    let config = identity.server(&[]);
    let (tell, told) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let origin = Origin::scripted(move |_, wire, _| {
        let line = wire.line().unwrap();
        let mut connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut early = std::io::Read::chain(std::io::Cursor::new(wire.taken()), wire.socket().try_clone().unwrap());
        while connection.is_handshaking() {
            while connection.wants_write() {
                connection.write_tls(&mut wire.socket()).unwrap();
            }
            if connection.is_handshaking() {
                connection.read_tls(&mut early).unwrap();
                connection.process_new_packets().unwrap();
            }
        }
        tell.lock().unwrap().send(line).unwrap();
        wire.rest();
    });
    let cluster = sending(&origin, json!({}), Some(identity.upstream()));
    let proxy = start(&bootstrap(vec![listener("main", tcp_proxy("origin", json!({})))], vec![cluster]));
    let (_client, address) = connect(&proxy);
    let line = told.recv().unwrap();
    assert!(line.starts_with("PROXY TCP4 127.0.0.1 ") && line.contains(&address.port().to_string()), "{line}");
}

#[test]
fn a_connection_for_one_client_is_never_used_for_another() {
    // The head of the first request follows the header; those after it come alone.
    let origin = Origin::scripted(|_, wire, origin| {
        let header = wire.line().unwrap();
        while let Some(mut request) = wire.try_message() {
            request.start = format!("{header} | {}", request.start);
            origin.note(request);
            wire.send(reply(200, &header));
        }
    });
    let cluster = sending(&origin, json!({}), None);
    let proxy = start(&bootstrap(vec![listener("main", hcm(to("origin", json!({}))))], vec![cluster]));
    let ask = |client: &mut Wire| client.ask("GET / HTTP/1.1\r\nhost: x\r\n\r\n").text();
    let (mut first, of_first) = connect(&proxy);
    let (mut second, of_second) = connect(&proxy);
    for _ in 0..3 {
        for (client, address) in [(&mut first, of_first), (&mut second, of_second)] {
            let header = ask(client);
            assert!(header.contains(&format!(" {} ", address.port())), "{header} for {address}");
        }
    }
    assert_eq!(origin.connections(), 2);
}

#[test]
fn http2_connections_are_told_of_their_client_too() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0";
    let (tell, told) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let origin = Origin::scripted(move |_, wire, _| tell.lock().unwrap().send(wire.bytes(28 + PREFACE.len())).unwrap());
    let cluster = http2(sending(&origin, json!({ "version": "V2" }), None));
    let proxy = start(&bootstrap(vec![listener("main", hcm(to("origin", json!({}))))], vec![cluster]));
    let (mut client, address) = connect(&proxy);
    client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    let got = told.recv().unwrap();
    let port = address.port().to_be_bytes();
    assert!(got.starts_with(V2) && got[24..26] == port && got.ends_with(PREFACE), "{got:?}");
}

#[test]
fn a_header_within_a_header_is_refused() {
    let origin = Origin::text("x");
    let inner = sending(&origin, json!({}), None)["transport_socket"].take();
    let cluster = sending(&origin, json!({}), Some(inner));
    let error = try_start(&bootstrap(vec![], vec![cluster]), 1).err().unwrap();
    assert!(error.contains("transport_socket.typed_config.transport_socket.typed_config: envoy."), "{error}");
}
