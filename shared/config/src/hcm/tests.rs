//! Connection managers: defaults, timeouts, routes, upgrades and what is refused.

use super::*;
use crate::invalid::Problems;

const ROUTER: &str = "{name: r, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3\
    .Router}}";

fn read(fields: &str) -> Result<HttpConnectionManager, String> {
    let yaml = format!("{{stat_prefix: s, http_filters: [{ROUTER}], route_config: {{name: r}}, {fields}}}");
    read_all(&yaml)
}

fn read_all(yaml: &str) -> Result<HttpConnectionManager, String> {
    let proto: proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager =
        proto::json::from_yaml(yaml).unwrap();
    let mut p = Problems::default();
    let manager = decode(&proto, &mut p);
    p.finish(manager).map_err(|invalid| invalid.to_string())
}

/// Checks that these fields are refused, and how.
#[track_caller]
fn check(fields: &str, wanted: &str) {
    assert_eq!(read(fields).unwrap_err(), wanted);
}

#[test]
fn a_connection_manager_has_envoys_defaults() {
    let manager = read("").unwrap();
    let seconds = |n| Some(Duration::from_secs(n));
    assert_eq!((manager.codec, manager.max_request_headers_kb), (Codec::Auto, 60));
    assert_eq!(manager.timeouts.stream_idle, seconds(300));
    assert_eq!((manager.timeouts.request, manager.timeouts.request_headers), (None, Some(Duration::from_secs(60))));
    assert_eq!(manager.timeouts.delayed_close, seconds(1));
    assert_eq!((manager.http.idle_timeout, manager.http.max_headers_count), (seconds(3600), 100));
    assert_eq!((manager.server_name.as_str(), manager.server_header), ("envoy", ServerHeader::Overwrite));
    assert_eq!(manager.path, PathOptions::default());
    assert!(manager.request_id.generate && !manager.request_id.preserve_external);
    assert!(manager.http1.allow_absolute_url && !manager.http1.accept_http_10);
    assert!(!manager.client.use_remote_address && manager.client.detection.is_empty());
    assert_eq!(manager.client_certificate.mode, ForwardMode::Sanitize);
}

#[test]
fn timeouts_of_zero_are_off() {
    let manager = read("stream_idle_timeout: 0s, delayed_close_timeout: 0s, request_timeout: 3s").unwrap();
    assert_eq!((manager.timeouts.stream_idle, manager.timeouts.delayed_close), (None, None));
    assert_eq!(manager.timeouts.request, Some(Duration::from_secs(3)));
}

#[test]
fn routes_come_from_rds_or_are_inline() {
    let rds = read_all(&format!(
        "{{stat_prefix: s, http_filters: [{ROUTER}], rds: {{route_config_name: r, config_source: {{ads: {{}}}}}}}}"
    ));
    assert!(matches!(rds.unwrap().routes, RouteSource::Rds { name, .. } if name == "r"));
    assert!(matches!(read("").unwrap().routes, RouteSource::Inline(routes) if routes.name == "r"));
    let none = read_all(&format!("{{stat_prefix: s, http_filters: [{ROUTER}]}}"));
    assert_eq!(none.unwrap_err(), "one of rds and route_config is required");
}

#[test]
fn upgrades_have_a_protocol_in_lower_case() {
    let manager =
        read("upgrade_configs: [{upgrade_type: WebSocket}, {upgrade_type: CONNECT, enabled: false}]").unwrap();
    let upgrades: Vec<_> = manager.upgrades.iter().map(|u| (u.protocol.as_str(), u.enabled)).collect();
    assert_eq!(upgrades, [("websocket", true), ("connect", false)]);
}

#[test]
fn the_clients_address_is_found_as_configured() {
    let xff = "type.googleapis.com/envoy.extensions.http.original_ip_detection.xff.v3.XffConfig";
    let header = "type.googleapis.com/envoy.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig";
    let manager = read(&format!(
        "original_ip_detection_extensions: [{{name: a, typed_config: {{'@type': {xff}, xff_num_trusted_hops: 2}}}}, \
         {{name: b, typed_config: {{'@type': {header}, header_name: X-Ip, reject_with_status: {{code: 401}}}}}}]"
    ))
    .unwrap();
    assert_eq!(
        manager.client.detection,
        [
            AddressDetection::Xff { trusted_hops: 2, trusted_ranges: vec![], skip_append: true },
            AddressDetection::Header { name: "x-ip".into(), trusted: false, reject_with: Some(401) },
        ]
    );
    check(
        &format!(
            "use_remote_address: true, \
             original_ip_detection_extensions: [{{name: a, typed_config: {{'@type': {xff}}}}}]"
        ),
        "original_ip_detection_extensions: cannot be used with use_remote_address",
    );
}

#[test]
fn local_replies_are_mapped() {
    let manager = read(
        "local_reply_config: {body_format: {json_format: {m: '%LOCAL_REPLY_BODY%'}}, mappers: [{filter: \
         {status_code_filter: {comparison: {op: GE, value: {default_value: 500, runtime_key: k}}}}, status_code: 503, \
         body: {inline_string: sorry}, headers_to_add: [{header: {key: X-A, value: b}}]}]}",
    )
    .unwrap();
    let mapper = &manager.local_reply.mappers[0];
    assert_eq!((mapper.status, mapper.headers_to_add.len()), (Some(503), 1));
    assert_eq!(manager.local_reply.body_format.unwrap().content_type, "application/json");
    check(
        "local_reply_config: {mappers: [{filter: {not_health_check_filter: {}}, status_code: 100}]}",
        "local_reply_config.mappers[0].status_code: 100 is not a status (200 to 599)",
    );
}

#[test]
fn protocol_options_are_read_and_checked() {
    let manager = read(
        "http2_protocol_options: {max_concurrent_streams: 10, allow_connect: true, connection_keepalive: \
         {interval: 30s, timeout: 5s}}, http_protocol_options: {accept_http_10: true, header_key_format: \
         {proper_case_words: {}}}, common_http_protocol_options: {headers_with_underscores_action: DROP_HEADER}",
    )
    .unwrap();
    assert_eq!(manager.http2.max_concurrent_streams, Some(10));
    assert_eq!(manager.http2.keepalive.unwrap().timeout, Duration::from_secs(5));
    assert!(manager.http1.accept_http_10 && manager.http1.proper_case_words);
    assert_eq!(manager.http.headers_with_underscores, HeadersWithUnderscores::Drop);
    check(
        "http2_protocol_options: {initial_stream_window_size: 1, allow_metadata: true, \
         max_inbound_window_update_frames_per_data_frame_sent: 0}",
        "http2_protocol_options.allow_metadata: not implemented by weir-proxy; \
         http2_protocol_options.initial_stream_window_size: must be between 65535 and 2147483647; \
         http2_protocol_options.max_inbound_window_update_frames_per_data_frame_sent: must be at least 1",
    );
}

#[test]
fn what_is_wrong_or_not_implemented_is_refused_by_name() {
    check("codec_type: HTTP3", "codec_type: HTTP3 is not implemented by weir-proxy");
    check("tracing: {verbose: true}", "tracing: not implemented by weir-proxy");
    check("max_request_headers_kb: 9000", "max_request_headers_kb: must be between 1 and 8192");
    check(
        "strip_matching_host_port: true, strip_any_host_port: true",
        "strip_any_host_port: cannot be set together with strip_matching_host_port",
    );
    check(
        "scheme_header_transformation: {scheme_to_overwrite: ftp}",
        "scheme_header_transformation.scheme_to_overwrite: \"ftp\" is not a scheme, use http or https",
    );
    check(
        "set_current_client_cert_details: {issuer: true}",
        "set_current_client_cert_details.issuer: not implemented by weir-proxy",
    );
}
