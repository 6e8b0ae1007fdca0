//! Configuration → runtime: compile, warm, publish, retire.
//!
//! Workers read what is here; only the control thread changes it. Never protobuf, never the proxy.

pub mod chain_match;
mod compile;
mod counts;
mod engine;
mod files;
mod local_reply;
mod retire;
mod runtime;
mod sockets;
mod subscriptions;
mod wanted;
mod resources;

pub use compile::{Environment, Resolved};
pub use engine::{Engine, Settled};
pub use files::{FileError, Files};
pub use local_reply::{BodyFormat, LocalReplies};
pub use resources::{Kind, Origin};
pub use runtime::{
    Action, ClusterName, Direct, FilterChain, Forward, Hcm, Headers, Listener, ListenerFilter, MirrorPlan, Network,
    ProxyFilter, RouteEntry, Snapshot, Target, Targets, TcpProxy, Tls, UdpProxy,
};
pub use sockets::Sockets;
pub use subscriptions::Told;
pub use wanted::{Wanted, references};
