//! The language through its public face: what is accepted, and every problem with its place.

use cp_model::{Attachments, Source, check_files};

fn problems(text: &str) -> Vec<String> {
    let source = Source { file: "f.yaml".into(), text: text.into() };
    match check_files(&[source], Attachments::new()) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

/// Wraps parts of a configuration so that it is otherwise right.
const BASE: &str = "listeners:\n  web: \":8080\"\nclusters:\n  app: [\"127.0.0.1:9000\"]\n";

#[track_caller]
fn check(rest: &str, expected: &[&str]) {
    let found = problems(&format!("{BASE}{rest}"));
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(expected), "`{found}` does not contain `{expected}`");
    }
}

#[test]
fn the_simplest_proxy_is_right() {
    check("routes:\n  - to: app\n", &[]);
}

#[test]
fn a_misspelt_name_gets_a_place_and_a_hint() {
    check(
        "routes:\n  - to: ap\n",
        &["f.yaml:6:9: routes[0].to: cluster `ap` is not defined [W0101]\n  hint: did you mean `app`?"],
    );
    check(
        "routes:\n  - { to: app, policies: [x] }\n",
        &["f.yaml:6:27: routes[0].policies[0]: policy `x` is not defined"],
    );
}

#[test]
fn all_problems_come_at_once_in_the_order_of_the_file() {
    check(
        "routes:\n  - too: app\n  - { to: app, timeout: 5x }\n  - { to: nope }\nlistner: {}\npolicies:\n  p: { rate_limit: 60/minute }\n",
        &[
            "f.yaml:6:5: routes[0].too: unknown key `too` [W0002]\n  hint: did you mean `to`?",
            "f.yaml:6:5: routes[0]: the route does nothing",
            "f.yaml:7:25: routes[1].timeout: `5x` is not a duration",
            "f.yaml:8:11: routes[2].to: cluster `nope` is not defined",
            "f.yaml:9:1: listner: unknown section `listner` [W0002]\n  hint: did you mean `listeners`?",
            "f.yaml:11:20: policies.p.rate_limit: unknown rate unit `minute`: use s, min, hour or day",
        ],
    );
}

#[test]
fn what_is_not_implemented_is_refused_by_name() {
    for (rest, says) in [
        ("policies: { p: { jwt: { issuer: x } } }", "policies.p.jwt: `jwt` is not implemented yet [W0005]"),
        ("policies: { p: { cache: { ttl: 60s } } }", "`cache` is not implemented yet"),
        ("policies: { p: { rate_limit: { limit: 1/s, per: consumer } } }", "`per` is not implemented yet"),
        ("policies: { p: { rate_limit: { limit: 1/s, scope: fleet } } }", "scope `fleet` is not implemented yet"),
        ("policies: { p: { rate_limit: { tiers: { a: 1/s } } } }", "`tiers` is not implemented yet"),
        ("policies: { p: { require: '\"x\" in claims.scope' } }", "`claims` is not implemented yet"),
        ("routes: [{ to: app, match: { cookies: { a: b } } }]", "`cookies` is not implemented yet"),
    ] {
        check(rest, &[says]);
    }
    for (text, says) in [
        ("listeners: { d: { address: ':443', protocols: [h1, h3] } }", "protocol `h3` is not implemented yet"),
        ("listeners: { d: { address: ':443', tls: { acme: { domains: [x] } } } }", "`acme` is not implemented yet"),
    ] {
        let found = problems(text);
        assert!(found.iter().any(|p| p.contains(says)), "{found:#?}");
    }
}

#[test]
fn contradictions_are_found() {
    for (rest, says) in [
        ("routes: [{ to: app, redirect: https }]", "only one of `to`, `redirect`, `respond`"),
        ("routes: [{ respond: 404, timeout: 5s }]", "`timeout` means nothing without `to`"),
        ("routes: [{ to: app, match: { sni: a.b } }]", "need `on` with listeners of protocol tls, or with `tls`"),
        (
            "routes: [{ on: web, to: app, match: { alpn: h2 } }]",
            "need `on` with listeners of protocol tls, or with `tls`",
        ),
        ("routes: [{ to: app, hedge: true }]", "needs `retry` with `per_try_timeout`"),
        ("routes: [{ to: app, retry: { on: 5xx, backoff: { max: 1s } } }]", "needs `base`"),
        ("routes: [{ to: app, retry: { on: retriable-headers } }]", "name the headers: `response_headers: [x-retry]`"),
        ("routes: [{ to: { cluster: app, subset: { v: '1' } } }]", "cluster `app` has no subsets by v"),
        ("routes: [{ to: app, match: { host: a, hosts: [b] } }]", "write either `host` or `hosts`"),
        ("routes: [{ to: { app: 0 } }]", "the weights add up to nothing"),
        ("routes: [{ name: a, to: app }, { name: a, to: app }]", "route `a` is defined twice"),
        ("policies: { p: { cors: { origins: ['*'], credentials: true } } }", "would let every site act as the user"),
        ("routes: [{ to: app, match: { host: 'a:80' } }]", "hosts have no port"),
        ("routes: [{ to: app, match: { path: api } }]", "is not a path"),
        ("routes: [{ to: app, headers: { request: { set: { host: x } } } }]", "rewrite: { host"),
        ("routes: [{ to: app, headers: { request: { set: { a: '${HOME}' } } } }]", "only in secret-bearing fields"),
        ("policies: { p: { require: 'request.method ==' } }", "not a CEL expression"),
        ("policies: { p: { require: 'reqest.method == \"GET\"' } }", "did you mean `request`?"),
        (
            "apis: { a: { match: { path: { exact: /x } }, version_by: [path], versions: { v1: app } } }",
            "needs `match: { path: /prefix/ }`",
        ),
        (
            "apis: { a: { match: { path: /x }, version_by: [path], default_version: v9, versions: { v1: app } } }",
            "version `v9` is not defined",
        ),
    ] {
        check(rest, &[says]);
    }
    for (cluster, says) in [
        ("{ endpoints: ['1.1.1.1:1'], failover: [app] }", "write only one of endpoints, dns, srv, failover"),
        ("{ failover: [c] }", "leads back to this cluster"),
        ("{ failover: [app], balance: random }", "`balance` means nothing with `failover`"),
        (
            "{ forward_proxy: true, health: { tcp: true } }",
            "`health` means nothing with endpoints that only requests name",
        ),
        ("{ srv: _http._tcp.a, zone_aware: true }", "`zone_aware` means nothing with `srv`"),
        ("{ srv: _http._tcp.a, health: { tcp: true, port: 1 } }", "`port` means nothing with `srv`"),
        ("{ srv: _http._tcp.a, tls: true }", "`sni` is missing"),
        ("{ srv: 'a.internal:80' }", "`a.internal:80` is not the name of SRV records"),
        ("{ dns: { names: a:1, resolvers: ns.internal } }", "`ns.internal` is not a name server"),
        ("{ dns: { names: ['a:1', 'b:1'], mode: logical } }", "`mode: logical` takes one name"),
        ("{ endpoints: [{ address: '1.1.1.1:1', backup: true, priority: 2 }] }", "only one of priority, backup"),
        (
            "{ endpoints: ['1.1.1.1:1'], balance: random, slow_start: 30s }",
            "works with round_robin and least_request only",
        ),
        (
            "{ endpoints: ['1.1.1.1:1'], balance: { least_request: { choices: 3, full_scan: true } } }",
            "means nothing with `full_scan`",
        ),
        ("{ endpoints: ['1.1.1.1:1'], balance: { maglev: { ttl: 1h, header: x } } }", "`ttl` belongs to `cookie`"),
        ("{ endpoints: ['1.1.1.1:1'], balance: { ring_hash: { header: x, max_load: 90% } } }", "must be 100% or more"),
        ("{ endpoints: ['1.1.1.1:1'], sticky: { strict: true } }", "exactly one of cookie, header is needed"),
        ("{ endpoints: ['1.1.1.1:1'], zones: { a: 1 }, zone_aware: true }", "only one of zones, zone_aware"),
        ("{ endpoints: ['1.1.1.1:1'], limits: { retries: 3, budget: 20% } }", "only one of retries, budget"),
        ("{ endpoints: ['1.1.1.1:1'], max_requests: 1, limits: { requests_per_connection: 2 } }", "is the same as"),
        ("{ endpoints: ['1.1.1.1:1'], health: { tcp: true, host: a } }", "`host` belongs to `http`"),
        ("{ endpoints: ['1.1.1.1:1'], health: { http: { path: /x }, host: a } }", "belongs into the map of `http`"),
        ("{ endpoints: ['1.1.1.1:1'], health: { http: /x, statuses: 700 } }", "is not a status or a range of them"),
        ("{ endpoints: ['1.1.1.1:1'], health: { tcp: { send: 'hex:0' } } }", "is not pairs of hexadecimal digits"),
        ("{ endpoints: ['1.1.1.1:1'], proxy_protocol: { version: v1, pass_tlvs: true } }", "only v2 has TLVs"),
    ] {
        check(&format!("  c: {cluster}\n"), &[says]);
    }
    let two = "  a: { endpoints: ['1.1.1.1:1'], sticky: { cookie: x } }\n  b: { endpoints: ['1.1.1.1:1'], sticky: { cookie: y } }\n\
               routes: [{ to: { a: 1, b: 1 } }]\n";
    check(two, &["`a` and `b` are sticky in different ways"]);
    let udp = problems(
        "listeners: { a: { address: ':53', protocol: udp, to: c, proxy_protocol: true } }\nclusters: { c: '1.1.1.1:1' }",
    );
    assert!(udp[0].contains("`proxy_protocol` means nothing with protocol udp"), "{udp:?}");
    let both = problems(
        "listeners: { a: { address: ':53', protocol: udp, to: c }, b: { address: ':53', protocol: tcp, to: c } }\nclusters: { c: '1.1.1.1:1' }",
    );
    assert!(both.is_empty(), "a port of UDP is not one of TCP: {both:?}");
    let twice = problems("listeners: { a: ':80', b: ':80' }");
    assert!(twice[0].contains("listens on 0.0.0.0:80, and so does listener `a`"), "{twice:?}");
    let tcp = problems("listeners: { a: { address: ':80', protocol: tcp } }");
    assert!(tcp[0].contains("`to` is missing"), "{tcp:?}");
    let mixed = problems("clusters: { a: ['a.b:1', '127.0.0.1:1'] }");
    assert!(mixed[0].contains("host names and addresses are mixed"), "{mixed:?}");
}

#[test]
fn raw_envoy_resources_stand_beside_the_language() {
    let cluster = "envoy:\n  - '@type': type.googleapis.com/envoy.config.cluster.v3.Cluster\n    name: raw\n";
    check(&format!("{cluster}    connect_timeout: 1s\nroutes:\n  - to: raw\n"), &[]);
    check(&format!("{cluster}    conect_timeout: 1s\n"), &["conect_timeout"]);
    check(&cluster.replace("name: raw", "name: app"), &["is also made from the short language"]);
}

#[test]
fn secrets_come_from_attachments() {
    let text = "listeners: { a: { address: ':443', tls: { cert: /etc/c.pem, key: '${KEY}' } } }";
    let source = Source { file: "f.yaml".into(), text: text.into() };
    assert_eq!(cp_model::secret_references(std::slice::from_ref(&source)), ["${KEY}", "/etc/c.pem"]);
    let found = check_files(std::slice::from_ref(&source), Attachments::new()).expect_err("nothing given");
    assert_eq!(found.len(), 2);
    assert!(found[0].to_string().contains("the content of `/etc/c.pem` was not given [W0104]"), "{}", found[0]);
    let given = Attachments::from([
        ("/etc/c.pem".into(), "-----BEGIN CERTIFICATE-----\n".into()),
        ("${KEY}".into(), "-----BEGIN PRIVATE KEY-----\n".into()),
    ]);
    assert!(check_files(&[source], given).is_ok());
}

/// Every example of docs/configuration.md, as it stands there.
#[test]
fn every_example_of_the_documentation_is_right() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/configuration.md"));
    let page = page.expect("the page");
    let examples: Vec<&str> = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(examples.len() >= 6, "the examples are gone");
    for text in examples {
        let source = Source { file: "docs".into(), text: text.to_owned() };
        let pem = |r: String| {
            let kind = if r.contains("key") { "PRIVATE KEY" } else { "CERTIFICATE" };
            (r, format!("-----BEGIN {kind}-----\n"))
        };
        let attachments = cp_model::secret_references(std::slice::from_ref(&source)).into_iter().map(pem).collect();
        let found = check_files(&[source], attachments);
        assert!(found.is_ok(), "{found:#?}\n{text}");
    }
}

#[test]
fn suspicious_things_are_warnings() {
    let text = format!("{BASE}routes: [{{ to: app }}, {{ match: /x, to: app }}]\n");
    let checked = check_files(&[Source { file: "f".into(), text }], Attachments::new()).expect("right");
    assert_eq!(checked.warnings.len(), 1);
    assert!(checked.warnings[0].message.contains("never reached"), "{}", checked.warnings[0]);
}

#[test]
fn nothing_a_text_says_can_panic() {
    let pieces = [
        "listeners",
        "routes",
        "clusters",
        "a",
        ":80",
        "- to: x",
        "{",
        "}",
        "[",
        "]",
        ": ",
        "\n  ",
        "\n",
        "~",
        "!file x",
        "*a",
        "&a ",
        "<<",
        "\"",
        "1e999",
        "\u{0}",
        "é",
    ];
    let mut state = 7u64;
    for _ in 0..3000 {
        let mut text = String::new();
        for _ in 0..12 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text.push_str(pieces[(state >> 33) as usize % pieces.len()]);
        }
        problems(&text);
    }
}
