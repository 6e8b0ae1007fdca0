//! What a word on the command line names: a kind of object, or the fleet's nodes, or the revisions.

use proto::weir::management::v1 as pb;

use crate::failure::Failure;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    All,
    Objects(cp_model::Kind),
    Nodes,
    Revisions,
    Endpoints,
}

pub(crate) fn subject(word: &str) -> Result<Subject, Failure> {
    match word {
        "all" => return Ok(Subject::All),
        "node" | "nodes" => return Ok(Subject::Nodes),
        "revision" | "revisions" => return Ok(Subject::Revisions),
        "endpoint" | "endpoints" => return Ok(Subject::Endpoints),
        _ => (),
    }
    cp_model::Kind::named(word).map(Subject::Objects).ok_or_else(|| {
        let sections = cp_model::Kind::ALL.map(cp_model::Kind::section);
        let words = sections.into_iter().chain(["nodes", "revisions", "endpoints", "all"]);
        let hint = match cp_model::problem::did_you_mean(word, words.clone()) {
            near if near.is_empty() => format!("; kinds: {}", words.collect::<Vec<_>>().join(", ")),
            near => near,
        };
        Failure::usage(format!("there is no kind `{word}`{hint}"))
    })
}

/// A kind of object, not nodes or revisions.
pub(crate) fn object_kind(word: &str) -> Result<cp_model::Kind, Failure> {
    match subject(word)? {
        Subject::Objects(kind) => Ok(kind),
        _ => Err(Failure::usage(format!("`{word}` are no objects of the configuration"))),
    }
}

pub(crate) fn to_wire(kind: cp_model::Kind) -> pb::Kind {
    match kind {
        cp_model::Kind::Listener => pb::Kind::Listener,
        cp_model::Kind::Route => pb::Kind::Route,
        cp_model::Kind::Api => pb::Kind::Api,
        cp_model::Kind::Policy => pb::Kind::Policy,
        cp_model::Kind::Cluster => pb::Kind::Cluster,
        cp_model::Kind::Envoy => pb::Kind::Envoy,
    }
}

pub(crate) fn of_wire(kind: i32) -> Option<cp_model::Kind> {
    let wire = pb::Kind::try_from(kind).ok()?;
    cp_model::Kind::ALL.into_iter().find(|k| to_wire(*k) == wire)
}

/// `cluster/app`.
pub(crate) fn name(kind: i32, name: &str) -> String {
    format!("{}/{name}", of_wire(kind).map_or("object", cp_model::Kind::word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_known_in_singular_and_plural() {
        for (word, expected) in [
            ("clusters", Some(Subject::Objects(cp_model::Kind::Cluster))),
            ("cluster", Some(Subject::Objects(cp_model::Kind::Cluster))),
            ("policies", Some(Subject::Objects(cp_model::Kind::Policy))),
            ("nodes", Some(Subject::Nodes)),
            ("revision", Some(Subject::Revisions)),
            ("endpoints", Some(Subject::Endpoints)),
            ("clutser", None),
        ] {
            assert_eq!(subject(word).ok(), expected, "{word}");
        }
    }

    #[test]
    fn a_kind_goes_over_the_wire_and_back() {
        for kind in cp_model::Kind::ALL {
            assert_eq!(of_wire(to_wire(kind).into()), Some(kind));
        }
    }
}
