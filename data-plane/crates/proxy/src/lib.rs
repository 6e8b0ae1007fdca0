//! The life of a request. The modules are declared in the order in which a request meets them; that list is the map.
//!
//! Never: protobuf, xDS, configuration that is not compiled.

// Accept a connection, find out what it is, decode its requests.
mod listener;
mod connection;
mod look;
mod http_connection;
mod resets;
// The spine.
mod stream;
// Its steps, downwards.
mod normalize;
mod route;
mod filter;
mod retry;
mod shadow;
mod tunnel;
// And back.
mod relay;
mod finish;
// When it goes wrong.
mod trouble;
mod fault;
mod reply;
// Layer 4.
mod tcp;
mod udp;
// What they share.
mod body;
mod budget;
mod clocks;
mod date;
mod destination;
mod pace;
mod timer;
mod worker;

pub use budget::Budget;
pub use worker::{WorkerSetup, run};
