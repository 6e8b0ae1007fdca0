//! Buckets: of the filter, of a route, of a connection, of a descriptor.

use dp_http::Method;
use shared_config::core::Fraction;
use shared_config::header::{AppendAction, HeaderValueOption};
use shared_config::http_filter::local_ratelimit::{Action, Descriptor as D, RateLimit, TokenBucket};
use shared_config::http_filter::{FilterOverride, HttpFilterConfig, router};

use super::*;
use crate::services::KeepStore;
use crate::testing::{Exchange, Proxy, answer, connection, filter, info};

fn bucket(max_tokens: u32) -> TokenBucket {
    TokenBucket { max_tokens, tokens_per_fill: 1, fill_interval: Duration::from_secs(10) }
}

fn config(max_tokens: u32) -> Config {
    Config {
        stat_prefix: "limit".into(),
        status: 429,
        bucket: Some(bucket(max_tokens)),
        enabled: Fraction::ALL.into(),
        enforced: Fraction::ALL.into(),
        request_headers_when_not_enforced: vec![],
        response_headers: vec![],
        descriptors: vec![],
        rate_limits: vec![],
        is_per_connection: false,
        x_ratelimit_headers: false,
        retry_after: false,
        always_consume_default: true,
        max_dynamic_descriptors: 20,
        resource_exhausted: false,
    }
}

fn proxy(config: &Config, overrides: &[Config], keep: &KeepStore) -> Proxy {
    let filters = [
        filter("rl", HttpFilterConfig::LocalRatelimit(config.clone())),
        filter("router", HttpFilterConfig::Router(router::Config::default())),
    ];
    let levels: Vec<_> = overrides.iter().map(|c| ("rl", FilterOverride::LocalRatelimit(c.clone()))).collect();
    Proxy::with(&filters, &levels, keep)
}

async fn get(proxy: &Proxy, path: &str, fields: &[(&str, &str)]) -> Exchange {
    let mut head = RequestHead::new(Method::Get, "h", path);
    for (name, value) in fields {
        head.headers.append(*name, value.as_bytes());
    }
    proxy.exchange(head, &[], &answer(200, &[], &[])).await
}

/// Path, header fields, and the status to expect.
type Request<'r> = (&'r str, &'r [(&'r str, &'r str)], u16);

/// The statuses of requests one after the other.
async fn check(proxy: &Proxy, requests: &[Request<'_>]) {
    for (i, (path, fields, status)) in requests.iter().enumerate() {
        assert_eq!(get(proxy, path, fields).await.head.status, *status, "request {i}: {path} {fields:?}");
    }
}

#[tokio::test]
async fn a_request_without_a_token_is_answered_here() {
    let proxy = proxy(&config(2), &[], &KeepStore::default());
    check(&proxy, &[("/", &[], 200), ("/", &[], 200)]).await;
    let exchange = get(&proxy, "/", &[]).await;
    assert_eq!((exchange.head.status, &*exchange.body), (429, &b"local_rate_limited"[..]));
    assert_eq!(exchange.info.details, "local_rate_limited");
    assert!(exchange.info.flags.has(Flags::RATE_LIMITED) && exchange.upstream.is_none());
}

#[tokio::test]
async fn the_response_tells_limit_rest_and_reset_as_envoy_does() {
    let headers = Config { x_ratelimit_headers: true, retry_after: true, ..config(2) };
    let proxy = proxy(&headers, &[], &KeepStore::default());
    for (status, remaining, reset, retry_after) in
        [(200, "1", "0", None), (200, "0", "10", None), (429, "0", "10", Some("10"))]
    {
        let head = get(&proxy, "/", &[]).await.head;
        assert_eq!(head.status, status);
        assert_eq!(head.headers.text("x-ratelimit-limit"), Some("2"));
        assert_eq!(head.headers.text("x-ratelimit-remaining"), Some(remaining));
        assert_eq!(head.headers.text("x-ratelimit-reset"), Some(reset));
        assert_eq!(head.headers.text("retry-after"), retry_after);
    }
}

#[tokio::test]
async fn nothing_is_limited_unless_enabled_nor_refused_unless_enforced() {
    let off = Config { enabled: Fraction::NONE.into(), ..config(1) };
    check(&proxy(&off, &[], &KeepStore::default()), &[("/", &[], 200), ("/", &[], 200)]).await;
    let action = AppendAction::AppendIfExistsOrAdd;
    let mark = HeaderValueOption { name: "x-over".into(), value: "1".into(), action, keep_empty_value: false };
    let lax = Config { enforced: Fraction::NONE.into(), request_headers_when_not_enforced: vec![mark], ..config(1) };
    let proxy = proxy(&lax, &[], &KeepStore::default());
    for marked in [false, true] {
        let (head, _) = get(&proxy, "/", &[]).await.upstream.unwrap();
        assert_eq!(head.headers.contains("x-over"), marked);
    }
}

#[tokio::test]
async fn tokens_outlive_a_new_snapshot_with_the_same_limits() {
    let keep = KeepStore::default();
    let before = proxy(&config(1), &[], &keep);
    check(&before, &[("/", &[], 200)]).await;
    let same = proxy(&Config { status: 503, ..config(1) }, &[], &keep);
    check(&same, &[("/", &[], 503)]).await;
    check(&proxy(&config(2), &[], &keep), &[("/", &[], 200)]).await;
}

#[tokio::test]
async fn a_route_has_its_own_bucket() {
    let keep = KeepStore::default();
    let chain = proxy(&config(1), &[], &keep);
    let route = proxy(&config(1), &[config(1)], &keep);
    check(&chain, &[("/", &[], 200), ("/", &[], 429)]).await;
    check(&route, &[("/", &[], 200), ("/", &[], 429)]).await;
}

#[tokio::test]
async fn each_connection_has_its_own_bucket_when_asked_for() {
    let mut proxy = proxy(&Config { is_per_connection: true, ..config(1) }, &[], &KeepStore::default());
    check(&proxy, &[("/", &[], 200), ("/", &[], 429)]).await;
    proxy.info = info(dp_http::info::ConnectionInfo { id: 2, ..connection() });
    check(&proxy, &[("/", &[], 200), ("/", &[], 429)]).await;
}

fn limited(actions: Vec<Action>, entries: &[(&str, &str)], tokens: u32) -> Config {
    let entries = entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Config {
        descriptors: vec![D { entries, bucket: bucket(tokens) }],
        rate_limits: vec![RateLimit { actions, hits: 1 }],
        ..config(100)
    }
}

fn header(skip_if_absent: bool) -> Action {
    Action::RequestHeader { key: "k".into(), header: "x-k".into(), skip_if_absent }
}

#[tokio::test]
async fn a_descriptor_limits_the_requests_it_covers() {
    let proxy = proxy(&limited(vec![header(false)], &[("k", "a")], 1), &[], &KeepStore::default());
    check(
        &proxy,
        &[
            ("/", &[("x-k", "a")], 200),
            ("/", &[("x-k", "a")], 429),
            ("/", &[("x-k", "b")], 200),
            ("/", &[("x-k", "b")], 200),
            ("/", &[], 200),
        ],
    )
    .await;
}

#[tokio::test]
async fn an_open_value_gives_each_value_a_bucket_and_forgets_the_oldest() {
    let open = Config { max_dynamic_descriptors: 2, ..limited(vec![header(false)], &[("k", "")], 1) };
    let proxy = proxy(&open, &[], &KeepStore::default());
    let a: &[(&str, &str)] = &[("x-k", "a")];
    let b: &[(&str, &str)] = &[("x-k", "b")];
    let c: &[(&str, &str)] = &[("x-k", "c")];
    check(&proxy, &[("/", a, 200), ("/", b, 200), ("/", a, 429), ("/", c, 200), ("/", a, 429), ("/", b, 200)]).await;
}

#[tokio::test]
async fn actions_describe_client_cluster_query_and_constants() {
    let one = |action, key: &str, value: &str| limited(vec![action], &[(key, value)], 1);
    for config in [
        one(Action::RemoteAddress, "remote_address", "10.1.2.3"),
        one(Action::MaskedRemoteAddress { v4: 8, v6: 64 }, "masked_remote_address", "10.0.0.0/8"),
        one(Action::DestinationCluster, "destination_cluster", "origin"),
        one(Action::SourceCluster, "source_cluster", "here"),
        one(Action::GenericKey { key: "g".into(), value: "v".into() }, "g", "v"),
        one(Action::QueryParameter { key: "q".into(), parameter: "p".into(), skip_if_absent: false }, "q", "1"),
        limited(vec![header(true), Action::RemoteAddress], &[("remote_address", "10.1.2.3")], 1),
    ] {
        let proxy = proxy(&config, &[], &KeepStore::default());
        check(&proxy, &[("/?p=1", &[], 200), ("/?p=1", &[], 429)]).await;
    }
    let proxy = proxy(&one(Action::RemoteAddress, "remote_address", "10.1.2.4"), &[], &KeepStore::default());
    check(&proxy, &[("/", &[], 200), ("/", &[], 200)]).await;
}

#[tokio::test]
async fn the_default_bucket_pays_too_unless_told_otherwise() {
    let both = Config { bucket: Some(bucket(1)), ..limited(vec![Action::RemoteAddress], &[("remote_address", "")], 5) };
    check(&proxy(&both, &[], &KeepStore::default()), &[("/", &[], 200), ("/", &[], 429)]).await;
    let one = Config { always_consume_default: false, ..both };
    check(&proxy(&one, &[], &KeepStore::default()), &[("/", &[], 200), ("/", &[], 200)]).await;
}

#[tokio::test]
async fn a_grpc_client_is_told_that_resources_are_exhausted() {
    let proxy = proxy(&Config { resource_exhausted: true, ..config(1) }, &[], &KeepStore::default());
    check(&proxy, &[("/", &[], 200)]).await;
    assert_eq!(get(&proxy, "/", &[]).await.info.grpc_status, Some(8));
}

#[tokio::test]
async fn verdicts_are_counted_under_the_prefix_of_the_filter() {
    let proxy = proxy(&config(1), &[], &KeepStore::default());
    get(&proxy, "/", &[]).await;
    let counted = get(&proxy, "/", &[]).await.counted;
    let name = "limit.http_local_rate_limit";
    assert_eq!(counted, format!("{name}.enabled: 2, {name}.ok: 1, {name}.rate_limited: 1, {name}.enforced: 1"));
}
