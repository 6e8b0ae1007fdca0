//! The chain of HTTP filters and what a route overrides in it.

use proto::envoy::extensions::filters::http::buffer::v3::{Buffer, BufferPerRoute, buffer_per_route};
use proto::envoy::extensions::filters::http::router::v3::Router;

use super::*;

fn filter(name: &str, any: Any) -> hcm::HttpFilter {
    let config_type = Some(hcm::http_filter::ConfigType::TypedConfig(any));
    hcm::HttpFilter { name: name.into(), config_type, ..Default::default() }
}

fn router() -> hcm::HttpFilter {
    filter("router", Any::pack(&Router::default()))
}

fn buffer(max: u32) -> hcm::HttpFilter {
    filter("buffer", Any::pack(&Buffer { max_request_bytes: Some(max) }))
}

fn unknown() -> Any {
    Any { type_url: "type.googleapis.com/acme.Filter".into(), value: Default::default() }
}

/// The names of the filters of a good chain, or all that is wrong.
fn check(chain: &[hcm::HttpFilter], expected: &str) {
    let mut p = Problems::default();
    let filters = decode_chain(chain, &mut p);
    let text = match p.finish(Some(filters)) {
        Ok(filters) => filters.iter().map(|f| f.name.as_str()).collect::<Vec<_>>().join(" "),
        Err(invalid) => invalid.to_string(),
    };
    assert_eq!(text, expected);
}

#[test]
fn a_chain_ends_with_its_only_router() {
    check(&[buffer(1), router()], "buffer router");
    check(&[buffer(1)], "http_filters[0]: the last filter must be the router, not buffer");
    check(&[router(), router()], "http_filters[0]: router: the router must be the last filter");
    check(&[], "http_filters: empty; the last filter must be the router");
    check(&[hcm::HttpFilter { disabled: true, ..router() }], "http_filters[0]: the router cannot be disabled");
}

#[test]
fn a_chain_holds_no_more_filters_than_the_proxy_can_follow() {
    let mut chain = vec![buffer(1); 32];
    chain.push(router());
    check(&chain, "http_filters: 33 filters, at most 32 are possible");
}

#[test]
fn an_unknown_filter_is_refused_by_type_and_skipped_when_optional() {
    let odd = filter("odd", unknown());
    check(
        &[odd.clone(), router()],
        "http_filters[0].typed_config: no HTTP filter of type \"acme.Filter\" in weir-proxy",
    );
    check(&[hcm::HttpFilter { is_optional: true, ..odd }, router()], "router");
}

#[test]
fn an_optional_filter_that_is_wrong_is_still_refused() {
    check(
        &[hcm::HttpFilter { is_optional: true, ..buffer(0) }, router()],
        "http_filters[0].typed_config.max_request_bytes: must be greater than 0",
    );
}

fn check_per_route(any: &Any, expected: Result<Option<PerRouteConfig>, &str>) {
    let mut p = Problems::default();
    let config = decode_per_route("buffer", any, &mut p);
    match expected {
        Ok(expected) => assert_eq!((p.count(), config), (0, expected)),
        Err(reason) => assert_eq!(p.finish(Some(())).unwrap_err().to_string(), reason),
    }
}

#[test]
fn a_route_overrides_a_filter_directly_or_through_filter_config() {
    let buffer = buffer_per_route::Override::Buffer(Buffer { max_request_bytes: Some(7) });
    let direct = Any::pack(&BufferPerRoute { r#override: Some(buffer) });
    let expected = PerRouteConfig { disabled: false, config: Some(FilterOverride::Buffer(buffer::Override::Limit(7))) };
    check_per_route(&direct, Ok(Some(expected.clone())));
    let wrapped = FilterConfig { config: Some(direct), ..Default::default() };
    check_per_route(&Any::pack(&wrapped), Ok(Some(expected)));
}

#[test]
fn a_route_switches_a_filter_off_or_on() {
    let off = FilterConfig { disabled: true, ..Default::default() };
    check_per_route(&Any::pack(&off), Ok(Some(PerRouteConfig { disabled: true, config: None })));
    let on = FilterConfig::default();
    check_per_route(&Any::pack(&on), Ok(Some(PerRouteConfig { disabled: false, config: None })));
}

#[test]
fn an_unknown_route_configuration_is_refused_unless_optional() {
    check_per_route(&unknown(), Err("no route configuration of an HTTP filter has type \"acme.Filter\" in weir-proxy"));
    let optional = FilterConfig { config: Some(unknown()), is_optional: true, ..Default::default() };
    check_per_route(&Any::pack(&optional), Ok(None));
}
