//! One file per HTTP filter.

pub mod buffer;
pub mod compressor;
pub mod cors;
pub mod dynamic_forward_proxy;
pub mod fault;
pub mod header_mutation;
pub mod health_check;
pub mod local_ratelimit;
pub mod rbac;
pub mod router;
pub mod set_filter_state;
pub mod stateful_session;
