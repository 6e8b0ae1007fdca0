//! Connections that are not HTTP: bytes both ways, half-close, routing by the name in the ClientHello.

use std::sync::{Arc, mpsc};

use integration_tests::config::{access_log, bootstrap, cluster, extension, listener, merge, tcp_proxy};
use integration_tests::eventually::{eventually, found};
use integration_tests::proxy::{Running, start};
use integration_tests::tls::Identity;
use integration_tests::upstream::{Origin, nowhere, reply};
use integration_tests::wire::Wire;
use serde_json::{Value, json};

const MEGABYTE: usize = 1024 * 1024;

fn tcp(cluster: &str) -> Value {
    tcp_proxy(cluster, json!({}))
}

fn proxy(origin: &Origin) -> Running {
    start(&bootstrap(vec![listener("main", tcp("origin"))], vec![cluster("origin", &[origin.address])]))
}

#[test]
fn bytes_pass_both_ways_unchanged() {
    let origin = Origin::scripted(|_, wire, _| {
        loop {
            let piece = wire.bytes(64 * 1024);
            if piece.is_empty() {
                return;
            }
            wire.send(piece);
        }
    });
    let proxy = proxy(&origin);
    let mut client = proxy.connect();
    let sent: Vec<u8> = (0..8 * MEGABYTE).map(|i| (i % 251) as u8).collect();
    let mut sender = Wire::new(client.socket().try_clone().unwrap());
    let copy = sent.clone();
    let sending = std::thread::spawn(move || {
        sender.send(copy);
        sender.finish_sending();
    });
    let received = client.rest();
    sending.join().unwrap();
    assert!(received == sent, "{} bytes", received.len());
}

#[test]
fn a_half_that_is_closed_leaves_the_other_one_open() {
    let origin = Origin::scripted(|_, wire, _| {
        let request = wire.rest();
        wire.send(format!("got {}", request.len()));
    });
    let proxy = proxy(&origin);
    let mut client = proxy.connect();
    client.send("12345");
    client.finish_sending();
    assert_eq!(client.rest(), b"got 5");
}

#[test]
fn an_origin_may_speak_first_and_close_first() {
    let (tell, told) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let origin = Origin::scripted(move |_, wire, _| {
        wire.send("220 hello\r\n");
        wire.finish_sending();
        tell.lock().unwrap().send(wire.rest()).unwrap();
    });
    let proxy = proxy(&origin);
    let mut client = proxy.connect();
    assert_eq!(client.rest(), b"220 hello\r\n");
    client.send("bye");
    client.finish_sending();
    assert_eq!(told.recv().unwrap(), b"bye");
}

#[test]
fn nobody_at_the_address_closes_the_connection_and_is_logged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let mut tcp = tcp("origin");
    merge(&mut tcp, json!({ "access_log": access_log(&path, "%RESPONSE_FLAGS% %UPSTREAM_CLUSTER%") }));
    let proxy = start(&bootstrap(vec![listener("main", tcp)], vec![cluster("origin", &[nowhere()])]));
    assert!(proxy.connect().is_closed());
    let line = found("a line", || std::fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n')));
    assert!(line.contains("UF") && line.contains("origin"), "{line}");
}

/// A server with this name that answers every request with the name.
fn server(name: &'static str, identity: &Identity) -> Origin {
    let config = identity.server(&[]);
    Origin::scripted(move |_, wire, _| {
        let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, wire.socket().try_clone().unwrap());
        let mut byte = [0];
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && std::io::Read::read(&mut stream, &mut byte).is_ok_and(|n| n == 1) {
            head.push(byte[0]);
        }
        let _ = std::io::Write::write_all(&mut stream, &reply(200, name));
        stream.conn.send_close_notify();
        let _ = stream.conn.complete_io(&mut stream.sock);
    })
}

#[test]
fn tls_is_passed_through_to_the_cluster_of_its_server_name() {
    let identity = Identity::new(&["a.test", "b.test", "c.test"]);
    let (a, b) = (server("a", &identity), server("b", &identity));
    let mut listener = listener("main", tcp("a"));
    listener["listener_filters"] = json!([{
        "name": "tls",
        "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector" },
    }]);
    let chain = |name: &str, to: &str| {
        json!({
            "filter_chain_match": { "server_names": [name] },
            "filters": [{ "name": "tcp", "typed_config": tcp(to) }],
        })
    };
    listener["filter_chains"] = json!([chain("a.test", "a"), chain("*.b.test", "b"), chain("b.test", "b")]);
    let proxy = start(&bootstrap(vec![listener], vec![cluster("a", &[a.address]), cluster("b", &[b.address])]));
    let ask = |name: &'static str| -> std::io::Result<String> {
        let connection = rustls::ClientConnection::new(identity.client(&[]), name.try_into().unwrap()).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, std::net::TcpStream::connect(proxy.address("main"))?);
        std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")?;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stream, &mut text)?;
        Ok(text)
    };
    assert!(ask("a.test").unwrap().ends_with("\r\n\r\na"));
    assert!(ask("b.test").unwrap().ends_with("\r\n\r\nb"));
    assert!(ask("c.test").is_err(), "no filter chain matches");
    let mut plain = proxy.connect();
    plain.send("GET / HTTP/1.1\r\n\r\n");
    assert!(plain.is_closed());
}

#[test]
fn a_connection_without_traffic_is_closed_after_the_idle_timeout() {
    let origin = Origin::scripted(|_, wire, _| {
        wire.rest();
    });
    let mut tcp = tcp("origin");
    merge(&mut tcp, json!({ "idle_timeout": "0.1s" }));
    let proxy = start(&bootstrap(vec![listener("main", tcp)], vec![cluster("origin", &[origin.address])]));
    assert!(proxy.connect().is_closed());
}

// === how connections end ===

/// An origin that tells how each of its connections ended.
fn teller() -> (Origin, mpsc::Receiver<std::io::Result<()>>) {
    let (tell, told) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let origin = Origin::scripted(move |_, wire, _| {
        wire.send("hello");
        let ending = wire.ending();
        tell.lock().unwrap().send(ending).unwrap();
    });
    (origin, told)
}

#[test]
fn a_reset_by_the_client_reaches_the_origin_as_a_reset() {
    let (origin, told) = teller();
    let proxy = proxy(&origin);
    let mut client = proxy.connect();
    assert_eq!(client.bytes(5), b"hello");
    client.reset();
    let error = told.recv().unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    // An end that is none of an error stays one.
    let mut client = proxy.connect();
    assert_eq!(client.bytes(5), b"hello");
    drop(client);
    told.recv().unwrap().unwrap();
}

#[test]
fn a_reset_by_the_origin_reaches_the_client_as_a_reset() {
    let origin = Origin::scripted(|_, wire, _| {
        wire.bytes(2);
        Wire::new(wire.socket().try_clone().unwrap()).reset();
    });
    let proxy = proxy(&origin);
    let mut client = proxy.connect();
    client.send("go");
    assert_eq!(client.ending().unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

/// Sends, says that nothing more comes, and reads what is answered until the server says the same.
fn half_close(connection: rustls::Connection, stream: std::net::TcpStream) -> String {
    let mut stream = match connection {
        rustls::Connection::Client(connection) => rustls::StreamOwned::new(connection, stream),
        rustls::Connection::Server(_) => unreachable!("clients only"),
    };
    std::io::Write::write_all(&mut stream, b"12345").unwrap();
    stream.conn.send_close_notify();
    std::io::Write::flush(&mut stream).unwrap();
    let mut text = String::new();
    // Without `close_notify` of the server this would be an error.
    std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
    text
}

#[test]
fn half_of_a_tls_connection_can_be_closed_on_the_clients_side() {
    let origin = Origin::scripted(|_, wire, _| {
        let request = wire.rest();
        wire.send(format!("got {}", request.len()));
    });
    let identity = Identity::new(&["localhost"]);
    let mut listener = listener("main", tcp("origin"));
    listener["filter_chains"][0]["transport_socket"] = identity.downstream(&[]);
    let proxy = start(&bootstrap(vec![listener], vec![cluster("origin", &[origin.address])]));
    let connection = rustls::ClientConnection::new(identity.client(&[]), "localhost".try_into().unwrap()).unwrap();
    let stream = std::net::TcpStream::connect(proxy.address("main")).unwrap();
    assert_eq!(half_close(connection.into(), stream), "got 5");
}

#[test]
fn half_of_a_tls_connection_can_be_closed_on_the_origins_side() {
    let identity = Identity::new(&["localhost"]);
    let config = identity.server(&[]);
    let origin = Origin::scripted(move |_, wire, _| {
        let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, wire.socket().try_clone().unwrap());
        let mut request = Vec::new();
        std::io::Read::read_to_end(&mut stream, &mut request).unwrap();
        std::io::Write::write_all(&mut stream, format!("got {}", request.len()).as_bytes()).unwrap();
        stream.conn.send_close_notify();
        let _ = std::io::Write::flush(&mut stream);
    });
    let mut origin_cluster = cluster("origin", &[origin.address]);
    origin_cluster["transport_socket"] = identity.upstream();
    let proxy = start(&bootstrap(vec![listener("main", tcp("origin"))], vec![origin_cluster]));
    let mut client = proxy.connect();
    client.send("12345");
    client.finish_sending();
    assert_eq!(client.rest(), b"got 5");
}

#[test]
fn a_connection_does_not_outlive_its_longest_duration() {
    let (origin, _told) = teller();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let tcp = tcp_proxy(
        "origin",
        json!({
            "max_downstream_connection_duration": "0.2s",
            "max_downstream_connection_duration_jitter_percentage": { "value": 50.0 },
            "access_log": access_log(&path, "%RESPONSE_FLAGS%"),
        }),
    );
    let proxy = start(&bootstrap(vec![listener("main", tcp)], vec![cluster("origin", &[origin.address])]));
    let mut client = proxy.connect();
    assert_eq!(client.rest(), b"hello");
    eventually("a line", || std::fs::read_to_string(&path).is_ok_and(|text| text == "DT\n"));
}

// === which endpoint, and what is logged ===

#[test]
fn clusters_get_connections_by_their_weight() {
    let (a, b) = (Origin::text("a"), Origin::text("b"));
    let weighted = json!({ "clusters": [{ "name": "a", "weight": 1 }, { "name": "b", "weight": 3 }] });
    let mut tcp = tcp_proxy("a", json!({ "weighted_clusters": weighted }));
    tcp.as_object_mut().unwrap().remove("cluster");
    let clusters = vec![cluster("a", &[a.address]), cluster("b", &[b.address])];
    let proxy = start(&bootstrap(vec![listener("main", tcp)], clusters));
    for _ in 0..100 {
        proxy.connect().ask("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    }
    let (a, b) = (a.connections(), b.connections());
    assert!(a + b == 100 && (8..45).contains(&a), "{a} and {b}");
}

#[test]
fn a_weighted_cluster_may_ask_for_a_subset() {
    let origins: Vec<Origin> = (0..4).map(|_| Origin::text("x")).collect();
    let mut cluster = cluster("origin", &origins.iter().map(|origin| origin.address).collect::<Vec<_>>());
    cluster["lb_subset_config"] =
        json!({ "fallback_policy": "NO_FALLBACK", "subset_selectors": [{ "keys": ["stage", "zone"] }] });
    let of = |stage: &str, zone: &str| json!({ "filter_metadata": { "envoy.lb": { "stage": stage, "zone": zone } } });
    let endpoints = &mut cluster["load_assignment"]["endpoints"][0]["lb_endpoints"];
    for (at, (stage, zone)) in [("a", "x"), ("b", "x"), ("a", "y"), ("b", "y")].into_iter().enumerate() {
        endpoints[at]["metadata"] = of(stage, zone);
    }
    let only = |key: &str, value: &str| json!({ "filter_metadata": { "envoy.lb": { key: value } } });
    let weighted = json!({ "clusters": [{ "name": "origin", "weight": 1, "metadata_match": only("zone", "y") }] });
    let mut tcp = tcp_proxy("origin", json!({ "metadata_match": only("stage", "b"), "weighted_clusters": weighted }));
    tcp.as_object_mut().unwrap().remove("cluster");
    let proxy = start(&bootstrap(vec![listener("main", tcp)], vec![cluster]));
    for _ in 0..8 {
        proxy.connect().ask("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    }
    let counts: Vec<usize> = origins.iter().map(Origin::connections).collect();
    assert_eq!(counts, [0, 0, 0, 8]);
}

#[test]
fn a_source_address_hashes_to_one_endpoint() {
    let origins: Vec<Origin> = (0..4).map(|_| Origin::text("x")).collect();
    let addresses: Vec<_> = origins.iter().map(|origin| origin.address).collect();
    let mut origin = cluster("origin", &addresses);
    origin["lb_policy"] = "MAGLEV".into();
    let tcp = tcp_proxy("origin", json!({ "hash_policy": [{ "source_ip": {} }] }));
    let proxy = start(&bootstrap(vec![listener("main", tcp)], vec![origin]));
    for _ in 0..20 {
        proxy.connect().ask("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    }
    let mut counts: Vec<usize> = origins.iter().map(Origin::connections).collect();
    counts.sort_unstable();
    assert_eq!(counts, [0, 0, 0, 20]);
}

#[test]
fn another_endpoint_is_tried_when_nobody_listens_at_the_first() {
    let origin = Origin::text("x");
    let attempts = json!({
        "max_connect_attempts": 3,
        "backoff_options": { "base_interval": "0.001s", "max_interval": "0.002s" },
    });
    let clusters = vec![cluster("origin", &[nowhere(), origin.address])];
    let proxy = start(&bootstrap(vec![listener("main", tcp_proxy("origin", attempts))], clusters));
    for _ in 0..6 {
        assert_eq!(proxy.connect().ask("GET / HTTP/1.1\r\nhost: x\r\n\r\n").text(), "x");
    }
}

#[test]
fn a_connection_is_logged_when_it_comes_when_it_is_connected_now_and_then_and_at_its_end() {
    let origin = Origin::scripted(|_, wire, _| {
        let request = wire.bytes(4);
        wire.send([request.as_slice(), b"!"].concat());
        wire.rest();
    });
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let format = "%ACCESS_LOG_TYPE% %BYTES_RECEIVED% %BYTES_SENT% %RESPONSE_FLAGS% %PROTOCOL% %UPSTREAM_CLUSTER%";
    let tcp = tcp_proxy(
        "origin",
        json!({
            "access_log": access_log(&path, format),
            "access_log_options": {
                "access_log_flush_interval": "0.1s",
                "flush_access_log_on_connected": true,
                "flush_access_log_on_start": true,
            },
        }),
    );
    let proxy = start(&bootstrap(vec![listener("main", tcp)], vec![cluster("origin", &[origin.address])]));
    let text = || std::fs::read_to_string(&path).unwrap_or_default();
    let mut client = proxy.connect();
    client.send("ping");
    assert_eq!(client.bytes(5), b"ping!");
    eventually("a line in between", || text().contains("TcpPeriodic 4 5 - - origin\n"));
    client.finish_sending();
    client.rest();
    eventually("a line at the end", || text().ends_with("TcpConnectionEnd 4 5 - - origin\n"));
    let begin = "TcpConnectionStart 0 0 - - -\nTcpUpstreamConnected 0 0 - - origin\n";
    assert!(text().starts_with(begin), "{}", text());
}

// === bulk ===

/// Bytes that differ from block to block and within each.
fn fill(block: &mut [u8], number: u64) {
    for (at, word) in block.chunks_exact_mut(8).enumerate() {
        let value = (number << 20 | at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word.copy_from_slice(&value.to_le_bytes());
    }
}

/// Sends `blocks` blocks, or reads as many and says whether all are as they were sent.
fn send_blocks(wire: &mut Wire, blocks: u64, size: usize) {
    let mut block = vec![0; size];
    for number in 0..blocks {
        fill(&mut block, number);
        wire.send(&block);
    }
    wire.finish_sending();
}

fn are_blocks(wire: &mut Wire, blocks: u64, size: usize) -> bool {
    let mut expected = vec![0; size];
    let all = (0..blocks).all(|number| {
        fill(&mut expected, number);
        wire.bytes(size) == expected
    });
    all && wire.rest().is_empty()
}

/// A quarter of a gibibyte; `WEIR_TCP_MEGABYTES=10240` makes it ten, which is run by hand with a release build.
#[test]
fn bulk_goes_through_and_comes_back_intact() {
    let megabytes = std::env::var("WEIR_TCP_MEGABYTES").ok().and_then(|text| text.parse().ok()).unwrap_or(128);
    let (blocks, size) = (4 * megabytes, MEGABYTE / 4);
    let (tell, told) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let origin = Origin::scripted(move |_, wire, _| {
        let mut back = Wire::new(wire.socket().try_clone().unwrap());
        let sending = std::thread::spawn(move || send_blocks(&mut back, blocks, size));
        tell.lock().unwrap().send(are_blocks(wire, blocks, size)).unwrap();
        sending.join().unwrap();
    });
    let proxy = proxy(&origin);
    let begun = std::time::Instant::now();
    let mut client = proxy.connect();
    let mut up = Wire::new(client.socket().try_clone().unwrap());
    let sending = std::thread::spawn(move || send_blocks(&mut up, blocks, size));
    assert!(are_blocks(&mut client, blocks, size), "what came back differs");
    assert!(told.recv().unwrap(), "what arrived differs");
    sending.join().unwrap();
    println!("{megabytes} MiB each way in {:?}", begun.elapsed());
}

#[test]
fn a_cluster_may_be_named_like_the_server_that_is_asked_for() {
    let identity = Identity::new(&["a.test", "b.test"]);
    let (a, b) = (server("a", &identity), server("b", &identity));
    let mut listener = listener("main", tcp("nobody"));
    listener["listener_filters"] = json!([extension("filters.listener.tls_inspector.v3.TlsInspector", json!({}))]);
    listener["filter_chains"][0]["filters"] = json!([
        extension("filters.network.sni_cluster.v3.SniCluster", json!({})),
        { "name": "tcp", "typed_config": tcp("nobody") },
    ]);
    let clusters = vec![cluster("a.test", &[a.address]), cluster("b.test", &[b.address])];
    let proxy = start(&bootstrap(vec![listener], clusters));
    for name in ["a.test", "b.test"] {
        let connection = rustls::ClientConnection::new(identity.client(&[]), name.try_into().unwrap()).unwrap();
        let stream = std::net::TcpStream::connect(proxy.address("main")).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, stream);
        std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
        assert!(text.ends_with(&name[..1]), "{text}");
    }
}
