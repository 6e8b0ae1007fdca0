//! Private keys and other secrets, left out of what is shown.

use std::borrow::Cow;

use cp_model::node::Node;
use cp_model::{Draft, Kind};
use cp_pipeline::ObjectChange;
use proto::json::{REDACTED, Secrets};
use serde_json::Value;

use crate::auth::Caller;

const KEY_MARK: &str = "PRIVATE KEY-----";

/// A configuration as `caller` may see it.
pub(crate) fn shown(caller: &Caller, mut draft: Draft) -> Draft {
    if caller.may_see_keys() {
        return draft;
    }
    for object in &mut draft.objects {
        let value = object.node.to_json();
        let redacted = redacted(object.kind, value.clone());
        if redacted != value {
            object.node = Node::from_json(&redacted, &object.node.places());
        }
    }
    draft
}

/// A change as anybody may see it. That a secret differs is seen, and nothing else of it.
pub(crate) fn change(change: &ObjectChange) -> ObjectChange {
    let mut shown = change.clone();
    for value in [&mut shown.before, &mut shown.after].into_iter().flatten() {
        *value = redacted(change.kind, std::mem::take(value));
    }
    if shown.before == shown.after && change.before != change.after {
        for (value, mark) in [(&mut shown.before, " (before)"), (&mut shown.after, " (after)")] {
            value.iter_mut().for_each(|v| append(v, mark));
        }
    }
    shown
}

fn redacted(kind: Kind, mut value: Value) -> Value {
    if kind == Kind::Envoy {
        value = resource(value);
    }
    hide_keys(&mut value);
    value
}

/// Keeps the operator's spelling unless there is a secret in it. What cannot be read may hold anything, and is not shown.
fn resource(value: Value) -> Value {
    let both = proto::json::any_from_value(&value).and_then(|any| {
        Ok((proto::json::to_value(&any, Secrets::Shown)?, proto::json::to_value(&any, Secrets::Redacted)?))
    });
    match both {
        Ok((all, redacted)) if all == redacted => value,
        Ok((_, redacted)) => redacted,
        Err(_) => Value::String(REDACTED.to_owned()),
    }
}

/// A text, such as a message that quotes what was sent, without the private keys in it.
pub(crate) fn text(text: &str) -> Cow<'_, str> {
    let Some(mark) = text.find(KEY_MARK) else { return Cow::Borrowed(text) };
    let begin = text[..mark].rfind("-----").unwrap_or(mark);
    // What is cut off has no end.
    let rest = text[mark + KEY_MARK.len()..].split_once(KEY_MARK).map_or("", |(_, rest)| rest);
    Cow::Owned(format!("{}{REDACTED}{}", &text[..begin], self::text(rest)))
}

fn hide_keys(value: &mut Value) {
    match value {
        Value::String(text) if text.contains(KEY_MARK) => REDACTED.clone_into(text),
        Value::Array(items) => items.iter_mut().for_each(hide_keys),
        Value::Object(entries) => entries.values_mut().for_each(hide_keys),
        _ => (),
    }
}

fn append(value: &mut Value, mark: &str) {
    match value {
        Value::String(text) if text == REDACTED => text.push_str(mark),
        Value::Array(items) => items.iter_mut().for_each(|v| append(v, mark)),
        Value::Object(entries) => entries.values_mut().for_each(|v| append(v, mark)),
        _ => (),
    }
}

#[cfg(test)]
mod tests {
    use cp_pipeline::Action;
    use serde_json::json;

    use super::*;

    const KEY: &str = "-----BEGIN PRIVATE KEY-----\na\nb\nc\nd\nSECRET\n-----END PRIVATE KEY-----\n";

    fn diff(kind: Kind, before: Value, after: Value) -> String {
        let change =
            ObjectChange { action: Action::Changed, kind, name: "x".into(), before: Some(before), after: Some(after) };
        super::change(&change).diff()
    }

    #[test]
    fn no_line_of_a_secret_is_shown_in_a_diff() {
        let listener = |key: &str, port: u16| json!({"address": format!(":{port}"), "tls": {"cert": "c", "key": key}});
        let text = diff(Kind::Listener, listener(KEY, 1), listener(KEY, 2));
        assert!(text.contains("-address: \":1\"") && !text.contains("SECRET"), "{text}");
        let other = KEY.replace("SECRET", "OTHER");
        let text = diff(Kind::Listener, listener(KEY, 1), listener(&other, 1));
        assert!(text.contains("[redacted] (before)") && text.contains("[redacted] (after)"), "{text}");
        assert!(!text.contains("SECRET") && !text.contains("OTHER"), "{text}");
    }

    #[test]
    fn a_message_quotes_no_key() {
        let check = |message: &str, expected: &str| assert_eq!(text(message), expected);
        check("`x` is wrong", "`x` is wrong");
        check(&format!("`{KEY}` is wrong, and `{KEY}`"), "`[redacted]\n` is wrong, and `[redacted]\n`");
        check(&format!("a: {}", KEY.replace('\n', "\\n")), "a: [redacted]\\n");
        check(&format!("a: {}", &KEY[..40]), "a: [redacted]");
        check("PRIVATE KEY-----\nx", "[redacted]");
    }

    #[test]
    fn a_raw_resource_keeps_its_spelling_unless_it_holds_a_secret() {
        let url = |name: &str| format!("type.googleapis.com/envoy.{name}");
        let cluster = json!({"@type": url("config.cluster.v3.Cluster"), "name": "c", "connectTimeout": "1s"});
        assert_eq!(redacted(Kind::Envoy, cluster.clone()), cluster);
        let secret = |secret: Value| {
            json!({"@type": url("extensions.transport_sockets.tls.v3.Secret"), "name": "s",
                                            "genericSecret": {"secret": secret}})
        };
        for value in [secret(json!({"inlineString": "SECRET"})), secret(json!({"inlineBytes": "U0VDUkVU"}))] {
            let text = redacted(Kind::Envoy, value).to_string();
            assert!(!text.contains("SECRET") && !text.contains("U0VDUkVU"), "{text}");
        }
        let unknown = json!({"@type": url("no.such.Message"), "name": "s", "secret": "SECRET"});
        assert_eq!(redacted(Kind::Envoy, unknown), json!("[redacted]"));
    }
}
