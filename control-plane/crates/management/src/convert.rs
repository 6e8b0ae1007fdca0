//! Between the API's messages and the control plane's own types.

use cp_model::node::Node;
use cp_model::{Draft, Kind, Problem};
use cp_pipeline::apply::etag;
use cp_pipeline::{Action, Header, ObjectChange};
use proto::weir::management::v1 as pb;
use serde_json::Value;

use crate::failure::Failure;

pub(crate) fn kind_to_pb(kind: Kind) -> pb::Kind {
    match kind {
        Kind::Listener => pb::Kind::Listener,
        Kind::Route => pb::Kind::Route,
        Kind::Api => pb::Kind::Api,
        Kind::Policy => pb::Kind::Policy,
        Kind::Cluster => pb::Kind::Cluster,
        Kind::Envoy => pb::Kind::Envoy,
    }
}

/// None: unspecified.
pub(crate) fn kind(value: i32) -> Result<Option<Kind>, Failure> {
    let kind = pb::Kind::try_from(value).map_err(|_| Failure::request("kind", format!("{value} is not a kind")))?;
    Ok(match kind {
        pb::Kind::Unspecified => None,
        pb::Kind::Listener => Some(Kind::Listener),
        pb::Kind::Route => Some(Kind::Route),
        pb::Kind::Api => Some(Kind::Api),
        pb::Kind::Policy => Some(Kind::Policy),
        pb::Kind::Cluster => Some(Kind::Cluster),
        pb::Kind::Envoy => Some(Kind::Envoy),
    })
}

pub(crate) fn revision(header: &Header) -> pb::Revision {
    let seconds = i64::try_from(header.time / 1000).unwrap_or(i64::MAX);
    let nanos = i32::try_from(header.time % 1000).unwrap_or(0) * 1_000_000;
    pb::Revision {
        id: header.id,
        etag: etag(header),
        author: header.author.clone(),
        create_time: Some(prost_types::Timestamp { seconds, nanos }),
        message: header.message.clone(),
        rollback_of: header.rollback_of,
        content_hash: header.content_hash.clone(),
        changes: header.changes.iter().filter_map(|c| ObjectChange::decode(c)).map(|c| change(&c, false)).collect(),
    }
}

/// The empty configuration before the first revision.
pub(crate) fn no_revision() -> pb::Revision {
    pb::Revision { etag: cp_pipeline::apply::NO_REVISION.to_owned(), ..Default::default() }
}

pub(crate) fn revision_or_none(header: Option<&Header>) -> Option<pb::Revision> {
    Some(header.map_or_else(no_revision, revision))
}

pub(crate) fn change(change: &ObjectChange, diff: bool) -> pb::Change {
    use pb::change::Action as Pb;
    let action = match change.action {
        Action::Added => Pb::Added,
        Action::Changed => Pb::Changed,
        Action::Removed => Pb::Removed,
    };
    pb::Change {
        action: action.into(),
        kind: kind_to_pb(change.kind).into(),
        name: change.name.clone(),
        diff: if diff { redact_text(&change.diff()) } else { String::new() },
    }
}

pub(crate) fn warning(problem: &Problem) -> pb::Warning {
    pb::Warning {
        file: problem.place.file.clone(),
        line: problem.place.line,
        column: problem.place.column,
        field: problem.field.clone(),
        code: problem.code.number().to_owned(),
        message: problem.message.clone(),
        hint: problem.hint.clone().unwrap_or_default(),
    }
}

/// All objects of a draft, in order.
pub(crate) fn objects(draft: &Draft, secrets: bool) -> Vec<pb::Object> {
    let object = |(object, name): (&cp_model::Object, String)| {
        let mut value = object.node.to_json();
        if !secrets {
            redact(&mut value);
        }
        pb::Object {
            kind: kind_to_pb(object.kind).into(),
            name,
            yaml: Node::yaml(&value),
            json: value.to_string(),
            file: object.file.clone(),
            line: object.node.line,
            column: object.node.column,
            tag: object.tag.clone(),
        }
    };
    draft.objects.iter().zip(draft.display_names()).map(object).collect()
}

const KEY_MARK: &str = "PRIVATE KEY-----";
const REDACTED: &str = "[redacted]";

/// Private keys written into the configuration itself.
pub(crate) fn redact(value: &mut Value) {
    match value {
        Value::String(text) if text.contains(KEY_MARK) => REDACTED.clone_into(text),
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::Object(entries) => entries.values_mut().for_each(redact),
        _ => (),
    }
}

/// In a diff every line between the marks is dropped.
fn redact_text(text: &str) -> String {
    if !text.contains(KEY_MARK) {
        return text.to_owned();
    }
    let mut inside = false;
    let mut out = String::new();
    for line in text.lines() {
        let marks = line.matches(KEY_MARK).count();
        if marks == 0 && !inside {
            out.push_str(line);
            out.push('\n');
        } else if marks > 0 && !inside {
            out.push_str(REDACTED);
            out.push('\n');
        }
        if marks % 2 == 1 {
            inside = !inside;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_of_a_private_key_is_shown_in_a_diff() {
        let text = "+a: 1\n+key: |\n+  -----BEGIN PRIVATE KEY-----\n+  SECRET\n+  -----END PRIVATE KEY-----\n+b: 2\n";
        assert_eq!(redact_text(text), "+a: 1\n+key: |\n[redacted]\n+b: 2\n");
        let one_line = "+key: \"-----BEGIN PRIVATE KEY-----\\nSECRET\\n-----END PRIVATE KEY-----\"\n+b: 2\n";
        assert_eq!(redact_text(one_line), "[redacted]\n+b: 2\n");
    }
}
