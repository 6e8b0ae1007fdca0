//! What both planes need and the standard library lacks: a value that is hot-swapped, sharded counters, backoff,
//! content hashes, graceful drain, addresses told from names.
//!
//! Never a domain word: nothing here knows what a listener or a cluster is.

pub mod backoff;
pub mod drain;
pub mod hash;
pub mod host;
pub mod live;
pub mod shard;
