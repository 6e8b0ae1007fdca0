//! Revisions of the configuration: append-only, durable before they are acknowledged, compare-and-set on the newest.
//!
//! Beside them one document of what operators did to the running fleet, which no revision changes.
//! Content is opaque bytes here. Never translates, never publishes.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

mod embedded;

pub use embedded::Embedded;

/// Who made a revision, when and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Counts up from 1 without gaps.
    pub id: u64,
    pub author: String,
    pub message: String,
    /// Milliseconds since 1970.
    pub time: u64,
    /// The revision whose content this one has again; 0 = none.
    pub rollback_of: u64,
    /// Equal content has an equal hash.
    pub content_hash: String,
    /// What changed against the revision before, in the words of the layer above.
    pub changes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    pub header: Header,
    pub content: Vec<u8>,
}

/// A revision before it has a number.
#[derive(Debug, Clone, Default)]
pub struct NewRevision {
    pub author: String,
    pub message: String,
    pub time: u64,
    pub rollback_of: u64,
    pub changes: Vec<String>,
    pub content: Vec<u8>,
}

/// What holds whatever the newest revision is: one document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Beside {
    /// Counts up with every change; 0 = nothing was ever put.
    pub version: u64,
    pub content: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("revision {head} is the newest, not {base}")]
    Conflict { base: u64, head: u64 },
    #[error("the store {path} is in use by another process")]
    InUse { path: String },
    #[error("the store {path} cannot be opened: {reason}")]
    Open { path: String, reason: String },
    #[error("the store failed: {0}")]
    Failed(String),
    #[error("revision {id} is damaged: {reason}")]
    Damaged { id: u64, reason: String },
}

pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

pub trait Store: Send + Sync {
    /// The newest revision. None: nothing was ever committed.
    fn head(&self) -> Answer<'_, Option<Arc<Revision>>>;

    /// Appends after `base` (0 = the beginning). Durable when it answers; refused if `base` is not the newest.
    fn commit(&self, base: u64, new: NewRevision) -> Answer<'_, Arc<Revision>>;

    fn get(&self, id: u64) -> Answer<'_, Option<Arc<Revision>>>;

    /// Newest first, those with ids below `before` (0 = from the newest), at most `limit`.
    fn list(&self, before: u64, limit: usize) -> Answer<'_, Vec<Header>>;

    /// The id of the newest revision, now and whenever it changes.
    fn watch(&self) -> watch::Receiver<u64>;

    /// The document beside the revisions.
    fn beside(&self) -> Answer<'_, Beside>;

    /// Replaces it, if `base` is its version. Durable when it answers the new version.
    fn put_beside(&self, base: u64, content: Vec<u8>) -> Answer<'_, u64>;

    /// Its version, now and whenever it changes.
    fn watch_beside(&self) -> watch::Receiver<u64>;
}
