//! One file per HTTP filter.

pub mod buffer;
pub mod router;
