//! The contract of an HTTP filter.
//!
//! Nothing here knows a particular filter or how the chain is walked.

use std::future::Future;
use std::pin::Pin;
use std::time::Instant;

use bytes::Bytes;
use dp_http::{HeaderName, Headers, LocalReply, RequestHead, ResponseHead, StreamInfo};

use crate::services::Scope;

/// One HTTP filter. Its fields are configuration, compiled when a snapshot is made and shared by all workers.
pub trait HttpFilter: Sized + Send + Sync {
    /// The decoded configuration of the filter in the chain of the listener.
    type Config;
    /// The decoded configuration on a route, virtual host or route table.
    type Override;
    /// What this filter remembers about one stream; `()` for most.
    type Stream: Default;

    /// Compiles the filter for the routes to which `overrides` apply, least specific first (empty for all others).
    /// `None` when the filter has nothing to do there.
    fn compile(config: &Self::Config, overrides: &[&Self::Override], scope: &Scope<'_>) -> Option<Self>;

    fn on_request(&self, _s: &mut Self::Stream, _cx: &mut Cx<'_>, _head: &mut RequestHead) -> Flow {
        Flow::Continue
    }

    /// The whole request body, for a filter that called [`Cx::hold_request_body`]. Later filters have not run yet.
    fn on_request_held(
        &self,
        _s: &mut Self::Stream,
        _cx: &mut Cx<'_>,
        _head: &mut RequestHead,
        _body: &mut Bytes,
    ) -> Flow {
        Flow::Continue
    }

    /// A chunk of the request, for a filter that called [`Cx::read_request_body`]. `end`: no data follows, though
    /// trailers may; the last chunk may be empty.
    fn on_request_data(&self, _s: &mut Self::Stream, _cx: &mut Cx<'_>, _data: &mut Bytes, _end: bool) -> Flow {
        Flow::Continue
    }

    fn on_request_trailers(&self, _s: &mut Self::Stream, _cx: &mut Cx<'_>, _trailers: &mut Headers) -> Flow {
        Flow::Continue
    }

    fn on_response(&self, _s: &mut Self::Stream, _cx: &mut Cx<'_>, _head: &mut ResponseHead) -> Flow {
        Flow::Continue
    }

    /// The whole response body, for a filter that called [`Cx::hold_response_body`].
    fn on_response_held(
        &self,
        _s: &mut Self::Stream,
        _cx: &mut Cx<'_>,
        _head: &mut ResponseHead,
        _body: &mut Bytes,
    ) -> Flow {
        Flow::Continue
    }

    /// A chunk of the response, for a filter that called [`Cx::read_response_body`]; `end` as for requests.
    fn on_response_data(&self, _s: &mut Self::Stream, _cx: &mut Cx<'_>, _data: &mut Bytes, _end: bool) -> Flow {
        Flow::Continue
    }

    fn on_response_trailers(&self, _s: &mut Self::Stream, _cx: &mut Cx<'_>, _trailers: &mut Headers) -> Flow {
        Flow::Continue
    }

    /// The stream ended, however it did. Called once for every filter whose `on_request` was called.
    fn on_end(&self, _s: &mut Self::Stream, _info: &StreamInfo) {}
}

/// What becomes of the message after a filter saw a piece of it.
#[must_use]
pub enum Flow {
    /// Go on to the next filter.
    Continue,
    /// Answer now; the request goes no further. From a response hook: replace the response, without asking the
    /// filters that are left. Once the response head was sent, this resets the stream.
    Reply(Box<LocalReply>),
    /// Path, host or headers changed: match the route again, then go on. Only `on_request` and `on_request_held`.
    Reroute,
    /// Hold this stream until the future resolves. The only place a filter allocates.
    Wait(Wait),
}

/// Owns all it needs, so no borrow crosses an await; stays on its worker, so it is not `Send`.
pub type Wait = Pin<Box<dyn Future<Output = Verdict>>>;

/// What a [`Wait`] ends with.
#[derive(Debug)]
pub enum Verdict {
    /// Change the head that was being shown, then go on. The edits of a wait on data or trailers are left out.
    Continue(HeaderEdits),
    /// The same, and match the route again.
    Reroute(HeaderEdits),
    Reply(Box<LocalReply>),
}

/// Changes to a head that something outside decided on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderEdits(pub Vec<HeaderEdit>);

/// One change to the fields of a head. The maker checked the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderEdit {
    Set(HeaderName, Bytes),
    Append(HeaderName, Bytes),
    Remove(HeaderName),
}

/// What a filter may look at and ask for beside the message itself.
pub struct Cx<'a> {
    pub info: &'a mut StreamInfo,
    /// The monotonic clock, read once for this call.
    pub now: Instant,
    /// The request that a response answers; `None` in request hooks, which have it at hand.
    pub request: Option<&'a RequestHead>,
    /// Whether the route sends the request to a cluster; a redirect or direct response does not. Set by the proxy.
    pub is_forwarded: bool,
    /// When the route leads to a dynamic forward proxy cluster: the port of hosts that name none. Set by the proxy.
    pub forward_port: Option<u16>,
    pub(crate) end: bool,
    pub(crate) slot: u8,
    pub(crate) asked: Asked,
}

/// What filters asked for about bodies; kept in the run between calls. One bit a slot.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asked {
    pub(crate) request_readers: u32,
    pub(crate) response_readers: u32,
    /// The limit of the filter that was just called, when it asked to hold the body.
    pub(crate) hold: Option<usize>,
    /// The lowest rate in bytes a second that a filter asked for.
    pub(crate) response_pace: Option<u64>,
}

// === impl HeaderEdits ===

impl HeaderEdits {
    pub fn apply(&self, headers: &mut Headers) {
        for edit in &self.0 {
            match edit {
                HeaderEdit::Set(name, value) => headers.set(name, value),
                HeaderEdit::Append(name, value) => headers.append(name, value),
                HeaderEdit::Remove(name) => {
                    headers.remove(name);
                }
            }
        }
    }
}

// === impl Cx ===

impl<'a> Cx<'a> {
    /// For the request hooks.
    pub fn request(info: &'a mut StreamInfo, now: Instant) -> Self {
        Self {
            info,
            now,
            request: None,
            is_forwarded: true,
            forward_port: None,
            end: false,
            slot: 0,
            asked: Asked::default(),
        }
    }

    /// For the response hooks: `request` is the head as it went upstream, or as it was when a filter replied.
    pub fn response(info: &'a mut StreamInfo, now: Instant, request: &'a RequestHead) -> Self {
        Self { request: Some(request), ..Self::request(info, now) }
    }

    /// Whether the head being shown is the whole message.
    pub fn is_end(&self) -> bool {
        self.end
    }

    /// Shows this filter the chunks of the request as they pass.
    pub fn read_request_body(&mut self) {
        self.asked.request_readers |= 1 << self.slot;
    }

    /// Stops here until the whole request body is in, at most `limit` bytes; a longer one is answered with 413.
    /// Does nothing when the request has no body.
    pub fn hold_request_body(&mut self, limit: usize) {
        if !self.end {
            self.asked.hold = Some(limit);
        }
    }

    /// Shows this filter the chunks of the response as they pass. May be called on request or response.
    pub fn read_response_body(&mut self) {
        self.asked.response_readers |= 1 << self.slot;
    }

    /// Stops the response here until its whole body is in, at most `limit` bytes; a longer one becomes a 500.
    pub fn hold_response_body(&mut self, limit: usize) {
        if !self.end {
            self.asked.hold = Some(limit);
        }
    }

    /// Sends the response body no faster than this.
    pub fn pace_response(&mut self, bytes_per_second: u64) {
        let lowest = self.asked.response_pace.map_or(bytes_per_second, |pace| pace.min(bytes_per_second));
        self.asked.response_pace = Some(lowest.max(1));
    }

    /// The shard of the statistics that this worker writes.
    pub fn shard(&self) -> usize {
        self.info.connection.shard()
    }

    /// A number that no peer can guess from others; good for sampling.
    pub fn random(&mut self) -> u64 {
        fastrand::u64(..)
    }
}
