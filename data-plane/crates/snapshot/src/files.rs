//! Files and environment variables that the configuration names: read when they are first needed, kept until told.
//!
//! The only place of this crate that touches the disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use shared_config::core::DataSource;

/// What was read, so that a snapshot is compiled from one version of each file.
#[derive(Debug, Default)]
pub struct Files {
    read: BTreeMap<PathBuf, (Bytes, Option<SystemTime>)>,
    generation: u64,
}

/// A file or variable cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    #[error("cannot read {path}: {reason}")]
    Unreadable { path: String, reason: String },
    #[error("the environment variable {0} is not set")]
    Unset(String),
}

impl Files {
    /// The bytes of a source.
    ///
    /// # Errors
    /// The file cannot be read or the variable is not set; says which.
    pub fn load(&mut self, source: &DataSource) -> Result<Bytes, FileError> {
        match source {
            DataSource::Inline(bytes) => Ok(bytes.clone()),
            DataSource::File { path, .. } => self.file(path),
            DataSource::Environment(name) => {
                std::env::var(name).map(Bytes::from).map_err(|_| FileError::Unset(name.clone()))
            }
        }
    }

    fn file(&mut self, path: &Path) -> Result<Bytes, FileError> {
        if let Some((bytes, _)) = self.read.get(path) {
            return Ok(bytes.clone());
        }
        let bytes = std::fs::read(path)
            .map(Bytes::from)
            .map_err(|error| FileError::Unreadable { path: path.display().to_string(), reason: error.to_string() })?;
        self.read.insert(path.to_owned(), (bytes.clone(), modified(path)));
        Ok(bytes)
    }

    /// Forgets everything: the next compilation reads again (SIGHUP). Says whether there was anything.
    pub fn forget(&mut self) -> bool {
        let any = !self.read.is_empty();
        self.read.clear();
        self.generation += u64::from(any);
        any
    }

    /// Changes whenever something was forgotten.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Forgets the files that changed since they were read; says whether there were any.
    pub fn forget_changed(&mut self) -> bool {
        let before = self.read.len();
        self.read.retain(|path, (_, read)| modified(path) == *read);
        let changed = self.read.len() != before;
        self.generation += u64::from(changed);
        changed
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_once_until_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let source = DataSource::File { path: path.clone(), watched_directory: None };
        let mut files = Files::default();
        let error = files.load(&source).unwrap_err().to_string();
        assert!(error.starts_with("cannot read ") && error.contains("No such file"), "{error}");
        std::fs::write(&path, "1").unwrap();
        assert_eq!(files.load(&source).unwrap(), "1");
        std::fs::write(&path, "2").unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(files.load(&source).unwrap(), "1");
        assert!(files.forget_changed());
        assert_eq!(files.load(&source).unwrap(), "2");
    }
}
