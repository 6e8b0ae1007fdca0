//! What makes an endpoint of one version of a cluster that of another.

use std::hash::{Hash, Hasher};

use dp_http::info::Address;
use hashbrown::Equivalent;
use shared_config::endpoint::Endpoint as EndpointConfig;

/// What makes an endpoint the same one in the next version. Hashed by the address only, so that [`At`] finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// `None` for the one endpoint of a logical DNS cluster, whose address may change.
    address: Option<Address>,
    hostname: String,
}

/// Any endpoint with this address.
pub(super) struct At<'a>(pub(super) &'a Address);

// === impl Identity, At ===

impl Hash for Identity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.address.hash(state);
    }
}

impl Hash for At<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Some(self.0).hash(state);
    }
}

impl Equivalent<Identity> for At<'_> {
    fn equivalent(&self, identity: &Identity) -> bool {
        identity.address.as_ref() == Some(self.0)
    }
}

impl Identity {
    pub(super) fn of(config: &EndpointConfig, address: &Address, logical: bool) -> Self {
        Self { address: (!logical).then(|| address.clone()), hostname: config.hostname.clone() }
    }
}
