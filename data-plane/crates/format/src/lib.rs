//! Envoy's substitution formats: text with `%COMMAND%` operators, for access logs, headers and reply bodies.
//!
//! A format is parsed once, when a snapshot compiles; writing it looks nothing up by name. Never reads a clock, a file
//! or a socket while writing.

mod duration;
mod json;
mod operator;
mod parse;
pub mod query;
mod time;
mod write;

use dp_http::{Headers, RequestHead, ResponseHead, StreamInfo};

pub use json::JsonFormat;
pub use parse::{Format, FormatError};

/// Envoy's access-log line, as it is when none is configured.
pub const DEFAULT_LINE: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
    %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
    %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
    \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// What a format can speak of.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    pub info: &'a StreamInfo,
    pub request: Option<&'a RequestHead>,
    pub response: Option<&'a ResponseHead>,
    pub trailers: Option<&'a Headers>,
    /// The body of a reply of our own, for `%LOCAL_REPLY_BODY%`.
    pub local_reply_body: &'a str,
}

/// What to write for an operator without a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Missing {
    /// `-`, as in access logs.
    #[default]
    Dash,
    /// Nothing, as in headers and with `omit_empty_values`.
    Empty,
}

impl<'a> Inputs<'a> {
    /// The inputs while only the request is known.
    pub fn request(info: &'a StreamInfo, request: &'a RequestHead) -> Self {
        Self { info, request: Some(request), response: None, trailers: None, local_reply_body: "" }
    }
}

#[cfg(test)]
mod tests;
