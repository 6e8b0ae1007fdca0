//! A gRPC check: `grpc.health.v1.Health/Check`, whose answer must be SERVING.
//!
//! The two messages have one field each, so that they are written and read here by hand.

use bytes::{BufMut, Bytes, BytesMut};
use dp_http::{Headers, Method, RequestHead};
use shared_config::health_check::GrpcCheck;

use super::dial::Subject;
use super::exchange::{self, Answer, Kept, Request};
use super::http::{USER_AGENT, change, scheme};
use super::status::{Failure, Outcome};
use crate::grpc::{framed, put_varint, take_varint};
use crate::pool::connect::Wanted;

const PATH: &str = "/grpc.health.v1.Health/Check";

/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: u64 = 1;

/// An answer is a few bytes; what is longer is none.
const LONGEST: usize = 4096;

/// One check; `kept` is the connection of the one before, if it may be used again.
pub(super) async fn check(subject: &Subject, config: &GrpcCheck, kept: &mut Option<Kept>) -> Outcome {
    let request =
        Request { head: head(subject, config), body: message(&config.service), wanted: Wanted::Http2, keep: LONGEST };
    match exchange::exchange(subject, &request, kept).await {
        Ok(answer) if is_serving(&answer) => Outcome::Passed { degraded: false },
        Ok(_) => Outcome::Failed(Failure::answered(false, false)),
        Err(failure) => Outcome::Failed(failure),
    }
}

fn head(subject: &Subject, config: &GrpcCheck) -> RequestHead {
    let mut head = RequestHead::new(Method::Post, subject.host(&config.authority), PATH);
    head.scheme = scheme(subject);
    head.headers.set("te", b"trailers");
    head.headers.set("content-type", b"application/grpc");
    head.headers.set("user-agent", USER_AGENT);
    change(&mut head, &config.metadata);
    head.headers.set("grpc-timeout", format!("{}m", subject.check.timeout.as_millis().min(99_999_999)).as_bytes());
    head
}

/// `HealthCheckRequest { service }` in a frame.
fn message(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    framed(&message)
}

fn is_serving(answer: &Answer) -> bool {
    let headers = &answer.head.headers;
    let kind = headers.get("content-type").unwrap_or_default();
    if answer.head.status != 200 || !kind.starts_with(b"application/grpc") {
        return false;
    }
    let ok = |headers: &Headers| headers.get("grpc-status") == Some(b"0");
    answer.trailers.as_ref().is_some_and(ok) && status(&answer.body) == Some(SERVING)
}

/// The status in the one frame of an answer; `None` when it is not one `HealthCheckResponse`.
fn status(body: &[u8]) -> Option<u64> {
    let (&[flags, a, b, c, d], mut message) = body.split_first_chunk::<5>()?;
    if flags != 0 || u32::from_be_bytes([a, b, c, d]) as usize != message.len() {
        return None;
    }
    let mut status = 0;
    while !message.is_empty() {
        let tag = take_varint(&mut message)?;
        match tag & 7 {
            0 => {
                let value = take_varint(&mut message)?;
                if tag >> 3 == 1 {
                    status = value;
                }
            }
            2 => {
                let length = usize::try_from(take_varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            1 => message = message.get(8..)?,
            5 => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_the_service_or_none() {
        assert_eq!(&message("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&message("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(message(&"x".repeat(200))[5..8], [0x0a, 0xc8, 1]);
    }

    #[test]
    fn only_one_whole_message_has_a_status() {
        let check = |body: &[u8], wanted| assert_eq!(status(body), wanted, "{body:?}");
        check(&[0, 0, 0, 0, 2, 8, 1], Some(SERVING));
        check(&[0, 0, 0, 0, 2, 8, 2], Some(2));
        check(&[0, 0, 0, 0, 0], Some(0));
        check(&[0, 0, 0, 0, 6, 0x12, 2, 8, 2, 8, 1], Some(SERVING));
        check(&[1, 0, 0, 0, 2, 8, 1], None);
        check(&[0, 0, 0, 0, 3, 8, 1], None);
        check(&[0, 0, 0, 0, 2, 8, 0x80], None);
        check(&[0, 0, 0, 0, 2, 8, 1, 0, 0, 0, 0, 0], None);
        check(b"", None);
    }
}
