//! Each kind of validation rule, kept and broken.

use prost::{Message as _, Name};

use super::*;
use crate::envoy::config::cluster::v3::Cluster;
use crate::envoy::config::core::v3::{Address, HeaderValue, Http2ProtocolOptions};
use crate::envoy::config::listener::v3::Listener;
use crate::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use crate::json::from_yaml;

/// Checks the problems of the `M` in `yaml`.
#[track_caller]
fn check<M: Name + Default>(yaml: &str, wanted: &[&str]) {
    let message: M = from_yaml(yaml).unwrap();
    let problems = validate(&M::full_name(), &message.encode_to_vec());
    let texts: Vec<String> =
        problems.into_iter().map(|p| format!("{}: {}", p.path, p.reason).trim_start_matches(": ").to_owned()).collect();
    assert_eq!(texts, wanted);
}

#[test]
fn a_sound_message_has_no_problem() {
    check::<Cluster>("{name: a, connect_timeout: 1s, type: EDS, lb_policy: RANDOM}", &[]);
    check::<Listener>("{name: a}", &[]);
}

#[test]
fn absent_fields_are_checked_as_their_default_unless_absence_means_something() {
    check::<VirtualHost>("{domains: [a]}", &["name: must not be empty"]);
    check::<VirtualHost>("{name: a}", &["domains: must have at least 1 item"]);
    check::<Http2ProtocolOptions>("{}", &[]);
}

#[test]
fn numbers_have_ranges_also_in_wrappers() {
    check::<Http2ProtocolOptions>(
        "{max_concurrent_streams: 0, initial_stream_window_size: 65534, initial_connection_window_size: 65535}",
        &["max_concurrent_streams: must be at least 1", "initial_stream_window_size: must be at least 65535"],
    );
}

#[test]
fn durations_have_ranges() {
    check::<Cluster>("{name: a, connect_timeout: 0s}", &["connect_timeout: must be above 0s"]);
    check::<Cluster>("{name: a, connect_timeout: 0.000000001s}", &[]);
}

#[test]
fn a_required_oneof_must_have_a_field() {
    check::<Address>("{}", &["one of socket_address, pipe, envoy_internal_address is required"]);
    check::<Address>("{socket_address: {address: a}}", &["socket_address: one of port_value, named_port is required"]);
}

#[test]
fn an_enum_must_be_defined() {
    check::<Cluster>("{name: a, lb_policy: 99}", &["lb_policy: unknown value 99"]);
}

#[test]
fn header_names_and_values_are_checked() {
    check::<HeaderValue>(
        "{key: \"a\\nb\", value: \"c\\0\"}",
        &["key: \"a\\nb\" is not a header name", "value: \"c\\0\" is not a header value"],
    );
}

#[test]
fn nested_lists_maps_and_anys_are_checked_with_their_path() {
    check::<RouteConfiguration>(
        "{name: r, virtual_hosts: [{name: v, domains: ['*'], routes: [{match: {prefix: /}, \
         direct_response: {status: 700}}]}]}",
        &["virtual_hosts[0].routes[0].direct_response.status: must be below 600"],
    );
    check::<Listener>(
        "{filter_chains: [{filters: [{name: h, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters\
         .network.tcp_proxy.v3.TcpProxy, cluster: a}}]}]}",
        &["filter_chains[0].filters[0].typed_config.stat_prefix: must not be empty"],
    );
}

#[test]
fn broken_bytes_are_a_problem_and_no_panic() {
    let type_name = Cluster::full_name();
    assert_eq!(validate(&type_name, &[0x0a]).first().map(|p| p.reason.as_str()), Some("broken message"));
    for length in 0..64 {
        let noise: Vec<u8> = (0..length).map(|n| (n * 37 + 11) as u8).collect();
        validate(&type_name, &noise);
    }
    assert!(validate("no.such.Type", &[1, 2, 3]).is_empty());
}

/// Rules that we would silently not check must not appear with the next descriptor set.
#[test]
fn every_rule_of_the_descriptor_set_is_implemented() {
    use crate::validate::FieldRules;
    use crate::validate::field_rules::Type;
    fn known(rules: &FieldRules) -> bool {
        match &rules.r#type {
            None => true,
            Some(Type::Float(r)) => r.r#const.is_none() && r.r#in.is_empty() && r.not_in.is_empty(),
            Some(Type::Double(r)) => r.r#const.is_none() && r.r#in.is_empty() && r.not_in.is_empty(),
            Some(Type::Int32(r)) => r.r#const.is_none() && r.r#in.is_empty() && r.not_in.is_empty(),
            Some(Type::Int64(r)) => r.r#const.is_none() && r.r#in.is_empty() && r.not_in.is_empty(),
            Some(Type::Uint32(r)) => r.r#const.is_none() && r.r#in.is_empty() && r.not_in.is_empty(),
            Some(Type::Uint64(r)) => r.r#const.is_none() && r.r#in.is_empty() && r.not_in.is_empty(),
            Some(Type::Bool(_)) => true,
            Some(Type::String(r)) => {
                use crate::validate::string_rules::WellKnown;
                r.r#const.is_none()
                    && r.len.is_none()
                    && r.len_bytes.is_none()
                    && r.contains.is_none()
                    && r.not_contains.is_none()
                    && r.not_in.is_empty()
                    && matches!(r.well_known, None | Some(WellKnown::WellKnownRegex(_)))
                    && r.pattern.as_ref().is_none_or(|p| regex::Regex::new(p).is_ok())
            }
            Some(Type::Bytes(r)) => {
                r.r#const.is_none()
                    && r.len.is_none()
                    && r.pattern.is_none()
                    && r.prefix.is_none()
                    && r.suffix.is_none()
                    && r.contains.is_none()
                    && r.r#in.is_empty()
                    && r.not_in.is_empty()
                    && r.well_known.is_none()
                    && !r.ignore_empty()
            }
            Some(Type::Enum(r)) => r.r#const.is_none() && r.r#in.is_empty(),
            Some(Type::Duration(r)) => r.r#const.is_none() && r.r#in.is_empty() && r.not_in.is_empty(),
            Some(Type::Any(r)) => r.r#in.is_empty() && r.not_in.is_empty(),
            Some(Type::Repeated(r)) => !r.ignore_empty() && r.items.as_ref().is_none_or(|items| known(items)),
            Some(Type::Map(r)) => {
                !r.no_sparse()
                    && !r.ignore_empty()
                    && r.keys.as_ref().is_none_or(|k| known(k))
                    && r.values.as_ref().is_none_or(|v| known(v))
            }
            Some(_) => false,
        }
    }
    let extension = crate::json::pool().get_extension_by_name("validate.rules").unwrap();
    let mut count = 0;
    for message in crate::json::pool().all_messages() {
        for field in message.fields() {
            let options = field.options();
            if options.has_extension(&extension) {
                let rules: FieldRules = options.get_extension(&extension).as_message().unwrap().transcode_to().unwrap();
                assert!(known(&rules), "{}: {rules:?}", field.full_name());
                count += 1;
            }
        }
    }
    assert!(count > 500, "only {count} fields with rules were found");
}

#[test]
fn ten_thousand_clusters_are_checked_in_a_moment() {
    let cluster: Cluster = from_yaml(
        "{name: a, connect_timeout: 1s, type: EDS, eds_cluster_config: {eds_config: {ads: {}}}, \
         lb_policy: LEAST_REQUEST, circuit_breakers: {thresholds: [{max_connections: 5}]}}",
    )
    .unwrap();
    let (name, bytes) = (Cluster::full_name(), cluster.encode_to_vec());
    validate(&name, &bytes);
    let start = std::time::Instant::now();
    for _ in 0..10_000 {
        assert!(validate(&name, &bytes).is_empty());
    }
    // Some 20 ms when optimised; the bound is for an unoptimised build on a busy machine.
    assert!(start.elapsed() < std::time::Duration::from_secs(10), "{:?}", start.elapsed());
}
