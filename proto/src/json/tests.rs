//! What Envoy reads as JSON and YAML beyond protobuf's own mapping, and what it refuses.

use serde_json::json;

use super::*;
use crate::envoy::config::bootstrap::v3::Bootstrap;
use crate::envoy::config::cluster::v3::Cluster;
use crate::envoy::config::listener::v3::Listener;
use crate::envoy::extensions::filters::http::router::v3::Router;
use crate::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use crate::envoy::extensions::transport_sockets::tls::v3::Secret;

const HCM: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// Reads `lenient` and `canonical` as `M`: the same message; strict mode takes only the second.
#[track_caller]
fn same<M: Name + Default + PartialEq + std::fmt::Debug>(lenient: Value, canonical: Value) {
    let read: M = from_value(&lenient).unwrap();
    assert_eq!(read, from_value(&canonical).unwrap());
    assert!(encode(&M::full_name(), &lenient, Mode::Strict).is_err(), "strict mode took {lenient}");
    encode(&M::full_name(), &canonical, Mode::Strict).unwrap();
}

/// The problems of reading `value` as `M`.
#[track_caller]
fn problems<M: Name + Default + std::fmt::Debug>(value: Value) -> Vec<String> {
    from_value::<M>(&value).unwrap_err().problems().iter().map(ToString::to_string).collect()
}

#[test]
fn one_value_is_read_where_a_list_is_expected() {
    same::<Bootstrap>(
        json!({"static_resources": {"clusters": {"name": "a"}}}),
        json!({"static_resources": {"clusters": [{"name": "a"}]}}),
    );
}

#[test]
fn an_enum_name_is_read_in_any_case() {
    same::<HttpConnectionManager>(json!({"codec_type": "http2"}), json!({"codec_type": "HTTP2"}));
}

#[test]
fn a_duration_is_read_as_an_object() {
    same::<Cluster>(json!({"connect_timeout": {"seconds": 5}}), json!({"connect_timeout": "5s"}));
}

#[test]
fn a_wrapper_is_read_as_an_object() {
    same::<Listener>(
        json!({"per_connection_buffer_limit_bytes": {"value": 32768}}),
        json!({"per_connection_buffer_limit_bytes": 32768}),
    );
}

#[test]
fn a_boolean_is_read_as_a_string() {
    same::<Listener>(json!({"reuse_port": "true"}), json!({"reuse_port": true}));
}

#[test]
fn what_protobuf_json_takes_anyway_is_read() {
    let strict = |value: Value| encode(&Listener::full_name(), &value, Mode::Strict).unwrap();
    let snake = strict(json!({"per_connection_buffer_limit_bytes": 1, "drain_type": "MODIFY_ONLY"}));
    assert_eq!(snake, strict(json!({"drainType": 1, "perConnectionBufferLimitBytes": "1"})));
    assert_eq!(snake, strict(json!({"drain_type": 1, "per_connection_buffer_limit_bytes": 1.0, "name": null})));
}

#[test]
fn what_envoy_refuses_is_refused_with_its_path() {
    let check = |value, wanted: &str| assert_eq!(problems::<Bootstrap>(value), [wanted]);
    let cluster =
        |field: &str, value: Value| json!({"static_resources": {"clusters": [{"name": "a"}, {field: value}]}});
    check(
        cluster("conect_timeout", json!("1s")),
        "static_resources.clusters[1].conect_timeout: Cluster has no such field, did you mean connect_timeout?",
    );
    check(
        cluster("connect_timeout", json!(1)),
        "static_resources.clusters[1].connect_timeout: expected a string like \"1.5s\", not 1",
    );
    check(
        cluster("connect_timeout", json!("250ms")),
        "static_resources.clusters[1].connect_timeout: expected a duration in seconds like \"1.5s\", not \"250ms\"",
    );
    check(cluster("name", json!(7)), "static_resources.clusters[1].name: expected a string, not 7: put it in quotes");
    check(
        cluster("lb_policy", json!("ROUND_ROBBIN")),
        "static_resources.clusters[1].lb_policy: unknown value \"ROUND_ROBBIN\", did you mean ROUND_ROBIN?",
    );
    check(
        json!({"admin": {"address": {"pipe": {"path": "/a"}, "socket_address": {"address": "::", "port_value": 1}}}}),
        "admin.address.socket_address: cannot be set together with pipe",
    );
    check(json!({"stats_flush_on_admin": "maybe"}), "stats_flush_on_admin: expected true or false, not \"maybe\"");
    check(json!([]), "expected an object (Bootstrap), not a list");
}

#[test]
fn numbers_out_of_range_are_refused() {
    let check = |value: Value, wanted: &str| {
        assert_eq!(problems::<Listener>(json!({"per_connection_buffer_limit_bytes": value})), [wanted]);
    };
    check(json!(-1), "per_connection_buffer_limit_bytes: -1 is out of range (0 to 4294967295)");
    check(json!(4_294_967_296_u64), "per_connection_buffer_limit_bytes: 4294967296 is out of range (0 to 4294967295)");
    check(json!(1.5), "per_connection_buffer_limit_bytes: expected a whole number, not 1.5");
}

#[test]
fn all_problems_are_reported_at_once() {
    let value = json!({"nodes": {}, "admin": {"profile_path": 3}, "static_resources": {"clusters": [{"nam": 1}]}});
    assert_eq!(problems::<Bootstrap>(value).len(), 3);
}

#[test]
fn an_any_is_read_by_its_type() {
    let value = json!({"name": "r", "filter_chains": [{"filters": [{"name": "h", "typed_config": {
        "@type": HCM, "stat_prefix": "x",
        "http_filters": [{"name": "router", "typed_config": {"@type": Router::type_url(), "dynamic_stats": false}}],
    }}]}]});
    let listener: Listener = from_value(&value).unwrap();
    let any = any_of_first_filter(&listener);
    let hcm: HttpConnectionManager = any.unpack().unwrap().unwrap();
    assert_eq!(hcm.stat_prefix, "x");
    assert_eq!(any, Any::pack(&hcm), "the bytes are those prost writes");
}

fn any_of_first_filter(listener: &Listener) -> Any {
    use crate::envoy::config::listener::v3::filter::ConfigType;
    match listener.filter_chains[0].filters[0].config_type.clone() {
        Some(ConfigType::TypedConfig(any)) => any,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_bad_type_url_is_refused_with_a_hint() {
    let value = json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.Router"});
    let error = any_from_value(&value).unwrap_err().to_string();
    assert_eq!(
        error,
        "[\"@type\"]: unknown type envoy.extensions.filters.http.Router, \
         did you mean envoy.extensions.filters.http.router.v3.Router?"
            .replace("[\"@type\"]", "@type")
    );
    let missing = any_from_value(&json!({"stat_prefix": "x"})).unwrap_err().to_string();
    assert!(missing.starts_with("\"@type\" is missing"), "{missing}");
}

#[test]
fn yaml_problems_carry_line_and_column() {
    let text = "admin:\n  address: { socket_address: { address: 127.0.0.1, port_value: x } }\nstatic_resources:\n  clusters:\n  - name: a\n    conect_timeout: 1s\n";
    let problems = from_yaml::<Bootstrap>(text).unwrap_err().problems();
    let places: Vec<_> = problems.iter().map(|p| p.position.unwrap().to_string()).collect();
    assert_eq!(places, ["2:52", "6:5"]);
    let broken = from_yaml::<Bootstrap>("a: [1,\nb: }").unwrap_err();
    assert!(matches!(&broken, JsonError::Yaml { .. }), "{broken}");
}

#[test]
fn yaml_anchors_and_merge_keys_work() {
    let text = "
static_resources:
  clusters:
  - &base
    name: a
    connect_timeout: 0.25s
    common_lb_config: &lb { healthy_panic_threshold: { value: 10.0 } }
  - <<: *base
    name: b
  - { name: c, common_lb_config: *lb }
";
    let bootstrap: Bootstrap = from_yaml(text).unwrap();
    let [a, b, c] = &bootstrap.static_resources.unwrap().clusters[..] else { panic!() };
    assert_eq!((b.name.as_str(), &b.connect_timeout), ("b", &a.connect_timeout));
    assert_eq!(c.common_lb_config, a.common_lb_config);
}

#[test]
fn the_words_of_yaml_1_1_are_booleans_where_one_is_expected_only() {
    let listener: Listener = from_yaml("{name: y, bypass_overload_manager: yes, enable_mptcp: On}").unwrap();
    assert_eq!((listener.name.as_str(), listener.bypass_overload_manager, listener.enable_mptcp), ("y", true, true));
}

#[test]
fn an_empty_document_is_an_empty_message() {
    assert_eq!(from_yaml::<Bootstrap>("# nothing\n").unwrap(), Bootstrap::default());
}

#[test]
fn a_dump_has_proto_names_and_reads_back() {
    let value = json!({
        "name": "c", "connect_timeout": "0.250s", "lb_policy": "LEAST_REQUEST", "type": "EDS",
        "per_connection_buffer_limit_bytes": 5,
        "metadata": {"filter_metadata": {"x": {"a": [1, "b", null, {"c": true}], "n": 1.5}}},
        "typed_extension_protocol_options": {
            "b": {"@type": Router::type_url(), "dynamic_stats": false},
            "a": {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "3s"},
        },
        "max_requests_per_connection": 0,
    });
    let cluster: Cluster = from_value(&value).unwrap();
    let dumped = to_value(&Any::pack(&cluster), Secrets::Shown).unwrap();
    let mut wanted = value;
    wanted["@type"] = json!(Cluster::type_url());
    assert_eq!(dumped, wanted);
    assert_eq!(
        from_yaml_named("google.protobuf.Any", &to_yaml(&Any::pack(&cluster)).unwrap(), Mode::Strict).unwrap(),
        {
            use prost::Message as _;
            Any::pack(&cluster).encode_to_vec()
        }
    );
}

#[test]
fn equal_documents_give_equal_bytes() {
    let options = |order: &[&str]| {
        let entries = order.iter().map(|k| ((*k).to_owned(), json!({"@type": Router::type_url()})));
        let map: serde_json::Map<String, Value> = entries.collect();
        encode(&Cluster::full_name(), &json!({"typed_extension_protocol_options": map}), Mode::Lenient).unwrap()
    };
    assert_eq!(options(&["a", "b", "c"]), options(&["c", "a", "b"]));
}

#[test]
fn an_unknown_nested_type_is_dumped_as_base64() {
    let any = Any { type_url: "type.googleapis.com/no.Such".to_owned(), value: Bytes::from_static(b"abc") };
    let cluster = Cluster { typed_extension_protocol_options: [("x".to_owned(), any)].into(), ..Cluster::default() };
    let dumped = to_value(&Any::pack(&cluster), Secrets::Shown).unwrap();
    assert_eq!(
        dumped["typed_extension_protocol_options"]["x"],
        json!({"@type": "type.googleapis.com/no.Such", "value": "YWJj"})
    );
}

#[test]
fn secrets_are_redacted_in_a_dump() {
    let secret: Secret = from_value(&json!({"name": "s", "tls_certificate": {
        "certificate_chain": {"inline_string": "PUBLIC"}, "private_key": {"inline_string": "KEY"}}}))
    .unwrap();
    let dumped = to_value(&Any::pack(&secret), Secrets::Redacted).unwrap().to_string();
    assert!(dumped.contains("PUBLIC") && dumped.contains("[redacted]") && !dumped.contains("KEY"), "{dumped}");
}

#[test]
fn a_typed_struct_becomes_the_message_it_describes() {
    for struct_type in ["xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct"] {
        let any = any_from_value(&json!({
            "@type": format!("type.googleapis.com/{struct_type}"), "type_url": HCM,
            "value": {"stat_prefix": "x", "stream_idle_timeout": "5s", "max_request_headers_kb": 60},
        }))
        .unwrap();
        let unwrapped = unwrap_typed_struct(&any).unwrap();
        let hcm: HttpConnectionManager = unwrapped.unpack().unwrap().unwrap();
        assert_eq!((hcm.stat_prefix.as_str(), hcm.max_request_headers_kb), ("x", Some(60)));
    }
}

#[test]
fn deep_nesting_is_refused() {
    let mut value = json!({});
    for _ in 0..200 {
        value = json!({"and_filter": {"filters": [value]}});
    }
    let error = encode("envoy.config.accesslog.v3.AccessLogFilter", &value, Mode::Lenient).unwrap_err();
    assert!(error.to_string().contains("nested deeper"), "{error}");
    let text = "[".repeat(100_000);
    assert!(parse_yaml(&text).is_err());
}

#[test]
fn messages_packed_into_one_another_are_unpacked_only_so_deep() {
    const URL: &str = "type.googleapis.com/google.protobuf.Any";
    let mut fields = Vec::new();
    let mut size = 0;
    for _ in 0..20_000 {
        let mut field = [&[0x0a, URL.len() as u8], URL.as_bytes(), &[0x12]].concat();
        prost::encoding::encode_varint(size, &mut field);
        size += field.len() as u64;
        fields.push(field);
    }
    fields.reverse();
    let any = Any { type_url: URL.to_owned(), value: fields.concat().into() };
    let dump = to_value(&any, Secrets::Shown).unwrap();
    let depth = std::iter::successors(Some(&dump), |value| value.get("value")).count();
    assert!((50..=110).contains(&depth), "{depth}");
}

#[test]
fn a_path_reads_back_what_it_displays() {
    for text in ["", "a", "a.b[3].c", "a[0][1].b_c", "a[\"x.y/z\"].b"] {
        assert_eq!(Path::parse(text).to_string(), text);
    }
}

#[test]
fn durations_are_read_exactly() {
    let check = |text: &str, seconds, nanos| {
        let cluster: Cluster = from_value(&json!({"connect_timeout": text})).unwrap();
        assert_eq!(cluster.connect_timeout, Some(prost_types::Duration { seconds, nanos }), "{text}");
    };
    check("1s", 1, 0);
    check("0.000000001s", 0, 1);
    check("-1.5s", -1, -500_000_000);
    for bad in ["", "s", "1", ".5s", "1.s", "1.1234567890s", "1e3s", "315576000001s", "--1s", "+1s"] {
        assert!(from_value::<Cluster>(&json!({"connect_timeout": bad})).is_err(), "{bad}");
    }
}
