//! HTTP/1.0 and HTTP/1.1 (RFC 9112), both sides.
//!
//! One connection carries one exchange at a time and is polled by whoever serves it; no task, no timer, no lock.
//! An idle connection holds no buffer. Ambiguous framing is refused, never guessed.

mod body;
mod client;
mod encode;
mod fields;
mod input;
mod output;
mod parse;
mod pool;
mod raw;
mod reason;
mod server;
mod websocket;
mod wire;

pub use client::{ClientConn, ClientOptions};
pub use fields::Underscores;
pub(crate) use fields::{elements, is_forbidden_trailer, is_name, is_value};
pub(crate) use parse::decimal;
pub use raw::RawConn;
pub use reason::phrase as reason_phrase;
pub use server::{ServerConn, ServerOptions, Version};

/// Why a head was refused. For a request, `status` is what to answer before closing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{details}")]
pub struct HeadError {
    /// 400, 414, 417, 431, 501 or 505.
    pub status: u16,
    /// For `%RESPONSE_CODE_DETAILS%`, without the `http1.` in front.
    pub details: &'static str,
}

impl HeadError {
    // Never inline: by the call the compiler knows that the way to it is rare, and puts it out of the way.
    #[cold]
    #[inline(never)]
    pub(crate) const fn new(status: u16, details: &'static str) -> Self {
        Self { status, details }
    }

    #[cold]
    #[inline(never)]
    pub(crate) const fn bad(details: &'static str) -> Self {
        Self::new(400, details)
    }
}
