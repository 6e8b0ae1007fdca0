//! Matchers of text, headers, ranges and values.

use super::*;

fn text(pattern: StringPattern, ignore_case: bool, value: &str) -> bool {
    StringMatcher { pattern, ignore_case }.matches(value.as_bytes())
}

#[test]
fn text_is_matched_by_every_kind_of_pattern() {
    use StringPattern::*;
    assert!(text(Exact("ab".into()), false, "ab"));
    assert!(!text(Exact("ab".into()), false, "AB"));
    assert!(text(Exact("ab".into()), true, "AB"));
    assert!(text(Prefix("ab".into()), true, "aBc") && !text(Prefix("ab".into()), false, "a"));
    assert!(text(Suffix("bc".into()), true, "aBC") && !text(Suffix("bc".into()), false, "c"));
    assert!(text(Contains("b".into()), false, "abc") && text(Contains("B".into()), true, "abc"));
    assert!(!text(Contains("bd".into()), false, "abc"));
    assert!(text(Regex(super::Regex::new("a.c").unwrap()), false, "abc"));
    assert!(!text(Regex(super::Regex::new("a.c").unwrap()), false, "abcd"));
    assert!(text(Regex(super::Regex::new("a|ab").unwrap()), false, "ab"));
}

fn header(test: HeaderTest, invert: bool, missing_is_empty: bool, value: Option<&str>) -> bool {
    HeaderMatcher { name: "x".into(), test, invert, missing_is_empty }.matches(value.map(str::as_bytes))
}

#[test]
fn a_missing_header_matches_nothing_but_absence() {
    let exact = || HeaderTest::Text(StringMatcher::exact("a"));
    assert!(!header(exact(), false, false, None));
    assert!(!header(exact(), true, false, None));
    assert!(header(exact(), true, true, None));
    assert!(header(exact(), true, false, Some("b")));
    assert!(header(HeaderTest::Present(false), false, false, None));
    assert!(header(HeaderTest::Present(true), true, false, None));
    assert!(!header(HeaderTest::Present(true), false, false, None));
}

#[test]
fn a_value_cannot_hide_behind_another() {
    let check = |values: &[&str], invert, expected| {
        let test = HeaderTest::Text(StringMatcher::exact("a"));
        let matcher = HeaderMatcher { name: "x".into(), test, invert, missing_is_empty: false };
        let values = values.iter().map(|value| value.as_bytes());
        assert_eq!(matcher.matches(values), expected, "{invert}");
    };
    check(&["b", "a"], false, true);
    check(&["a", "b"], false, true);
    check(&["b", "a", "c"], true, false);
    check(&["b", "c"], false, false);
    check(&["b", "c"], true, true);
    check(&["b,a"], false, false);
}

#[test]
fn a_range_excludes_its_end() {
    for (value, expected) in [("-3", true), ("4", true), ("5", false), ("x", false), ("", false)] {
        assert_eq!(header(HeaderTest::Range(-3..5), false, false, Some(value)), expected, "{value}");
    }
}

#[test]
fn substitution_replaces_every_match_and_knows_groups() {
    let check = |regex: &str, with: &str, value: &str, expected: &str| {
        let substitution = Substitution::new(super::Regex::new(regex).unwrap(), with).unwrap();
        assert_eq!(substitution.replace_text(value), expected);
    };
    check("one", "two", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/two/zzz");
    check("^/service/([^/]+)(/.*)$", r"\2/instance/\1", "/service/foo/v1/api", "/v1/api/instance/foo");
    check("a", r"\\\0", "ba", r"b\a");
    check("(?i)/xxx/", "/yyy/", "/aaa/XxX/bbb", "/aaa/yyy/bbb");
}

#[test]
fn a_wrong_substitution_is_refused() {
    let regex = || super::Regex::new("(a)").unwrap();
    assert!(Substitution::new(regex(), r"\2").is_err());
    assert!(Substitution::new(regex(), r"\x").is_err());
    assert!(Substitution::new(regex(), r"\").is_err());
}

#[test]
fn classes_are_ascii_as_in_re2() {
    assert!(!super::Regex::new(r"\d").unwrap().is_full_match("٣".as_bytes()));
    assert!(super::Regex::new(r"[é]").unwrap().is_full_match("é".as_bytes()));
    assert!(super::Regex::new(r"\p{L}+").unwrap().is_full_match("é".as_bytes()));
}

#[test]
fn values_are_found_by_path() {
    let metadata = serde_json::json!({"a": {"b": ["x", "y"], "n": 3.5, "t": true, "z": null}});
    let check = |path: &[&str], value: ValueMatcher, expected: bool| {
        let path = path.iter().map(|s| (*s).to_owned()).collect();
        let matcher = MetadataMatcher { filter: "f".into(), path, value, invert: false };
        assert_eq!(matcher.matches(Some(&metadata)), expected);
    };
    check(&["a", "b"], ValueMatcher::OneOf(Box::new(ValueMatcher::Text(StringMatcher::exact("y")))), true);
    check(&["a", "n"], ValueMatcher::Range(3.0, 3.5), false);
    check(&["a", "n"], ValueMatcher::Number(3.5), true);
    check(&["a", "t"], ValueMatcher::Any(vec![ValueMatcher::Null, ValueMatcher::Bool(true)]), true);
    check(&["a", "z"], ValueMatcher::Null, true);
    check(&["a", "q"], ValueMatcher::Present(false), true);
    check(&["a", "q"], ValueMatcher::Null, false);
}

#[test]
fn a_regex_is_refused_before_it_takes_a_stack_or_the_memory() {
    let nested = |depth: usize, end: &str| format!("{}a{}", "(".repeat(depth), format!("){end}").repeat(depth));
    let check = |text: String, expected: bool| {
        let matches = move || Regex::new(&text).is_ok_and(|regex| regex.is_full_match(b"a"));
        let matches = std::thread::Builder::new().stack_size(2 << 20).spawn(matches).unwrap().join().unwrap();
        assert_eq!(matches, expected);
    };
    check(nested(240, ""), true);
    check(nested(120, "?"), true);
    check(nested(100_000, ""), false);
    check(nested(20, "{20}"), false);
    check("[".repeat(100_000), false);
    check("(?:".repeat(100_000), false);
}
