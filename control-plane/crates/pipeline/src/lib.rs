//! The spine of the control plane: from a change to a durable revision (`apply`), and from a revision to the nodes (`publish`).
//!
//! Everything else here is a question about revisions. Never speaks gRPC or HTTP, never decides who may ask.

pub mod apply;
pub mod change;
pub mod drain;
pub mod groups;
pub mod publish;
pub mod query;
pub mod read_back;

pub use apply::{Applied, Author, Change, Options, Pipeline, Refused};
pub use change::{Action, ObjectChange};
pub use drain::{Drained, Drains};
pub use groups::{Groups, Selector};
pub use publish::follow;
pub use query::State;

// What callers of this crate see of the crates below it.
pub use cp_model::value::duration;
pub use cp_store::{Header, StoreError};
pub use cp_xds::{Publisher, ResourceKind, Version};
