//! The last good configuration on disk, so that a restart without a control plane serves.
//!
//! One file for everything but secrets, one for those if they are kept at all. A file is replaced as a whole and ends
//! with a digest; one that is torn or foreign is not used.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use prost::Message;
use proto::weir::xds::v1::{LastGood, last_good::Entry};
use shared_xds::{KindMap, ResourceKind, Version};

use crate::consumer::Raw;
use crate::source::LastGoodOptions;

pub(crate) type Kept = BTreeMap<String, Raw>;

#[derive(Debug, Clone)]
pub(crate) struct Store(LastGoodOptions);

const CONFIGURATION: &str = "last-good.binpb";
const SECRETS: &str = "last-good-secrets.binpb";
const DIGEST_BYTES: usize = 32;

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("its digest is wrong")]
    Digest,
    #[error("it is not decodable: {0}")]
    Decode(#[from] prost::DecodeError),
}

impl Store {
    pub(crate) fn new(options: LastGoodOptions) -> Self {
        Self(options)
    }

    /// What an earlier process kept. What cannot be read is as if it was not there.
    pub(crate) fn load(&self) -> KindMap<Kept> {
        let mut kept: KindMap<Kept> = KindMap::default();
        let secrets = self.0.keep_secrets.then_some(SECRETS);
        for file in [CONFIGURATION].into_iter().chain(secrets) {
            let path = self.0.directory.join(file);
            match read(&path) {
                Ok(entries) => {
                    for entry in entries {
                        let Some(kind) = ResourceKind::from_type_url(&entry.type_url) else {
                            continue;
                        };
                        let any = proto::Any { type_url: entry.type_url, value: entry.value };
                        kept[kind].insert(entry.name.clone(), Raw { name: entry.name, version: entry.version, any });
                    }
                }
                Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(path = %path.display(), %error, "the last good configuration is not used"),
            }
        }
        kept
    }

    pub(crate) fn save(&self, kept: &KindMap<Kept>) -> io::Result<()> {
        fs::create_dir_all(&self.0.directory)?;
        let is_secret = |kind: ResourceKind| kind == ResourceKind::Secret;
        self.write(CONFIGURATION, kept, |kind| !is_secret(kind))?;
        if self.0.keep_secrets {
            self.write(SECRETS, kept, is_secret)?;
        }
        Ok(())
    }

    fn write(&self, file: &str, kept: &KindMap<Kept>, takes: impl Fn(ResourceKind) -> bool) -> io::Result<()> {
        let raws = kept.iter().filter(|(kind, _)| takes(*kind)).flat_map(|(_, kept)| kept.values());
        let entries = raws.map(|raw| Entry {
            type_url: raw.any.type_url.clone(),
            name: raw.name.clone(),
            version: raw.version.clone(),
            value: raw.any.value.clone(),
        });
        let mut bytes = LastGood { entries: entries.collect() }.encode_to_vec();
        let digest = Version::of(&bytes).to_string();
        bytes.extend_from_slice(digest.as_bytes());

        let path = self.0.directory.join(file);
        let fresh = self.0.directory.join(format!(".{file}.{}", std::process::id()));
        // Routes and clusters say much about the inside; nobody else needs to read them.
        let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        out.write_all(&bytes)?;
        out.sync_all()?;
        fs::rename(&fresh, &path)?;
        // The rename itself lasts only when the directory is on disk too.
        fs::File::open(&self.0.directory)?.sync_all()
    }
}

fn read(path: &Path) -> Result<Vec<Entry>, ReadError> {
    let bytes = fs::read(path)?;
    let end = bytes.len().checked_sub(DIGEST_BYTES).ok_or(ReadError::Digest)?;
    let (body, digest) = bytes.split_at(end);
    if Version::of(body).to_string().as_bytes() != digest {
        return Err(ReadError::Digest);
    }
    Ok(LastGood::decode(body)?.entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> KindMap<Kept> {
        let mut kept: KindMap<Kept> = KindMap::default();
        for kind in [ResourceKind::Cluster, ResourceKind::Secret] {
            let any = proto::Any { type_url: kind.type_url().to_owned(), value: vec![0x0a, 1, b'a'].into() };
            kept[kind].insert("a".to_owned(), Raw { name: "a".to_owned(), version: "1".to_owned(), any });
        }
        kept
    }

    fn store(directory: &tempfile::TempDir, keep_secrets: bool) -> Store {
        Store::new(LastGoodOptions { directory: directory.path().join("new"), keep_secrets })
    }

    #[test]
    fn what_was_saved_is_loaded_with_secrets_only_if_they_are_kept() {
        use std::os::unix::fs::PermissionsExt;
        for keep_secrets in [false, true] {
            let directory = tempfile::tempdir().expect("a directory");
            let store = store(&directory, keep_secrets);
            assert_eq!(store.load(), KindMap::default());
            store.save(&kept()).expect("saved");
            let loaded = store.load();
            assert_eq!(loaded[ResourceKind::Cluster], kept()[ResourceKind::Cluster]);
            assert_eq!(loaded[ResourceKind::Secret].len(), usize::from(keep_secrets));
            let path = directory.path().join("new").join(SECRETS);
            assert_eq!(path.exists(), keep_secrets);
            if keep_secrets {
                let mode = fs::metadata(&path).expect("there").permissions().mode();
                assert_eq!(mode & 0o777, 0o600);
            }
        }
    }

    #[test]
    fn a_torn_file_is_not_used() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = store(&directory, false);
        store.save(&kept()).expect("saved");
        let path = directory.path().join("new").join(CONFIGURATION);
        let whole = fs::read(&path).expect("there");
        for end in 0..whole.len() {
            fs::write(&path, &whole[..end]).expect("written");
            assert_eq!(store.load(), KindMap::default(), "cut at {end}");
        }
        fs::write(&path, &whole).expect("written");
        assert_eq!(store.load()[ResourceKind::Cluster].len(), 1);
    }
}
