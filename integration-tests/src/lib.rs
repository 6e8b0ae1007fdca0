//! What the tests of the running proxy are built from: a proxy in this process, scripted origins, raw clients.
//!
//! Everything is on the loopback with port 0, and waits only with a deadline.

pub mod client;
pub mod config;
pub mod dns;
pub mod eventually;
pub mod proxy;
pub mod skip;
pub mod tls;
pub mod upstream;
pub mod wire;
