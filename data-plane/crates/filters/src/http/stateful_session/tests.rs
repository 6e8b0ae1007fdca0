//! Sessions through a chain, with an origin at an address that the test chooses.

use dp_http::{Headers, Method};
use shared_config::http_filter::{FilterOverride, HttpFilterConfig, router};

use super::*;
use crate::services::KeepStore;
use crate::testing::{Proxy, answer, filter};

fn cookie_at(path: &str) -> Config {
    let spec = CookieSpec { name: "sid".into(), ttl: None, path: path.into(), attributes: vec![] };
    Config { state: Some(State::Cookie(spec)), strict: false, strict_status: 503, stat_prefix: String::new() }
}

fn header() -> Config {
    Config {
        state: Some(State::Header("x-session".into())),
        strict: true,
        strict_status: 410,
        stat_prefix: String::new(),
    }
}

/// Which endpoint is asked for, and which field the response has when the endpoint at 10.0.0.1:80 answers.
async fn check(
    config: Config,
    levels: &[Override],
    (path, field): (&str, Option<(&str, &str)>),
    asked: Option<&str>,
    response: Option<(&str, &str)>,
) {
    let filters = [
        filter("session", HttpFilterConfig::StatefulSession(config)),
        filter("router", HttpFilterConfig::Router(router::Config::default())),
    ];
    let levels: Vec<_> = levels.iter().map(|o| ("session", FilterOverride::StatefulSession(o.clone()))).collect();
    let mut proxy = Proxy::with(&filters, &levels, &KeepStore::default());
    proxy.info.upstream.host = Some(Address::Ip("10.0.0.1:80".parse().unwrap()));
    let mut head = RequestHead::new(Method::Get, "h", path);
    if let Some((name, value)) = field {
        head.headers.append(name, value.as_bytes());
    }
    let exchange = proxy.exchange(head, &[], &answer(200, &[], &[])).await;
    assert_eq!(exchange.info.sticky.map(|sticky| sticky.address.to_string()).as_deref(), asked);
    let headers: &Headers = &exchange.head.headers;
    let found = ["set-cookie", "x-session"].into_iter().find_map(|name| Some((name, headers.text(name)?)));
    assert_eq!(found, response);
}

// base64 of the message with the address 10.0.0.1:80, of the one with 10.0.0.2:80, and of both alone.
const FIRST: &str = "CgsxMC4wLjAuMTo4MA==";
const SECOND: &str = "CgsxMC4wLjAuMjo4MA==";
const FIRST_PLAIN: &str = "MTAuMC4wLjE6ODA=";
const SECOND_PLAIN: &str = "MTAuMC4wLjI6ODA=";

#[tokio::test]
async fn a_cookie_is_set_once_and_then_followed() {
    let set = format!("sid=\"{FIRST}\"; HttpOnly");
    let sent = |token: &str| format!("a=b; sid=\"{token}\"");
    check(cookie_at(""), &[], ("/", None), None, Some(("set-cookie", &set))).await;
    check(cookie_at(""), &[], ("/", Some(("cookie", &sent(FIRST)))), Some("10.0.0.1:80"), None).await;
    // The endpoint that the client had is gone, so that another one answered.
    let moved = Some(("set-cookie", &*set));
    check(cookie_at(""), &[], ("/", Some(("cookie", &sent(SECOND)))), Some("10.0.0.2:80"), moved).await;
    check(cookie_at(""), &[], ("/", Some(("cookie", "sid=nonsense"))), None, moved).await;
}

#[tokio::test]
async fn a_cookie_is_for_its_path() {
    let set = |path: &str| format!("sid=\"{FIRST}\"; Path={path}; HttpOnly");
    for (cookie_path, path, is_for) in [
        ("/a", "/a", true),
        ("/a", "/a?b", true),
        ("/a", "/a/b", true),
        ("/a", "/ab", false),
        ("/a/", "/a", false),
        ("/a/", "/a/b", true),
    ] {
        let set = set(cookie_path);
        let wanted = is_for.then_some(("set-cookie", &*set));
        check(cookie_at(cookie_path), &[], (path, None), None, wanted).await;
    }
}

#[tokio::test]
async fn a_header_carries_the_session_too() {
    check(header(), &[], ("/", None), None, Some(("x-session", FIRST_PLAIN))).await;
    check(header(), &[], ("/", Some(("x-session", FIRST_PLAIN))), Some("10.0.0.1:80"), None).await;
    let moved = Some(("x-session", FIRST_PLAIN));
    check(header(), &[], ("/", Some(("x-session", SECOND_PLAIN))), Some("10.0.0.2:80"), moved).await;
}

#[tokio::test]
async fn a_route_switches_sessions_off_or_has_its_own() {
    check(cookie_at(""), &[Override::Disabled], ("/", None), None, None).await;
    let own = Override::Config(header());
    check(cookie_at(""), &[own], ("/", None), None, Some(("x-session", FIRST_PLAIN))).await;
}
