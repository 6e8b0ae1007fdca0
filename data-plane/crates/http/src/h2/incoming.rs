//! The receiving half of a stream: data, then trailers.
//!
//! The window opens again only when the next piece is asked for, that is, when the last one was taken further on.

use std::task::{Context, Poll, ready};

use h2::RecvStream;

use super::convert;
use crate::Frame;
use crate::stream::StreamError;

pub(super) struct Incoming {
    stream: RecvStream,
    /// Bytes handed on, for which the peer has no new window yet.
    unreleased: usize,
    at: At,
    pub(super) received: u64,
}

#[derive(PartialEq, Eq)]
enum At {
    Data,
    Trailers,
    End,
}

impl Incoming {
    pub(super) fn new(stream: RecvStream) -> Self {
        let at = if stream.is_end_stream() { At::End } else { At::Data };
        Self { stream, unreleased: 0, at, received: 0 }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.at == At::End || self.stream.is_end_stream()
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        if self.unreleased > 0 {
            let released = std::mem::take(&mut self.unreleased);
            // Fails only for more than was received.
            let _ = self.stream.flow_control().release_capacity(released);
        }
        loop {
            match self.at {
                At::Data => match ready!(self.stream.poll_data(cx)) {
                    Some(Ok(data)) if data.is_empty() => {}
                    Some(Ok(data)) => {
                        self.unreleased = data.len();
                        self.received += data.len() as u64;
                        return Poll::Ready(Some(Ok(Frame::Data(data))));
                    }
                    Some(Err(error)) => return Poll::Ready(Some(Err(convert::error(&error)))),
                    None => self.at = At::Trailers,
                },
                At::Trailers => {
                    let trailers = ready!(self.stream.poll_trailers(cx)).map_err(|error| convert::error(&error));
                    self.at = At::End;
                    let Some(trailers) = trailers.transpose() else { return Poll::Ready(None) };
                    return Poll::Ready(Some(trailers.and_then(|trailers| {
                        let trailers = convert::trailers_in(&trailers);
                        trailers.map(Frame::Trailers).map_err(|malformed| StreamError::protocol(malformed.0))
                    })));
                }
                At::End => return Poll::Ready(None),
            }
        }
    }
}
