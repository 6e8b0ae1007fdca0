//! Endpoints that left while something of theirs is still open: one that comes back meanwhile is the one it was.
//!
//! Nothing is kept alive here: when the last connection of an endpoint closes, it is forgotten.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use hashbrown::HashMap;

use super::Identity;
use crate::endpoint::EndpointState;

/// The departed endpoints of one cluster.
#[derive(Debug, Default)]
pub(super) struct Departed(Mutex<HashMap<Identity, Weak<EndpointState>>>);

// === impl Departed ===

impl Departed {
    /// These endpoints left.
    pub(super) fn note<'e>(&self, gone: impl Iterator<Item = (&'e Identity, &'e Arc<EndpointState>)>) {
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        states.retain(|_, state| state.strong_count() > 0);
        states.extend(gone.map(|(identity, state)| (identity.clone(), Arc::downgrade(state))));
    }

    /// Connections that were made so far would not do any more.
    pub(super) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The state of one that left, if it is still there.
    pub(super) fn find(&self, identity: &Identity) -> Option<Arc<EndpointState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(identity)?.upgrade()
    }
}
