//! What this crate hands to the snapshot compiler, and what it wants back.
//!
//! Resources stay encoded here: decoding and judging them is the consumer's part.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use shared_xds::ResourceKind;

/// One resource as it came, with the version under which its source holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Raw {
    pub name: String,
    pub version: String,
    pub any: proto::Any,
}

/// What happened on the sources.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Resources that are new or changed, and names that are no more. Full sets were already turned into this form.
    /// Without a version they come from no answer: from the disk, or since their time was over.
    Update { kind: ResourceKind, version: Option<String>, upserts: Vec<Raw>, removed: Vec<String> },
    /// The source of these could not be reached, or read.
    Failed { kind: ResourceKind, names: Vec<String> },
    /// What follows up to the `End` of the same or a later revision is to be published as one snapshot.
    Begin { revision: u64 },
    /// All of the revision was sent. What it names is complete once every wanted name is present, gone or timed out.
    End { revision: u64 },
    /// No answer in time: for `names`, or for the whole kind when it was not asked by name.
    InitialFetchTimeout { kind: ResourceKind, names: Vec<String> },
    /// A source answered.
    Connected,
    /// A source went away. An open transaction (`Begin` without `End`) is void; what came before it stands.
    Disconnected { reason: String },
}

/// What the consumer thinks of an event, and which names it now wants.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Verdict {
    /// Name and reason of each resource of the update that was refused; its last good version stays in use.
    pub rejected: Vec<(String, String)>,
    pub wanted: Wanted,
}

/// The names wanted of the kinds that are asked by name; beside the full sets also single names asked on demand.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wanted {
    pub names: BTreeMap<ResourceKind, BTreeSet<String>>,
    /// Resources that come from a file of their own instead of the stream (`path_config_source`).
    pub files: BTreeSet<FileWanted>,
}

/// One resource, or one full set when `name` is empty, from a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileWanted {
    pub kind: ResourceKind,
    pub name: String,
    pub file: crate::FileSource,
    /// How long the file may be missing or wrong before it counts as not there; `None` waits for ever.
    pub fetch_timeout: Option<Duration>,
}

impl Wanted {
    pub fn add(&mut self, kind: ResourceKind, name: impl Into<String>) {
        self.names.entry(kind).or_default().insert(name.into());
    }
}

/// Takes every event, one at a time, on the control thread.
pub trait Consumer: Send {
    fn on(&mut self, event: Event) -> Verdict;

    /// Whether all that came so far serves, as a whole: no transaction is open and nothing of one waits. Only then is
    /// it worth keeping, and only then is the end of a revision acknowledged.
    fn is_published(&self) -> bool {
        true
    }
}

impl<F: FnMut(Event) -> Verdict + Send> Consumer for F {
    fn on(&mut self, event: Event) -> Verdict {
        self(event)
    }
}
