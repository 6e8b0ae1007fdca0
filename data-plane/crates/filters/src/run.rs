//! One stream's walk through a chain: down with the request, back up with the response.
//!
//! The response passes all filters, also those that the request did not reach because one before them answered (as in
//! Envoy): they know it by the memory they start with. Nothing here waits or buffers: it tells the proxy to.

use bytes::Bytes;
use dp_http::flags::Flags;
use dp_http::{Headers, LocalReply, RequestHead, ResponseHead, StreamInfo};
use smallvec::SmallVec;

use crate::chain::Chain;
use crate::filter::{Asked, Cx, Flow, Verdict, Wait};
use crate::registry::{Filter, FilterStream};

/// What the proxy has to do next.
#[must_use]
pub enum Step {
    /// The piece passed all filters.
    Done,
    /// Answer with this. On the request path, its head then goes through [`Run::response`]; on the response path it
    /// is sent as it is.
    Reply(Box<LocalReply>),
    /// Match the route again, [`Run::rebase`] on its chain, and call [`Run::request`] again.
    Reroute,
    /// Await, then call the `resume` method that belongs to the piece.
    Wait(Wait),
    /// Collect the whole body, at most so many bytes, passing each chunk through `request_data` or `response_data`
    /// first (the last with `end`), and trailers likewise. If an earlier `Hold` collected it already, pass it in one
    /// piece. Then call [`Run::request_held`] or [`Run::response_held`]. Once the walk is done, body and trailers
    /// pass through once more in one piece: only those that did not see them yet are shown them.
    Hold(usize),
}

/// The filters' memory of one stream, and how far it came.
pub struct Run {
    streams: SmallVec<[FilterStream; 8]>,
    asked: Asked,
    /// Filters passed by the request head.
    at: u8,
    /// Filters that the response head has still to pass; `None` before there is one.
    back: Option<u8>,
    /// Where the request data not yet shown starts; the slots before saw it while it was collected.
    request_from: u8,
    /// The slots from here on saw the response data while it was collected.
    response_until: u8,
    /// Where data goes on after a wait.
    resume_at: u8,
    ended: bool,
}

// === impl Run ===

impl Run {
    pub fn new(chain: &Chain) -> Self {
        Self {
            streams: chain.filters().map(Filter::stream).collect(),
            asked: Asked::default(),
            at: 0,
            back: None,
            request_from: 0,
            response_until: u8::MAX,
            resume_at: 0,
            ended: false,
        }
    }

    /// Continues on another route's chain: what was passed keeps its memory, the rest starts fresh.
    pub fn rebase(&mut self, chain: &Chain) {
        for (stream, filter) in self.streams.iter_mut().zip(chain.filters()).skip(self.at.into()) {
            *stream = filter.stream();
        }
    }

    /// Whether a filter wants to see request data; when none does, data need not be shown.
    pub fn reads_request(&self) -> bool {
        self.asked.request_readers != 0
    }

    pub fn reads_response(&self) -> bool {
        self.asked.response_readers != 0
    }

    /// The rate in bytes a second that the response body is held to.
    pub fn response_pace(&self) -> Option<u64> {
        self.asked.response_pace
    }

    /// Every filter that saw the request learns that the stream is over. The second call does nothing.
    pub fn end(&mut self, chain: &Chain, info: &StreamInfo) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        for slot in 0..usize::from(self.at) {
            if let (Some(filter), Some(stream)) = (chain.get(slot), self.streams.get_mut(slot)) {
                filter.on_end(stream, info);
            }
        }
    }

    // --- the request, downwards

    /// Shows the head to the filters that did not see it yet. `end`: the head is the whole request.
    pub fn request(&mut self, chain: &Chain, cx: &mut Cx<'_>, head: &mut RequestHead, end: bool) -> Step {
        while let Some(filter) = chain.get(self.at.into()) {
            if let Filter::Missing = filter {
                return Step::Reply(Box::new(missing()));
            }
            let slot = self.at;
            self.at += 1;
            let flow = self.call(slot, cx, end, |stream, cx| filter.on_request(stream, cx, head));
            if let Some(limit) = self.asked.hold.take() {
                return Step::Hold(limit);
            }
            match flow {
                Flow::Continue => {}
                Flow::Reply(reply) => return Step::Reply(reply),
                Flow::Reroute => return Step::Reroute,
                Flow::Wait(wait) => return Step::Wait(wait),
            }
        }
        Step::Done
    }

    /// After a [`Step::Wait`] of `request` or `request_held`.
    pub fn resume_request(
        &mut self,
        chain: &Chain,
        cx: &mut Cx<'_>,
        verdict: Verdict,
        head: &mut RequestHead,
        end: bool,
    ) -> Step {
        match verdict {
            Verdict::Continue(edits) => {
                edits.apply(&mut head.headers);
                self.request(chain, cx, head, end)
            }
            Verdict::Reroute(edits) => {
                edits.apply(&mut head.headers);
                Step::Reroute
            }
            Verdict::Reply(reply) => Step::Reply(reply),
        }
    }

    /// Shows the whole body to the filter that held it, then goes on with the head.
    pub fn request_held(&mut self, chain: &Chain, cx: &mut Cx<'_>, head: &mut RequestHead, body: &mut Bytes) -> Step {
        let Some(slot) = self.at.checked_sub(1) else { return Step::Done };
        self.request_from = self.at;
        let Some(filter) = chain.get(slot.into()) else { return Step::Done };
        match self.call(slot, cx, true, |stream, cx| filter.on_request_held(stream, cx, head, body)) {
            Flow::Continue => self.request(chain, cx, head, false),
            Flow::Reply(reply) => Step::Reply(reply),
            Flow::Reroute => Step::Reroute,
            Flow::Wait(wait) => Step::Wait(wait),
        }
    }

    /// Shows a chunk to the filters that asked for it and already saw the head; with none, this is one comparison.
    /// `end`: no data follows. When trailers follow, or the body ends without data, an empty chunk says so.
    pub fn request_data(&mut self, chain: &Chain, cx: &mut Cx<'_>, data: &mut Bytes, end: bool) -> Step {
        if self.asked.request_readers == 0 {
            return Step::Done;
        }
        self.request_data_from(self.request_from, chain, cx, data, end)
    }

    /// After a [`Step::Wait`] of `request_data`, with the same chunk.
    pub fn resume_request_data(
        &mut self,
        chain: &Chain,
        cx: &mut Cx<'_>,
        verdict: Verdict,
        data: &mut Bytes,
        end: bool,
    ) -> Step {
        match verdict {
            Verdict::Reply(reply) => Step::Reply(reply),
            _ => self.request_data_from(self.resume_at, chain, cx, data, end),
        }
    }

    fn request_data_from(&mut self, from: u8, chain: &Chain, cx: &mut Cx<'_>, data: &mut Bytes, end: bool) -> Step {
        for slot in from..self.at {
            if self.asked.request_readers & (1 << slot) == 0 {
                continue;
            }
            let Some(filter) = chain.get(slot.into()) else { break };
            match self.call(slot, cx, end, |stream, cx| filter.on_request_data(stream, cx, data, end)) {
                Flow::Continue | Flow::Reroute => {}
                Flow::Reply(reply) => return Step::Reply(reply),
                Flow::Wait(wait) => {
                    self.resume_at = slot + 1;
                    return Step::Wait(wait);
                }
            }
        }
        Step::Done
    }

    /// Shows the trailers to all filters that saw the head (and not while the body was collected).
    pub fn request_trailers(&mut self, chain: &Chain, cx: &mut Cx<'_>, trailers: &mut Headers) -> Step {
        for slot in self.request_from..self.at {
            let Some(filter) = chain.get(slot.into()) else { break };
            match self.call(slot, cx, true, |stream, cx| filter.on_request_trailers(stream, cx, trailers)) {
                Flow::Reply(reply) => return Step::Reply(reply),
                Flow::Continue | Flow::Reroute | Flow::Wait(_) => {}
            }
        }
        Step::Done
    }

    // --- the response, upwards

    /// Shows the head to all filters, last first, as Envoy does; one that the request did not reach has no memory of it.
    /// `end`: the head is the whole response.
    pub fn response(&mut self, chain: &Chain, cx: &mut Cx<'_>, head: &mut ResponseHead, end: bool) -> Step {
        let mut back = self.back.unwrap_or_else(|| chain.slots());
        while back > 0 {
            back -= 1;
            self.back = Some(back);
            let Some(filter) = chain.get(back.into()) else { continue };
            let flow = self.call(back, cx, end, |stream, cx| filter.on_response(stream, cx, head));
            if let Some(limit) = self.asked.hold.take() {
                return Step::Hold(limit);
            }
            match flow {
                Flow::Continue | Flow::Reroute => {}
                Flow::Reply(reply) => return Step::Reply(reply),
                Flow::Wait(wait) => return Step::Wait(wait),
            }
        }
        self.back = Some(0);
        Step::Done
    }

    /// After a [`Step::Wait`] of `response` or `response_held`.
    pub fn resume_response(
        &mut self,
        chain: &Chain,
        cx: &mut Cx<'_>,
        verdict: Verdict,
        head: &mut ResponseHead,
        end: bool,
    ) -> Step {
        match verdict {
            Verdict::Continue(edits) | Verdict::Reroute(edits) => {
                edits.apply(&mut head.headers);
                self.response(chain, cx, head, end)
            }
            Verdict::Reply(reply) => Step::Reply(reply),
        }
    }

    /// Shows the whole body to the filter that held it, then goes on with the head.
    pub fn response_held(&mut self, chain: &Chain, cx: &mut Cx<'_>, head: &mut ResponseHead, body: &mut Bytes) -> Step {
        let slot = self.back.unwrap_or_default();
        self.response_until = slot;
        let Some(filter) = chain.get(slot.into()) else { return Step::Done };
        match self.call(slot, cx, true, |stream, cx| filter.on_response_held(stream, cx, head, body)) {
            Flow::Continue | Flow::Reroute => self.response(chain, cx, head, false),
            Flow::Reply(reply) => Step::Reply(reply),
            Flow::Wait(wait) => Step::Wait(wait),
        }
    }

    /// Shows a chunk to the filters that asked for it and already saw the head; `end` as for requests.
    pub fn response_data(&mut self, chain: &Chain, cx: &mut Cx<'_>, data: &mut Bytes, end: bool) -> Step {
        if self.asked.response_readers == 0 {
            return Step::Done;
        }
        self.response_data_from(self.response_until.min(chain.slots()), chain, cx, data, end)
    }

    /// After a [`Step::Wait`] of `response_data`, with the same chunk.
    pub fn resume_response_data(
        &mut self,
        chain: &Chain,
        cx: &mut Cx<'_>,
        verdict: Verdict,
        data: &mut Bytes,
        end: bool,
    ) -> Step {
        match verdict {
            Verdict::Reply(reply) => Step::Reply(reply),
            _ => self.response_data_from(self.resume_at, chain, cx, data, end),
        }
    }

    fn response_data_from(&mut self, until: u8, chain: &Chain, cx: &mut Cx<'_>, data: &mut Bytes, end: bool) -> Step {
        for slot in (self.back.unwrap_or_default()..until).rev() {
            if self.asked.response_readers & (1 << slot) == 0 {
                continue;
            }
            let Some(filter) = chain.get(slot.into()) else { continue };
            match self.call(slot, cx, end, |stream, cx| filter.on_response_data(stream, cx, data, end)) {
                Flow::Continue | Flow::Reroute => {}
                Flow::Reply(reply) => return Step::Reply(reply),
                Flow::Wait(wait) => {
                    self.resume_at = slot;
                    return Step::Wait(wait);
                }
            }
        }
        Step::Done
    }

    /// Shows the trailers to all filters that the request passed (and not while the body was collected).
    pub fn response_trailers(&mut self, chain: &Chain, cx: &mut Cx<'_>, trailers: &mut Headers) -> Step {
        for slot in (self.back.unwrap_or_default()..self.response_until.min(chain.slots())).rev() {
            let Some(filter) = chain.get(slot.into()) else { continue };
            match self.call(slot, cx, true, |stream, cx| filter.on_response_trailers(stream, cx, trailers)) {
                Flow::Reply(reply) => return Step::Reply(reply),
                Flow::Continue | Flow::Reroute | Flow::Wait(_) => {}
            }
        }
        Step::Done
    }

    fn call(
        &mut self,
        slot: u8,
        cx: &mut Cx<'_>,
        end: bool,
        hook: impl FnOnce(&mut FilterStream, &mut Cx<'_>) -> Flow,
    ) -> Flow {
        // A chain with the same slots always has a stream for this one.
        let Some(stream) = self.streams.get_mut(usize::from(slot)) else { return Flow::Continue };
        (cx.slot, cx.end, cx.asked) = (slot, end, self.asked);
        let flow = hook(stream, cx);
        self.asked = cx.asked;
        flow
    }
}

/// Envoy answers so for a filter whose configuration did not come by discovery.
fn missing() -> LocalReply {
    LocalReply::new(500, "filter_chain_not_found").flag(Flags::NO_FILTER_CONFIG_FOUND)
}

/// The reply to a request whose body is longer than a filter holds.
pub fn request_too_large() -> LocalReply {
    LocalReply::new(413, "request_payload_too_large").body("Payload Too Large")
}

/// The reply in place of a response whose body is longer than a filter holds.
pub fn response_too_large() -> LocalReply {
    LocalReply::new(500, "response_payload_too_large").body("Internal Server Error")
}

#[cfg(test)]
mod tests;
