//! Runs of made-up chains: order, holds, waits, replies, reroutes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dp_http::{HeaderName, Method};
use shared_config::core::{ConfigSource, Fraction, Source};
use shared_config::http_filter::{
    ConfigDiscovery, FilterOverride, FilterSource, HttpFilter, HttpFilterConfig, PerRouteConfig, buffer, compressor,
    cors, fault, rbac, router,
};
use shared_config::matcher::StringMatcher;

use super::*;
use crate::chain::{Compiler, Level};
use crate::filter::{HeaderEdit, HeaderEdits};
use crate::services::KeepStore;
use crate::testing::{Proxy, answer, compile, connection, filter, info, services, well};

fn router() -> HttpFilter {
    filter("router", HttpFilterConfig::Router(router::Config::default()))
}

fn aborting(status: u16) -> HttpFilterConfig {
    let abort = fault::Fault { percentage: Fraction::ALL, what: fault::Abort::Http(status) };
    HttpFilterConfig::Fault(fault::Config { abort: Some(abort), ..Default::default() })
}

fn delaying() -> HttpFilterConfig {
    let delay = fault::Fault { percentage: Fraction::ALL, what: fault::Delay::Fixed(Duration::from_secs(1)) };
    HttpFilterConfig::Fault(fault::Config { delay: Some(delay), ..Default::default() })
}

fn get() -> RequestHead {
    let mut head = RequestHead::new(Method::Get, "h", "/");
    head.headers.append("origin", b"o");
    head
}

fn marking() -> (HttpFilter, FilterOverride) {
    let policy = cors::Override { allow_origins: vec![StringMatcher::exact("o")], ..Default::default() };
    (filter("cors", HttpFilterConfig::Cors(cors::Config {})), FilterOverride::Cors(policy))
}

/// Status, and whether the filter `cors` marked the response.
async fn check(filters: &[HttpFilter], status: u16, is_marked: bool) {
    let (_, policy) = marking();
    let proxy = Proxy::with(filters, &[("cors", policy)], &KeepStore::default());
    let head = proxy.exchange(get(), &[], &answer(200, &[], &["x"])).await.head;
    assert_eq!((head.status, head.headers.contains("access-control-allow-origin")), (status, is_marked));
}

#[tokio::test]
async fn a_denied_request_still_gets_its_cors_header() {
    let deny = rbac::Engine::Policies { action: rbac::Action::Allow, policies: BTreeMap::new() };
    let rbac = HttpFilterConfig::Rbac(rbac::Config { engine: Some(deny), ..Default::default() });
    check(&[marking().0, filter("rbac", rbac), router()], 403, true).await;
}

#[tokio::test]
async fn a_filter_that_the_request_did_not_reach_sees_the_answer_without_memory_of_a_request() {
    check(&[filter("fault", aborting(500)), marking().0, router()], 500, false).await;
}

#[tokio::test]
async fn a_disabled_filter_does_nothing_until_a_route_switches_it_on() {
    let off = HttpFilter { disabled: true, ..filter("fault", aborting(500)) };
    check(&[off.clone(), router()], 200, false).await;
    let FilterSource::Config(HttpFilterConfig::Fault(config)) = off.source.clone() else { panic!() };
    let on = [("fault", FilterOverride::Fault(config))];
    let proxy = Proxy::with(&[off, router()], &on, &KeepStore::default());
    assert_eq!(proxy.exchange(get(), &[], &answer(200, &[], &[])).await.head.status, 500);
}

#[tokio::test]
async fn the_most_specific_level_decides_whether_a_filter_runs() {
    let filters = [filter("fault", aborting(500)), router()];
    let keep = KeepStore::default();
    let services = services(&keep, well());
    let level = |disabled| BTreeMap::from([("fault".to_owned(), PerRouteConfig { disabled, config: None })]);
    let (off, on) = (level(true), level(false));
    let compiler = Compiler::new(&filters, "place", &services);
    let host = Level { name: "host", configs: &off };
    let route = Level { name: "route", configs: &on };
    for (levels, status) in [(&[host][..], 200), (&[host, route][..], 500), (&[][..], 500)] {
        let exchange = Proxy::of(compiler.chain(levels)).exchange(get(), &[], &answer(200, &[], &[])).await;
        assert_eq!(exchange.head.status, status);
    }
}

#[tokio::test]
async fn a_filter_whose_configuration_did_not_come_refuses_requests() {
    let discovery = |default_config| {
        let source = FilterSource::Discovery(ConfigDiscovery {
            source: ConfigSource { source: Source::Ads, initial_fetch_timeout: None },
            default_config,
            apply_default_config_without_warming: false,
            type_names: vec![],
        });
        HttpFilter { name: "later".into(), source, disabled: false }
    };
    let exchange = Proxy::new(&[discovery(None), router()]).exchange(get(), &[], &answer(200, &[], &[])).await;
    assert_eq!(exchange.head.status, 500);
    assert!(exchange.info.flags.has(Flags::NO_FILTER_CONFIG_FOUND));
    check(&[discovery(Some(aborting(418))), router()], 418, false).await;
}

#[tokio::test]
async fn reroute_keeps_what_was_passed_and_goes_on_with_the_new_chain() {
    let (cors, policy) = marking();
    let filters = [cors, filter("delay", delaying()), filter("fault", aborting(500)), router()];
    let keep = KeepStore::default();
    let first = compile(&filters, &[("cors", policy.clone())], &keep, well());
    let other = FilterOverride::Fault(fault::Config::default());
    let second = compile(&filters, &[("cors", policy), ("fault", other)], &keep, well());
    let (mut run, mut info, mut head, now) = (Run::new(&first), info(connection()), get(), Instant::now());
    let step = run.request(&first, &mut Cx::request(&mut info, now), &mut head, true);
    assert!(matches!(step, Step::Wait(_)));
    let edit = HeaderEdit::Set(HeaderName::new("x-user").unwrap(), "ann".into());
    let verdict = Verdict::Reroute(HeaderEdits(vec![edit]));
    let step = run.resume_request(&first, &mut Cx::request(&mut info, now), verdict, &mut head, true);
    assert!(matches!(step, Step::Reroute));
    assert_eq!(head.headers.text("x-user"), Some("ann"));
    run.rebase(&second);
    let step = run.request(&second, &mut Cx::request(&mut info, now), &mut head, true);
    assert!(matches!(step, Step::Done), "the second route has no fault");
    let mut response = ResponseHead::new(200);
    let step = run.response(&second, &mut Cx::response(&mut info, now, &head), &mut response, true);
    assert!(matches!(step, Step::Done));
    assert!(response.headers.contains("access-control-allow-origin"), "what cors saw on the first route is kept");
}

fn compressing() -> HttpFilterConfig {
    let direction = compressor::Direction { enabled: true.into(), min_content_length: 0, content_types: vec![] };
    HttpFilterConfig::Compressor(compressor::Config {
        library: compressor::Library::Gzip { level: 6 },
        library_name: String::new(),
        response_stats: false,
        request: Some(direction.clone()),
        response: direction,
        disable_on_etag_header: false,
        weaken_etag_on_compress: false,
        remove_accept_encoding_header: false,
        uncompressible_response_codes: vec![],
        choose_first: false,
    })
}

#[tokio::test]
async fn a_held_body_is_shown_once_to_each_reader_before_and_after_the_holder() {
    let holding = || filter("buffer", HttpFilterConfig::Buffer(buffer::Config { max_request_bytes: 1000 }));
    let compressor = || filter("compressor", compressing());
    for (filters, length_is_compressed) in
        [([compressor(), holding(), router()], true), ([holding(), compressor(), router()], false)]
    {
        let head = RequestHead::new(Method::Post, "h", "/");
        let proxy = Proxy::new(&filters);
        let (head, body) = proxy.exchange(head, &["ab", "cd"], &answer(200, &[], &[])).await.upstream.unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&*body), &mut text).unwrap();
        assert_eq!(text, "abcd", "compressed exactly once");
        let length = head.headers.text("content-length").map(str::to_owned);
        assert_eq!(length, length_is_compressed.then(|| body.len().to_string()));
    }
}

#[test]
fn routes_without_overrides_share_one_chain() {
    let filters = [filter("fault", aborting(500)), router()];
    let keep = KeepStore::default();
    let services = services(&keep, well());
    let compiler = Compiler::new(&filters, "place", &services);
    let odd = BTreeMap::from([("not in the chain".to_owned(), PerRouteConfig { disabled: true, config: None })]);
    let (one, two) = (compiler.chain(&[]), compiler.chain(&[Level { name: "odd", configs: &odd }]));
    assert!(std::ptr::eq(one.get(0).unwrap(), two.get(0).unwrap()));
    assert!(one.router().is_some_and(|router| router.dynamic_stats));
}

#[test]
fn a_stream_ends_once_for_each_filter_it_passed() {
    let keep = KeepStore::default();
    let filters = [filter("delay", delaying()), router()];
    let limited = |chain: &Chain| {
        let (mut run, mut info, mut head) = (Run::new(chain), info(connection()), get());
        let waits = run.request(chain, &mut Cx::request(&mut info, Instant::now()), &mut head, true);
        (matches!(waits, Step::Wait(_)), run, info)
    };
    let chain = compile(&filters, &[], &keep, well());
    let (waits, mut run, info) = limited(&chain);
    assert!(waits);
    run.end(&chain, &info);
    run.end(&chain, &info);
    assert!(limited(&chain).0, "ending twice did not upset the count of active faults");
}
