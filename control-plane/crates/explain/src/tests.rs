//! Requests through configurations of the short language: which route, and which policies.

use super::*;

const TEXT: &str = r#"
listeners:
  web: { address: ":8080", policies: edge }
routes:
  - name: assets
    match: { host: shop.example.com, path: { exact: /logo.png } }
    respond: { status: 204 }
  - name: beta
    match: { host: shop.example.com, path: /api, headers: { x-beta: { present: true } } }
    to: app
    policies: [guard]
  - name: api
    match: { host: shop.example.com, path: /api, method: [GET, POST] }
    to: { app: 3, old: 1 }
  - name: rest
    match: { host: "*.example.com" }
    redirect: { host: shop.example.com }
apis:
  orders:
    match: { host: api.example.com, path: /orders/ }
    version_by: [{ header: x-version }]
    default_version: v1
    policies: [guard]
    versions:
      v1: { to: old }
      v2: { to: app, policies: [extra] }
policies:
  edge: { headers: { response: { set: { x-edge: "1" } } } }
  guard: { body_limit: 1MiB }
  extra: { headers: { response: { set: { x-extra: "1" } } } }
clusters:
  app: ["127.0.0.1:9000"]
  old: ["127.0.0.1:9001"]
"#;

/// Route, action and policies; or the reason why there is none.
fn check(request: &str, headers: &[&str], expected: Option<(&str, &str, &str)>) {
    let source = cp_model::Source { file: "weir.yaml".into(), text: TEXT.into() };
    let mut problems = cp_model::Problems::default();
    let draft = cp_model::Draft::read(&[source], &[], cp_model::Attachments::new(), &mut problems);
    let resources = cp_translate::translate(&cp_model::check(&draft).expect("right").model).expect("encodes");
    let proxies = resources.iter().filter(|r| r.audience != cp_translate::Audience::Grpc).map(|r| &r.any);
    let configuration = Configuration::new(proxies, &draft).expect("readable");
    let headers: Vec<String> = headers.iter().map(|h| (*h).to_owned()).collect();
    let found =
        configuration.explain(&Request::parse(request, &headers).expect("a request"), None).expect("a listener");
    let result =
        found.route.as_ref().map(|r| (r.clone(), found.action.clone().unwrap_or_default(), found.policies.join(" ")));
    let result = result.as_ref().map(|(a, b, c)| (a.as_str(), b.as_str(), c.as_str()));
    assert_eq!(result, expected, "{found:?}");
}

#[test]
fn the_first_route_that_matches_is_taken() {
    check("http://shop.example.com/logo.png", &[], Some(("assets", "answered 204", "edge")));
    check("http://shop.example.com/api/7", &["x-beta: 1"], Some(("beta", "to cluster app", "edge guard")));
    check("http://shop.example.com/api", &[], Some(("api", "to clusters app 3/4, old 1/4", "edge")));
    check("http://shop.example.com/apix", &[], Some(("rest", "redirect 301 to host shop.example.com", "edge")));
    check("DELETE http://shop.example.com/api", &[], Some(("rest", "redirect 301 to host shop.example.com", "edge")));
}

#[test]
fn the_port_of_the_url_plays_no_part_in_the_host() {
    check("http://shop.example.com:8080/logo.png", &[], Some(("assets", "answered 204", "edge")));
}

#[test]
fn a_version_of_an_api_has_the_policies_of_both() {
    check(
        "http://api.example.com/orders/1",
        &["x-version: v2"],
        Some(("orders/v2", "to cluster app", "edge guard extra")),
    );
    check("http://api.example.com/orders/1", &[], Some(("orders/v1", "to cluster old", "edge guard")));
}

#[test]
fn a_host_that_nobody_serves_has_no_route() {
    check("http://example.org/", &[], None);
}
