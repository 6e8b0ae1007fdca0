//! A response that the proxy makes itself.

use std::borrow::Cow;

use bytes::Bytes;

use crate::flags::Flags;
use crate::headers::Headers;

/// What a filter or a failure answers instead of an upstream. The proxy adds framing, `server`, `date`, the local-reply
/// mapping of the connection manager, and turns it into gRPC form for gRPC requests.
#[derive(Debug, Clone, Default)]
pub struct LocalReply {
    pub status: u16,
    /// Text for people; `text/plain` unless `headers` says otherwise.
    pub body: Bytes,
    /// Fields to send beside those of the framing.
    pub headers: Headers,
    pub flags: Flags,
    /// `%RESPONSE_CODE_DETAILS%`, for example `rbac_access_denied`.
    pub details: Cow<'static, str>,
    /// The gRPC status for gRPC requests; derived from `status` when `None`.
    pub grpc_status: Option<u8>,
}

impl LocalReply {
    #[cold]
    #[inline(never)]
    pub fn new(status: u16, details: impl Into<Cow<'static, str>>) -> Self {
        Self { status, details: details.into(), ..Self::default() }
    }

    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    #[must_use]
    pub fn flag(mut self, flag: Flags) -> Self {
        self.flags.set(flag);
        self
    }
}
