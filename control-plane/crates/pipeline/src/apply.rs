//! A change, from the operator's request to a durable revision.
//!
//! Nothing is published here: `publish` follows the store.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use cp_model::problem::did_you_mean;
use cp_model::references::references;
use cp_model::{Attachments, Checked, Code, Draft, Kind, Problem, Problems, Source};
use cp_store::{Header, NewRevision, Revision, Store, StoreError};
use cp_translate::Resource;
use proto::Any;

use crate::change::{ObjectChange, changes};
use crate::groups::Groups;
use crate::read_back::read_back;

/// Who asks. The name of a token, or of an anonymous operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author(pub String);

/// What is to be different.
#[derive(Debug, Clone)]
pub enum Change {
    Apply {
        sources: Vec<Source>,
        resources: Vec<Any>,
        attachments: Attachments,
        prune: bool,
        /// What the objects belong to; empty for nothing in particular.
        tag: String,
    },
    Delete {
        objects: Vec<(Kind, String)>,
        allow_missing: bool,
    },
    Rollback {
        id: u64,
    },
}

#[derive(Debug, Clone, Default)]
pub struct Options {
    pub validate_only: bool,
    /// Refuse unless this is the etag of the newest revision.
    pub etag: Option<String>,
    pub message: String,
}

/// What came of a change.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The new revision; the newest there is when nothing was written. None: there is none at all.
    pub revision: Option<Header>,
    pub changes: Vec<ObjectChange>,
    pub warnings: Vec<Problem>,
}

#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("the configuration has {} problems", .0.len())]
    Invalid(Vec<Problem>),
    #[error("the configuration was changed meanwhile: its etag is {etag}")]
    Stale { etag: String },
    /// With the end of the message: what else may have been meant.
    #[error("{0} `{1}` does not exist{2}")]
    NoObject(Kind, String, String),
    #[error("revision {0} does not exist")]
    NoRevision(u64),
    /// Who still refers to what was to be removed.
    #[error("still referenced by {}", list(.0))]
    Referenced(Vec<(Kind, String)>),
    #[error("cluster `{0}` has no endpoints that the control plane brings: those of DNS follow DNS")]
    NoEndpoints(String),
    #[error("cluster `{cluster}` has no endpoint {address}{hint}")]
    NoEndpoint { cluster: String, address: String, hint: String },
    #[error("{address} of cluster `{cluster}` is not drained{hint}")]
    NotDrained { cluster: String, address: String, hint: String },
    #[error("{0} endpoints are drained, which is the most")]
    TooManyDrained(usize),
    #[error("revision {id} cannot be read: {reason}")]
    Unreadable { id: u64, reason: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Refused {
    /// `draft` has no object of this name.
    pub fn no_object(draft: &Draft, kind: Kind, name: &str) -> Self {
        let names = draft.display_names();
        let same = draft.objects.iter().zip(&names).filter(|(o, _)| o.kind == kind).map(|(_, name)| name.as_str());
        Refused::NoObject(kind, name.to_owned(), did_you_mean(name, same))
    }
}

fn list(objects: &[(Kind, String)]) -> String {
    objects.iter().map(|(kind, name)| format!("{kind} `{name}`")).collect::<Vec<_>>().join(", ")
}

/// A draft that passed every check, as what it becomes on the wire.
#[derive(Debug, Clone)]
pub struct Compiled {
    pub checked: Checked,
    pub resources: Vec<Resource>,
}

pub struct Pipeline {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) groups: Groups,
    /// Whoever writes has the turn, so that nobody is overtaken until the tries are used up.
    turn: tokio::sync::Mutex<()>,
}

/// How often a change without etag is tried again when another one was faster.
const TRIES: usize = 16;

impl Pipeline {
    pub fn new(store: Arc<dyn Store>, groups: Groups) -> Self {
        Pipeline { store, groups, turn: Default::default() }
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// The spine: onto the newest, check, translate, read back, commit.
    pub async fn apply(&self, author: &Author, change: Change, options: Options) -> Result<Applied, Refused> {
        let _turn = if options.validate_only { None } else { Some(self.turn.lock().await) };
        for _ in 0..TRIES {
            let base = self.store.head().await?;
            let old = draft_of(base.as_deref())?;
            same_etag(&options, base.as_deref())?;
            let (new, rollback_of) = self.onto(&old, &change).await?; //      what is asked for
            let compiled = compile(&new, &self.groups)?; //                   checked, translated, read back
            let changes = changes(&old, &new);
            let same = changes.is_empty() && old.attachments == new.attachments && old.same_tags(&new);
            if options.validate_only || same {
                let revision = base.map(|b| b.header.clone());
                return Ok(Applied { revision, changes, warnings: compiled.checked.warnings });
            }
            let id = base.as_ref().map_or(0, |b| b.header.id);
            let next = NewRevision {
                author: author.0.clone(),
                message: options.message.clone(),
                time: now(),
                rollback_of,
                changes: changes.iter().map(ObjectChange::encode).collect(),
                content: new.encode(),
            };
            match self.store.commit(id, next).await {
                Ok(revision) => {
                    let revision = Some(revision.header.clone());
                    return Ok(Applied { revision, changes, warnings: compiled.checked.warnings });
                }
                Err(StoreError::Conflict { .. }) => (),
                Err(other) => return Err(other.into()),
            }
        }
        let etag = self.store.head().await?.map(|h| etag(&h.header)).unwrap_or_default();
        Err(Refused::Stale { etag })
    }

    /// The change laid over a draft, and the revision it brings back.
    pub(crate) async fn onto(&self, old: &Draft, change: &Change) -> Result<(Draft, u64), Refused> {
        match change {
            Change::Apply { sources, resources, attachments, prune, tag } => {
                let mut problems = Problems::default();
                let change = Draft::read(sources, resources, attachments.clone(), &mut problems);
                for (object, theirs) in old.tagged_otherwise(&change, tag) {
                    let field = format!("{}.{}", object.kind.section(), object.name);
                    let message = format!("belongs to the tag `{theirs}`, not to `{tag}`");
                    problems.push(&object.place(), field, Code::Conflict, message);
                    problems.hint("delete it there first, or give it another name");
                }
                let mut new = old.with(change, *prune, tag);
                if !problems.errors.is_empty() {
                    // What could be read is checked all the same, so that one run reports everything.
                    let mut all = problems.errors;
                    all.extend(cp_model::check(&new).err().unwrap_or_default());
                    return Err(Refused::Invalid(all));
                }
                new.attachments.retain(|_, content| !content.is_empty());
                Ok((new, 0))
            }
            Change::Delete { objects, allow_missing } => Ok((delete(old, objects, *allow_missing)?, 0)),
            Change::Rollback { id } => {
                let revision = self.store.get(*id).await?.ok_or(Refused::NoRevision(*id))?;
                Ok((draft_of(Some(&revision))?, *id))
            }
        }
    }
}

fn delete(old: &Draft, objects: &[(Kind, String)], allow_missing: bool) -> Result<Draft, Refused> {
    let names = old.display_names();
    for (kind, name) in objects {
        let there = old.objects.iter().zip(&names).any(|(o, n)| o.kind == *kind && n == name);
        if !there && !allow_missing {
            return Err(Refused::no_object(old, *kind, name));
        }
    }
    if let Ok(checked) = cp_model::check(old) {
        let gone = |object: &(Kind, String)| objects.contains(object);
        let mut referring: Vec<(Kind, String)> =
            references(&checked.model).into_iter().filter(|r| gone(&r.to) && !gone(&r.from)).map(|r| r.from).collect();
        referring.dedup();
        if !referring.is_empty() {
            return Err(Refused::Referenced(referring));
        }
    }
    Ok(old.without(objects))
}

/// Check, translate, and read back with the proxy's own decoder.
pub fn compile(draft: &Draft, groups: &Groups) -> Result<Compiled, Refused> {
    let checked = cp_model::check(draft).map_err(Refused::Invalid)?;
    let mut problems = groups.unknown_in(&checked.model);
    let resources = match cp_translate::translate(&checked.model) {
        Ok(resources) => resources,
        Err(error) => {
            problems.push(crate::read_back::defect(&error));
            return Err(Refused::Invalid(problems));
        }
    };
    problems.extend(read_back(&resources));
    if problems.is_empty() { Ok(Compiled { checked, resources }) } else { Err(Refused::Invalid(problems)) }
}

fn same_etag(options: &Options, base: Option<&Revision>) -> Result<(), Refused> {
    let newest = base.map(|b| etag(&b.header)).unwrap_or_else(|| NO_REVISION.to_owned());
    match &options.etag {
        Some(asked) if *asked != newest => Err(Refused::Stale { etag: newest }),
        _ => Ok(()),
    }
}

/// The etag of the empty configuration before the first revision.
pub const NO_REVISION: &str = "0";

pub fn etag(header: &Header) -> String {
    let hash: String = header.content_hash.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    format!("{}-{hash}", header.id)
}

pub(crate) fn draft_of(revision: Option<&Revision>) -> Result<Draft, Refused> {
    match revision {
        None => Ok(Draft::default()),
        Some(r) => {
            Draft::decode(&r.content).map_err(|e| Refused::Unreadable { id: r.header.id, reason: e.to_string() })
        }
    }
}

/// Milliseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
