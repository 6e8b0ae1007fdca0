//! Where the data plane gets its configuration from: xDS streams, files, and the last good state on disk.
//!
//! Hands encoded resources to a consumer and tells the sources what the consumer thought of them. Never decodes a
//! resource beyond its name and never starts anything that serves.

mod consumer;

pub use consumer::{Consumer, Event, FileWanted, Raw, ResourceKind, Verdict, Wanted};

/// A file that holds resources as a `DiscoveryResponse`, in JSON, YAML or binary by its extension.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileSource {
    pub path: std::path::PathBuf,
    /// Looked at for moves instead of the file itself (a mounted directory behind a symbolic link).
    pub watched_directory: Option<std::path::PathBuf>,
}
