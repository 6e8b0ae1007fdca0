//! Answers that the proxy makes itself: faults, redirects, direct responses, replies of filters.
//!
//! What status a fault has is said in `fault.rs`; here it becomes a well-formed message for this client.

use std::fmt::Write;
use std::task::Poll;

use bytes::Bytes;
use dp_filters::{Cx, Step};
use dp_http::stream::Reset;
use dp_http::{Headers, LocalReply, Method, ResponseHead, name};

use crate::fault::Fault;
use crate::filter;
use crate::normalize;
use crate::stream::Stream;

/// Ends a stream that cannot go on: with an answer while the client can still get one, else by resetting it.
pub(crate) async fn fault(stream: &mut Stream<'_>, fault: Fault) {
    let passed = !matches!(fault, Fault::Replace(_));
    let is_gone = fault.client_is_gone();
    let timed_out = fault.upstream_status() == Some(504);
    let (is_of_tries, is_of_time) = (fault.is_of_tries(), fault.is_of_time());
    let attempts = stream.info.upstream.attempts;
    let mut reply = fault.reply(attempts > 1);
    if is_of_time && stream.body.complete {
        reply.status = 504;
    }
    if is_of_tries && stream.rules.route.as_ref().is_some_and(|route| route.attempt_count_in_response) {
        reply.headers.set_number(&name::X_ENVOY_ATTEMPT_COUNT, u64::from(attempts));
    }
    if timed_out && stream.clocks.timeout_is_204 {
        (reply.status, reply.body) = (204, Bytes::new());
    }
    stream.info.flags.set(reply.flags);
    stream.info.details = reply.details.clone();
    if stream.reply.started {
        stream.info.details = stream.info.details.replace("_before_response_", "_after_response_").into();
        // What came of the response goes out, as far as the client takes it now; it is not complete and does not end.
        let _ = std::future::poll_fn(|cx| Poll::Ready(stream.down.poll_flush(cx))).await;
    }
    if is_gone || stream.reply.started {
        if !is_gone {
            let (stats, shard) = (&stream.rules.hcm.stats, stream.worker.shard);
            stats.downstream_rq_tx_reset().inc(shard);
            stats.rq_reset_after_downstream_response_started().inc(shard);
        }
        stream.down.reset(if is_gone { Reset::Cancel } else { Reset::Internal });
        return;
    }
    // A client that goes away now has been told all that can be told.
    let _ = send(stream, reply, passed, false).await;
}

/// Answers instead of an upstream, because the route says so.
pub(crate) async fn local(stream: &mut Stream<'_>, reply: LocalReply) -> Result<(), Fault> {
    stream.info.flags.set(reply.flags);
    stream.info.details = reply.details.clone();
    send(stream, reply, true, true).await
}

/// `passed`: the head goes back up through the filters. `of_route`: it is the route's own answer.
async fn send(stream: &mut Stream<'_>, mut reply: LocalReply, passed: bool, of_route: bool) -> Result<(), Fault> {
    let mut head = ResponseHead::new(reply.status);
    head.headers = std::mem::take(&mut reply.headers);
    let mut body = reply.body.clone();
    // As in Envoy: the route's operators run before the status is decided, and a filter that answers in the place of a
    // route that would answer itself answers without them, as does CORS.
    if of_route || (stream.rules.is_forwarded() && reply.details != "cors_response") {
        route_headers(stream, &mut head);
    }
    stream.info.status = head.status;
    stream.rules.hcm.local_replies.rewrite(&mut stream.info, &stream.request, stream.random, &mut head, &mut body);
    if is_grpc(&stream.request.headers) {
        to_grpc(&mut head, &reply, &body);
        body = Bytes::new();
    } else {
        frame(&mut head, &body);
    }
    if passed {
        back(stream, &mut head, &mut body).await;
    }
    normalize::response(stream, &mut head, false);
    let end = body.is_empty() || stream.request.method == Method::Head;
    stream.reply.started = true;
    stream.reply.ended = true;
    stream.info.status = head.status;
    stream.down.send_head(&head, end).map_err(|_| Fault::DownstreamGone)?;
    stream.finish.response = Some(head);
    if !end {
        stream.info.sizes.sent += body.len() as u64;
        stream.down.send_data(body, true).map_err(|_| Fault::DownstreamGone)?;
    }
    std::future::poll_fn(|cx| stream.down.poll_flush(cx)).await.map_err(|_| Fault::DownstreamGone)
}

/// The route's response headers go on our own answers too.
fn route_headers(stream: &Stream<'_>, head: &mut ResponseHead) {
    if let Some(route) = &stream.rules.route {
        let headers = stream.rules.weighted_target().map_or(&route.headers, |target| &target.headers);
        headers.response.apply_to_response(head, Some(&stream.request), &stream.info);
    }
}

/// Shows the reply to the filters, head and body. One that wants to replace the reply of another is not asked twice.
async fn back(stream: &mut Stream<'_>, head: &mut ResponseHead, body: &mut Bytes) {
    let chain = stream.rules.chain().clone();
    let now = stream.clocks.now.into_std();
    let mut step = {
        let mut cx = Cx::response(&mut stream.info, now, &stream.request);
        stream.filters.response(&chain, &mut cx, head, body.is_empty())
    };
    loop {
        step = match step {
            Step::Done | Step::Reroute | Step::Reply(_) => break,
            Step::Wait(wait) => {
                let Ok(verdict) = filter::wait_for(stream, wait).await else { break };
                let mut cx = Cx::response(&mut stream.info, now, &stream.request);
                stream.filters.resume_response(&chain, &mut cx, verdict, head, body.is_empty())
            }
            Step::Hold(_) => {
                let mut cx = Cx::response(&mut stream.info, now, &stream.request);
                stream.filters.response_held(&chain, &mut cx, head, body)
            }
        };
    }
    if stream.filters.reads_response() && !body.is_empty() {
        let mut cx = Cx::response(&mut stream.info, now, &stream.request);
        let _ = stream.filters.response_data(&chain, &mut cx, body, true);
        head.headers.set_number(&name::CONTENT_LENGTH, body.len() as u64);
    }
}

fn frame(head: &mut ResponseHead, body: &Bytes) {
    let headers = &mut head.headers;
    if body.is_empty() {
        headers.remove(&name::CONTENT_TYPE);
        // The length in a 304 would be that of the representation, which is not known here.
        if !matches!(head.status, 204 | 304) {
            headers.set(&name::CONTENT_LENGTH, b"0");
        }
        return;
    }
    headers.set_number(&name::CONTENT_LENGTH, body.len() as u64);
    if !headers.contains(&name::CONTENT_TYPE) {
        headers.append(&name::CONTENT_TYPE, b"text/plain");
    }
}

/// Whether the client speaks gRPC (`application/grpc` and its `+` forms).
pub(crate) fn is_grpc(headers: &Headers) -> bool {
    headers.get(&name::CONTENT_TYPE).is_some_and(|value| {
        value.strip_prefix(b"application/grpc").is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+"))
    })
}

/// A gRPC client gets its answer in a head without body ("trailers-only").
fn to_grpc(head: &mut ResponseHead, reply: &LocalReply, body: &Bytes) {
    let status = reply.grpc_status.unwrap_or_else(|| grpc_status(head.status));
    head.status = 200;
    head.headers.remove(&name::CONTENT_LENGTH);
    head.headers.set(&name::CONTENT_TYPE, b"application/grpc");
    head.headers.set_number(&name::GRPC_STATUS, u64::from(status));
    if !body.is_empty() {
        head.headers.set(&name::GRPC_MESSAGE, percent_encode(body).as_bytes());
    }
}

/// The gRPC status that stands for an HTTP status (gRPC `http-grpc-status-mapping`).
pub(crate) fn grpc_status(status: u16) -> u8 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// `grpc-message` is percent-encoded UTF-8.
fn percent_encode(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text {
        if (b' '..=b'~').contains(byte) && *byte != b'%' {
            out.push(*byte as char);
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_client_gets_its_status_in_a_head_alone() {
        let reply = LocalReply::new(503, "x").body("50% down\n");
        let mut head = ResponseHead::new(503);
        to_grpc(&mut head, &reply, &reply.body);
        assert_eq!((head.status, head.headers.text("grpc-status")), (200, Some("14")));
        assert_eq!(head.headers.text("grpc-message"), Some("50%25 down%0A"));
    }

    #[test]
    fn grpc_is_known_by_its_media_type() {
        let check =
            |value: &str, grpc| assert_eq!(is_grpc(&[("content-type", value)].into_iter().collect()), grpc, "{value}");
        check("application/grpc", true);
        check("application/grpc+proto", true);
        check("application/grpc-web", false);
        check("text/plain", false);
    }
}
