//! Walks the filters with the head of the request and of the response; does what they ask for: wait, hold, reroute.
//!
//! The walk itself is in `dp-filters`; body chunks are shown to filters in `relay.rs`.

use bytes::{Bytes, BytesMut};
use dp_filters::{Cx, Step, Verdict, Wait};
use dp_http::Frame;

use crate::clocks::Expired;
use crate::fault::Fault;
use crate::relay::{self, read_request};
use crate::retry::Upstream;
use crate::route;
use crate::stream::Stream;

/// The request head passes the filters; afterwards the stream has its final route.
pub(crate) async fn request(stream: &mut Stream<'_>) -> Result<(), Fault> {
    if stream.rules.route.is_some() {
        // The memory of the filters was made for those of the listener; a route may switch others on.
        stream.filters.rebase(stream.rules.chain());
    }
    match walk(stream, None) {
        Step::Done => Ok(()),
        // Boxed, so that a request that passes at once does not pay for it.
        step => Box::pin(request_rest(stream, step)).await,
    }
}

/// What is left of the walk from a filter on that did not let the head pass at once.
async fn request_rest(stream: &mut Stream<'_>, mut step: Step) -> Result<(), Fault> {
    loop {
        step = match step {
            Step::Done => return Ok(()),
            Step::Reply(reply) => return Err(Fault::Reply(reply)),
            Step::Reroute => {
                route::find(stream);
                stream.filters.rebase(stream.rules.chain());
                walk(stream, None)
            }
            Step::Wait(wait) => {
                let verdict = wait_for(stream, wait).await?;
                walk(stream, Some(verdict))
            }
            Step::Hold(limit) => {
                let mut body = hold_request(stream, limit).await?;
                let chain = stream.rules.chain();
                let mut cx = Cx::request(&mut stream.info, stream.clocks.began.into_std());
                let step = stream.filters.request_held(chain, &mut cx, &mut stream.request, &mut body);
                stream.body.push_back(body);
                step
            }
        }
    }
}

fn walk(stream: &mut Stream<'_>, verdict: Option<Verdict>) -> Step {
    let end = stream.body.is_empty();
    let is_forwarded = stream.rules.is_forwarded();
    let forward_port = stream.forward_port();
    let chain = stream.rules.chain();
    let mut cx = Cx::request(&mut stream.info, stream.clocks.began.into_std());
    cx.is_forwarded = is_forwarded;
    cx.forward_port = forward_port;
    match verdict {
        None => stream.filters.request(chain, &mut cx, &mut stream.request, end),
        Some(verdict) => stream.filters.resume_request(chain, &mut cx, verdict, &mut stream.request, end),
    }
}

/// Waits for a filter, for as long as the client stays and the stream may live.
pub(crate) async fn wait_for(stream: &mut Stream<'_>, mut wait: Wait) -> Result<Verdict, Fault> {
    std::future::poll_fn(|cx| {
        if let std::task::Poll::Ready(verdict) = wait.as_mut().poll(cx) {
            return std::task::Poll::Ready(Ok(verdict));
        }
        stream.poll_trouble(cx, Expired::fault).map(Err)
    })
    .await
}

/// Reads the whole request body; the chunks pass the filters that asked for them on the way.
async fn hold_request(stream: &mut Stream<'_>, limit: usize) -> Result<Bytes, Fault> {
    let mut body = BytesMut::new();
    while !stream.body.complete {
        if let Some(Frame::Data(data)) = std::future::poll_fn(|cx| read_request(stream, cx)).await? {
            if body.len() + data.len() > limit {
                return Err(Fault::RequestTooLarge);
            }
            body.extend_from_slice(&data);
        }
    }
    Ok(body.freeze())
}

/// The response head passes back through the filters that the request passed. Returns the body if one was held.
pub(crate) async fn response(stream: &mut Stream<'_>, upstream: &mut Upstream) -> Result<Option<Bytes>, Fault> {
    let end = upstream.is_complete();
    let chain = stream.rules.chain();
    let mut cx = Cx::response(&mut stream.info, stream.clocks.now.into_std(), &stream.request);
    match stream.filters.response(chain, &mut cx, &mut upstream.head, end) {
        Step::Done | Step::Reroute => Ok(None),
        step => Box::pin(response_rest(stream, upstream, step)).await,
    }
}

/// What is left of the walk back from a filter on that did not let the head pass at once.
async fn response_rest(
    stream: &mut Stream<'_>,
    upstream: &mut Upstream,
    mut step: Step,
) -> Result<Option<Bytes>, Fault> {
    let mut held: Option<Bytes> = None;
    loop {
        step = match step {
            Step::Done | Step::Reroute => return Ok(held),
            Step::Reply(reply) => {
                upstream.checkout.stream.reset(dp_http::stream::Reset::Cancel);
                return Err(Fault::Replace(reply));
            }
            Step::Wait(wait) => {
                let verdict = wait_for(stream, wait).await?;
                let end = upstream.is_complete();
                let mut cx = Cx::response(&mut stream.info, stream.clocks.now.into_std(), &stream.request);
                let chain = stream.rules.chain();
                stream.filters.resume_response(chain, &mut cx, verdict, &mut upstream.head, end)
            }
            Step::Hold(limit) => {
                let mut body = match held.take() {
                    Some(body) if body.len() <= limit => body,
                    Some(_) => return Err(Fault::ResponseTooLarge),
                    None => relay::hold_response(stream, upstream, limit).await?,
                };
                let mut cx = Cx::response(&mut stream.info, stream.clocks.now.into_std(), &stream.request);
                let chain = stream.rules.chain();
                let step = stream.filters.response_held(chain, &mut cx, &mut upstream.head, &mut body);
                held = Some(body);
                step
            }
        }
    }
}
