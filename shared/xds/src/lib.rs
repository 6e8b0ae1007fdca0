//! The xDS transport protocol without its transport: subscriptions, versions, nonces, ACK and NACK, ordering.
//!
//! Both protocol variants (state of the world and delta) and both ends. Everything here is a state machine that takes
//! messages and a clock reading and gives messages; it never opens a socket, sleeps or spawns.

pub mod client;
pub mod kind;
pub mod load;
pub mod mark;
pub mod resource;
pub mod server;
pub mod version;
pub mod wire;

pub use kind::{KindMap, ResourceKind};
pub use resource::{Resource, ResourceError, ResourceSet, Snapshot};
pub use version::Version;

/// Which variant of the protocol a stream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// State of the world: `DiscoveryRequest` and `DiscoveryResponse`.
    Sotw,
    /// Incremental: `DeltaDiscoveryRequest` and `DeltaDiscoveryResponse`.
    Delta,
}
