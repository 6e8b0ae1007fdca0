//! Resources from files, looked at again when the file was replaced.
//!
//! A file is a state-of-the-world response; it is read with the same state machine as one from a stream.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use prost::Message;
use proto::envoy::service::discovery::v3::DiscoveryResponse;
use shared_xds::client::{Client, Interest};
use shared_xds::{Protocol, ResourceKind};

use crate::consumer::{Event, FileWanted};
use crate::core::Shared;
use crate::source::FileSource;
use crate::watch::Directories;

// Where the system does not tell of changes, they are seen within this time.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const MAX_BYTES: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it has {0} bytes, more than {MAX_BYTES}")]
    TooBig(u64),
    #[error("{0}")]
    Json(#[from] proto::json::JsonError),
    #[error("{0}")]
    Binary(#[from] prost::DecodeError),
}

/// What tells one content of a path from the next.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Stamp(Vec<(u64, u64, i64, i64)>);

struct Watched {
    client: Client,
    /// Of the content that was read.
    read: Option<Stamp>,
    /// As it was the last time it was looked at.
    seen: Option<Stamp>,
}

/// Reads `fixed` and whatever else the consumer wants from files.
pub(crate) async fn run(fixed: Vec<FileWanted>, core: Shared) {
    let mut watched: BTreeMap<FileWanted, Watched> = BTreeMap::new();
    let mut wanted = core.borrow().watch_wanted();
    let mut directories = Directories::new();
    loop {
        let mut files = core.borrow().wanted().files.clone();
        files.extend(fixed.iter().cloned());
        watched.retain(|file, _| files.contains(file));
        directories.follow(&files.iter().flat_map(|file| file.file.directories()).collect());
        for file in files {
            let state = watched.entry(file.clone()).or_insert_with(|| Watched::new(&file));
            state.look(&file, &core);
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            // The sender lives as long as the core, which we hold.
            _ = wanted.changed() => {}
            () = directories.changed() => {}
        }
    }
}

impl Watched {
    fn new(file: &FileWanted) -> Self {
        let mut client = Client::new(Protocol::Sotw, file.fetch_timeout);
        let interest = if file.name.is_empty() { Interest::all() } else { Interest::named([file.name.clone()]) };
        client.want(file.kind, interest, Instant::now());
        client.connected();
        // The subscription is for the state machine only; there is nobody to send it to.
        client.poll();
        Self { client, read: None, seen: None }
    }

    fn look(&mut self, file: &FileWanted, core: &Shared) {
        let stamp = stamp(&file.file);
        // A file that is written in place is half a file for a while; one that was moved into place is whole.
        let is_whole = self.read.as_ref().is_none_or(|read| !stamp.is_same_file(read));
        if self.read.as_ref() != Some(&stamp) && (is_whole || self.seen.as_ref() == Some(&stamp)) {
            self.read = Some(stamp.clone());
            self.load(file, core);
        }
        self.seen = Some(stamp);
        for (kind, _) in self.client.timed_out(Instant::now()) {
            let mut core = core.borrow_mut();
            core.stats.kind(kind, |stats| stats.init_fetch_timeout += 1);
            core.tell(Event::InitialFetchTimeout { kind, names: names(file) });
        }
        for (kind, names) in self.client.expired(Instant::now()) {
            core.borrow_mut().expire(kind, names);
        }
    }

    fn load(&mut self, file: &FileWanted, core: &Shared) {
        let path = &file.file.path;
        let response = match read(path, file.kind) {
            Ok(response) => response,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "file not used; the configuration stays as it is");
                core.borrow_mut().failed(file.kind, names(file));
                return;
            }
        };
        let Some(received) = self.client.on_sotw(response, Instant::now()) else {
            tracing::warn!(path = %path.display(), kind = %file.kind, "file holds another type; it is not used");
            core.borrow_mut().failed(file.kind, names(file));
            return;
        };
        let refused = core.borrow_mut().receive(&received);
        let refused = self.client.settle(file.kind, refused);
        if !refused.is_empty() {
            let text = shared_xds::client::refusal_text(&refused);
            tracing::warn!(path = %path.display(), text, "configuration refused; the last good one stays");
        }
        core.borrow().note(&received, &refused);
        // The answer has no way to go, but must be taken before the next response.
        self.client.poll();
    }
}

/// The resource that a file is for, unless it is for all of them.
fn names(file: &FileWanted) -> Vec<String> {
    [&file.name].into_iter().filter(|name| !name.is_empty()).cloned().collect()
}

// === impl FileSource ===

impl FileSource {
    /// Where something happens when the file is replaced.
    fn directories(&self) -> impl Iterator<Item = &Path> {
        // The parent of a bare name is empty.
        let parent = self.path.parent().map(|parent| if parent == Path::new("") { Path::new(".") } else { parent });
        parent.into_iter().chain(self.watched_directory.as_deref())
    }
}

// === impl Stamp ===

impl Stamp {
    /// Whether these are contents of one file, which was then written to in place.
    fn is_same_file(&self, other: &Self) -> bool {
        self.0.iter().map(|numbers| numbers.0).eq(other.0.iter().map(|numbers| numbers.0))
    }
}

fn stamp(file: &FileSource) -> Stamp {
    let one = |path: &Path| std::fs::metadata(path).as_ref().map(numbers).unwrap_or_default();
    Stamp([&file.path].into_iter().chain(&file.watched_directory).map(|path| one(path)).collect())
}

fn numbers(metadata: &Metadata) -> (u64, u64, i64, i64) {
    (metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

fn read(path: &Path, kind: ResourceKind) -> Result<DiscoveryResponse, ReadError> {
    let length = std::fs::metadata(path)?.len();
    if length > MAX_BYTES {
        return Err(ReadError::TooBig(length));
    }
    let mut response: DiscoveryResponse = match path.extension().and_then(|extension| extension.to_str()) {
        Some("pb") => Message::decode(&std::fs::read(path)?[..])?,
        Some("json") => proto::json::from_json(&std::fs::read_to_string(path)?)?,
        _ => proto::json::from_yaml(&std::fs::read_to_string(path)?)?,
    };
    if response.type_url.is_empty() {
        kind.type_url().clone_into(&mut response.type_url);
    }
    Ok(response)
}
