//! Preflights and responses by origin.

use shared_config::core::{Fraction, RuntimeFraction};
use shared_config::http_filter::{FilterOverride, HttpFilterConfig, router};

use super::*;
use crate::services::KeepStore;
use crate::testing::{Proxy, answer, filter};

fn policy() -> Override {
    Override {
        allow_origins: vec![StringMatcher::exact("https://a.example")],
        allow_methods: "GET, PUT".into(),
        max_age: "600".into(),
        allow_credentials: Some(true),
        expose_headers: "x-b".into(),
        ..Override::default()
    }
}

fn request(method: Method, fields: &[(&str, &str)]) -> RequestHead {
    let mut head = RequestHead::new(method, "h", "/");
    for (name, value) in fields {
        head.headers.append(*name, value.as_bytes());
    }
    head
}

fn preflight(origin: &str) -> RequestHead {
    let fields = [
        ("origin", origin),
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "x-c"),
        ("access-control-request-private-network", "true"),
    ];
    request(Method::Options, &fields)
}

/// Whether the origin was asked, and the `access-control-` fields of the response without that prefix.
async fn check(policies: &[Override], request: RequestHead, asked: bool, expected: &str) {
    let router = HttpFilterConfig::Router(router::Config::default());
    let filters = [filter("cors", HttpFilterConfig::Cors(Config {})), filter("router", router)];
    let levels: Vec<_> = policies.iter().map(|p| ("cors", FilterOverride::Cors(p.clone()))).collect();
    let proxy = Proxy::with(&filters, &levels, &KeepStore::default());
    let exchange = proxy.exchange(request, &[], &answer(201, &[], &["x"])).await;
    let fields = exchange.head.headers.iter().filter_map(|(name, value)| {
        let name = name.strip_prefix("access-control-")?;
        Some(format!("{name}={}", String::from_utf8_lossy(value)))
    });
    assert_eq!(fields.collect::<Vec<_>>().join(" "), expected);
    assert_eq!(exchange.upstream.is_some(), asked);
    assert_eq!(exchange.head.status, if asked { 201 } else { 200 });
}

#[tokio::test]
async fn a_response_is_marked_for_an_allowed_origin_only() {
    let marked = "allow-origin=https://a.example allow-credentials=true expose-headers=x-b";
    check(&[policy()], request(Method::Get, &[("origin", "https://a.example")]), true, marked).await;
    check(&[policy()], request(Method::Get, &[("origin", "https://b.example")]), true, "").await;
    check(&[policy()], request(Method::Get, &[]), true, "").await;
}

#[tokio::test]
async fn a_route_without_a_policy_is_left_alone() {
    check(&[], preflight("https://a.example"), true, "").await;
}

#[tokio::test]
async fn a_preflight_is_answered_for_an_allowed_origin() {
    let expected = "allow-origin=https://a.example allow-credentials=true allow-methods=GET, PUT max-age=600 \
                    expose-headers=x-b";
    check(&[policy()], preflight("https://a.example"), false, expected).await;
}

#[tokio::test]
async fn a_star_allows_what_the_preflight_asks_for() {
    let policy = Override {
        allow_origins: vec![StringMatcher::exact("*")],
        allow_methods: "*".into(),
        allow_headers: "*".into(),
        allow_private_network_access: Some(true),
        ..Override::default()
    };
    let expected = "allow-origin=https://z allow-methods=PUT allow-headers=x-c allow-private-network=true";
    check(&[policy], preflight("https://z"), false, expected).await;
}

#[tokio::test]
async fn a_preflight_of_another_origin_goes_to_the_origin_unless_that_is_switched_off() {
    check(&[policy()], preflight("https://b.example"), true, "").await;
    let strict = Override { forward_not_matching_preflights: Some(false), ..policy() };
    let expected = "allow-credentials=true allow-methods=GET, PUT max-age=600";
    check(&[strict], preflight("https://b.example"), false, expected).await;
}

#[tokio::test]
async fn a_plain_options_request_is_no_preflight() {
    let marked = "allow-origin=https://a.example allow-credentials=true expose-headers=x-b";
    check(&[policy()], request(Method::Options, &[("origin", "https://a.example")]), true, marked).await;
}

#[tokio::test]
async fn a_more_specific_policy_inherits_what_it_leaves_out() {
    let route = Override { expose_headers: "x-r".into(), ..Override::default() };
    let marked = "allow-origin=https://a.example allow-credentials=true expose-headers=x-r";
    check(&[policy(), route], request(Method::Get, &[("origin", "https://a.example")]), true, marked).await;
}

#[tokio::test]
async fn the_most_specific_policy_decides_whether_it_is_enabled() {
    let off = Override {
        enabled: Some(RuntimeFraction { default: Fraction::NONE, key: String::new() }),
        ..Override::default()
    };
    check(&[policy(), off], preflight("https://a.example"), true, "").await;
}

#[tokio::test]
async fn origins_are_counted_also_where_the_policy_is_only_tried() {
    let counted = async |policy: &Override, origin: &str| {
        let router = HttpFilterConfig::Router(router::Config::default());
        let filters = [filter("cors", HttpFilterConfig::Cors(Config {})), filter("router", router)];
        let proxy = Proxy::with(&filters, &[("cors", FilterOverride::Cors(policy.clone()))], &KeepStore::default());
        let exchange = proxy.exchange(preflight(origin), &[], &answer(201, &[], &[])).await;
        (exchange.counted, exchange.upstream.is_some())
    };
    let tried =
        Override { enabled: Some(Fraction::NONE.into()), shadow_enabled: Some(Fraction::ALL.into()), ..policy() };
    assert_eq!(counted(&tried, "https://a.example").await, ("cors.origin_valid: 1".into(), true));
    assert_eq!(counted(&tried, "https://b.example").await, ("cors.origin_invalid: 1".into(), true));
    assert_eq!(counted(&policy(), "https://a.example").await, ("cors.origin_valid: 1".into(), false));
    let off = Override { enabled: Some(Fraction::NONE.into()), ..policy() };
    assert_eq!(counted(&off, "https://a.example").await, (String::new(), true));
}
