//! The xDS server: what each group of clients is to have, and the streams that bring it to them.
//!
//! Takes finished resources and shows how far each node is. Never knows where the resources come from, and never
//! decides which resources a group gets.

mod codec;
mod identity;
mod load;
mod publisher;
mod resource;
mod serve;
mod service;
mod status;
mod stream;

pub use cp_fleet::{Class, Fleet, NodeInfo};
pub use identity::Peer;
pub use publisher::{Debounce, Publisher};
pub use resource::{Res, resource};
pub use serve::{ServeError, Tls, serve};
pub use service::{Admit, Counters, Selector, Settings, XdsServer};
pub use shared_xds::{ResourceError, ResourceKind, Version};
