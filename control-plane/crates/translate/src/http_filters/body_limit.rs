//! `body_limit` as envoy.filters.http.buffer: the request is held until it is whole, or too long.

use serde_json::{Value, json};

use super::disabled;
use crate::build::typed;

pub(super) const NAME: &str = "envoy.filters.http.buffer";

pub(super) fn idle() -> Value {
    disabled(NAME, "envoy.extensions.filters.http.buffer.v3.Buffer", json!({ "max_request_bytes": 1 << 20 }))
}

pub(super) fn per_route(limit: u32) -> Value {
    typed("envoy.extensions.filters.http.buffer.v3.BufferPerRoute", json!({ "buffer": { "max_request_bytes": limit } }))
}
