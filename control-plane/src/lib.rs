//! The control plane as a whole: opens the store, follows it, and serves nodes and operators. Wires, decides nothing.
//!
//! `start` is the way in for the binary, for `weir up` and for tests.

pub mod process;
pub mod settings;

pub use process::{Running, StartError, start};
pub use settings::{Settings, SettingsError};
