//! The caches of names as filters see them.

use std::sync::Arc;

use dp_filters::{NameCaches, NameLookup, Names};
use dp_upstream::dns::cache::{DnsCache, DnsCaches, Lookup};
use shared_config::cluster::DnsCache as Config;

/// All caches of the process, for filters that are being compiled.
pub(crate) struct Caches<'a>(pub(crate) &'a DnsCaches);

struct Shared(Arc<DnsCache>);

impl NameCaches for Caches<'_> {
    fn cache(&self, config: &Config) -> Result<Arc<dyn Names>, String> {
        match self.0.cache(config) {
            Ok(cache) => Ok(shared(cache)),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// A cache as filters see it.
pub(crate) fn shared(cache: Arc<DnsCache>) -> Arc<dyn Names> {
    Arc::new(Shared(cache))
}

impl Names for Shared {
    fn look_up(&self, authority: &str, port: u16) -> NameLookup {
        match self.0.look_up(authority, port) {
            Lookup::Found => NameLookup::Found,
            Lookup::Failed => NameLookup::Failed,
            Lookup::Overflow => NameLookup::Overflow,
            Lookup::PendingOverflow => NameLookup::PendingOverflow,
            Lookup::Waiting(waiting) => NameLookup::Waiting(Box::pin(waiting.found())),
        }
    }
}
