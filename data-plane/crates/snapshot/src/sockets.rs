//! The listening sockets of one address: bound before the snapshot that needs them is published, handed to workers once.
//!
//! They stay as long as any snapshot has the address, so a changed listener never refuses a connection.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use dp_http::info::Address;
use dp_net::listen::{BindError, Bound, ListenOptions};

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// One address, with a socket for each worker.
#[derive(Debug)]
pub struct Sockets {
    /// No two of a process are the same.
    pub id: u64,
    /// As configured; port 0 stays 0.
    pub asked: Address,
    /// With the real port.
    pub address: Address,
    pub options: ListenOptions,
    waiting: Mutex<Vec<Option<Bound>>>,
}

impl Sockets {
    /// Binds and listens.
    ///
    /// # Errors
    /// The address cannot be had; says which and why.
    pub fn bind(asked: &Address, options: ListenOptions) -> Result<Self, BindError> {
        let bound = Bound::bind(asked, &options)?;
        let address = bound.address().clone();
        let waiting = Mutex::new(bound.split().into_iter().map(Some).collect());
        Ok(Self { id: NEXT_ID.fetch_add(1, Ordering::Relaxed), asked: asked.clone(), address, options, waiting })
    }

    /// The socket of worker `shard` (from 1); each can be taken once.
    pub fn take(&self, shard: usize) -> Option<Bound> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.get_mut(shard.checked_sub(1)?)?.take()
    }
}
