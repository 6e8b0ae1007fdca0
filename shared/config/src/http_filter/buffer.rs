//! `envoy.extensions.filters.http.buffer.v3.Buffer`: hold a request until its whole body is here.

use proto::envoy::extensions::filters::http::buffer::v3::buffer_per_route::Override as Choice;
use proto::envoy::extensions::filters::http::buffer::v3::{Buffer, BufferPerRoute};

use super::Decode;
use crate::invalid::Problems;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    pub max_request_bytes: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Override {
    Disabled,
    Limit(u32),
}

// === decode ===

impl Decode for Config {
    type Proto = Buffer;

    fn decode(proto: &Buffer, p: &mut Problems) -> Option<Self> {
        match proto.max_request_bytes {
            Some(0) => p.refuse_at("max_request_bytes", "must be greater than 0"),
            Some(max_request_bytes) => Some(Self { max_request_bytes }),
            None => p.refuse_at("max_request_bytes", "required"),
        }
    }
}

impl Decode for Override {
    type Proto = BufferPerRoute;

    fn decode(proto: &BufferPerRoute, p: &mut Problems) -> Option<Self> {
        match &proto.r#override {
            Some(Choice::Disabled(true)) => Some(Self::Disabled),
            Some(Choice::Disabled(false)) => p.refuse_at("disabled", "must be true"),
            Some(Choice::Buffer(buffer)) => {
                p.at("buffer", |p| Config::decode(buffer, p)).map(|config| Self::Limit(config.max_request_bytes))
            }
            None => p.refuse_at("override", "required"),
        }
    }
}
