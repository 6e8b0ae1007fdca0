//! What the data plane reports: access logs, and the name of every statistic that is not a cluster's.
//!
//! Never routing, never upstream: the spine hands in what happened.

pub mod access_log;
pub mod stats;

pub use access_log::AccessLog;
pub use access_log::writer::LogWriter;
