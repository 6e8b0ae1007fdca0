//! Each condition on streams for which it holds and for which it does not.

use std::collections::BTreeMap;

use shared_config::access_log::CompareOp;
use shared_config::core::{Fraction, RuntimeFraction, RuntimeNumber};
use shared_config::matcher::{HeaderTest, StringMatcher, ValueMatcher};

use super::testing::{info, request};
use super::*;

#[track_caller]
fn check(config: AccessLogFilter, change: impl FnOnce(&mut StreamInfo, &mut RequestHead), expected: bool) {
    let (mut info, mut request) = (info(200), request());
    change(&mut info, &mut request);
    let subject = Subject { info: &info, request: Some(&request), random: 30 };
    assert_eq!(Filter::compile(&config).admits(subject), expected, "{config:?}");
}

fn comparison(op: CompareOp, value: u32) -> Comparison {
    Comparison { op, value: RuntimeNumber { default: value, key: String::new() } }
}

fn share(numerator: u32, independent: bool) -> AccessLogFilter {
    let default = Fraction { numerator, denominator: 100 };
    AccessLogFilter::Runtime { fraction: RuntimeFraction { default, key: String::new() }, independent }
}

fn header(name: &str, value: &str) -> AccessLogFilter {
    let test = HeaderTest::Text(StringMatcher::exact(value));
    AccessLogFilter::Header(Box::new(HeaderMatcher { name: name.into(), test, invert: false, missing_is_empty: false }))
}

#[test]
fn numbers_are_compared() {
    check(AccessLogFilter::StatusCode(comparison(CompareOp::GreaterOrEqual, 400)), |_, _| {}, false);
    check(AccessLogFilter::StatusCode(comparison(CompareOp::NotEqual, 400)), |_, _| {}, true);
    check(AccessLogFilter::Duration(comparison(CompareOp::GreaterOrEqual, 12)), |_, _| {}, true);
    check(AccessLogFilter::Duration(comparison(CompareOp::LessOrEqual, 11)), |_, _| {}, false);
}

#[test]
fn a_share_goes_by_request_id_unless_it_is_independent() {
    let with_id = |info: &mut StreamInfo, _: &mut RequestHead| info.request_id = "00000010-1234".into();
    check(share(20, false), with_id, true);
    check(share(20, true), with_id, false);
    check(share(31, true), |_, _| {}, true);
    check(share(0, false), with_id, false);
}

#[test]
fn headers_are_compared_whole_and_each_by_itself() {
    check(header(":path", "/a?b"), |_, _| {}, true);
    check(header(":authority", "other"), |_, _| {}, false);
    check(header("x-debug", "b"), |_, request| request.headers.append("x-debug", b"a"), false);
    let twice = |_: &mut StreamInfo, request: &mut RequestHead| {
        request.headers.append("x-debug", b"a");
        request.headers.append("x-debug", b"b");
    };
    check(header("x-debug", "b"), twice, true);
}

#[test]
fn flags_grpc_status_and_health_checks_are_told_apart() {
    let timed_out = |info: &mut StreamInfo, _: &mut RequestHead| info.flags.set(Flags::UPSTREAM_REQUEST_TIMEOUT);
    check(AccessLogFilter::ResponseFlag(vec![]), |_, _| {}, false);
    check(AccessLogFilter::ResponseFlag(vec![]), timed_out, true);
    check(AccessLogFilter::ResponseFlag(vec!["UH".into(), "UT".into()]), timed_out, true);
    check(AccessLogFilter::ResponseFlag(vec!["UH".into()]), timed_out, false);
    check(AccessLogFilter::NotHealthCheck, |info, _| info.health_check = true, false);
    let unavailable = AccessLogFilter::GrpcStatus { codes: vec![14], exclude: false };
    check(unavailable.clone(), |info, _| info.grpc_status = Some(14), true);
    check(unavailable.clone(), |info, _| info.status = 503, true);
    check(AccessLogFilter::GrpcStatus { codes: vec![14], exclude: true }, |info, _| info.status = 503, false);
}

#[test]
fn and_or_and_metadata_are_evaluated() {
    let ok = || AccessLogFilter::StatusCode(comparison(CompareOp::Equal, 200));
    let failed = || AccessLogFilter::StatusCode(comparison(CompareOp::Equal, 500));
    check(AccessLogFilter::And(vec![ok(), failed()]), |_, _| {}, false);
    check(AccessLogFilter::Or(vec![ok(), failed()]), |_, _| {}, true);
    let matcher = |value| {
        let matcher = MetadataMatcher { filter: "f".into(), path: vec!["a".into(), "b".into()], value, invert: false };
        AccessLogFilter::Metadata { matcher: Some(Box::new(matcher)), if_missing: false }
    };
    let with = |info: &mut StreamInfo, _: &mut RequestHead| {
        let values = BTreeMap::from([("a.b".to_owned(), "true".to_owned())]);
        info.metadata = Some(Box::new(BTreeMap::from([("f".to_owned(), values)])));
    };
    check(matcher(ValueMatcher::Bool(true)), with, true);
    check(matcher(ValueMatcher::Bool(false)), with, false);
    check(matcher(ValueMatcher::Bool(true)), |_, _| {}, false);
}
