//! The small shared messages: addresses, ranges, sources, timeouts.

use super::*;

fn check<T: std::fmt::Debug + PartialEq>(decoded: impl FnOnce(&mut Problems) -> Option<T>, wanted: Result<T, &str>) {
    let mut problems = Problems::default();
    let value = decoded(&mut problems);
    let result = problems.finish(value).map_err(|invalid| invalid.to_string());
    assert_eq!(result, wanted.map_err(str::to_owned));
}

fn from_yaml<M: prost::Name + Default>(text: &str) -> M {
    proto::json::from_yaml(text).unwrap()
}

#[test]
fn a_duration_has_bounds() {
    let check_duration = |seconds, nanos, wanted| {
        check(|p| duration(&prost_types::Duration { seconds, nanos }, p), wanted);
    };
    let bounds = "is no duration: at most 315576000000 seconds, and less than 1000000000 nanoseconds";
    check_duration(1, 5, Ok(Duration::new(1, 5)));
    check_duration(315_576_000_000, 0, Ok(Duration::from_secs(315_576_000_000)));
    check_duration(-1, 0, Err("must not be negative"));
    check_duration(1, -1, Err("must not be negative"));
    check_duration(i64::MIN, i32::MIN, Err("must not be negative"));
    check_duration(315_576_000_001, 0, Err(bounds));
    check_duration(i64::MAX, 0, Err(bounds));
    check_duration(0, 1_000_000_000, Err(bounds));
}

#[test]
fn an_address_is_an_ip_a_name_or_a_pipe() {
    let check_address = |text: &str, wanted| {
        let proto: pb::Address = from_yaml(text);
        check(|p| address(Some(&proto), p), wanted);
    };
    let ip = |text: &str| Ok(Address::Ip(text.parse().unwrap()));
    check_address("{socket_address: {address: 127.0.0.1, port_value: 0}}", ip("127.0.0.1:0"));
    check_address("{socket_address: {address: '::', port_value: 80}}", ip("[::]:80"));
    check_address("{socket_address: {address: a.b, port_value: 1}}", Ok(Address::Name { host: "a.b".into(), port: 1 }));
    check_address("{pipe: {path: '@x', mode: 420}}", Ok(Address::Pipe { path: "@x".into(), mode: 0o644 }));
    check_address(
        "{socket_address: {address: a, port_value: 65536}}",
        Err("socket_address.port_value: 65536 is not a port (0 to 65535)"),
    );
    // Who uses an address looks whether it is one of datagrams.
    check_address("{socket_address: {protocol: UDP, address: 1.1.1.1, port_value: 1}}", ip("1.1.1.1:1"));
    check_address("{}", Err("an address is required"));
}

#[test]
fn a_range_drops_bits_after_its_prefix() {
    let check_cidr = |text: &str, wanted: Result<&str, &str>| {
        let proto: pb::CidrRange = from_yaml(text);
        check(|p| cidr(&proto, p), wanted.map(|net| net.parse().unwrap()));
    };
    check_cidr("{address_prefix: 10.1.2.3, prefix_len: 8}", Ok("10.0.0.0/8"));
    check_cidr("{address_prefix: '2001:db8::1', prefix_len: 32}", Ok("2001:db8::/32"));
    check_cidr("{address_prefix: 10.1.2.3}", Ok("0.0.0.0/0"));
    check_cidr("{address_prefix: 10.1.2.3, prefix_len: 33}", Err("prefix_len: 33 is too long for 10.1.2.3"));
    check_cidr("{address_prefix: x}", Err("address_prefix: \"x\" is not an IP address"));
}

#[test]
fn a_source_is_ads_a_file_or_a_grpc_server() {
    let check_source = |text: &str, wanted: Result<Source, &str>| {
        let proto: pb::ConfigSource = from_yaml(text);
        check(|p| source::config_source(&proto, p).map(|s| s.source), wanted);
    };
    check_source("{ads: {}, resource_api_version: V3}", Ok(Source::Ads));
    check_source("{path_config_source: {path: /x}}", Ok(Source::File { path: "/x".into(), watched_directory: None }));
    check_source(
        "{api_config_source: {api_type: GRPC, grpc_services: [{google_grpc: {target_uri: x, stat_prefix: z}}]}}",
        Err("api_config_source.grpc_services[0].google_grpc: not implemented by weir-proxy, \
             use envoy_grpc with a cluster"),
    );
    check_source(
        "{api_config_source: {api_type: REST, cluster_names: [a]}}",
        Err("api_config_source.cluster_names: not implemented by weir-proxy; \
             api_config_source.api_type: REST is not implemented by weir-proxy, use GRPC or DELTA_GRPC; \
             api_config_source.grpc_services: must not be empty"),
    );
}

#[test]
fn a_timeout_of_zero_disables() {
    let proto = |seconds| prost_types::Duration { seconds, nanos: 0 };
    let mut p = Problems::default();
    let default = Some(Duration::from_secs(9));
    assert_eq!(timeout_at(None, "t", default, &mut p), default);
    assert_eq!(timeout_at(Some(&proto(0)), "t", default, &mut p), None);
    assert_eq!(timeout_at(Some(&proto(2)), "t", default, &mut p), Some(Duration::from_secs(2)));
    assert_eq!(p.count(), 0);
    assert_eq!(timeout_at(Some(&proto(-2)), "t", default, &mut p), None);
    assert_eq!(p.count(), 1);
}
