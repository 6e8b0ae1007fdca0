//! Bodies both ways under back-pressure: nothing is read from one side that the other side cannot take.
//!
//! Both directions run inside one future of one task, so no piece changes tasks and no channel is needed. The request
//! body is already moving while `retry.rs` waits for the head of the response; what it left is finished here.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use dp_filters::{Cx, Step, Wait};
use dp_http::stream::{ClientStream, StreamError};
use dp_http::{Frame, Headers, name};

use crate::body::Next;
use crate::clocks::Expired;
use crate::fault::Fault;
use crate::retry::{Reporter, Upstream, upstream_fault};
use crate::stream::Stream;
use crate::{normalize, pace, tunnel};

/// How far the response has come on its way down.
#[derive(Debug, Default)]
pub(crate) struct Down {
    /// The final head was sent.
    pub(crate) started: bool,
    /// The end of the response was sent.
    pub(crate) ended: bool,
    /// Both sides are raw bytes now.
    pub(crate) tunnelled: bool,
}

/// A chunk that a filter holds up, on its way up or down.
pub(crate) struct Held {
    wait: Wait,
    data: Bytes,
    end: bool,
}

/// Sends the response and the rest of the request; returns when both are over.
pub(crate) async fn both_ways(
    stream: &mut Stream<'_>,
    mut upstream: Box<Upstream>,
    held: Option<Bytes>,
) -> Result<(), Fault> {
    send_head(stream, &mut upstream, held.as_ref())?;
    let mut down = Response {
        held,
        pace: pace::Pace::new(stream.filters.response_pace()),
        reporter: upstream.reporter(),
        ..Response::default()
    };
    let result = poll_fn(|cx| {
        let up = &mut upstream.checkout.stream;
        // Errors of the way up surface in the response, which an upstream may send before it closes.
        let uploaded = pump_up(stream, up, cx)?;
        let downloaded = down.pump(stream, up, cx)?;
        stream.clocks.settle();
        match (uploaded, downloaded) {
            (Poll::Pending, Poll::Ready(())) if stream.ends_by_halves() => {
                stream.poll_trouble(cx, Expired::fault).map(Err)
            }
            (_, Poll::Ready(())) => Poll::Ready(Ok(())),
            _ => stream.poll_trouble(cx, Expired::fault).map(Err),
        }
    })
    .await;
    finish(stream, upstream, result)
}

/// Gives the connection back, or cuts it.
fn finish(stream: &mut Stream<'_>, upstream: Box<Upstream>, result: Result<(), Fault>) -> Result<(), Fault> {
    stream.info.timing.upstream_last_received = Some(stream.since_start(stream.clocks.now));
    let complete = result.is_ok() && stream.body.sent && !stream.reply.tunnelled;
    match &result {
        Ok(()) if complete => upstream.finish(),
        Err(Fault::UpstreamTermination | Fault::UpstreamReset | Fault::UpstreamProtocol(_)) => upstream.broke(),
        Err(Fault::UpstreamMaxStreamDuration) => upstream.outlasted(),
        _ => upstream.cut(result.is_ok()),
    }
    result
}

/// Sends the head of the response, with what the routes and the connection manager change in it.
fn send_head(stream: &mut Stream<'_>, upstream: &mut Upstream, held: Option<&Bytes>) -> Result<(), Fault> {
    let opens = tunnel::accepted(stream.tunnel.as_ref(), &upstream.head);
    if opens {
        stream.finish.open_tunnel();
    }
    if let Some(body) = held {
        upstream.head.headers.set_number(&name::CONTENT_LENGTH, body.len() as u64);
    }
    normalize::response(stream, &mut upstream.head, opens);
    let end = !opens && held.map_or(upstream.is_complete(), Bytes::is_empty);
    stream.reply.started = true;
    stream.info.status = upstream.head.status;
    if stream.info.details.is_empty() {
        stream.info.details = "via_upstream".into();
    }
    stream.down.send_head(&upstream.head, end).map_err(|_| Fault::DownstreamGone)?;
    stream.finish.response = Some(std::mem::take(&mut upstream.head));
    if opens {
        stream.down.upgrade();
        upstream.checkout.stream.upgrade();
        stream.reply.tunnelled = true;
        stream.clocks.route = None;
        // What follows on this connection is the tunnel, whatever the request said of its own length.
        stream.body.reopen();
    }
    stream.reply.ended = end;
    Ok(())
}

// === the way up ===

/// Moves the request upwards as far as it goes. Ready: all of it was sent.
pub(crate) fn pump_up(stream: &mut Stream<'_>, up: &mut ClientStream, cx: &mut Context<'_>) -> Result<Poll<()>, Fault> {
    loop {
        if stream.body.sent {
            return Ok(up.poll_flush(cx).map(|_| ()));
        }
        if stream.awaits_tunnel() {
            let _ = up.poll_flush(cx);
            return Ok(Poll::Pending);
        }
        match up.poll_ready(cx) {
            Poll::Pending => return Ok(Poll::Pending),
            // The upstream stopped listening. Its answer, or the reason, is found on the way down.
            Poll::Ready(Err(_)) => stream.body.sent = true,
            Poll::Ready(Ok(())) => {}
        }
        let sent = match stream.body.next() {
            Next::Nothing => continue,
            Next::Piece { data, last } => send_piece(stream, up, data, last),
            Next::End => send_end(stream, up),
            Next::Read => match read_request(stream, cx) {
                Poll::Pending => {
                    // A failed flush shows on the way down.
                    let _ = up.poll_flush(cx);
                    return Ok(Poll::Pending);
                }
                Poll::Ready(Err(fault)) => return Err(fault),
                Poll::Ready(Ok(Some(Frame::Data(data)))) => {
                    let last = stream.body.complete && stream.body.trailers.is_none();
                    stream.shadows.copy(&data, last);
                    if stream.body.take(&data) {
                        continue;
                    }
                    stream.body.sent = last;
                    send_piece(stream, up, data, last)
                }
                Poll::Ready(Ok(_)) => {
                    stream.shadows.end(stream.body.trailers.as_ref());
                    continue;
                }
            },
        };
        if sent.is_err() {
            stream.body.sent = true;
        }
    }
}

fn send_piece(stream: &mut Stream<'_>, up: &mut ClientStream, data: Bytes, last: bool) -> Result<(), StreamError> {
    if data.is_empty() && !last {
        return Ok(());
    }
    stream.info.sizes.upstream_sent += data.len() as u64;
    up.send_data(data, last)
}

fn send_end(stream: &Stream<'_>, up: &mut ClientStream) -> Result<(), StreamError> {
    match &stream.body.trailers {
        Some(trailers) => up.send_trailers(trailers),
        None => up.send_data(Bytes::new(), true),
    }
}

/// The next piece of the request, after the filters saw it. `None`: the request is complete.
pub(crate) fn read_request(stream: &mut Stream<'_>, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, Fault>> {
    if let Some(mut held) = stream.held_request.take() {
        let Poll::Ready(verdict) = held.wait.as_mut().poll(cx) else {
            stream.held_request = Some(held);
            return Poll::Pending;
        };
        let chain = stream.rules.chain();
        let mut fx = Cx::request(&mut stream.info, stream.clocks.now.into_std());
        let step = stream.filters.resume_request_data(chain, &mut fx, verdict, &mut held.data, held.end);
        return shown(stream, cx, step, held.data, held.end);
    }
    if let Some(data) = stream.body.take_back() {
        let end = stream.body.complete;
        return show_request(stream, cx, data, end);
    }
    if stream.body.complete {
        return Poll::Ready(Ok(None));
    }
    let Poll::Ready(frame) = stream.down.poll_body(cx) else {
        // A client may wait for a 100 that waits here. If that cannot be written, reading finds out why.
        let _ = stream.down.poll_flush(cx);
        return Poll::Pending;
    };
    match frame {
        None => {
            complete(stream);
            show_request(stream, cx, Bytes::new(), true).map_ok(|_| None)
        }
        Some(Err(error)) => Poll::Ready(Err(downstream_fault(error))),
        Some(Ok(Frame::Data(data))) => {
            stream.clocks.touch();
            stream.info.sizes.received += data.len() as u64;
            let end = stream.down.is_request_complete();
            if end {
                complete(stream);
            }
            show_request(stream, cx, data, end)
        }
        Some(Ok(Frame::Trailers(mut trailers))) => {
            complete(stream);
            let chain = stream.rules.chain();
            let mut fx = Cx::request(&mut stream.info, stream.clocks.now.into_std());
            if let Step::Reply(reply) = stream.filters.request_trailers(chain, &mut fx, &mut trailers) {
                return Poll::Ready(Err(Fault::Reply(reply)));
            }
            stream.body.trailers = Some(trailers);
            // Filters that read the body learn by an empty piece that it is over; they may still add to it.
            show_request(stream, cx, Bytes::new(), true)
        }
    }
}

fn show_request(
    stream: &mut Stream<'_>,
    cx: &mut Context<'_>,
    mut data: Bytes,
    end: bool,
) -> Poll<Result<Option<Frame>, Fault>> {
    if !stream.filters.reads_request() || stream.reply.tunnelled {
        return Poll::Ready(Ok(Some(Frame::Data(data))));
    }
    let chain = stream.rules.chain();
    let mut fx = Cx::request(&mut stream.info, stream.clocks.now.into_std());
    let step = stream.filters.request_data(chain, &mut fx, &mut data, end);
    shown(stream, cx, step, data, end)
}

fn shown(
    stream: &mut Stream<'_>,
    cx: &mut Context<'_>,
    step: Step,
    data: Bytes,
    end: bool,
) -> Poll<Result<Option<Frame>, Fault>> {
    match step {
        Step::Reply(reply) => Poll::Ready(Err(Fault::Reply(reply))),
        Step::Wait(wait) => {
            stream.held_request = Some(Box::new(Held { wait, data, end }));
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        Step::Done | Step::Reroute | Step::Hold(_) => Poll::Ready(Ok(Some(Frame::Data(data)))),
    }
}

/// The last byte of the request came in: the clock of the route starts (Envoy `RouteAction.timeout`).
fn complete(stream: &mut Stream<'_>) {
    stream.body.complete = true;
    stream.clocks.touch();
    stream.clocks.settle();
    stream.clocks.request = None;
    stream.info.timing.request_complete = Some(stream.since_start(stream.clocks.now));
    stream.clocks.start_route();
    stream.clocks.start_per_try();
}

pub(crate) fn downstream_fault(error: StreamError) -> Fault {
    use dp_http::stream::StreamErrorKind as Kind;
    match error.kind {
        Kind::Protocol(details) => Fault::DownstreamProtocol(details.into()),
        Kind::TooLarge => Fault::RequestTooLarge,
        _ => Fault::DownstreamGone,
    }
}

// === the way down ===

/// The response on its way down.
#[derive(Default)]
struct Response {
    /// The whole body, when a filter held it.
    held: Option<Bytes>,
    wait: Option<Held>,
    /// Trailers that come after what filters add at the end of the body.
    trailers: Option<Headers>,
    pace: Option<pace::Pace>,
    reporter: Option<Reporter>,
}

impl Response {
    /// Moves the response downwards as far as it goes. Ready: all of it was sent and flushed.
    fn pump(
        &mut self,
        stream: &mut Stream<'_>,
        up: &mut ClientStream,
        cx: &mut Context<'_>,
    ) -> Result<Poll<()>, Fault> {
        loop {
            if stream.reply.ended {
                return flush(stream, cx);
            }
            match stream.down.poll_ready(cx) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Err(_)) => return Err(Fault::DownstreamGone),
                Poll::Ready(Ok(())) => {}
            }
            if let Some(pace) = &mut self.pace
                && pace.poll_allowed(cx).is_pending()
            {
                return flush(stream, cx).map(|_| Poll::Pending);
            }
            match self.next(stream, up, cx)? {
                Poll::Pending => return flush(stream, cx).map(|_| Poll::Pending),
                Poll::Ready(Some(Frame::Data(data))) => {
                    let end = up.is_response_complete() && self.trailers.is_none();
                    self.send(stream, data, end)?;
                }
                Poll::Ready(Some(Frame::Trailers(trailers))) => send_trailers(stream, &trailers)?,
                Poll::Ready(None) => self.send(stream, Bytes::new(), true)?,
            }
        }
    }

    /// The next piece of the response, after the filters saw it.
    fn next(
        &mut self,
        stream: &mut Stream<'_>,
        up: &mut ClientStream,
        cx: &mut Context<'_>,
    ) -> Result<Poll<Option<Frame>>, Fault> {
        if let Some(mut held) = self.wait.take() {
            let Poll::Ready(verdict) = held.wait.as_mut().poll(cx) else {
                self.wait = Some(held);
                return Ok(Poll::Pending);
            };
            let chain = stream.rules.chain();
            let mut fx = Cx::response(&mut stream.info, stream.clocks.now.into_std(), &stream.request);
            let step = stream.filters.resume_response_data(chain, &mut fx, verdict, &mut held.data, held.end);
            return self.shown(step, held.data, held.end, cx);
        }
        if let Some(body) = self.held.take() {
            return self.show(stream, body, true, cx);
        }
        if let Some(mut trailers) = self.trailers.take() {
            let chain = stream.rules.chain();
            let mut fx = Cx::response(&mut stream.info, stream.clocks.now.into_std(), &stream.request);
            // After the head nothing can replace the response; a reply here resets the stream.
            if let Step::Reply(_) = stream.filters.response_trailers(chain, &mut fx, &mut trailers) {
                return Err(Fault::Internal("filter_reply_after_response_started"));
            }
            return Ok(Poll::Ready(Some(Frame::Trailers(trailers))));
        }
        match up.poll_body(cx) {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(None) => {
                if stream.filters.reads_response() && !stream.reply.tunnelled {
                    return self.show(stream, Bytes::new(), true, cx);
                }
                Ok(Poll::Ready(None))
            }
            Poll::Ready(Some(Err(error))) => Err(upstream_fault(&error)),
            Poll::Ready(Some(Ok(Frame::Data(data)))) => {
                stream.clocks.touch();
                stream.info.sizes.upstream_received += data.len() as u64;
                let end = up.is_response_complete();
                self.show(stream, data, end, cx)
            }
            Poll::Ready(Some(Ok(Frame::Trailers(trailers)))) => {
                if let Some(reporter) = &self.reporter {
                    reporter.trailers(&trailers, stream.clocks.now);
                }
                self.trailers = Some(trailers);
                // Filters that read the body learn by an empty piece that it is over; they may still add to it.
                self.show(stream, Bytes::new(), true, cx)
            }
        }
    }

    fn show(
        &mut self,
        stream: &mut Stream<'_>,
        mut data: Bytes,
        end: bool,
        cx: &mut Context<'_>,
    ) -> Result<Poll<Option<Frame>>, Fault> {
        if !stream.filters.reads_response() || stream.reply.tunnelled {
            return Ok(Poll::Ready(Some(Frame::Data(data))));
        }
        let chain = stream.rules.chain();
        let mut fx = Cx::response(&mut stream.info, stream.clocks.now.into_std(), &stream.request);
        let step = stream.filters.response_data(chain, &mut fx, &mut data, end);
        self.shown(step, data, end, cx)
    }

    fn shown(
        &mut self,
        step: Step,
        data: Bytes,
        end: bool,
        cx: &mut Context<'_>,
    ) -> Result<Poll<Option<Frame>>, Fault> {
        match step {
            Step::Reply(_) => Err(Fault::Internal("filter_reply_after_response_started")),
            Step::Wait(wait) => {
                self.wait = Some(Held { wait, data, end });
                cx.waker().wake_by_ref();
                Ok(Poll::Pending)
            }
            Step::Done | Step::Reroute | Step::Hold(_) => Ok(Poll::Ready(Some(Frame::Data(data)))),
        }
    }

    fn send(&mut self, stream: &mut Stream<'_>, data: Bytes, end: bool) -> Result<(), Fault> {
        if data.is_empty() && !end {
            return Ok(());
        }
        stream.info.sizes.sent += data.len() as u64;
        if let Some(pace) = &mut self.pace {
            pace.spent(data.len());
        }
        stream.reply.ended = end;
        stream.down.send_data(data, end).map_err(|_| Fault::DownstreamGone)
    }
}

fn send_trailers(stream: &mut Stream<'_>, trailers: &Headers) -> Result<(), Fault> {
    stream.reply.ended = true;
    stream.finish.trailers = Some(trailers.clone());
    stream.down.send_trailers(trailers).map_err(|_| Fault::DownstreamGone)
}

/// Ready when everything queued left for the client.
fn flush(stream: &mut Stream<'_>, cx: &mut Context<'_>) -> Result<Poll<()>, Fault> {
    match stream.down.poll_flush(cx) {
        Poll::Pending => Ok(Poll::Pending),
        Poll::Ready(Ok(())) => Ok(Poll::Ready(())),
        Poll::Ready(Err(_)) => Err(Fault::DownstreamGone),
    }
}

/// Reads the whole response body for a filter that asked to hold it.
pub(crate) async fn hold_response(
    stream: &mut Stream<'_>,
    upstream: &mut Upstream,
    limit: usize,
) -> Result<Bytes, Fault> {
    let mut body = BytesMut::new();
    let mut response = Response { reporter: upstream.reporter(), ..Response::default() };
    loop {
        let frame = poll_fn(|cx| {
            let up = &mut upstream.checkout.stream;
            let _ = pump_up(stream, up, cx)?;
            match response.next(stream, up, cx)? {
                Poll::Ready(frame) => Poll::Ready(Ok(frame)),
                Poll::Pending => stream.poll_trouble(cx, Expired::fault).map(Err),
            }
        })
        .await?;
        match frame {
            Some(Frame::Data(data)) if body.len() + data.len() > limit => return Err(Fault::ResponseTooLarge),
            Some(Frame::Data(data)) => {
                body.extend_from_slice(&data);
                if upstream.is_complete() {
                    return Ok(body.freeze());
                }
            }
            // Trailers cannot follow a body that is replaced.
            Some(Frame::Trailers(_)) | None => return Ok(body.freeze()),
        }
    }
}
