//! Health checks: what is taken, what stands for what is not said, and what is refused.

use super::*;

fn decoded(yaml: &str) -> Result<HealthCheck, String> {
    let yaml = format!("{{timeout: 1s, interval: 10s, unhealthy_threshold: 2, healthy_threshold: 3, {yaml}}}");
    let proto: pb::HealthCheck = proto::json::from_yaml(&yaml).unwrap();
    let mut p = Problems::default();
    let check = HealthCheck::decode(&mut p, &proto);
    p.finish(check).map_err(|invalid| invalid.to_string())
}

#[track_caller]
fn check_refused(yaml: &str, reason: &str) {
    assert_eq!(decoded(yaml).unwrap_err(), reason);
}

fn http(yaml: &str) -> HttpCheck {
    match decoded(&format!("http_health_check: {{path: /ok, {yaml}}}")).unwrap().checker {
        Checker::Http(check) => *check,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_not_said_is_as_in_envoy() {
    let check = decoded("http_health_check: {path: /ok}").unwrap();
    let seconds = Duration::from_secs;
    assert!(check.reuse_connection);
    assert_eq!((check.no_traffic_interval, check.no_traffic_healthy_interval), (seconds(60), seconds(60)));
    assert_eq!((check.unhealthy_interval, check.unhealthy_edge_interval), (seconds(10), seconds(10)));
    assert_eq!(check.healthy_edge_interval, seconds(10));
    let check = decoded("tcp_health_check: {}, unhealthy_interval: 1s, no_traffic_interval: 5s").unwrap();
    assert_eq!((check.unhealthy_edge_interval, check.no_traffic_healthy_interval), (seconds(1), seconds(5)));
    let http = http("");
    assert_eq!((&*http.method, http.http2, http.response_buffer), ("GET", false, 1024));
    assert_eq!((http.expected, http.retriable), (vec![(200, 201)], vec![]));
}

#[test]
fn payloads_are_hex() {
    let check = decoded("tcp_health_check: {send: {text: '504f'}, receive: [{text: '0aFF'}]}").unwrap();
    let wanted = TcpCheck {
        send: Bytes::from_static(b"PO"),
        receive: vec![Bytes::from_static(b"\n\xff")],
        proxy_protocol: None,
    };
    assert_eq!(check.checker, Checker::Tcp(wanted));
    assert_eq!(http("method: POST, send: {text: '61'}").send, "a");
    check_refused(
        "tcp_health_check: {receive: [{text: 'xyz'}]}",
        "tcp_health_check.receive[0].text: is not a sequence of hex digits, two for each byte",
    );
}

#[test]
fn events_go_to_the_files_of_both_forms() {
    let check = decoded(
        "tcp_health_check: {}, event_log_path: /a, event_logger: [{name: f, typed_config: {'@type': \
         type.googleapis.com/envoy.extensions.health_check.event_sinks.file.v3.HealthCheckEventFileSink, \
         event_log_path: /b}}]",
    );
    assert_eq!(check.unwrap().event_logs, ["/b", "/a"]);
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    check_refused("", "health_checker: is not set");
    check_refused(
        "custom_health_check: {name: envoy.health_checkers.redis}",
        "custom_health_check: not implemented by weir-proxy",
    );
    check_refused(
        "http_health_check: {path: /, codec_client_type: HTTP3}",
        "http_health_check.codec_client_type: only HTTP1 and HTTP2 are implemented",
    );
    check_refused(
        "http_health_check: {path: /, send: {text: '61'}}",
        "http_health_check.send: a GET request has no body",
    );
    check_refused(
        "http_health_check: {path: /, request_headers_to_add: [{header: {key: a, value: '%PROTOCOL%'}}]}",
        "http_health_check.request_headers_to_add[0]: command operators are not implemented here",
    );
    check_refused(
        "http_health_check: {path: /, response_buffer_size: 1, receive: [{text: '6161'}]}",
        "http_health_check.receive: 2 bytes are more than response_buffer_size",
    );
    check_refused(
        "tcp_health_check: {}, transport_socket_match_criteria: {a: b}",
        "transport_socket_match_criteria: not implemented by weir-proxy",
    );
    check_refused("tcp_health_check: {}, alt_port: 70000", "alt_port: 70000 is not a port (0 to 65535)");
}
