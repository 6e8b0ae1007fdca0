//! What each hash policy counts.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use dp_http::info::ConnectionInfo;
use dp_http::{Method, Protocol};

use super::*;

fn info() -> StreamInfo {
    let connection = ConnectionInfo {
        id: 1,
        start: SystemTime::UNIX_EPOCH,
        listener: "".into(),
        filter_chain: "".into(),
        ..ConnectionInfo::between(Address::Ip(([10, 0, 0, 1], 1).into()), Address::Ip(([10, 0, 0, 2], 80).into()))
    };
    StreamInfo::new(Arc::new(connection), Protocol::Http11, SystemTime::UNIX_EPOCH, Instant::now())
}

fn by(source: HashSource) -> config::HashPolicy {
    config::HashPolicy { source, terminal: false }
}

fn header(name: &str) -> config::HashPolicy {
    by(HashSource::Header { name: name.into(), rewrite: None })
}

fn hash(policies: &[config::HashPolicy]) -> Hashed {
    let mut head = RequestHead::new(Method::Get, "h", "/p?q=1");
    for (name, value) in [("a", "2"), ("a", "1"), ("b", "3"), ("cookie", "c=v")] {
        head.headers.append(name, value.as_bytes());
    }
    HashPolicies::compile(policies).unwrap().evaluate(&head, &info())
}

fn check(policies: &[config::HashPolicy], expected: Option<u64>) {
    assert_eq!(hash(policies).hash, expected);
}

#[test]
fn each_source_is_hashed_by_itself() {
    check(&[header("b")], Some(xxh64(b"3", 0)));
    check(&[header("none")], None);
    check(&[by(HashSource::SourceIp)], Some(xxh64(b"10.0.0.1", 0)));
    check(&[by(HashSource::QueryParameter("q".into()))], Some(xxh64(b"1", 0)));
    check(&[by(HashSource::FilterState("k".into()))], None);
}

#[test]
fn the_values_of_a_header_count_in_sorted_order() {
    check(&[header("a")], Some(xxh64(b"2", xxh64(b"1", 0))));
}

#[test]
fn policies_are_combined_and_a_terminal_one_ends_them() {
    let (a, b) = (hash(&[header("a")]).hash.unwrap(), hash(&[header("b")]).hash.unwrap());
    check(&[header("a"), header("none"), header("b")], Some(a.rotate_left(1) ^ b));
    check(&[config::HashPolicy { terminal: true, ..header("a") }, header("b")], Some(a));
    check(&[config::HashPolicy { terminal: true, ..header("none") }, header("b")], Some(b));
}

#[test]
fn a_missing_cookie_is_made_when_it_has_a_lifetime() {
    let cookie = |name: &str, ttl| {
        let attributes = vec![("SameSite".to_owned(), "Lax".to_owned()), ("Secure".to_owned(), String::new())];
        by(HashSource::Cookie(CookieSpec { name: name.into(), ttl, path: "/".into(), attributes }))
    };
    check(&[cookie("c", None)], Some(xxh64(b"v", 0)));
    check(&[cookie("d", None)], None);
    let made = hash(&[cookie("d", Some(Duration::from_secs(60)))]);
    let value = format!("{:016x}", xxh64(b"10.0.0.1:110.0.0.2:80", 0));
    assert_eq!(made.hash, Some(xxh64(value.as_bytes(), 0)));
    assert_eq!(made.set_cookies, [format!("d=\"{value}\"; Max-Age=60; Path=/; SameSite=Lax; Secure; HttpOnly")]);
}
