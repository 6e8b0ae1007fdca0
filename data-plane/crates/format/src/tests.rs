//! Format texts in, log lines out, as Envoy writes them.

use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use dp_http::flags::Flags;
use dp_http::info::{Address, ConnectionInfo, FilterObject, PeerCertificate, TlsInfo};
use dp_http::{Method, Protocol};

use super::*;

/// A stream like the one that Envoy 1.40 was asked about.
fn info() -> StreamInfo {
    let peer = PeerCertificate {
        uri_sans: vec!["spiffe://a/b".into(), "spiffe://c".into()],
        subject: "CN=x".into(),
        not_before: Some(UNIX_EPOCH),
        ..Default::default()
    };
    let tls = TlsInfo { version: "TLSv1.3", peer: Some(Arc::new(peer)), ..Default::default() };
    let connection = ConnectionInfo {
        id: 7,
        tls: Some(tls),
        start: UNIX_EPOCH,
        listener: "l".into(),
        filter_chain: "fc1".into(),
        ..ConnectionInfo::between(
            Address::Ip(([10, 1, 2, 3], 1000).into()),
            Address::Ip(([127, 0, 0, 1], 19800).into()),
        )
    };
    let start = UNIX_EPOCH + Duration::new(1_795_453_879, 982_423_000);
    let mut info = StreamInfo::new(Arc::new(connection), Protocol::Http11, start, Instant::now());
    info.status = 200;
    info.details = "direct response".into();
    info.route = Some("r1".into());
    info.request_id = "id".into();
    info.duration = Some(Duration::from_micros(5_314));
    info.sizes.sent = 2;
    info.timing.upstream_first_received = Some(Duration::from_millis(3));
    info.timing.downstream_last_sent = Some(Duration::from_millis(5));
    let route = [("k", "v"), ("o.i", "x"), ("o", r#"{"i":"x"}"#)];
    let route = route.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    info.route_metadata = Some(Arc::new([("ns".to_owned(), route)].into()));
    let object = FilterObject { text: "a \"b\"".into(), hashable: false };
    info.filter_state = Some(Box::new([("fs".to_owned(), object)].into()));
    info
}

fn request() -> RequestHead {
    let mut head = RequestHead::new(Method::Get, "h:1", "/d/x?a=1&b=2");
    head.headers.append("user-agent", "cürl".as_bytes());
    head
}

fn write(text: &str, info: &StreamInfo, missing: Missing) -> String {
    let (request, response) = (request(), ResponseHead::new(200));
    let inputs =
        Inputs { info, request: Some(&request), response: Some(&response), trailers: None, local_reply_body: "" };
    let mut out = String::new();
    Format::parse(text).unwrap().write_with(&inputs, missing, &mut out);
    out
}

fn check(text: &str, expected: &str) {
    assert_eq!(write(text, &info(), Missing::Dash), expected, "{text}");
}

#[test]
fn operators_write_what_envoy_writes() {
    check("ua=%REQ(USER-AGENT):4% host=%REQ(HOST)% %REQ(:AUTHORITY)%", "ua=cür host=h:1 h:1");
    check("%REQ(X-NO?:PATH)% %REQ(X-NO)% %REQ(:METHOD)% %REQ(:SCHEME)%", "/d/x?a=1&b=2 - GET http");
    check("%RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %RESPONSE_FLAGS%", "200 direct_response -");
    check("%RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)% %RESP(:STATUS)%", "direct response 200");
    check("%UPSTREAM_HOST% %UPSTREAM_CLUSTER% %UPSTREAM_REQUEST_ATTEMPT_COUNT%", "- - 0");
    check("%START_TIME% %START_TIME(%s.%3f)%", "2026-11-23T17:11:19.982Z 1795453879.982");
    check("%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "10.1.2.3:1000 10.1.2.3");
    check("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(16)% %DOWNSTREAM_LOCAL_PORT%", "10.1.0.0/16 19800");
    check("%PROTOCOL% %ROUTE_NAME% %VIRTUAL_CLUSTER_NAME% %STREAM_ID% %FILTER_CHAIN_NAME%", "HTTP/1.1 r1 - id fc1");
    check("%PATH(NQ:PATH)% %PATH% %QUERY_PARAM(b)% %QUERY_PARAM(c)%", "/d/x /d/x?a=1&b=2 2 -");
    check("%DURATION% %REQUEST_DURATION% %RESPONSE_DURATION% %RESPONSE_TX_DURATION%", "5 - 3 2");
    check("%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)% %COMMON_DURATION(DS_TX_END:DS_RX_BEG:us)%", "5000 -");
    check("%METADATA(ROUTE:ns:k)% %METADATA(ROUTE:ns:o:i)% %METADATA(ROUTE:ns:q)%", "v x -");
    check("%FILTER_STATE(fs)% %FILTER_STATE(fs:TYPED)%", r#""a \"b\"" "a \"b\"""#);
    check("%FILTER_STATE(fs:PLAIN)% %FILTER_STATE(fs:PLAIN):3% %FILTER_STATE(no)%", r#"a "b" a " -"#);
    check("%GRPC_STATUS% %GRPC_STATUS_NUMBER% %LOCAL_REPLY_BODY%|%%", "- - |%");
    check("%DOWNSTREAM_PEER_URI_SAN% %DOWNSTREAM_PEER_SUBJECT%", "spiffe://a/b,spiffe://c CN=x");
    check("%DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_PEER_CERT_V_START(%Y)% %CONNECTION_ID%", "TLSv1.3 1970 7");
    check("%ENVIRONMENT(WEIR_SURELY_NOT_SET)% %ACCESS_LOG_TYPE%", "- DownstreamEnd");
}

#[test]
fn the_default_line_is_that_of_envoy() {
    let expected =
        "[2026-11-23T17:11:19.982Z] \"GET /d/x?a=1&b=2 HTTP/1.1\" 200 - 0 2 5 - \"-\" \"cürl\" \"-\" \"h:1\" \"-\"\n";
    check(DEFAULT_LINE, expected);
}

#[test]
fn grpc_status_and_flags_have_several_forms() {
    let mut info = info();
    info.grpc_status = Some(1);
    info.flags.set(Flags::UPSTREAM_CONNECTION_FAILURE);
    info.flags.set(Flags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
    let text = "%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS(NUMBER)% %RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG%";
    let expected = "Canceled CANCELLED 1 UF,URX UpstreamConnectionFailure,UpstreamRetryLimitExceeded";
    assert_eq!(write(text, &info, Missing::Dash), expected);
}

#[test]
fn what_is_missing_may_be_left_out() {
    assert_eq!(write("[%REQ(X-NO)%]%%%PROTOCOL%", &info(), Missing::Empty), "[]%HTTP/1.1");
}

fn refused(text: &str, expected: &str) {
    assert_eq!(Format::parse(text).unwrap_err().to_string(), expected, "{text}");
}

#[test]
fn wrong_formats_are_refused_with_their_position() {
    refused("a %RESPONSE_COD%", "unknown operator RESPONSE_COD at position 2; did you mean RESPONSE_CODE?");
    refused("%NOTHING_LIKE_IT%", "unknown operator NOTHING_LIKE_IT at position 0");
    refused("100%", "the `%` at position 3 starts no operator; write `%%` for a percent sign");
    refused("x %REQ(a", "the operator at position 2 is not closed: \"REQ(a\"");
    refused("%PROTOCOL", "the operator at position 0 is not closed: \"PROTOCOL\"");
    refused("%PROTOCOL(x)%", "operator PROTOCOL at position 0: takes no argument");
    refused("%PROTOCOL:3%", "operator PROTOCOL at position 0: has no maximum length");
    refused("%REQ()%", "operator REQ at position 0: \"\" is not a header name");
    refused("%REQ(a):x%", "operator REQ at position 0: the maximum length is not a number");
    refused("%TRACE_ID%", "operator TRACE_ID at position 0 is not implemented by weir-proxy");
    refused("%START_TIME(%Q)%", "operator START_TIME at position 0: unknown %Q in \"%Q\"");
}

fn json(format: serde_json::Value, omit_empty: bool, expected: &str) {
    let (info, request) = (info(), request());
    let mut out = String::new();
    JsonFormat::parse(&format, omit_empty).unwrap().write(&Inputs::request(&info, &request), &mut out);
    assert_eq!(out, expected);
}

#[test]
fn json_keeps_types_as_envoy_does() {
    let format = serde_json::json!({
        "z": "%RESPONSE_CODE%", "a": "%REQ(X-NO)%", "both": "%REQ(X-NO)%/%RESPONSE_CODE%", "d": "%DURATION%", "n": 5,
        "b": true, "l": ["%PROTOCOL%", 1], "o": {"y": "%ROUTE_NAME%", "x": "c"}, "fl": "%RESPONSE_FLAGS%",
        "port": "%DOWNSTREAM_LOCAL_PORT%", "st": "%START_TIME(%s)%", "md": "%METADATA(ROUTE:ns:o)%", "q": "a\"b\\",
        "fs": "%FILTER_STATE(fs)%",
    });
    let expected = concat!(
        r#"{"a":null,"b":true,"both":"-/200","d":5,"fl":"-","fs":"a \"b\"","l":["HTTP/1.1",1],"md":{"i":"x"},"n":5,"#,
        r#""o":{"x":"c","y":"r1"},"port":19800,"q":"a\"b\\","st":"1795453879","z":200}"#
    );
    json(format, false, expected);
}

#[test]
fn json_without_a_value_may_be_left_out() {
    let format = serde_json::json!({
        "z": "%RESPONSE_CODE%", "a": "%REQ(X-NO)%", "both": "%REQ(X-NO)%/%RESPONSE_CODE%", "o": {"y": "%REQ(X-NO)%"},
        "l": ["%REQ(X-NO)%"],
    });
    json(format, true, r#"{"both":"/200","l":[],"z":200}"#);
    json(serde_json::json!({"a": "%REQ(X-NO)%"}), true, "{}");
}

#[test]
fn a_wrong_format_in_json_is_named_by_its_member() {
    let format = serde_json::json!({"a": {"b": ["%NO%"]}});
    let error = JsonFormat::parse(&format, false).unwrap_err().to_string();
    assert!(error.starts_with("a.b.0: unknown operator NO at position 0"), "{error}");
}
