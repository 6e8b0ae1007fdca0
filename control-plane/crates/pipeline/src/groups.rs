//! Groups of nodes, by what a node says of itself.

use std::collections::BTreeMap;

use cp_fleet::NodeInfo;
use cp_model::Model;
use cp_model::problem::{Code, Problem, closest};

/// Every part that is given must fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    /// `node.cluster`.
    pub cluster: Option<String>,
    /// Texts of `node.metadata`.
    pub labels: BTreeMap<String, String>,
}

impl Selector {
    fn fits(&self, node: &NodeInfo) -> bool {
        self.cluster.as_ref().is_none_or(|c| *c == node.cluster)
            && self.labels.iter().all(|(key, value)| node.label(key) == Some(value))
    }
}

/// The first group that fits is a node's group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Groups(pub Vec<(String, Selector)>);

/// Nodes that no selector fits.
pub const DEFAULT: &str = "default";

impl Groups {
    pub fn of(&self, node: &NodeInfo) -> &str {
        self.0.iter().find(|(_, selector)| selector.fits(node)).map_or(DEFAULT, |(name, _)| name)
    }

    /// All of them, the default one last.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .map(|(name, _)| name.as_str())
            .chain((!self.0.iter().any(|(n, _)| n == DEFAULT)).then_some(DEFAULT))
    }

    /// Groups that listeners name and nobody defines.
    pub(crate) fn unknown_in(&self, model: &Model) -> Vec<Problem> {
        let mut problems = Vec::new();
        for listener in &model.listeners {
            for group in listener.groups.iter().filter(|g| !self.names().any(|n| n == *g)) {
                problems.push(Problem {
                    place: listener.place.clone(),
                    field: format!("listeners.{}.groups", listener.name),
                    code: Code::Undefined,
                    message: format!("node group `{group}` is not defined in the control plane's configuration"),
                    hint: closest(group, self.names()).map(|near| format!("did you mean `{near}`?")),
                });
            }
        }
        problems
    }
}
