//! Requests allowed and denied by policies and conditions.

use dp_http::Method;
use dp_http::info::{PeerCertificate, TlsInfo};
use shared_config::http_filter::rbac::{Branches, Cel, Input, OnMatch, Predicate, Test};
use shared_config::http_filter::{FilterOverride, HttpFilterConfig, router};
use shared_config::invalid::Problems;
use shared_config::matcher::{HeaderMatcher, HeaderTest, StringMatcher, StringPattern};

use super::*;
use crate::services::KeepStore;
use crate::testing::{Exchange, Proxy, answer, connection, filter, info};

use shared_config::http_filter::rbac::Rule as R;

fn policies(action: Action, rules: Vec<(&str, R, R, Option<&str>)>) -> rbac::Engine {
    let policies = rules.into_iter().map(|(name, permission, principal, condition)| {
        let condition = condition.map(|text| Cel::parse(text, &mut Problems::default()).unwrap());
        (name.to_owned(), rbac::Policy { permissions: vec![permission], principals: vec![principal], condition })
    });
    rbac::Engine::Policies { action, policies: policies.collect() }
}

fn prefix(text: &str) -> StringMatcher {
    StringMatcher { pattern: StringPattern::Prefix(text.into()), ignore_case: false }
}

async fn send(config: Config, overrides: &[PerRoute], with_tls: bool) -> Exchange {
    let filters = [
        filter("rbac", HttpFilterConfig::Rbac(config)),
        filter("router", HttpFilterConfig::Router(router::Config::default())),
    ];
    let levels: Vec<_> = overrides.iter().map(|o| ("rbac", FilterOverride::Rbac(o.clone()))).collect();
    let mut proxy = Proxy::with(&filters, &levels, &KeepStore::default());
    if with_tls {
        let peer =
            PeerCertificate { uri_sans: vec!["spiffe://a/b".into()], subject: "CN=me".into(), ..Default::default() };
        let tls = TlsInfo { peer: Some(peer.into()), version: "TLSv1.3", ..Default::default() };
        let mut connection = connection();
        connection.tls = Some(tls);
        connection.requested_server_name = Some("sni.example".into());
        proxy.info = info(connection);
    }
    proxy.info.client = dp_http::info::Address::Ip("203.0.113.9:1".parse().unwrap());
    let mut head = RequestHead::new(Method::Get, "host.example", "/admin/x?q=1");
    head.headers.append("x-role", b"user");
    proxy.exchange(head, &[], &answer(200, &[], &[])).await
}

/// Whether a GET of /admin/x by this client passes an engine.
async fn check_engine(engine: rbac::Engine, with_tls: bool, details: Option<&str>) {
    let config = Config { engine: Some(engine), ..Config::default() };
    let exchange = send(config, &[], with_tls).await;
    match details {
        None => assert_eq!((exchange.head.status, exchange.upstream.is_some()), (200, true)),
        Some(policy) => {
            assert_eq!((exchange.head.status, &*exchange.body), (403, &b"RBAC: access denied"[..]));
            assert_eq!(exchange.info.details, format!("rbac_access_denied_matched_policy[{policy}]"));
            assert!(exchange.upstream.is_none());
        }
    }
}

/// Whether this permission (or principal: they are alike) matches.
async fn check(rule: R, with_tls: bool, expected: bool) {
    let engine = policies(Action::Allow, vec![("p", rule, R::Always, None)]);
    check_engine(engine, with_tls, if expected { None } else { Some("none") }).await;
}

#[tokio::test]
async fn an_allow_list_refuses_what_no_policy_names() {
    check(R::UrlPath(prefix("/admin")), false, true).await;
    check(R::UrlPath(StringMatcher::exact("/admin/x?q=1")), false, false).await;
}

#[tokio::test]
async fn a_deny_list_refuses_what_a_policy_names() {
    let deny = |path| policies(Action::Deny, vec![("no admins", R::UrlPath(prefix(path)), R::Always, None)]);
    check_engine(deny("/admin"), false, Some("no_admins")).await;
    check_engine(deny("/other"), false, None).await;
}

#[tokio::test]
async fn rules_look_at_addresses_ports_and_headers() {
    check(R::DestinationIp("192.168.0.0/16".parse().unwrap()), false, true).await;
    check(R::DestinationPort(8080..8081), false, true).await;
    check(R::DestinationPort(8081..8090), false, false).await;
    check(R::DirectRemoteIp("10.0.0.0/8".parse().unwrap()), false, true).await;
    check(R::SourceIp("10.1.2.3/32".parse().unwrap()), false, true).await;
    check(R::RemoteIp("10.0.0.0/8".parse().unwrap()), false, false).await;
    check(R::RemoteIp("203.0.113.0/24".parse().unwrap()), false, true).await;
    let header = |name: &str, value| {
        let test = HeaderTest::Text(StringMatcher::exact(value));
        R::Header(HeaderMatcher { name: name.into(), test, invert: false, missing_is_empty: false })
    };
    check(header("x-role", "user"), false, true).await;
    check(header("x-role", "admin"), false, false).await;
    check(header(":method", "GET"), false, true).await;
}

#[tokio::test]
async fn rules_look_at_tls() {
    check(R::Authenticated(None), false, false).await;
    check(R::Authenticated(None), true, true).await;
    check(R::Authenticated(Some(StringMatcher::exact("spiffe://a/b"))), true, true).await;
    check(R::Authenticated(Some(StringMatcher::exact("CN=me"))), true, true).await;
    check(R::Authenticated(Some(StringMatcher::exact("spiffe://a/c"))), true, false).await;
    check(R::RequestedServerName(StringMatcher::exact("sni.example")), true, true).await;
    check(R::RequestedServerName(StringMatcher::exact("sni.example")), false, false).await;
}

#[tokio::test]
async fn rules_combine() {
    let never = || R::Not(Box::new(R::Always));
    check(R::All(vec![R::Always, never()]), false, false).await;
    check(R::Any(vec![R::Always, never()]), false, true).await;
    check(never(), false, false).await;
}

/// Whether the condition holds for the request.
async fn check_condition(text: &str, expected: bool) {
    let engine = policies(Action::Allow, vec![("p", R::Always, R::Always, Some(text))]);
    check_engine(engine, true, if expected { None } else { Some("none") }).await;
}

#[tokio::test]
async fn a_condition_sees_the_attributes_of_the_request() {
    check_condition("request.method == 'GET' && request.url_path.startsWith('/admin')", true).await;
    check_condition("request.headers['x-role'] == 'user' && request.host == 'host.example'", true).await;
    check_condition("request.headers['x-role'] in ['admin', 'root']", false).await;
    check_condition("request.query == 'q=1' && request.protocol == 'HTTP/1.1'", true).await;
    check_condition("connection.mtls && connection.uri_san_peer_certificate == 'spiffe://a/b'", true).await;
    check_condition("connection.requested_server_name.matches('^sni[.].*$')", true).await;
    check_condition("source.address.startsWith('203.0.113.9:') && destination.port == 8080", true).await;
}

#[tokio::test]
async fn a_condition_that_fails_does_not_match() {
    check_condition("request.headers['missing'] == 'x'", false).await;
    check_condition("request.path + 1 == 2", false).await;
    check_condition("request.path", false).await;
}

fn action(name: &str, action: Action) -> OnMatch {
    OnMatch::Action { name: name.into(), action }
}

#[tokio::test]
async fn a_matcher_denies_what_comes_to_no_leaf() {
    let branches = |branches| rbac::Engine::Matcher(rbac::Matcher { branches, on_no_match: None });
    let path = || Input::RequestHeader(":path".into());
    let cel = Cel::parse("request.method == 'PUT'", &mut Problems::default()).unwrap();
    let list = vec![
        (Predicate::Single(Input::Attributes, Test::Cel(cel)), action("put", Action::Deny)),
        (Predicate::Single(path(), Test::Text(prefix("/admin"))), action("admin", Action::Deny)),
    ];
    check_engine(branches(Branches::List(list)), false, Some("admin")).await;
    let ip = Test::Ip(vec!["203.0.113.0/24".parse().unwrap()]);
    let list = vec![(Predicate::Single(Input::SourceIp, ip), action("ours", Action::Allow))];
    check_engine(branches(Branches::List(list)), false, None).await;
    let exact = BTreeMap::from([("1".to_owned(), action("q", Action::Allow))]);
    check_engine(branches(Branches::Exact(Input::QueryParameter("q".into()), exact)), false, None).await;
    let paths = [("/", Action::Allow), ("/admin/", Action::Deny), ("/b", Action::Allow)];
    let map = paths.into_iter().map(|(path, what)| (path.to_owned(), action(path, what))).collect();
    check_engine(branches(Branches::Prefix(path(), map)), false, Some("/admin/")).await;
    check_engine(branches(Branches::List(vec![])), false, Some("none")).await;
}

#[tokio::test]
async fn shadow_rules_and_log_only_leave_a_note() {
    let deny = policies(Action::Deny, vec![("p", R::Always, R::Always, None)]);
    let log = policies(Action::Log, vec![("p", R::Always, R::Always, None)]);
    let shadow_rules_stat_prefix = "s_".into();
    let config = Config { engine: Some(log), shadow_engine: Some(deny), shadow_rules_stat_prefix, ..Config::default() };
    let exchange = send(config, &[], false).await;
    assert_eq!(exchange.head.status, 200);
    let metadata = exchange.info.metadata.unwrap();
    assert_eq!(metadata["envoy.filters.http.rbac"]["s_shadow_engine_result"], "denied");
    assert_eq!(metadata["envoy.filters.http.rbac"]["s_shadow_effective_policy_id"], "p");
    assert_eq!(metadata["envoy.common"]["access_log_hint"], "true");
}

#[tokio::test]
async fn a_route_replaces_the_rules_or_drops_them() {
    let engine = |action| Some(policies(action, vec![("p", R::Always, R::Always, None)]));
    let allow = Config { engine: engine(Action::Allow), ..Config::default() };
    let deny = Config { engine: engine(Action::Deny), ..Config::default() };
    assert_eq!(send(allow.clone(), &[PerRoute(Some(deny.clone()))], false).await.head.status, 403);
    assert_eq!(send(deny, &[PerRoute(None)], false).await.head.status, 200);
}

#[tokio::test]
async fn verdicts_are_counted_under_the_prefix_of_their_rules() {
    let engine = |path| Some(policies(Action::Deny, vec![("p", R::UrlPath(prefix(path)), R::Always, None)]));
    let config = Config {
        engine: engine("/other"),
        shadow_engine: engine("/admin"),
        shadow_rules_stat_prefix: "dry_".into(),
        rules_stat_prefix: "wet".into(),
    };
    let counted = send(config, &[], false).await.counted;
    assert_eq!(counted, "rbac.dry_.shadow_denied: 1, rbac.wet.allowed: 1");
    let plain = Config { engine: engine("/admin"), ..Config::default() };
    assert_eq!(send(plain, &[], false).await.counted, "rbac.denied: 1");
}

/// The deepest that are accepted, on a stack as large as that of a worker.
#[test]
fn no_expression_is_too_deep_for_a_worker() {
    let evaluate = || {
        let mut head = RequestHead::new(Method::Get, "host.example", "/");
        head.headers.append("x", b"user");
        for text in [
            format!("1{} == 100", "+1".repeat(99)),
            format!("true{}", " && request.path == '/'".repeat(150)),
            format!("{}true", "false || ".repeat(400)),
            format!("{}true", "!!".repeat(45)),
            format!("{}1{} == 1", "[".repeat(45), "][0]".repeat(45)),
            format!("{}true", "false ? false : ".repeat(90)),
        ] {
            let mut problems = Problems::default();
            let cel = Cel::parse(&text, &mut problems).unwrap_or_else(|| panic!("{text}: {problems:?}"));
            let expression = attributes::Expression::compile(&cel);
            assert!(expression.is_true(&info(connection()), &head), "{text}");
        }
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(evaluate).unwrap().join().unwrap();
}
