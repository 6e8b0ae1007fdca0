//! The UDP proxy: sessions, balancing, limits and logs.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use integration_tests::config::{access_log, bootstrap, cluster, extension, merge};
use integration_tests::eventually::{PATIENCE, eventually};
use integration_tests::proxy::{Running, start, start_with};
use serde_json::{Value, json};

/// A UDP listener on a free port; `more` are further fields of the proxy.
fn listener(address: &str, more: Value) -> Value {
    let mut proxy = json!({ "stat_prefix": "u", "cluster": "origin" });
    merge(&mut proxy, more);
    json!({
        "name": "main",
        "address": { "socket_address": { "protocol": "UDP", "address": address, "port_value": 0 } },
        "listener_filters": [extension("filters.udp.udp_proxy.v3.UdpProxyConfig", proxy)],
    })
}

/// Answers every datagram with its name, the port it came from and what it said.
fn echo(name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 65536];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let _ = socket.send_to(format!("{name} {} {said}", from.port()).as_bytes(), from);
        }
    });
    address
}

fn proxy(more: Value, origins: &[SocketAddr]) -> Running {
    start(&bootstrap(vec![listener("127.0.0.1", more)], vec![cluster("origin", origins)]))
}

/// A client of the proxy.
fn client(proxy: &Running) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(("127.0.0.1", proxy.address("main").port())).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

/// What is answered; asked again now and then, as datagrams may get lost.
#[track_caller]
fn ask(client: &UdpSocket, text: &str) -> String {
    client.send(text.as_bytes()).unwrap();
    let mut buffer = [0; 65536];
    let length = client.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

/// Whether nothing is answered.
fn is_silent(client: &UdpSocket, text: &str) -> bool {
    client.send(text.as_bytes()).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let silent = client.recv(&mut [0; 100]).is_err();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    silent
}

#[test]
fn a_session_keeps_its_endpoint_and_its_port() {
    let origins = [echo("a"), echo("b"), echo("c")];
    let config = bootstrap(vec![listener("127.0.0.1", json!({}))], vec![cluster("origin", &origins)]);
    let proxy = start_with(&config, 2);
    let mut names = std::collections::BTreeSet::new();
    for _ in 0..12 {
        let client = client(&proxy);
        let first = ask(&client, "x");
        for _ in 0..5 {
            assert_eq!(ask(&client, "x"), first);
        }
        names.insert(first[..1].to_owned());
    }
    assert!(names.len() > 1, "all sessions went to one endpoint: {names:?}");
}

#[test]
fn datagrams_of_any_size_pass_and_those_that_are_too_long_do_not() {
    let proxy = proxy(json!({}), &[echo("a")]);
    let client = client(&proxy);
    assert!(ask(&client, "").starts_with("a "));
    assert!(ask(&client, &"x".repeat(1400)).ends_with("xxx"));
    assert!(is_silent(&client, &"x".repeat(1501)));
    let mut large = listener("127.0.0.1", json!({ "upstream_socket_config": { "max_rx_datagram_size": 60000 } }));
    large["udp_listener_config"] = json!({ "downstream_socket_config": { "max_rx_datagram_size": 60000 } });
    let proxy = start(&bootstrap(vec![large], vec![cluster("origin", &[echo("a")])]));
    assert!(ask(&self::client(&proxy), &"x".repeat(50_000)).len() > 50_000);
}

#[test]
fn each_datagram_may_be_balanced_by_itself() {
    let proxy = proxy(json!({ "use_per_packet_load_balancing": true }), &[echo("a"), echo("b")]);
    let client = client(&proxy);
    let answers: Vec<String> = (0..10).map(|_| ask(&client, "x")).collect();
    let of = |name: &str| answers.iter().filter(|answer| answer.starts_with(name)).count();
    assert_eq!((of("a"), of("b")), (5, 5), "{answers:?}");
    // Each endpoint has one session with the client.
    assert_eq!(answers.iter().collect::<std::collections::BTreeSet<_>>().len(), 2);
}

#[test]
fn sessions_that_hash_alike_go_to_one_endpoint() {
    for policy in [json!({ "source_ip": true }), json!({ "key": "call 1" })] {
        let mut origin = cluster("origin", &[echo("a"), echo("b"), echo("c")]);
        origin["lb_policy"] = "RING_HASH".into();
        let listener = listener("127.0.0.1", json!({ "hash_policies": [policy] }));
        let proxy = start(&bootstrap(vec![listener], vec![origin]));
        let names: std::collections::BTreeSet<String> =
            (0..8).map(|_| ask(&client(&proxy), "x")[..1].to_owned()).collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }
}

#[test]
fn a_session_ends_when_nothing_moves_and_is_logged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let field = |name| format!("%DYNAMIC_METADATA(udp.proxy.session:{name})%");
    let names = ["cluster_name", "bytes_received", "bytes_sent", "datagrams_received", "datagrams_sent"];
    let format = format!("%ACCESS_LOG_TYPE% {} %UPSTREAM_CLUSTER%", names.map(field).join(" "));
    let more = json!({ "idle_timeout": "0.2s", "access_log": access_log(&path, &format) });
    let proxy = proxy(more, &[echo("a")]);
    let client = client(&proxy);
    let answer = ask(&client, "ping");
    let expected = format!("UdpSessionEnd origin 4 {} 1 1 origin\n", answer.len());
    eventually("a line", || std::fs::read_to_string(&path).is_ok_and(|text| text == expected));
    // The next datagram begins another session, from another port.
    assert_ne!(ask(&client, "ping"), answer);
}

#[test]
fn the_proxy_is_logged_when_it_ends() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let format = "%DYNAMIC_METADATA(udp.proxy.proxy:session_total)% %DYNAMIC_METADATA(udp.proxy.proxy:bytes_received)%";
    let proxy = proxy(json!({ "proxy_access_log": access_log(&path, format) }), &[echo("a")]);
    ask(&client(&proxy), "four");
    ask(&client(&proxy), "five");
    drop(proxy);
    eventually("a line", || std::fs::read_to_string(&path).is_ok_and(|text| text == "2 8\n"));
}

#[test]
fn the_circuit_breaker_limits_sessions() {
    let mut origin = cluster("origin", &[echo("a")]);
    origin["circuit_breakers"] = json!({ "thresholds": [{ "max_connections": 2 }] });
    let listener = listener("127.0.0.1", json!({ "idle_timeout": "0.5s" }));
    let proxy = start(&bootstrap(vec![listener], vec![origin]));
    let held = [client(&proxy), client(&proxy)];
    for client in &held {
        ask(client, "x");
    }
    let late = client(&proxy);
    assert!(is_silent(&late, "x"));
    eventually("a session ended", || !is_silent(&late, "x"));
}

#[test]
fn a_matcher_chooses_the_cluster() {
    let route = |cluster: &str| {
        let route = extension("filters.udp.udp_proxy.v3.Route", json!({ "cluster": cluster }));
        json!({ "action": route })
    };
    let input = extension("matching.common_inputs.network.v3.SourceIPInput", json!({}));
    let matcher = json!({
        "matcher_tree": { "input": input, "exact_match_map": { "map": { "127.0.0.5": route("five") } } },
        "on_no_match": route("origin"),
    });
    let mut listener = listener("127.0.0.1", json!({ "matcher": matcher }));
    listener["listener_filters"][0]["typed_config"].as_object_mut().unwrap().remove("cluster");
    let clusters = vec![cluster("origin", &[echo("others")]), cluster("five", &[echo("five")])];
    let proxy = start(&bootstrap(vec![listener], clusters));
    assert!(ask(&client(&proxy), "x").starts_with("others"));
    let five = UdpSocket::bind("127.0.0.5:0").unwrap();
    five.set_read_timeout(Some(PATIENCE)).unwrap();
    five.connect(proxy.address("main")).unwrap();
    assert!(ask(&five, "x").starts_with("five"));
}
