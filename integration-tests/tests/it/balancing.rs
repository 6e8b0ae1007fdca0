//! Which endpoint a request goes to: subsets, sessions that stick, policies by response time, zones.

use std::collections::BTreeMap;
use std::time::Duration;

use integration_tests::config::{bootstrap, cluster, extension, hcm, listener, merge, simple, socket, to, with_admin};
use integration_tests::eventually::eventually;
use integration_tests::proxy::{Running, start};
use integration_tests::upstream::{Origin, reply, reply_with};
use integration_tests::wire::{Message, Wire};
use serde_json::{Value, json};
use tempfile::TempDir;

fn get(more: &str) -> String {
    format!("GET / HTTP/1.1\r\nhost: a.test\r\n{more}\r\n")
}

/// Origins that answer with their number, from 0.
fn origins(count: usize) -> Vec<Origin> {
    (0..count).map(|n| Origin::text(&n.to_string())).collect()
}

/// How often each answer comes in so many requests.
fn answers(proxy: &Running, requests: usize, more: &str) -> BTreeMap<String, usize> {
    let mut client = proxy.connect();
    let mut counts = BTreeMap::new();
    for _ in 0..requests {
        *counts.entry(client.ask(get(more)).text()).or_default() += 1;
    }
    counts
}

fn endpoint(origin: &Origin, more: Value) -> Value {
    let mut endpoint = json!({ "endpoint": { "address": socket(origin.address) } });
    merge(&mut endpoint, more);
    endpoint
}

fn tagged(origin: &Origin, fields: Value) -> Value {
    endpoint(origin, json!({ "metadata": { "filter_metadata": { "envoy.lb": fields } } }))
}

/// A cluster `origin` with these endpoints.
fn origin_cluster(endpoints: Vec<Value>, more: Value) -> Value {
    let mut cluster = cluster("origin", &[]);
    cluster["load_assignment"] = json!({ "cluster_name": "origin", "endpoints": [{ "lb_endpoints": endpoints }] });
    merge(&mut cluster, more);
    cluster
}

fn wants(fields: Value) -> Value {
    json!({ "metadata_match": { "filter_metadata": { "envoy.lb": fields } } })
}

#[test]
fn a_route_goes_to_the_subset_that_it_asks_for() {
    let origins = origins(3);
    let endpoints = vec![
        tagged(&origins[0], json!({ "version": "1" })),
        tagged(&origins[1], json!({ "version": "2" })),
        endpoint(&origins[2], json!({})),
    ];
    let subset = json!({ "lb_subset_config": { "subset_selectors": [{ "keys": ["version"] }] } });
    let mut weighted = json!({ "name": "origin", "weight": 1 });
    merge(&mut weighted, wants(json!({ "version": "2" })));
    let mut both = json!({ "weighted_clusters": { "clusters": [weighted] } });
    merge(&mut both, wants(json!({ "version": "1" })));
    let route = |name: &str, mut action: Value, more: Value| {
        merge(&mut action, more);
        json!({ "match": { "prefix": "/", "headers": [{ "name": "x", "string_match": { "exact": name } }] }, "route": action })
    };
    let to_origin = || json!({ "cluster": "origin" });
    let routes = json!([
        route("one", to_origin(), wants(json!({ "version": "1" }))),
        route("weighted", both, json!({})),
        route("none", to_origin(), wants(json!({ "version": "3" }))),
    ]);
    let proxy = start(&bootstrap(vec![listener("main", hcm(routes))], vec![origin_cluster(endpoints, subset)]));
    let check = |name: &str, answer: &str| {
        assert_eq!(answers(&proxy, 10, &format!("x: {name}\r\n")), BTreeMap::from([(answer.to_owned(), 10)]), "{name}");
    };
    check("one", "0");
    check("weighted", "1");
    check("none", "no healthy upstream");
}

const SESSION: &str = "type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSession";
const STATE: &str = "type.googleapis.com/envoy.extensions.http.stateful_session";

/// A connection manager to `origin` whose sessions are kept in `state`.
fn with_sessions(state: Value, more: Value) -> Value {
    let mut config = json!({ "@type": SESSION, "session_state": { "name": "state", "typed_config": state } });
    merge(&mut config, more);
    let mut hcm = hcm(to("origin", json!({})));
    let filters = hcm["http_filters"].as_array_mut().unwrap();
    filters.insert(0, json!({ "name": "session", "typed_config": config }));
    hcm
}

/// Endpoints in a file that is moved into place.
struct Endpoints(TempDir);

impl Endpoints {
    fn new(origins: &[&Origin]) -> Self {
        let endpoints = Self(tempfile::tempdir().unwrap());
        endpoints.are(origins);
        endpoints
    }

    fn assignment(origins: &[&Origin]) -> Value {
        let list: Vec<Value> = origins.iter().map(|origin| endpoint(origin, json!({}))).collect();
        json!({
            "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            "cluster_name": "origin", "endpoints": [{ "lb_endpoints": list }],
        })
    }

    fn are(&self, origins: &[&Origin]) {
        let new = self.0.path().join("new");
        std::fs::write(&new, json!({ "resources": [Self::assignment(origins)] }).to_string()).unwrap();
        std::fs::rename(new, self.0.path().join("eds.json")).unwrap();
    }

    fn proxy(&self, hcm: Value) -> Running {
        let source = json!({ "path_config_source": { "path": self.0.path().join("eds.json") } });
        let eds = json!({ "eds_config": source });
        let cluster = json!({ "name": "origin", "type": "EDS", "eds_cluster_config": eds });
        let proxy = start(&bootstrap(vec![listener("main", hcm)], vec![cluster]));
        eventually("the cluster came", || ask(&mut proxy.connect(), "").status() == 200);
        proxy
    }
}

fn ask(client: &mut Wire, more: &str) -> Message {
    client.ask(get(more))
}

/// What the client sends to go on with the session.
fn session(answer: &Message) -> String {
    let cookie = answer.header("set-cookie").expect("a session began");
    format!("cookie: {}\r\n", cookie.split(';').next().unwrap_or_default())
}

#[test]
fn a_session_by_cookie_stays_where_it_began_while_endpoints_come_and_go() {
    let origins = origins(5);
    let refs: Vec<&Origin> = origins.iter().collect();
    let endpoints = Endpoints::new(&refs[..3]);
    let state = json!({ "@type": format!("{STATE}.cookie.v3.CookieBasedSessionState"), "cookie": { "name": "sid", "ttl": "3600s" } });
    let proxy = endpoints.proxy(with_sessions(state, json!({})));
    let mut client = proxy.connect();
    let first = ask(&mut client, "");
    let cookie = session(&first);
    let home: usize = first.text().parse().unwrap();
    let stays = |client: &mut Wire| {
        (0..20).all(|_| {
            let answer = ask(client, &cookie);
            answer.text() == home.to_string() && answer.header("set-cookie").is_none()
        })
    };
    assert!(stays(&mut client));
    // Two more come, and one of the others goes.
    let gone = (home + 1) % 3;
    let scaled: Vec<&Origin> = (0..5).filter(|n| *n != gone).map(|n| refs[n]).collect();
    endpoints.are(&scaled);
    eventually("the new endpoints serve", || answers(&proxy, 20, "").contains_key("4"));
    assert!(stays(&mut client));
    // Its own goes: the session begins anew elsewhere.
    let rest: Vec<&Origin> = (0..5).filter(|n| *n != home).map(|n| refs[n]).collect();
    endpoints.are(&rest);
    eventually("the session moves", || ask(&mut client, &cookie).text() != home.to_string());
    let moved = ask(&mut client, &cookie);
    let (cookie, home) = (session(&moved), moved.text());
    assert!((0..20).all(|_| ask(&mut client, &cookie).text() == home));
}

#[test]
fn a_strict_session_goes_nowhere_else() {
    let origin = Origin::text("0");
    let state = json!({ "@type": format!("{STATE}.header.v3.HeaderBasedSessionState"), "name": "x-session" });
    let strict = json!({ "strict": true, "status_on_strict_destination_not_found": 410 });
    let proxy = start(&simple(with_sessions(state, strict), origin.address));
    let mut client = proxy.connect();
    let first = ask(&mut client, "");
    let session = first.header("x-session").expect("a session began").to_owned();
    let again = ask(&mut client, &format!("x-session: {session}\r\n"));
    assert_eq!((again.status(), again.header("x-session")), (200, None));
    // base64 of 192.0.2.1:80, which is no endpoint of the cluster and never connected to.
    let other = ask(&mut client, "x-session: MTkyLjAuMi4xOjgw\r\n");
    assert_eq!((other.status(), other.text()), (410, "no healthy upstream".into()));
}

/// One policy in a list, before another that is unknown to everybody.
fn policy(name: &str, config: Value) -> Value {
    let mut typed = json!({ "@type": format!("type.googleapis.com/weir.load_balancing_policies.v1.{name}") });
    merge(&mut typed, config);
    json!({ "load_balancing_policy": { "policies": [{ "typed_extension_config": { "name": name, "typed_config": typed } }] } })
}

#[test]
fn policies_by_response_time_prefer_the_faster_endpoint() {
    // A busy machine makes the fast one slow for once: that is soon forgotten.
    for policy in
        [policy("PeakEwma", json!({ "decay_time": "1s" })), policy("LeastTime", json!({ "measure": "LAST_BYTE" }))]
    {
        let slow = Origin::http(|_| {
            std::thread::sleep(Duration::from_millis(200));
            reply(200, "slow")
        });
        let fast = Origin::text("fast");
        let endpoints = vec![endpoint(&slow, json!({})), endpoint(&fast, json!({}))];
        let route = hcm(to("origin", json!({})));
        let proxy = start(&bootstrap(vec![listener("main", route)], vec![origin_cluster(endpoints, policy)]));
        eventually("the fast one takes nearly all", || {
            answers(&proxy, 40, "").get("fast").is_some_and(|fast| *fast >= 34)
        });
    }
}

#[test]
fn a_request_may_say_which_endpoint_it_wants() {
    let origins = origins(3);
    let policies = "type.googleapis.com/envoy.extensions.load_balancing_policies";
    let list = |name: &str, config: Value| json!({ "policies": [{ "typed_extension_config": { "name": name, "typed_config": config } }] });
    let fallback = list("fallback", json!({ "@type": format!("{policies}.round_robin.v3.RoundRobin") }));
    let over = json!({
        "@type": format!("{policies}.override_host.v3.OverrideHost"),
        "override_host_sources": [{ "header": "x-destination" }],
        "fallback_policy": fallback,
    });
    let endpoints = origins.iter().map(|origin| endpoint(origin, json!({}))).collect();
    let cluster = origin_cluster(endpoints, json!({ "load_balancing_policy": list("override", over) }));
    let proxy = start(&bootstrap(vec![listener("main", hcm(to("origin", json!({}))))], vec![cluster]));
    let wanted = format!("x-destination: {}, 192.0.2.1:80\r\n", origins[2].address);
    assert_eq!(answers(&proxy, 9, &wanted), BTreeMap::from([("2".to_owned(), 9)]));
    assert_eq!(answers(&proxy, 9, "x-destination: 192.0.2.1:80\r\n").len(), 3);
}

#[test]
fn traffic_stays_in_the_zone_of_the_proxy() {
    let origins = origins(2);
    let zone = |name: &str, endpoints: Vec<Value>| json!({ "locality": { "zone": name }, "lb_endpoints": endpoints });
    let mut upstream = cluster("origin", &[]);
    let localities =
        json!([zone("a", vec![endpoint(&origins[0], json!({}))]), zone("b", vec![endpoint(&origins[1], json!({}))])]);
    upstream["load_assignment"] = json!({ "cluster_name": "origin", "endpoints": localities });
    upstream["common_lb_config"] = json!({ "zone_aware_lb_config": { "min_cluster_size": 1 } });
    // The proxies: one in each zone.
    let mut proxies = upstream.clone();
    merge(&mut proxies, json!({ "name": "proxies", "common_lb_config": {} }));
    let mut bootstrap = bootstrap(vec![listener("main", hcm(to("origin", json!({}))))], vec![upstream, proxies]);
    bootstrap["node"]["locality"] = json!({ "zone": "b" });
    assert_eq!(answers(&start(&bootstrap), 20, "").len(), 2, "without a local cluster zones play no part");
    bootstrap["cluster_manager"] = json!({ "local_cluster_name": "proxies" });
    let proxy = start(&bootstrap);
    eventually("all traffic stays", || answers(&proxy, 20, "") == BTreeMap::from([("1".to_owned(), 20)]));
}

#[test]
fn a_generated_cookie_keeps_a_client_at_its_endpoint() {
    let origins = origins(4);
    let endpoints = origins.iter().map(|origin| endpoint(origin, json!({}))).collect();
    let cookie =
        json!({ "name": "key", "ttl": "60s", "path": "/", "attributes": [{ "name": "SameSite", "value": "Strict" }] });
    let route = to("origin", json!({ "hash_policy": [{ "cookie": cookie }] }));
    let cluster = origin_cluster(endpoints, json!({ "lb_policy": "MAGLEV" }));
    let proxy = start(&bootstrap(vec![listener("main", hcm(route))], vec![cluster]));
    let mut client = proxy.connect();
    let first = ask(&mut client, "");
    let set = first.header("set-cookie").expect("a cookie was made");
    assert!(set.contains("; Max-Age=60; Path=/; SameSite=Strict; HttpOnly"), "{set}");
    let cookie = session(&first);
    assert!((0..20).all(|_| ask(&mut client, &cookie).text() == first.text()));
    let spread = (0..40).map(|n| ask(&mut client, &format!("cookie: key={n}\r\n")).text());
    assert_eq!(spread.collect::<std::collections::BTreeSet<_>>().len(), 4);
}

#[test]
fn endpoints_take_as_much_as_they_report_that_they_can() {
    let strong = Origin::http(|_| {
        reply_with(200, &[("endpoint-load-metrics", "TEXT rps_fractional=90, cpu_utilization=0.5")], "strong")
    });
    let weak = Origin::http(|_| {
        let report = "endpoint-load-metrics: JSON {\"rps_fractional\":30,\"application_utilization\":0.5}";
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nweak\r\n0\r\n{report}\r\n\r\n").into_bytes()
    });
    let mut cluster = cluster("origin", &[strong.address, weak.address]);
    let kind = "load_balancing_policies.client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin";
    let policy = extension(kind, json!({ "blackout_period": "0s", "weight_update_period": "0.1s" }));
    let trailers = json!({ "explicit_http_config": { "http_protocol_options": { "enable_trailers": true } } });
    let protocol = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let options = extension("upstreams.http.v3.HttpProtocolOptions", trailers)["typed_config"].clone();
    merge(
        &mut cluster,
        json!({
            "load_balancing_policy": { "policies": [{ "typed_extension_config": policy }] },
            "typed_extension_protocol_options": { protocol: options },
        }),
    );
    let proxy = start(&with_admin(bootstrap(vec![listener("main", hcm(to("origin", json!({}))))], vec![cluster])));
    eventually("both have reported", || {
        let counts = answers(&proxy, 40, "");
        proxy.stat("cluster.origin.max_host_weight") == 180 && (7..14).contains(&counts["weak"])
    });
    let counts = answers(&proxy, 400, "");
    assert!((80..120).contains(&counts["weak"]), "{counts:?}");
}

#[test]
fn connections_are_made_to_the_endpoints_of_the_next_requests() {
    let origins = origins(4);
    let addresses: Vec<_> = origins.iter().map(|origin| origin.address).collect();
    let connections = || origins.iter().map(Origin::connections).collect::<Vec<_>>();
    let mut cluster = cluster("origin", &addresses);
    cluster["preconnect_policy"] = json!({ "predictive_preconnect_ratio": 3 });
    let proxy = start(&bootstrap(vec![listener("main", hcm(to("origin", json!({}))))], vec![cluster]));
    let mut client = proxy.connect();
    client.ask(get(""));
    eventually("every origin has a connection", || connections() == [1, 1, 1, 1]);
    assert_eq!(origins.iter().map(|origin| origin.seen().len()).sum::<usize>(), 1);
    // The next ones go where the connections are.
    for _ in 0..3 {
        client.ask(get(""));
    }
    assert_eq!(connections(), [1, 1, 1, 1]);
    assert!(origins.iter().all(|origin| origin.seen().len() == 1));
}
