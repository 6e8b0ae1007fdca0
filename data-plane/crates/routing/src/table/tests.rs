//! Requests against route tables.

use std::convert::Infallible;

use dp_http::{Method, RequestHead};
use proptest::prelude::*;
use shared_config::core::{Fraction, RuntimeFraction};
use shared_config::matcher::{CookieMatcher, ParameterTest};
use shared_config::matcher::{HeaderMatcher, HeaderTest, QueryParameterMatcher, Regex, StringMatcher};
use shared_config::route::template::PathTemplate;
use shared_config::route::{Action, PathMatcher, Route, RouteConfiguration, RouteMatch, TlsMatch, VirtualHost};

use super::*;

impl From<CompileError> for Infallible {
    fn from(error: CompileError) -> Self {
        panic!("{error}")
    }
}

fn on(path: PathMatcher) -> RouteMatch {
    RouteMatch {
        path,
        case_sensitive: true,
        fraction: None,
        headers: Vec::new(),
        query_parameters: Vec::new(),
        cookies: Vec::new(),
        grpc: false,
        tls: TlsMatch::default(),
    }
}

fn prefix(text: &str) -> RouteMatch {
    on(PathMatcher::Prefix(text.into()))
}

fn exact(text: &str) -> RouteMatch {
    on(PathMatcher::Exact(text.into()))
}

fn host(name: &str, domain: &str, matches: Vec<RouteMatch>) -> VirtualHost {
    let route = |matches| Route {
        name: String::new(),
        matches,
        action: Action::NonForwarding,
        headers: Default::default(),
        filters: Default::default(),
        metadata: Default::default(),
        stat_prefix: String::new(),
        buffer_limit: None,
    };
    VirtualHost {
        name: name.into(),
        domains: vec![domain.into()],
        routes: matches.into_iter().map(route).collect(),
        require_tls: RequireTls::None,
        headers: Default::default(),
        filters: Default::default(),
        attempt_count_in_request: false,
        attempt_count_in_response: false,
        is_timeout_retry_header: false,
        metadata: Default::default(),
    }
}

fn config(virtual_hosts: Vec<VirtualHost>) -> RouteConfiguration {
    RouteConfiguration {
        name: String::new(),
        virtual_hosts,
        internal_only_headers: Vec::new(),
        headers: Default::default(),
        most_specific_wins: false,
        validate_clusters: None,
        ignore_port: false,
        ignore_path_parameters: false,
        filters: Default::default(),
        metadata: Default::default(),
    }
}

/// A table whose payloads are the numbers of the routes.
fn compile(config: &RouteConfiguration) -> RouteTable<usize> {
    let mut number = 0;
    let table: Result<_, Infallible> = RouteTable::compile(config, |_, _| {
        number += 1;
        Ok(number - 1)
    });
    table.unwrap()
}

const CONTEXT: MatchContext<'_> = MatchContext { random: 0, https: false, internal: false, tls: None };

fn number(found: Found<'_, usize>) -> Option<usize> {
    match found {
        Found::Route(_, entry) => Some(entry.payload),
        _ => None,
    }
}

/// Which of the routes a GET of `path` takes.
fn check(matches: Vec<RouteMatch>, path: &str, expected: Option<usize>) {
    check_head(matches, &RequestHead::new(Method::Get, "h", path), expected);
}

fn check_head(matches: Vec<RouteMatch>, head: &RequestHead, expected: Option<usize>) {
    let table = compile(&config(vec![host("h", "*", matches)]));
    assert_eq!(number(table.find(head, &CONTEXT)), expected, "{head:?}");
}

#[test]
fn the_first_route_that_matches_wins() {
    let routes = || vec![prefix("/api/v1"), exact("/api"), prefix("/api"), prefix("/")];
    check(routes(), "/api/v1/x", Some(0));
    check(routes(), "/api", Some(1));
    check(routes(), "/apix", Some(2));
    check(routes(), "/", Some(3));
    check(vec![prefix("/"), exact("/api")], "/api", Some(0));
    check(vec![prefix("/api")], "/ap", None);
}

#[test]
fn the_query_is_no_part_of_the_path() {
    check(vec![exact("/a"), prefix("/")], "/a?b=/a", Some(0));
    check(vec![prefix("/a?b")], "/a?b", None);
    check(vec![on(PathMatcher::Regex(Regex::new("/a.*b").unwrap()))], "/a?b", None);
}

#[test]
fn a_separated_prefix_ends_at_a_slash() {
    let routes = || vec![on(PathMatcher::SeparatedPrefix("/api".into()))];
    check(routes(), "/api", Some(0));
    check(routes(), "/api?x", Some(0));
    check(routes(), "/api/x", Some(0));
    check(routes(), "/apix", None);
}

#[test]
fn case_may_be_ignored() {
    let folded = |mut matches: RouteMatch| {
        matches.case_sensitive = false;
        matches
    };
    let routes = || vec![folded(exact("/A")), folded(prefix("/B")), prefix("/c")];
    check(routes(), "/a", Some(0));
    check(routes(), "/bX", Some(1));
    check(routes(), "/C", None);
    check(vec![prefix("/"), folded(exact("/A"))], "/a", Some(0));
}

#[test]
fn regex_and_template_keep_their_place_among_prefixes() {
    let regex = || on(PathMatcher::Regex(Regex::new("/[a-z]+").unwrap()));
    let template = || on(PathMatcher::Template(PathTemplate::parse("/t/{x}/**").unwrap()));
    check(vec![prefix("/a"), regex()], "/ab", Some(0));
    check(vec![regex(), prefix("/a")], "/ab", Some(0));
    check(vec![regex(), prefix("/a")], "/a/b", Some(1));
    check(vec![template(), prefix("/")], "/t/1/2/3?q", Some(0));
    check(vec![template(), prefix("/")], "/t/1", Some(1));
}

#[test]
fn path_parameters_may_be_ignored() {
    let mut config = config(vec![host("h", "*", vec![exact("/a"), prefix("/")])]);
    let head = RequestHead::new(Method::Get, "h", "/a;v=1?q");
    assert_eq!(number(compile(&config).find(&head, &CONTEXT)), Some(1));
    config.ignore_path_parameters = true;
    assert_eq!(number(compile(&config).find(&head, &CONTEXT)), Some(0));
}

#[test]
fn connect_goes_to_routes_that_ask_for_it() {
    let routes = || vec![prefix("/"), prefix(""), on(PathMatcher::Connect)];
    check_head(routes(), &RequestHead::new(Method::Connect, "h:443", ""), Some(2));
    let mut websocket = RequestHead::new(Method::Connect, "h", "/chat");
    websocket.set_connect_protocol(Some("websocket"));
    check_head(vec![on(PathMatcher::Connect), prefix("/")], &websocket, Some(1));
}

#[test]
fn every_condition_must_hold() {
    let header = HeaderMatcher {
        name: "x-a".into(),
        test: HeaderTest::Text(StringMatcher::exact("2")),
        invert: false,
        missing_is_empty: false,
    };
    let method = HeaderMatcher {
        name: ":method".into(),
        test: HeaderTest::Text(StringMatcher::exact("GET")),
        invert: true,
        missing_is_empty: false,
    };
    let text = |value| ParameterTest::Text(StringMatcher::exact(value));
    let cookie = CookieMatcher { name: "c".into(), text: StringMatcher::exact("v"), invert: false };
    let routes = || {
        vec![
            RouteMatch { headers: vec![header.clone()], ..prefix("/") },
            RouteMatch { headers: vec![method.clone()], ..prefix("/") },
            RouteMatch {
                query_parameters: vec![QueryParameterMatcher { name: "q".into(), test: text("1") }],
                ..prefix("/")
            },
            RouteMatch { cookies: vec![cookie.clone()], ..prefix("/") },
            RouteMatch { grpc: true, ..prefix("/") },
            RouteMatch { tls: TlsMatch { presented: Some(true), validated: None }, ..prefix("/") },
            prefix("/"),
        ]
    };
    let with = |name: &str, value: &[&str]| {
        let mut head = RequestHead::new(Method::Get, "h", "/");
        value.iter().for_each(|value| head.headers.append(name, value.as_bytes()));
        head
    };
    check_head(routes(), &with("x-a", &["1", "2"]), Some(0));
    check_head(routes(), &with("x-a", &["1"]), Some(6));
    check_head(routes(), &RequestHead::new(Method::Post, "h", "/"), Some(1));
    check(routes(), "/?p=0&q=1", Some(2));
    check_head(routes(), &with("cookie", &["b=1; c=v"]), Some(3));
    check_head(routes(), &with("content-type", &["application/grpc+proto"]), Some(4));
    check_head(routes(), &with("content-type", &["application/grpc-web"]), Some(6));
}

#[test]
fn a_fraction_goes_by_the_random_value() {
    let half = RuntimeFraction { default: Fraction { numerator: 50, denominator: 100 }, key: String::new() };
    let matches = vec![RouteMatch { fraction: Some(half), ..prefix("/") }, prefix("/")];
    let table = compile(&config(vec![host("h", "*", matches)]));
    let head = RequestHead::new(Method::Get, "h", "/");
    let go = |random| number(table.find(&head, &MatchContext { random, ..CONTEXT }));
    assert_eq!((go(49), go(50), go(149)), (Some(0), Some(1), Some(0)));
}

#[test]
fn a_virtual_host_may_require_tls() {
    let mut strict = host("h", "*", vec![prefix("/")]);
    strict.require_tls = RequireTls::ExternalOnly;
    let table = compile(&config(vec![strict]));
    let head = RequestHead::new(Method::Get, "h:80", "/p?q");
    assert!(matches!(table.find(&head, &CONTEXT), Found::TlsRequired(_)));
    assert!(matches!(table.find(&head, &MatchContext { internal: true, ..CONTEXT }), Found::Route(..)));
    assert!(matches!(table.find(&head, &MatchContext { https: true, ..CONTEXT }), Found::Route(..)));
    assert_eq!(crate::tls_location(&head), "https://h:80/p?q");
}

#[test]
fn virtual_hosts_are_told_apart_by_name() {
    let hosts = vec![host("a", "a.com", vec![prefix("/")]), host("b", "*.b.com", vec![prefix("/")])];
    let table = compile(&config(hosts));
    let go = |authority| number(table.find(&RequestHead::new(Method::Get, authority, "/"), &CONTEXT));
    assert_eq!((go("A.com"), go("x.b.com"), go("c.com"), go("")), (Some(0), Some(1), None, None));
}

fn any_match() -> impl Strategy<Value = RouteMatch> {
    let path = "(/[abA]{0,2}){1,3}";
    let matcher = prop_oneof![
        path.prop_map(PathMatcher::Prefix),
        "[/ab]{0,3}".prop_map(PathMatcher::Prefix),
        path.prop_map(PathMatcher::Exact),
        "(/[ab]{1,2}){1,3}".prop_map(PathMatcher::SeparatedPrefix),
        path.prop_map(|text| PathMatcher::Regex(Regex::new(&format!("{text}.*")).unwrap())),
        Just(PathMatcher::Template(PathTemplate::parse("/a/{x}/**").unwrap())),
        Just(PathMatcher::Connect),
    ];
    (matcher, any::<bool>(), 0..4u32).prop_map(|(path, case_sensitive, fraction)| {
        let default = Fraction { numerator: fraction * 34, denominator: 100 };
        let fraction = (fraction < 3).then(|| RuntimeFraction { default, key: String::new() });
        RouteMatch { case_sensitive, fraction, ..on(path) }
    })
}

proptest! {
    #[test]
    fn the_index_finds_what_trying_every_route_finds(
        matches in prop::collection::vec(any_match(), 0..40),
        paths in prop::collection::vec("(/[abA;]{0,2}){1,4}(\\?[ab/]{0,2})?", 20),
        random in 0..100u64,
        ignore_path_parameters: bool,
    ) {
        let mut config = config(vec![host("h", "*", matches)]);
        config.ignore_path_parameters = ignore_path_parameters;
        let table = compile(&config);
        let context = MatchContext { random, ..CONTEXT };
        for path in paths {
            let head = RequestHead::new(Method::Get, "h", &path);
            prop_assert_eq!(number(table.find(&head, &context)), number(table.find_slowly(&head, &context)));
        }
    }
}

/// Run by hand: `cargo test --release -p dp-routing -- --ignored --nocapture look_ups`.
#[test]
#[ignore = "a measurement, not a check"]
#[allow(clippy::print_stdout, reason = "the figures are what it is for")]
fn look_ups_among_ten_thousand() {
    let prefixes = (0..10_000).map(|i| prefix(&format!("/service/{}/v{}/", i % 2_000, i / 2_000))).collect();
    let mut hosts = vec![host("p", "p.com", prefixes)];
    hosts.extend((0..10_000).map(|i| host(&format!("h{i}"), &format!("host-{i}.example.com"), vec![prefix("/")])));
    hosts.push(host("w", "*.wild.com", vec![prefix("/")]));
    let table = compile(&config(hosts));
    let measure = |name: &str, heads: Vec<RequestHead>| {
        let rounds = 200;
        let start = std::time::Instant::now();
        for _ in 0..rounds {
            for head in &heads {
                assert!(number(table.find(std::hint::black_box(head), &CONTEXT)).is_some());
            }
        }
        println!("{name}: {} ns", start.elapsed().as_nanos() / (rounds * heads.len()) as u128);
    };
    let each = |make: &dyn Fn(u64) -> RequestHead| (0..10_000).map(|i| make(i * 7_919 % 10_000)).collect();
    measure(
        "prefix",
        each(&|i| RequestHead::new(Method::Get, "p.com", &format!("/service/{}/v{}/x?y", i % 2_000, i / 2_000))),
    );
    measure("host", each(&|i| RequestHead::new(Method::Get, &format!("host-{i}.example.com"), "/x")));
    measure("wildcard", each(&|i| RequestHead::new(Method::Get, &format!("host-{i}.wild.com"), "/x")));
}
