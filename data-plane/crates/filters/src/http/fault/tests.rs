//! Aborts, delays and paced responses, on a paused clock.

use std::time::Duration;

use dp_http::Method;
use shared_config::http_filter::{FilterOverride, HttpFilterConfig, fault, router};
use shared_config::matcher::{HeaderMatcher, HeaderTest, StringMatcher};

use super::*;
use crate::services::KeepStore;
use crate::testing::{Exchange, Proxy, answer, filter};

fn always<T>(what: T) -> Option<fault::Fault<T>> {
    Some(fault::Fault { percentage: Fraction::ALL, what })
}

fn never<T>(what: T) -> Option<fault::Fault<T>> {
    Some(fault::Fault { percentage: Fraction::NONE, what })
}

fn abort(status: u16) -> Config {
    Config { abort: always(Abort::Http(status)), ..Config::default() }
}

fn proxy(config: &Config, overrides: &[Config], keep: &KeepStore) -> Proxy {
    let router = HttpFilterConfig::Router(router::Config::default());
    let filters = [filter("fault", HttpFilterConfig::Fault(config.clone())), filter("router", router)];
    let levels: Vec<_> = overrides.iter().map(|c| ("fault", FilterOverride::Fault(c.clone()))).collect();
    Proxy::with(&filters, &levels, keep)
}

async fn send(config: &Config, fields: &[(&str, &str)]) -> (Exchange, Duration) {
    let mut head = RequestHead::new(Method::Get, "h", "/");
    for (name, value) in fields {
        head.headers.append(*name, value.as_bytes());
    }
    let start = tokio::time::Instant::now();
    let exchange = proxy(config, &[], &KeepStore::default()).exchange(head, &[], &answer(200, &[], &["ok"])).await;
    (exchange, start.elapsed())
}

/// Status, text, and how long it took.
async fn check(config: Config, fields: &[(&str, &str)], status: u16, body: &str, millis: u64) {
    let (exchange, took) = send(&config, fields).await;
    assert_eq!((exchange.head.status, &*exchange.body), (status, body.as_bytes()));
    assert_eq!(took.as_millis() as u64, millis);
    assert_eq!(exchange.info.flags.has(Flags::FAULT_INJECTED), body != "ok");
    assert_eq!(exchange.info.flags.has(Flags::DELAY_INJECTED), millis > 0);
}

#[tokio::test(start_paused = true)]
async fn a_share_of_requests_is_aborted() {
    check(abort(503), &[], 503, "fault filter abort", 0).await;
    check(Config { abort: never(Abort::Http(503)), ..Config::default() }, &[], 200, "ok", 0).await;
    check(Config { abort_body: "no".into(), ..abort(418) }, &[], 418, "no", 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_delay_comes_before_an_abort() {
    let delay = always(Delay::Fixed(Duration::from_millis(300)));
    check(Config { delay, ..Config::default() }, &[], 200, "ok", 300).await;
    check(Config { delay, ..abort(500) }, &[], 500, "fault filter abort", 300).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_asks_for_its_faults_by_header() {
    let config = Config { delay: always(Delay::Header), abort: always(Abort::Header), ..Config::default() };
    check(config.clone(), &[], 200, "ok", 0).await;
    check(config.clone(), &[("x-envoy-fault-delay-request", "25")], 200, "ok", 25).await;
    check(config.clone(), &[("x-envoy-fault-abort-request", "404")], 404, "fault filter abort", 0).await;
    check(config.clone(), &[("x-envoy-fault-abort-request", "999")], 200, "ok", 0).await;
    let rarely = [("x-envoy-fault-abort-request", "404"), ("x-envoy-fault-abort-request-percentage", "0")];
    check(config, &rarely, 200, "ok", 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_header_cannot_raise_the_configured_share() {
    let config = Config { abort: never(Abort::Header), ..Config::default() };
    let asked = [("x-envoy-fault-abort-request", "404"), ("x-envoy-fault-abort-request-percentage", "100")];
    check(config, &asked, 200, "ok", 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_grpc_abort_is_a_grpc_status() {
    let (exchange, _) = send(&Config { abort: always(Abort::Grpc(14)), ..Config::default() }, &[]).await;
    assert_eq!((exchange.head.status, exchange.info.grpc_status), (200, Some(14)));
}

#[tokio::test(start_paused = true)]
async fn only_requests_that_match_suffer() {
    let header = HeaderMatcher {
        name: "x-test".into(),
        test: HeaderTest::Text(StringMatcher::exact("1")),
        invert: false,
        missing_is_empty: false,
    };
    let by_header = Config { headers: vec![header], ..abort(500) };
    check(by_header.clone(), &[], 200, "ok", 0).await;
    check(by_header, &[("x-test", "1")], 500, "fault filter abort", 0).await;
    let by_node = Config { downstream_nodes: vec!["n1".into()], ..abort(500) };
    check(by_node.clone(), &[("x-envoy-downstream-service-node", "n2")], 200, "ok", 0).await;
    check(by_node, &[("x-envoy-downstream-service-node", "n1")], 500, "fault filter abort", 0).await;
    check(Config { upstream_cluster: "other".into(), ..abort(500) }, &[], 200, "ok", 0).await;
    check(Config { upstream_cluster: "origin".into(), ..abort(500) }, &[], 500, "fault filter abort", 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_response_is_paced_in_bytes_a_second() {
    let fixed = Config { response_rate_limit: always(Rate::Fixed(2)), ..Config::default() };
    assert_eq!(send(&fixed, &[]).await.0.pace, Some(2048));
    let header = Config { response_rate_limit: always(Rate::Header), ..Config::default() };
    assert_eq!(send(&header, &[]).await.0.pace, None);
    assert_eq!(send(&header, &[("x-envoy-fault-throughput-response", "3")]).await.0.pace, Some(3072));
}

#[tokio::test(start_paused = true)]
async fn no_more_faults_than_allowed_are_active_at_once() {
    let keep = KeepStore::default();
    let config =
        Config { delay: always(Delay::Fixed(Duration::from_secs(1))), max_active_faults: Some(1), ..Config::default() };
    let (one, two) = (proxy(&config, &[], &keep), proxy(&config, &[], &keep));
    let head = || RequestHead::new(Method::Get, "h", "/");
    let origin = answer(200, &[], &["ok"]);
    let (first, second) = tokio::join!(one.exchange(head(), &[], &origin), two.exchange(head(), &[], &origin));
    assert!(first.info.flags.has(Flags::DELAY_INJECTED));
    assert!(!second.info.flags.has(Flags::DELAY_INJECTED));
    let third = two.exchange(head(), &[], &origin).await;
    assert!(third.info.flags.has(Flags::DELAY_INJECTED), "the first one is over");
}

#[tokio::test(start_paused = true)]
async fn a_route_replaces_the_configuration_of_the_chain() {
    let proxy = proxy(&abort(500), &[abort(501), abort(502)], &KeepStore::default());
    let exchange = proxy.exchange(RequestHead::new(Method::Get, "h", "/"), &[], &answer(200, &[], &[])).await;
    assert_eq!(exchange.head.status, 502);
}

#[tokio::test(start_paused = true)]
async fn faults_are_counted_by_kind() {
    let delay = always(Delay::Fixed(Duration::from_millis(1)));
    let rate = always(Rate::Fixed(2));
    let all = Config { delay, response_rate_limit: rate, ..abort(500) };
    let counted = send(&all, &[]).await.0.counted;
    assert_eq!(counted, "fault.delays_injected: 1, fault.aborts_injected: 1, fault.response_rl_injected: 1");
    let none = Config { max_active_faults: Some(0), ..abort(500) };
    assert_eq!(send(&none, &[]).await.0.counted, "fault.faults_overflow: 1");
}
