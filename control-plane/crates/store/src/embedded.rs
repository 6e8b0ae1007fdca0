//! The store in one file, for one control plane (redb). Never shared between processes.

use std::path::Path;
use std::sync::{Arc, Mutex};

use redb::{Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::watch;

use crate::{Answer, Beside, Header, NewRevision, Revision, Store, StoreError};

const HEADERS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("headers");
const CONTENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("contents");
/// One row, under 0: version and content.
const BESIDE: TableDefinition<'_, u64, (u64, &[u8])> = TableDefinition::new("beside");

pub struct Embedded {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    /// Held during a commit, so that the ids seen by `watch` only grow.
    newest: watch::Sender<u64>,
    beside: watch::Sender<u64>,
    commit: Mutex<()>,
}

fn failed(error: impl std::fmt::Display) -> StoreError {
    StoreError::Failed(error.to_string())
}

impl Embedded {
    /// Opens or creates the file. Its folder must exist. Blocks; a file that was not closed is checked first.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let shown = path.display().to_string();
        let database = Database::create(path).map_err(|e| match e {
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path: shown.clone() },
            other => StoreError::Open { path: shown.clone(), reason: other.to_string() },
        })?;
        let open = |e: &dyn std::fmt::Display| StoreError::Open { path: shown.clone(), reason: e.to_string() };
        let write = database.begin_write().map_err(|e| open(&e))?;
        let (newest, beside) = {
            let beside = write.open_table(BESIDE).map_err(|e| open(&e))?;
            let version = beside.get(0).map_err(|e| open(&e))?.map_or(0, |row| row.value().0);
            let headers = write.open_table(HEADERS).map_err(|e| open(&e))?;
            write.open_table(CONTENTS).map_err(|e| open(&e))?;
            let last = headers.last().map_err(|e| open(&e))?;
            (last.map_or(0, |(id, _)| id.value()), version)
        };
        write.commit().map_err(|e| open(&e))?;
        let inner = Inner {
            database,
            newest: watch::Sender::new(newest),
            beside: watch::Sender::new(beside),
            commit: Mutex::new(()),
        };
        Ok(Embedded { inner: Arc::new(inner) })
    }

    /// The database blocks, so it is never used on an async thread.
    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> Answer<'_, T> {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move { tokio::task::spawn_blocking(move || work(&inner)).await.map_err(failed)? })
    }
}

impl Inner {
    fn read(&self, id: u64) -> Result<Option<Arc<Revision>>, StoreError> {
        let read = self.database.begin_read().map_err(failed)?;
        let headers = read.open_table(HEADERS).map_err(failed)?;
        let contents = read.open_table(CONTENTS).map_err(failed)?;
        let (Some(header), Some(content)) = (headers.get(id).map_err(failed)?, contents.get(id).map_err(failed)?)
        else {
            return Ok(None);
        };
        let header = decode(id, header.value())?;
        Ok(Some(Arc::new(Revision { header, content: content.value().to_vec() })))
    }

    fn append(&self, base: u64, new: NewRevision) -> Result<Arc<Revision>, StoreError> {
        let guard = self.commit.lock().map_err(failed)?;
        let head = *self.newest.borrow();
        if head != base {
            return Err(StoreError::Conflict { base, head });
        }
        let header = Header {
            id: head + 1,
            author: new.author,
            message: new.message,
            time: new.time,
            rollback_of: new.rollback_of,
            content_hash: stdx::hash::content_hash(&new.content),
            changes: new.changes,
        };
        let bytes = serde_json::to_vec(&header).map_err(failed)?;
        let mut write = self.database.begin_write().map_err(failed)?;
        write.set_durability(Durability::Immediate).map_err(failed)?;
        {
            let mut headers = write.open_table(HEADERS).map_err(failed)?;
            headers.insert(header.id, bytes.as_slice()).map_err(failed)?;
            let mut contents = write.open_table(CONTENTS).map_err(failed)?;
            contents.insert(header.id, new.content.as_slice()).map_err(failed)?;
        }
        write.commit().map_err(failed)?;
        self.newest.send_replace(header.id);
        drop(guard);
        Ok(Arc::new(Revision { header, content: new.content }))
    }

    fn beside(&self) -> Result<Beside, StoreError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(BESIDE).map_err(failed)?;
        let Some(row) = table.get(0).map_err(failed)? else { return Ok(Beside::default()) };
        let (version, content) = row.value();
        Ok(Beside { version, content: content.to_vec() })
    }

    fn put_beside(&self, base: u64, content: &[u8]) -> Result<u64, StoreError> {
        let guard = self.commit.lock().map_err(failed)?;
        let head = *self.beside.borrow();
        if head != base {
            return Err(StoreError::Conflict { base, head });
        }
        let mut write = self.database.begin_write().map_err(failed)?;
        write.set_durability(Durability::Immediate).map_err(failed)?;
        write.open_table(BESIDE).map_err(failed)?.insert(0, (head + 1, content)).map_err(failed)?;
        write.commit().map_err(failed)?;
        self.beside.send_replace(head + 1);
        drop(guard);
        Ok(head + 1)
    }

    fn headers(&self, before: u64, limit: usize) -> Result<Vec<Header>, StoreError> {
        let end = if before == 0 { u64::MAX } else { before };
        let read = self.database.begin_read().map_err(failed)?;
        let headers = read.open_table(HEADERS).map_err(failed)?;
        let mut out = Vec::new();
        for entry in headers.range(..end).map_err(failed)?.rev().take(limit) {
            let (id, bytes) = entry.map_err(failed)?;
            out.push(decode(id.value(), bytes.value())?);
        }
        Ok(out)
    }
}

fn decode(id: u64, bytes: &[u8]) -> Result<Header, StoreError> {
    serde_json::from_slice(bytes).map_err(|e| StoreError::Damaged { id, reason: e.to_string() })
}

impl Store for Embedded {
    fn head(&self) -> Answer<'_, Option<Arc<Revision>>> {
        self.run(|inner| {
            let newest = *inner.newest.borrow();
            inner.read(newest)
        })
    }

    fn commit(&self, base: u64, new: NewRevision) -> Answer<'_, Arc<Revision>> {
        self.run(move |inner| inner.append(base, new))
    }

    fn get(&self, id: u64) -> Answer<'_, Option<Arc<Revision>>> {
        self.run(move |inner| inner.read(id))
    }

    fn list(&self, before: u64, limit: usize) -> Answer<'_, Vec<Header>> {
        self.run(move |inner| inner.headers(before, limit))
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.inner.newest.subscribe()
    }

    fn beside(&self) -> Answer<'_, Beside> {
        self.run(Inner::beside)
    }

    fn put_beside(&self, base: u64, content: Vec<u8>) -> Answer<'_, u64> {
        self.run(move |inner| inner.put_beside(base, &content))
    }

    fn watch_beside(&self) -> watch::Receiver<u64> {
        self.inner.beside.subscribe()
    }
}
