//! Between the API's messages and the control plane's own types.

use cp_model::node::Node;
use cp_model::{Draft, Kind, Problem};
use cp_pipeline::apply::etag;
use cp_pipeline::{Action, Header, ObjectChange};
use proto::weir::management::v1 as pb;

use crate::failure::Failure;
use crate::redact;

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
        diff: if diff { redact::change(change).diff() } else { String::new() },
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
pub(crate) fn objects(draft: &Draft) -> Vec<pb::Object> {
    let object = |(object, name): (&cp_model::Object, String)| {
        let value = object.node.to_json();
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
