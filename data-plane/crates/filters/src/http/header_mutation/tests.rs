//! Mutations of headers, trailers and the query, by level.

use dp_http::Method;
use shared_config::header::{AppendAction, HeaderMutation as M, HeaderValueOption};
use shared_config::http_filter::header_mutation::{Mutations, QueryAction, QueryMutation};
use shared_config::http_filter::{FilterOverride, HttpFilterConfig, router};
use shared_config::matcher::{StringMatcher, StringPattern};

use super::*;
use crate::services::KeepStore;
use crate::testing::{Exchange, Origin, Proxy, answer, filter, refusals};

fn set(name: &str, value: &str) -> M {
    let action = AppendAction::OverwriteIfExistsOrAdd;
    M::Append(HeaderValueOption { name: name.into(), value: value.into(), action, keep_empty_value: false })
}

fn append(name: &str, value: &str, action: AppendAction) -> M {
    M::Append(HeaderValueOption { name: name.into(), value: value.into(), action, keep_empty_value: false })
}

fn chain(config: Config) -> [shared_config::http_filter::HttpFilter; 2] {
    [
        filter("hm", HttpFilterConfig::HeaderMutation(config)),
        filter("router", HttpFilterConfig::Router(router::Config::default())),
    ]
}

async fn send(config: Config, levels: &[Mutations]) -> Exchange {
    let levels: Vec<_> = levels.iter().map(|m| ("hm", FilterOverride::HeaderMutation(Override(m.clone())))).collect();
    let mut head = RequestHead::new(Method::Get, "h", "/p?q=1");
    head.headers.append("x-a", b"1");
    head.headers.append("x-b", b"2");
    let trailers = Some([("t-a", "1")].into_iter().collect());
    let origin = Origin { trailers, ..answer(200, &[("y-a", "1"), ("y-b", "2")], &["body"]) };
    Proxy::with(&chain(config), &levels, &KeepStore::default()).exchange(head, &[], &origin).await
}

fn fields(headers: &Headers) -> String {
    headers
        .iter()
        .map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value)))
        .collect::<Vec<_>>()
        .join(" ")
}

/// The fields that the origin gets.
async fn check_request(mutations: &[M], expected: &str) {
    let config =
        Config { mutations: Mutations { request: mutations.to_vec(), ..Default::default() }, ..Default::default() };
    assert_eq!(fields(&send(config, &[]).await.upstream.unwrap().0.headers), expected);
}

#[tokio::test]
async fn request_headers_are_changed_in_order() {
    check_request(&[set("x-a", "9"), M::Remove("x-b".into())], "x-a=9").await;
    let prefix = StringMatcher { pattern: StringPattern::Prefix("x-".into()), ignore_case: false };
    check_request(&[M::RemoveOnMatch(prefix), set("x-c", "%REQ(X-A)%%REQ(:PATH)%")], "x-c=/p?q=1").await;
    check_request(&[set("x-c", "%REQ(X-A)%"), M::Remove("x-a".into())], "x-b=2 x-c=1").await;
}

#[tokio::test]
async fn each_append_action_does_what_its_name_says() {
    use AppendAction::{AddIfAbsent, AppendIfExistsOrAdd, OverwriteIfExists, OverwriteIfExistsOrAdd};
    check_request(&[append("x-a", "9", AppendIfExistsOrAdd)], "x-a=1 x-b=2 x-a=9").await;
    check_request(&[append("x-a", "9", AddIfAbsent), append("x-c", "9", AddIfAbsent)], "x-a=1 x-b=2 x-c=9").await;
    check_request(&[append("x-a", "9", OverwriteIfExists), append("x-c", "9", OverwriteIfExists)], "x-a=9 x-b=2").await;
    check_request(&[append("x-c", "9", OverwriteIfExistsOrAdd)], "x-a=1 x-b=2 x-c=9").await;
}

#[tokio::test]
async fn an_empty_value_leaves_the_field_out_unless_it_is_to_be_kept() {
    check_request(&[set("x-c", "%REQ(missing)%")], "x-a=1 x-b=2").await;
    let action = AppendAction::AppendIfExistsOrAdd;
    let keep = HeaderValueOption { name: "x-c".into(), value: String::new(), action, keep_empty_value: true };
    check_request(&[M::Append(keep)], "x-a=1 x-b=2 x-c=").await;
}

#[tokio::test]
async fn responses_and_trailers_are_changed_too() {
    let mutations = Mutations {
        response: vec![set("y-a", "%REQ(X-A)%-%RESPONSE_CODE%-%RESP(Y-B)%"), M::Remove("y-b".into())],
        response_trailers: vec![set("t-b", "%REQ(X-B)%")],
        ..Default::default()
    };
    let exchange = send(Config { mutations, ..Default::default() }, &[]).await;
    assert!(fields(&exchange.head.headers).starts_with("y-a=1-"), "{:?}", exchange.head);
    assert!(fields(&exchange.head.headers).ends_with("-2"));
    assert_eq!(fields(&exchange.trailers), "t-a=1 t-b=2");
}

#[tokio::test]
async fn levels_are_applied_after_the_chain_and_the_last_has_the_last_word() {
    let level = |value: &str| Mutations { request: vec![set("x-w", value)], ..Default::default() };
    let levels = [level("table"), level("route")];
    for (most_specific_wins, expected) in [(false, "table"), (true, "route")] {
        let config = Config { mutations: level("chain"), most_specific_wins };
        let exchange = send(config, &levels).await;
        assert_eq!(exchange.upstream.unwrap().0.headers.text("x-w"), Some(expected));
    }
}

#[tokio::test]
async fn the_query_is_changed() {
    let value = "%REQ(X-A)%".to_owned();
    let query = vec![
        QueryMutation::Remove("q".into()),
        QueryMutation::Append { key: "r".into(), value, action: QueryAction::AppendIfExistsOrAdd },
    ];
    let config = Config { mutations: Mutations { query, ..Default::default() }, ..Default::default() };
    assert_eq!(send(config, &[]).await.upstream.unwrap().0.path(), "/p?r=1");
}

#[test]
fn a_format_that_is_wrong_is_refused_when_the_snapshot_compiles() {
    let mutations = Mutations { request: vec![set("x-c", "%NO_SUCH%")], ..Default::default() };
    let refused = refusals(&chain(Config { mutations, ..Default::default() }));
    assert_eq!(refused.len(), 1);
    assert!(refused[0].starts_with("hm: \"%NO_SUCH%\": "), "{refused:?}");
}
