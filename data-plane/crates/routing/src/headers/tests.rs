//! Header mutations: actions, order, levels.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use dp_http::info::{Address, ConnectionInfo};
use dp_http::{Method, Protocol};

use super::*;

fn info() -> StreamInfo {
    let address = Address::Ip(([127, 0, 0, 1], 8080).into());
    let connection = ConnectionInfo {
        id: 1,
        start: SystemTime::UNIX_EPOCH,
        listener: "l".into(),
        filter_chain: "".into(),
        ..ConnectionInfo::between(address.clone(), address)
    };
    StreamInfo::new(Arc::new(connection), Protocol::Http11, SystemTime::UNIX_EPOCH, Instant::now())
}

fn add(name: &str, value: &str, action: AppendAction) -> HeaderValueOption {
    HeaderValueOption { name: name.into(), value: value.into(), action, keep_empty_value: false }
}

fn changes(remove: &[&str], add: Vec<HeaderValueOption>) -> HeaderChanges {
    HeaderChanges { remove: remove.iter().map(|n| (*n).to_owned()).collect(), add }
}

fn apply(levels: [&HeaderChanges; 3], most_specific_wins: bool, fields: &[(&str, &str)]) -> String {
    let [route, virtual_host, configuration] = levels;
    let levels = HeaderLevels { weighted_cluster: None, route, virtual_host, configuration, most_specific_wins };
    let plan = HeaderPlan::compile(levels).unwrap();
    let mut head = RequestHead::new(Method::Get, "h", "/p");
    fields.iter().for_each(|(name, value)| head.headers.append(*name, value.as_bytes()));
    plan.apply_to_request(&mut head, &info());
    head.headers.iter().map(|(name, value)| format!("{name}={} ", String::from_utf8_lossy(value))).collect()
}

fn check(changes: &HeaderChanges, fields: &[(&str, &str)], expected: &str) {
    let none = HeaderChanges::default();
    assert_eq!(apply([changes, &none, &none], false, fields), expected);
}

use AppendAction::{AddIfAbsent, AppendIfExistsOrAdd, OverwriteIfExists, OverwriteIfExistsOrAdd};

#[test]
fn each_append_action_does_what_it_says() {
    let one = |action| changes(&[], vec![add("a", "new", action)]);
    check(&one(AppendIfExistsOrAdd), &[("a", "1")], "a=1 a=new ");
    check(&one(AppendIfExistsOrAdd), &[], "a=new ");
    check(&one(AddIfAbsent), &[("a", "1")], "a=1 ");
    check(&one(AddIfAbsent), &[], "a=new ");
    check(&one(OverwriteIfExistsOrAdd), &[("a", "1"), ("b", "2"), ("a", "3")], "a=new b=2 ");
    check(&one(OverwriteIfExistsOrAdd), &[], "a=new ");
    check(&one(OverwriteIfExists), &[], "");
    check(&one(OverwriteIfExists), &[("a", "1")], "a=new ");
}

#[test]
fn removals_come_first_then_what_overwrites_then_what_is_added() {
    let all = changes(
        &["a"],
        vec![
            add("b", "%REQ(a)%%REQ(c)%", AppendIfExistsOrAdd),
            add("c", "x", OverwriteIfExistsOrAdd),
            add("a", "new", AddIfAbsent),
        ],
    );
    check(&all, &[("a", "1"), ("c", "old")], "c=x b=old a=new ");
}

#[test]
fn an_unwanted_value_does_not_leak_into_the_next() {
    let all =
        changes(&[], vec![add("a", "%REQ(:PATH)%", AddIfAbsent), add("b", "%REQ(:METHOD)%", AppendIfExistsOrAdd)]);
    check(&all, &[("a", "1")], "a=1 b=GET ");
}

#[test]
fn empty_values_are_left_out_unless_kept() {
    let mut all = changes(&[], vec![add("a", "%REQ(none)%", AppendIfExistsOrAdd)]);
    check(&all, &[], "");
    all.add[0].keep_empty_value = true;
    check(&all, &[], "a= ");
}

#[test]
fn a_header_that_can_be_there_only_once_gets_its_values_joined() {
    let all = changes(&[], vec![add("user-agent", "b", AppendIfExistsOrAdd)]);
    check(&all, &[("user-agent", "a")], "user-agent=a,b ");
}

#[test]
fn the_last_level_wins_and_the_order_can_be_turned() {
    let level = |value| changes(&[], vec![add("a", value, OverwriteIfExistsOrAdd)]);
    let (route, host, configuration) = (level("route"), level("host"), level("configuration"));
    assert_eq!(apply([&route, &host, &configuration], false, &[]), "a=configuration ");
    assert_eq!(apply([&route, &host, &configuration], true, &[]), "a=route ");
}

#[test]
fn a_value_can_not_start_a_new_line() {
    let all = changes(&[], vec![add("a", "%REQ(b)%", AppendIfExistsOrAdd)]);
    check(&all, &[("b", "x\r\ny: z")], "b=x\r\ny: z a=x  y: z ");
}

#[test]
fn a_wrong_format_names_the_header() {
    let wrong = changes(&[], vec![add("a", "%PROTOCOLL%", AppendIfExistsOrAdd)]);
    let none = HeaderChanges::default();
    let levels = HeaderLevels {
        weighted_cluster: None,
        route: &wrong,
        virtual_host: &none,
        configuration: &none,
        most_specific_wins: false,
    };
    let error = HeaderPlan::compile(levels).unwrap_err().to_string();
    assert_eq!(error, "value of header a: unknown operator PROTOCOLL at position 0; did you mean PROTOCOL?");
}

#[test]
fn steps_are_made_one_after_the_other() {
    let steps = HeaderSteps::compile(&[
        HeaderMutation::Append(add("x-a", "1", AppendIfExistsOrAdd)),
        HeaderMutation::Append(add("b", "%REQ(x-a)%", AppendIfExistsOrAdd)),
        HeaderMutation::Remove("c".into()),
        HeaderMutation::RemoveOnMatch(StringMatcher {
            pattern: shared_config::matcher::StringPattern::Prefix("x-".into()),
            ignore_case: false,
        }),
    ])
    .unwrap();
    let mut head = RequestHead::new(Method::Get, "h", "/");
    head.headers.append("c", b"1");
    steps.apply_to_request(&mut head, &info());
    assert_eq!(format!("{:?}", head.headers), r#"{"b": "1"}"#);
}
