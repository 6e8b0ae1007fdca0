//! One file per HTTP filter.

pub mod buffer;
pub mod compressor;
pub mod cors;
pub mod fault;
pub mod health_check;
pub mod rbac;
pub mod router;
