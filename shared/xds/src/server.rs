//! The server end: one stream's subscriptions, what it is owed, and in which order it gets it.

mod session;
mod subscription;

pub use session::{Close, Observed, Options, Session};

#[cfg(test)]
mod tests;
