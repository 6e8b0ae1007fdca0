//! What differs between two configurations, object by object.

use std::collections::BTreeMap;

use cp_model::node::Node;
use cp_model::{Draft, Kind};
use serde_json::Value;
use similar::TextDiff;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Added,
    Changed,
    Removed,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ObjectChange {
    pub action: Action,
    pub kind: Kind,
    pub name: String,
    pub before: Option<Value>,
    pub after: Option<Value>,
}

impl ObjectChange {
    /// The lines that differ, as a unified diff of the object's YAML.
    pub fn diff(&self) -> String {
        let text = |value: &Option<Value>| value.as_ref().map(Node::yaml).unwrap_or_default();
        let (before, after) = (text(&self.before), text(&self.after));
        let diff = TextDiff::from_lines(before.as_str(), after.as_str());
        diff.unified_diff().context_radius(3).to_string()
    }

    /// One line for the store: `+cluster/app`.
    pub(crate) fn encode(&self) -> String {
        let sign = match self.action {
            Action::Added => '+',
            Action::Changed => '~',
            Action::Removed => '-',
        };
        format!("{sign}{}/{}", self.kind, self.name)
    }

    /// The inverse of `encode`, without the values.
    pub fn decode(line: &str) -> Option<ObjectChange> {
        let mut chars = line.chars();
        let action = match chars.next()? {
            '+' => Action::Added,
            '~' => Action::Changed,
            '-' => Action::Removed,
            _ => return None,
        };
        let (kind, name) = chars.as_str().split_once('/')?;
        Some(ObjectChange { action, kind: Kind::named(kind)?, name: name.to_owned(), before: None, after: None })
    }
}

/// In the order of the new configuration, then what is gone. Routes also differ by their place among the routes, because
/// the first match wins.
pub fn changes(old: &Draft, new: &Draft) -> Vec<ObjectChange> {
    let before = values(old);
    let mut gone: BTreeMap<(Kind, String), Value> = before.iter().cloned().collect();
    let mut out = Vec::new();
    let order = |list: &[((Kind, String), Value)]| -> Vec<String> {
        list.iter().filter(|((k, _), _)| *k == Kind::Route).map(|((_, n), _)| n.clone()).collect()
    };
    let after = values(new);
    let moved = order(&before) != order(&after);
    for ((kind, name), value) in after {
        let change = match gone.remove(&(kind, name.clone())) {
            None => (Action::Added, None),
            Some(was) if was != value || (moved && kind == Kind::Route) => (Action::Changed, Some(was)),
            Some(_) => continue,
        };
        out.push(ObjectChange { action: change.0, kind, name, before: change.1, after: Some(value) });
    }
    out.extend(gone.into_iter().map(|((kind, name), value)| ObjectChange {
        action: Action::Removed,
        kind,
        name,
        before: Some(value),
        after: None,
    }));
    out
}

fn values(draft: &Draft) -> Vec<((Kind, String), Value)> {
    draft.objects.iter().zip(draft.display_names()).map(|(o, name)| ((o.kind, name), o.node.to_json())).collect()
}
