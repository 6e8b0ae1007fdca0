//! What the filter answers itself and what it passes on.

use dp_http::Method;
use shared_config::http_filter::{HttpFilterConfig, router};
use shared_config::matcher::{HeaderMatcher, HeaderTest, StringMatcher};

use super::*;
use crate::services::{ClusterHealth, KeepStore};
use crate::testing::{Exchange, FixedHealth, Proxy, answer, compile, filter, well};

fn proxy(mode: Mode, health: FixedHealth) -> Proxy {
    let test = HeaderTest::Text(StringMatcher::exact("/healthz"));
    let headers = vec![HeaderMatcher { name: ":path".into(), test, invert: false, missing_is_empty: false }];
    let config = HttpFilterConfig::HealthCheck(Config { mode, headers });
    let router = HttpFilterConfig::Router(router::Config::default());
    Proxy::of(compile(&[filter("hc", config), filter("router", router)], &[], &KeepStore::default(), health))
}

async fn get(proxy: &Proxy, path: &str, status: u16) -> Exchange {
    proxy.exchange(RequestHead::new(Method::Get, "h", path), &[], &answer(status, &[], &["ok"])).await
}

/// The status and reason for a health check that we answer ourselves.
async fn check(percentages: &[(&str, f64)], health: FixedHealth, status: u16, details: &str) {
    let map = percentages.iter().map(|(name, percent)| ((*name).to_owned(), *percent)).collect();
    let exchange = get(&proxy(Mode::Answer { cluster_min_healthy_percentages: map }, health), "/healthz", 200).await;
    assert_eq!((exchange.head.status, &*exchange.info.details), (status, details));
    assert!(exchange.upstream.is_none());
    assert_eq!(exchange.info.flags.has(Flags::FAILED_LOCAL_HEALTH_CHECK), status == 503);
    assert!(exchange.info.health_check);
}

fn cluster(healthy: u64, total: u64) -> FixedHealth {
    let health = ClusterHealth { healthy, degraded: 0, total };
    FixedHealth { is_failing: false, clusters: BTreeMap::from([("a", health)]) }
}

#[tokio::test]
async fn a_process_that_is_well_says_so_until_it_drains() {
    check(&[], well(), 200, "health_check_ok").await;
    check(&[], FixedHealth { is_failing: true, ..well() }, 503, "health_check_failed").await;
}

#[tokio::test]
async fn clusters_must_have_enough_healthy_endpoints() {
    check(&[("a", 50.0)], cluster(1, 2), 200, "health_check_ok").await;
    check(&[("a", 51.0)], cluster(1, 2), 503, "health_check_failed_cluster_unhealthy").await;
    check(&[("a", 1.0)], cluster(0, 0), 503, "health_check_failed_cluster_empty").await;
    check(&[("a", 0.0)], cluster(0, 0), 200, "health_check_ok").await;
    check(&[("b", 0.0)], cluster(1, 1), 503, "health_check_failed_cluster_not_found").await;
}

#[tokio::test]
async fn other_requests_pass_and_learn_that_the_process_fails() {
    let mode = Mode::Answer { cluster_min_healthy_percentages: BTreeMap::new() };
    let exchange = get(&proxy(mode.clone(), well()), "/", 200).await;
    assert!(exchange.upstream.is_some() && !exchange.info.health_check);
    assert!(!exchange.head.headers.contains("x-envoy-immediate-health-check-fail"));
    let exchange = get(&proxy(mode, FixedHealth { is_failing: true, ..well() }), "/", 200).await;
    assert_eq!(exchange.head.headers.text("x-envoy-immediate-health-check-fail"), Some("True"));
}

#[tokio::test]
async fn in_pass_through_the_origin_answers() {
    let proxy = proxy(Mode::PassThrough { cache_time: None }, well());
    for status in [200, 503] {
        let exchange = get(&proxy, "/healthz", status).await;
        assert_eq!((exchange.head.status, exchange.upstream.is_some()), (status, true));
        assert_eq!(exchange.head.headers.text("x-envoy-upstream-healthchecked-cluster"), Some("here"));
    }
}

#[tokio::test]
async fn the_answer_of_the_origin_is_kept_for_the_cache_time() {
    let mut proxy = proxy(Mode::PassThrough { cache_time: Some(Duration::from_secs(5)) }, well());
    assert!(get(&proxy, "/healthz", 503).await.upstream.is_some());
    let exchange = get(&proxy, "/healthz", 200).await;
    assert_eq!((exchange.head.status, exchange.upstream.is_some()), (503, false));
    assert_eq!(exchange.info.details, "health_check_cached");
    assert!(get(&proxy, "/", 200).await.upstream.is_some(), "other requests are never cached");
    proxy.now += Duration::from_secs(6);
    assert_eq!(get(&proxy, "/healthz", 200).await.head.status, 200);
}

#[tokio::test]
async fn checks_are_counted_by_their_outcome() {
    let answering = |percentages: &[(&str, f64)]| Mode::Answer {
        cluster_min_healthy_percentages: percentages.iter().map(|(name, p)| ((*name).to_owned(), *p)).collect(),
    };
    let counted = async |mode: Mode, status: u16| get(&proxy(mode, well()), "/healthz", status).await.counted;
    let (total, ok) = ("health_check.request_total: 1", "health_check.ok: 1");
    assert_eq!(counted(answering(&[]), 200).await, format!("{total}, {ok}"));
    let missing = "health_check.failed: 1, health_check.failed_cluster_not_found: 1";
    assert_eq!(counted(answering(&[("x", 1.0)]), 200).await, format!("{total}, {missing}"));
    assert_eq!(counted(Mode::PassThrough { cache_time: None }, 200).await, format!("{total}, {ok}"));
    assert_eq!(counted(Mode::PassThrough { cache_time: None }, 500).await, format!("{total}, health_check.failed: 1"));
    let kept = proxy(Mode::PassThrough { cache_time: Some(Duration::from_secs(5)) }, well());
    get(&kept, "/healthz", 200).await;
    let counted = get(&kept, "/healthz", 200).await.counted;
    assert_eq!(counted, "health_check.request_total: 2, health_check.ok: 2, health_check.cached_response: 1");
}
